"""Writes results to docs/performance.md and docs/performance.json."""

import json

from reference.paths import ROOT

PAGE, DATA = ROOT / "docs/performance.md", ROOT / "docs/performance.json"


def publish(section: str, results: dict, text: str) -> None:
    """Writes `results` to the JSON file, and `text` between the markers of `section` to the page."""
    known = json.loads(DATA.read_text()) if DATA.exists() else {}
    known[section] = results
    DATA.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    page = PAGE.read_text()
    begin, end = f"<!-- {section}: begin -->\n", f"<!-- {section}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{PAGE}: the markers of '{section}' are missing")
    PAGE.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")


def note(environment: dict) -> str:
    """A sentence about the machine and the date of a measurement."""
    versions = {name: number for name, number in environment["versions"].items() if number}
    return (
        f"*{environment['date']}, commit {environment['commit']}: {environment['cores']} cores of "
        f"{environment['processor']} ({', '.join(environment['flags']) or 'no vector flags'}), "
        f"{environment['memory'] / 2**30:.0f} GiB, GPU: {environment['gpu'] or 'none'}; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}.*"
    )


def table(head: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """A Markdown table. The first columns hold text, the others numbers."""
    rule = ["---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f}"


def times(value: float) -> str:
    return f"{value:.1f}×" if value >= 1 else f"{value:.2f}×"
