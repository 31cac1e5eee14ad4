"""Writes the JAX models, defined with Flax and converted by jax2onnx.

Run it in a separate environment with `requirements/jax.txt`.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
from flax import nnx  # noqa: E402
from jax2onnx import to_onnx  # noqa: E402

from reference.paths import MODELS  # noqa: E402

PATCHES = 16


class MixerBlock(nnx.Module):
    """MLP-Mixer's block: one perceptron over the patches, one over the channels."""

    def __init__(self, width: int, tokens: int, channels: int, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.token1, self.token2 = nnx.Linear(PATCHES, tokens, rngs=rngs), nnx.Linear(tokens, PATCHES, rngs=rngs)
        self.channel1, self.channel2 = nnx.Linear(width, channels, rngs=rngs), nnx.Linear(channels, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.swapaxes(self.norm1(x), 1, 2)
        y = self.token2(jax.nn.gelu(self.token1(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        return x + self.channel2(jax.nn.gelu(self.channel1(self.norm2(x))))


class Mixer(nnx.Module):
    """An MLP-Mixer on 4x4 patches of a channels-last image."""

    def __init__(self, rngs: nnx.Rngs, width: int = 40, blocks: int = 3) -> None:
        self.patches = nnx.Conv(1, width, (4, 4), strides=(4, 4), rngs=rngs)
        self.blocks = nnx.List([MixerBlock(width, 32, 96, rngs) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], PATCHES, -1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


class Cnn(nnx.Module):
    """Convolutions with batch norm, swish and average pooling, channels last."""

    def __init__(self, rngs: nnx.Rngs, width: int = 24) -> None:
        def norm(features: int) -> nnx.BatchNorm:
            return nnx.BatchNorm(features, use_running_average=True, rngs=rngs)

        self.conv1, self.norm1 = nnx.Conv(1, width, (3, 3), use_bias=False, rngs=rngs), norm(width)
        self.conv2, self.norm2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs), norm(width)
        self.conv3 = nnx.Conv(width, 2 * width, (3, 3), strides=(2, 2), padding="VALID", rngs=rngs)
        self.head = nnx.Linear(18 * width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.swish(self.norm1(self.conv1(x)))
        x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = jax.nn.relu(x + self.norm2(self.conv2(x)))
        x = jax.nn.tanh(self.conv3(x))
        return self.head(x.reshape(x.shape[0], -1))


def export(name: str, module: nnx.Module, opset: int) -> None:
    """Converts a freshly initialised model and compares the file with it under onnxruntime."""
    model = to_onnx(module, [(1, 16, 16, 1)], model_name=name, opset=opset)
    del model.graph.value_info[:]  # the converter leaves stale shapes where it moved a transposition
    onnx.checker.check_model(model, full_check=True)
    image = np.random.default_rng(1).random((1, 16, 16, 1), np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(logits, module(image), rtol=1e-4, atol=1e-5)
    onnx.save(model, MODELS / f"{name}.onnx")
    print(f"{name}: {sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))} parameters")


def main() -> None:
    export("jax-mixer", Mixer(nnx.Rngs(5)), opset=21)
    export("jax-cnn", Cnn(nnx.Rngs(6)), opset=22)


if __name__ == "__main__":
    main()
