"""Exports Flax networks by jax2onnx, and computes their per-sample gradients.

    python -m matrix.export_jax        (in scripts/, in an environment from requirements/jax.txt)
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from export_jax import Cnn, Mixer
from flax import nnx
from jax2onnx import to_onnx

from .case import CLASSES, SAMPLES, folder, save_facts, save_numbers


class Encoder(nnx.Module):
    """One block of a transformer's encoder."""

    def __init__(self, rngs: nnx.Rngs, width: int = 16) -> None:
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 32, rngs=rngs), nnx.Linear(32, width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        x = x + self.down(jax.nn.silu(self.up(self.norm2(x))))
        return self.head(x.mean(axis=1))


REGISTRY = {
    "jax-mixer": (Mixer, (16, 16, 1)),
    "jax-cnn": (Cnn, (16, 16, 1)),
    "jax-encoder": (Encoder, (6, 16)),
}


def export(name: str) -> None:
    make, shape = REGISTRY[name]
    path = folder(name, "jax2onnx")
    facts = {"name": name, "library": "flax", "exporter": "jax2onnx", "loss": "cross-entropy", "options": "batch of 1"}
    path.mkdir(parents=True, exist_ok=True)
    started = time.time()
    try:
        module = make(nnx.Rngs(7))
        state = nnx.state(module, nnx.Param)
        keys = iter(jax.random.split(jax.random.key(1), 1000))
        state = jax.tree.map(lambda p: p + 0.02 * jax.random.normal(next(keys), p.shape), state)
        nnx.update(module, state)
        proto = to_onnx(module, [(1, *shape)], model_name=name, opset=21)
        onnx.save(proto, path / "model.onnx")
        definition, state, rest = nnx.split(module, nnx.Param, ...)
        x, y = np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(np.float32), np.array([1, 3, 1, 3])

        def loss(state, sample, label):
            logits = nnx.merge(definition, state, rest)(sample[None])
            return -jax.nn.log_softmax(logits)[0, label]

        rows = [jax.value_and_grad(loss)(state, jnp.array(s), label) for s, label in zip(x, y, strict=True)]
        values = jax.tree.leaves(state)
        columns = list(zip(*(jax.tree.leaves(g) for _, g in rows), strict=True))
        parameters = [(f"leaf {i}", np.array(v), np.stack(columns[i])) for i, v in enumerate(values)]
        save_numbers(path, {onnx.load(path / "model.onnx").graph.input[0].name: x}, y, parameters, np.array([float(v) for v, _ in rows]))
        facts["parameters"] = int(sum(v.size for v in values))
    except Exception as error:
        facts["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    save_facts(path, **facts)
    print(f"{name}: {facts.get('failed') or facts['parameters']}, {time.time() - started:.0f} s", flush=True)


def main() -> None:
    for name in REGISTRY:
        export(name)


if __name__ == "__main__":
    main()
