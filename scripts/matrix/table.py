"""The results of the checks as a page of Markdown."""

import re
from collections import Counter
from collections.abc import Callable

HEAD = """# Models

*This page is made by `scripts/matrix`; see there for the networks and how they are exported.*

Architectures of several frameworks in small configurations, randomly initialised, exported as they
come. For each one, `gradalign grad` wrote the training graph of four samples, ONNX Runtime ran it,
and the per-sample gradients were compared with those of the source framework in float64 (of
Keras and JAX in float32).

- *error*: ‖g − g_ref‖ / ‖g_ref‖ over all parameters, of the worst sample. At most 1e-4 is good.
- *float32*: the same error of the source framework's own gradients in float32, where it was measured.
- *ORT*, *tract*: GradAlign-I of the same four samples on either engine.

A file is *folded* where the exporter computed tensors from parameters and stored these instead, which
is another parametrisation with other gradients; those of all other parameters are good. Export with
`optimize=False` (dynamo) or `do_constant_folding=False` (TorchScript). It is *rough* where the
framework's own gradients in float32 differ from those in float64 by more than 1e-4: a kink of a ReLU
or of a maximum lies so near that rounding decides. Deep networks at their initialisation meet that often,
so the samples for PyTorch's are drawn up to six times, and the draw is kept whose gradients PyTorch itself
computes best in float32; how well depends on the machine that exports. `python -m matrix.kinks NAME` shows
which units of a ReLU rounding turns on or off, and what the error is with these as float32 has them.

*Taken for parameters, too* names tensors that the framework does not train but that the exporter stores
as it stores weights, or those that it made of folded parameters. Files of PyTorch's dynamo exporter say which are parameters; nothing in
those of other exporters tells the first from weights: inverse frequencies of rotary positions (`inv_freq`; there are networks that train them), tables
of sines (Whisper's `embed_positions`), tables of coordinates (Swin v2's `relative_coords_table`), filters
of blurring pools (`filt`, equal in all channels, which is how bilinear upsampling is initialised where it
is trained), random features, the scaling of images in Keras's EfficientNets. `--no-params '*inv_freq'` and
the like leave them out, and `gradalign inspect` lists all names.

"""


def number(value: object) -> str:
    if isinstance(value, str):
        return "failed"
    return "" if value is None else f"{value:.1e}"


def sentence(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m|\[96m|\[0m", "", text)
    return " ".join(plain.replace("|", "/").split())


def score(value: object) -> str:
    return "failed" if isinstance(value, str) or value[0] is None else f"{value[0]:g}"


def remark(result: dict) -> str:
    parts = []
    if "missing" in result:
        more = len(result["missing"]) - 2
        names = ", ".join(result["missing"][:2]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"the exporter has folded away {names}")
    if "looked_up" in result:
        parts.append(f"{len(result['looked_up'])} tables are stored as the rows that are used")
    if "extra" in result:
        parts.append(f"taken for parameters, too: {', '.join(result['extra'][:4])}")
    parts += [f"{engine}: {s}" for engine, s in result.get("scores", {}).items() if isinstance(s, str)]
    return sentence("; ".join(parts))


def page(results: list[dict], verdict: Callable[[dict], str], agree: Callable[[dict], bool]) -> str:
    """The whole page, from what `check.py` found out about each case."""
    counts = Counter(map(verdict, results))
    good = [r for r in results if verdict(r) == "good"]
    names = {r["name"] for r in results if verdict(r) != "export"}
    lines = [
        f"{len(names)} architectures in {len(results) - counts['export']} files: {counts['good']} good "
        f"({len({r['name'] for r in good})} architectures), {counts['folded']} folded, {counts['rough']} rough, {counts['refused']} refused, "
        f"{counts['wrong']} wrong; "
        f"{sum(agree(r['scores']) for r in good)} of the good ones have the same scores on both engines. "
        f"{counts['export']} more could not be exported by the exporter named.",
        "",
        "| model | library | exporter | opset | parameters | error | float32 | ORT | tract | remarks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r["library"], r["name"], r["exporter"])):
        if verdict(r) not in ("good", "rough", "folded", "wrong") or "error" not in r:
            continue
        cells = [r["name"], r["library"], r["exporter"], r["opset"], r["parameters"], number(r["error"])]
        cells += [number(r.get("float32_error")), score(r["scores"]["ort"]), score(r["scores"]["tract"]), remark(r)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for title, key in (("Refused", "refused"), ("Failed", "wrong"), ("Not exported", "failed")):
        rows = [r for r in results if key in r]
        if rows:
            lines += ["", f"## {title}", "", "| model | library | exporter | reason |", "|---|---|---|---|"]
            lines += [f"| {r['name']} | {r['library']} | {r['exporter']} | {sentence(str(r[key]))[:200]} |" for r in rows]
    return HEAD + "\n".join(lines) + "\n"
