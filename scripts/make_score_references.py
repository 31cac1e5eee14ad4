"""Writes `fixtures/scores/<model>.json`: the training-free scores by PyTorch in float64.

    python scripts/make_score_references.py [MODEL …]

The layout of the files is described in `fixtures/README.md`.
"""

import json
import sys

import torch

from make_references import check_forward, rounded
from reference.gradients import has_batch_norm
from reference.paths import FIXTURES, ROOT
from reference.registry import Reference, shipped
from reference.zero_cost import BY_MODE, Score, synflow, zen

SCORES = FIXTURES / "scores"
MODELS = (
    *("nasbench201-cell", "resnet20", "plain-cnn", "vit", "mobilenet"),
    *("densenet", "convnext", "unet", "mlp", "keras-cnn", "jax-mixer"),
)


def scores(reference: Reference) -> dict[str, dict[str, Score]]:
    """All scores in all batch-norm modes. Without batch norm there is one mode, `running`."""
    coupled = has_batch_norm(reference.module)
    values: dict[str, dict[str, Score]] = {}
    for name, (score, modes) in BY_MODE.items():
        values[name] = {mode: score(reference, mode) for mode in (modes if coupled else ("running",))}
    values["synflow"] = {"removed": synflow(reference)}
    values["zen"] = {"batch" if coupled else "running": zen(reference)}
    return values


def write(name: str, reference: Reference) -> None:
    check_forward(reference)
    content = {
        "model": reference.path.relative_to(ROOT).as_posix(),
        "data": reference.data.relative_to(ROOT).as_posix(),
        "samples": len(reference.labels),
        "scores": rounded(scores(reference)),
    }
    path = SCORES / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{name}: {content['scores']}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    SCORES.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        write(name, shipped(name))


if __name__ == "__main__":
    main()
