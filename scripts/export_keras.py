"""Writes the Keras models: channels last, outputs are probabilities, converted by tf2onnx.

Run it in a separate environment with `requirements/keras.txt`.

At inference the converter folds constants: a batch norm that Keras writes as a product and
a sum disappears, and so does a bias of zeros. The models here keep both in the file: batch norm
calls TensorFlow's fused operation, which has an ONNX counterpart, and biases, scales and shifts
start from random values.
"""

import os
import warnings

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from collections.abc import Callable  # noqa: E402

import keras  # noqa: E402
import onnx  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402
from keras.src.export.onnx import patch_tf2onnx  # noqa: E402

from reference.paths import MODELS  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    patch_tf2onnx()
import tf2onnx  # noqa: E402
from tf2onnx import optimizer  # noqa: E402

INPUT = (16, 16, 1)

# The passes that merge equal initializers and fold a batch norm into the convolution before it.
for merging in ("merge_duplication", "remove_back_to_back"):
    optimizer._get_optimizers().pop(merging)


def small() -> keras.Initializer:
    return keras.initializers.RandomUniform(-0.1, 0.1)


def near_one() -> keras.Initializer:
    return keras.initializers.RandomUniform(0.8, 1.2)


@keras.saving.register_keras_serializable(package="gradalign")
class FusedBatchNormalization(layers.BatchNormalization):
    """Batch norm at inference as one operation."""

    def call(self, inputs, training=None, mask=None):
        outputs, *_ = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, self.moving_mean, self.moving_variance, self.epsilon, is_training=False
        )
        return outputs


def batch_norm() -> keras.Layer:
    return FusedBatchNormalization(gamma_initializer=near_one(), beta_initializer=small())


def cnn() -> keras.Model:
    """A residual convolutional network: Conv, BatchNormalization, max and average pooling."""

    def block(x, channels, strides):
        y = layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(batch_norm()(y))
        y = batch_norm()(layers.Conv2D(channels, 3, padding="same", use_bias=False)(y))
        if strides > 1:
            x = layers.Conv2D(channels, 1, use_bias=False)(layers.AveragePooling2D(2)(x))
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = keras.Input(INPUT, name="images")
    x = layers.Conv2D(20, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(batch_norm()(x))
    x = layers.MaxPooling2D(2)(x)
    x = block(block(x, 20, 1), 40, 2)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, "softmax", bias_initializer=small())(x)
    return keras.Model(inputs, outputs)


def separable() -> keras.Model:
    """Separable convolutions, SiLU, ELU, group norm and layer norm, a flattened dense head."""
    norm = {"gamma_initializer": near_one(), "beta_initializer": small()}
    inputs = keras.Input(INPUT, name="images")
    x = layers.Conv2D(32, 3, 2, padding="same", bias_initializer=small())(inputs)
    x = layers.Activation("silu")(layers.GroupNormalization(8, **norm)(x))
    x = layers.SeparableConv2D(64, 3, padding="same", bias_initializer=small())(x)
    x = layers.Activation("elu")(layers.LayerNormalization(**norm)(x))
    x = layers.SeparableConv2D(64, 5, 2, padding="same", bias_initializer=small())(x)
    x = layers.Activation("tanh")(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(32, "relu", bias_initializer=small())(x)
    outputs = layers.Dense(10, "softmax", bias_initializer=small())(x)
    return keras.Model(inputs, outputs)


def export(name: str, build: Callable[[], keras.Model], opset: int, batch: int | None) -> None:
    """Converts a freshly initialised model and compares the file's shapes with Keras's."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    model = build()
    signature = [tf.TensorSpec((batch, *INPUT), tf.float32, name="images")]
    proto, _ = tf2onnx.convert.from_function(
        tf.function(lambda images: model(images, training=False)),
        input_signature=signature,
        opset=opset,
    )
    proto.producer_name = f"tf2onnx {tf2onnx.__version__}, Keras {keras.__version__}"
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, MODELS / f"{name}.onnx")
    print(f"{name}: {model.count_params()} numbers, {proto.ByteSize()} bytes")


def main() -> None:
    export("keras-cnn", cnn, opset=15, batch=1)
    export("keras-separable", separable, opset=13, batch=None)


if __name__ == "__main__":
    main()
