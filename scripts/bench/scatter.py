"""A small scatter plot as SVG, with a logarithmic x axis and a linear y axis."""

import math

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 56, 64
COLOUR = "#4a8fc4"


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def scatter(title: str, across: str, up: str, points: list[tuple[float, float]]) -> str:
    """Draws points `(x, y)` with `x` above 0 and `y` in percent. `across` and `up` are the labels of the axes."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(xs) / 1.05, max(xs) * 1.05
    bottom, top = math.floor(min(ys) / 10) * 10, math.ceil(max(ys) / 10) * 10

    def x(value: float) -> float:
        return LEFT + math.log(value / low) / math.log(high / low) * (WIDTH - RIGHT - LEFT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP)

    def grouped(value: float) -> str:
        return f"{value:,.0f}".replace(",", " ")

    ticks, levels = decades(low, high), range(bottom, top + 1, 10)
    grid = [f"<path d='M{x(t):.1f} {TOP}V{HEIGHT - BOTTOM}'/>" for t in ticks]
    grid += [f"<path d='M{LEFT} {y(level):.1f}H{WIDTH - RIGHT}'/>" for level in levels]
    labels = [f"<text x='{x(t):.1f}' y='{HEIGHT - BOTTOM + 20}'>{grouped(t)}</text>" for t in ticks]
    labels += [f"<text x='{LEFT - 8}' y='{y(n) + 5:.1f}' text-anchor='end'>{n}</text>" for n in levels]
    dots = [f"<circle cx='{x(a):.1f}' cy='{y(b):.1f}' r='3.5'/>" for a, b in points]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        "aria-labelledby='title' font-family='sans-serif' font-size='14' text-anchor='middle' fill='#24292f'>",
        f"<title id='title'>{title}: {up} against {across}</title>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' rx='8' fill='#f6f8fa'/>",
        f"<text x='{WIDTH / 2:g}' y='34' font-size='18' font-weight='bold'>{title}</text>",
        f"<g stroke='#d0d7de'>{''.join(grid)}</g>",
        *labels,
        f"<text x='{(LEFT + WIDTH - RIGHT) / 2:g}' y='{HEIGHT - 18}'>{across}</text>",
        f"<text x='22' y='{middle:g}' transform='rotate(-90 22 {middle:g})'>{up}</text>",
        f"<g fill='{COLOUR}' fill-opacity='0.55'>{''.join(dots)}</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
