"""Exports Keras networks (channels last) by tf2onnx, and computes their per-sample gradients.

    python -m matrix.export_keras [NAME …]        (in scripts/, in an environment from requirements/keras.txt)

Batch norm is replaced by TensorFlow's fused operation, which the converter does not fold away.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx
from export_keras import FusedBatchNormalization, keras, layers, tf, tf2onnx

from .case import CLASSES, SAMPLES, folder, save_facts, save_numbers, seed_of

layers.BatchNormalization.call = FusedBatchNormalization.call

APPLICATIONS = keras.applications
IMAGE = {"weights": None, "classes": CLASSES}


def recurrent() -> keras.Model:
    inputs = keras.Input((6, 5), name="x")
    x = layers.SimpleRNN(12, unroll=True, return_sequences=True)(inputs)
    x = layers.GRU(12, unroll=True, reset_after=False)(x)
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax")(x))


def attention() -> keras.Model:
    inputs = keras.Input((8, 16), name="x")
    x = layers.MultiHeadAttention(2, 8)(inputs, inputs)
    x = layers.LayerNormalization()(x + inputs)
    x = layers.GlobalAveragePooling1D()(layers.Dense(32, "gelu")(x))
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax")(x))


def one_dimensional() -> keras.Model:
    inputs = keras.Input((24, 4), name="x")
    x = layers.Conv1D(8, 5, 2, padding="same", activation="elu")(inputs)
    x = layers.SeparableConv1D(12, 3, padding="same", activation="softplus")(x)
    x = layers.MaxPooling1D(2)(x)
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax")(layers.Flatten()(x)))


def resnet_v2() -> keras.Model:
    module = keras.src.applications.resnet
    stacks = lambda x: module.stack_residual_blocks_v2(module.stack_residual_blocks_v2(x, 8, 2, name="conv2"), 16, 2, name="conv3")  # noqa: E731
    return module.ResNet(stacks, True, True, input_shape=(32, 32, 3), weights_name=None, name="resnet", **IMAGE)


def efficientnet(version: str) -> keras.Model:
    """A narrow and shallow EfficientNet of version 1 or 2, including its scaling of images."""
    shared = {"input_shape": (32, 32, 3), "dropout_rate": 0.0, "drop_connect_rate": 0.0, "weights_name": None, **IMAGE}
    applications = keras.src.applications
    if version == "2":
        return applications.efficientnet_v2.EfficientNetV2(0.25, 0.25, 32, name="efficientnetv2-b0", **shared)
    return applications.efficientnet.EfficientNet(0.25, 0.25, 32, name="v1", **shared)


def nasnet() -> keras.Model:
    make = keras.src.applications.nasnet.NASNet
    shared = {"skip_reduction": False, "default_size": 32, "input_shape": (32, 32, 3)}
    return make(penultimate_filters=96, num_blocks=1, stem_block_filters=8, filter_multiplier=2, **shared, **IMAGE)


def xception_blocks() -> keras.Model:
    """An entry and a middle block of Xception, whose Keras application cannot be made smaller."""

    def separable(x, channels):
        x = layers.SeparableConv2D(channels, 3, padding="same", use_bias=False)(layers.ReLU()(x))
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3), name="x")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, 2, use_bias=False)(inputs)))
    short = layers.BatchNormalization()(layers.Conv2D(16, 1, 2, padding="same", use_bias=False)(x))
    x = layers.MaxPooling2D(3, 2, padding="same")(separable(separable(x, 16), 16)) + short
    x = x + separable(separable(separable(x, 16), 16), 16)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(separable(x, 32)))
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax")(x))


REGISTRY: dict[str, Callable[[], keras.Model]] = {
    "keras-mobilenet": lambda: APPLICATIONS.MobileNet((32, 32, 3), alpha=0.25, dropout=0.0, **IMAGE),
    "keras-mobilenet-v2": lambda: APPLICATIONS.MobileNetV2((32, 32, 3), alpha=0.35, **IMAGE),
    "keras-mobilenet-v3": lambda: APPLICATIONS.MobileNetV3Small((32, 32, 3), alpha=0.75, dropout_rate=0.0, **IMAGE),
    "keras-densenet": lambda: keras.src.applications.densenet.DenseNet([1, 2, 1, 1], input_shape=(32, 32, 3), **IMAGE),
    "keras-resnet-v2": resnet_v2,
    "keras-convnext": lambda: keras.src.applications.convnext.ConvNeXt([1, 1, 1, 1], [16, 24, 32, 48], input_shape=(32, 32, 3), **IMAGE),
    "keras-efficientnet": lambda: efficientnet("1"),
    "keras-efficientnet-v2": lambda: efficientnet("2"),
    "keras-nasnet": nasnet,
    "keras-xception": xception_blocks,
    "keras-recurrent": recurrent,
    "keras-attention": attention,
    "keras-cnn-1d": one_dimensional,
}


def export(name: str) -> None:
    path, facts = folder(name, "tf2onnx"), {"name": name, "library": "keras", "exporter": "tf2onnx", "loss": "cross-entropy"}
    path.mkdir(parents=True, exist_ok=True)
    started = time.time()
    try:
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed_of(name) % 2**31)
        model = REGISTRY[name]()
        rng = np.random.default_rng(1)
        for variable in model.trainable_variables:
            variable.assign(variable.numpy() + 0.02 * rng.normal(size=variable.shape))
        shape = tuple(model.inputs[0].shape[1:])
        signature = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
        function = tf.function(lambda x: model(x, training=False))
        proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=15)
        onnx.save(proto, path / "model.onnx")
        inputs, labels = rng.normal(size=(SAMPLES, *shape)).astype(np.float32), np.array([1, 3, 1, 3])
        losses, rows = [], []
        for x, y in zip(inputs, labels, strict=True):
            with tf.GradientTape() as tape:
                loss = keras.losses.sparse_categorical_crossentropy(y[None], model(x[None], training=False))[0]
            rows.append(tape.gradient(loss, [v.value for v in model.trainable_variables]))
            losses.append(float(loss))
        columns = zip(*rows, strict=True)
        gradients = [np.stack([tf.convert_to_tensor(g).numpy() for g in column]) for column in columns]
        pairs = zip(model.trainable_variables, gradients, strict=True)
        save_numbers(path, {"x": inputs}, labels, [(v.path, v.numpy(), g) for v, g in pairs], np.array(losses))
        facts |= {"parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables)), "options": "opset 15, batch unknown, channels last"}
    except Exception as error:
        facts["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    save_facts(path, **facts)
    print(f"{name}: {facts.get('failed') or facts['parameters']}, {time.time() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    for name in parser.parse_args().names or REGISTRY:
        export(name)


if __name__ == "__main__":
    main()
