"""Writes `fixtures/spaces.json`: networks of every search space, with what they must come to.

    python3 scripts/make_space_references.py

`scripts/reference/spaces.py` writes the networks down a second time, in NumPy, and counts and runs them.
"""

import json
from pathlib import Path

import numpy as np

from reference.spaces import hash_101, pruned, reference

FIXTURE = Path(__file__).parent.parent / "fixtures" / "spaces.json"

CONV3, CONV1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"

# Name, operations, nodes of a cell, whether the output joins all nodes.
CELL_SPACES = [
    (
        "darts",
        "none max_pool_3x3 avg_pool_3x3 skip_connect sep_conv_3x3 sep_conv_5x5 dil_conv_3x3 dil_conv_5x5",
        4,
        True,
    ),
    (
        "nasnet",
        "skip_connect conv_3x1_1x3 conv_7x1_1x7 dil_conv_3x3 avg_pool_3x3 max_pool_3x3 max_pool_5x5 max_pool_7x7 "
        "conv_1x1 conv_3x3 sep_conv_3x3 sep_conv_5x5 sep_conv_7x7",
        5,
        False,
    ),
    (
        "amoeba",
        "skip_connect sep_conv_3x3 sep_conv_5x5 sep_conv_7x7 avg_pool_3x3 max_pool_3x3 dil_sep_conv_3x3 conv_7x1_1x7",
        5,
        False,
    ),
    ("enas", "skip_connect sep_conv_3x3 sep_conv_5x5 avg_pool_3x3 max_pool_3x3", 5, False),
    (
        "pnas",
        "sep_conv_3x3 sep_conv_5x5 sep_conv_7x7 conv_7x1_1x7 skip_connect avg_pool_3x3 max_pool_3x3 dil_conv_3x3",
        5,
        True,
    ),
]


def genotype(ops: list[str], nodes: int, joins_all: bool, first: int) -> dict:
    """Two cells that have each operation in turn, the second one beginning with others."""
    result = {}
    for kind, offset in (("normal", first), ("reduce", first + len(ops) // 2)):
        edges = [
            (ops[(offset + i) % len(ops)], (i + i // 4 * first) % (i // 2 + 2)) for i in range(2 * nodes)
        ]
        read = {state for _, state in edges}
        result[kind] = edges
        result[f"{kind}_concat"] = [s for s in range(2, nodes + 2) if joins_all or s not in read]
    return result


def cell_101(rows: str, *between: str) -> str:
    matrix = [[int(edge) for edge in row] for row in rows.split()]
    return json.dumps({"matrix": matrix, "ops": ["input", *between, "output"]})


def networks() -> list[tuple[str, str, int, int, int | None]]:
    """Space, architecture, classes, image size, stem."""
    wanted = [
        ("nasbench201", edges, classes, size, None)
        for edges, classes, size in [
            ("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|", 10, 32),
            ("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|skip_connect~1|nor_conv_3x3~2|", 120, 16),
            ("|none~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|none~2|", 100, 32),
        ]
    ]
    wanted += [("natsbench-size", widths, 10, 32, None) for widths in ("8:8:8:16:40", "64:24:24:8:16")]
    for cell in (
        cell_101("01 00"),
        cell_101("0111 0011 0001 0000", CONV3, POOL),
        cell_101("01110 00001 00000 00001 00000", CONV1, CONV3, POOL),
        cell_101("0110000 0011000 0001000 0000101 0000010 0000001 0000000", CONV1, CONV3, POOL, CONV3, CONV1),
    ):
        wanted += [("nasbench101", cell, 10, 32, 128), ("nasbench101", cell, 1, 16, 16)]
    for space, ops, nodes, joins_all in CELL_SPACES:
        for first, width, depth, size in ((1, 16, 4, 32), (2, 8, 8, 30)):
            cells = genotype(ops.split(), nodes, joins_all, first)
            network = {"genotype": cells, "width": width, "depth": depth}
            wanted.append((space, json.dumps(network), 10, size, None))
    wanted += [("nasbench-macro", code, 10, 32, None) for code in ("22222222", "01210210", "10102010")]
    wanted += [("transnas101-macro", f"64-{code}-basic", 10, 64, None) for code in ("1114", "21341")]
    wanted += [("transnas101-micro", f"64-41414-{code}", 10, 64, None) for code in ("1_02_031", "3_02_020")]
    return wanted


def main() -> None:
    rows = []
    for space, arch, classes, size, stem in networks():
        row = {"space": space, "architecture": arch, "classes": classes, "image_size": size, "stem": stem}
        if space == "nasbench101":
            cell = json.loads(arch)
            row["name"] = f"{space}-{hash_101(*pruned(np.array(cell['matrix']), cell['ops']))}"
        result = reference(space, arch, classes, size, stem)
        result["fingerprint"] = float(f"{result['fingerprint']:.9g}")
        rows.append({**row, **result})
    lines = ",\n".join(json.dumps(row) for row in rows)
    FIXTURE.write_text(f"[\n{lines}\n]\n")
    print(f"{len(rows)} networks, {FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
