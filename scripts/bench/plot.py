"""Small line plots with logarithmic axes, as SVG."""

import math
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 60, 110
COLOURS = ("#4a8fc4", "#d9822b", "#56a653")


@dataclass(frozen=True)
class Line:
    """A legend and points `(x, y)`, all positive."""

    legend: str
    points: list[tuple[float, float]]


def ticks(low: float, high: float, base: int) -> list[float]:
    """The powers of `base` that reach around `low … high`."""
    first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
    return [float(base) ** power for power in range(first, max(last, first + 1) + 1)]


def plot(title: str, lines: list[Line]) -> str:
    """Draws lines. The x axis starts and ends at powers of two, the y axis at powers of ten or two."""
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    across = ticks(min(xs), max(xs), 2)
    up = ticks(min(ys), max(ys), 10 if max(ys) > 30 * min(ys) else 2)

    def place(value: float, axis: list[float], start: float, end: float) -> float:
        share = math.log(value / axis[0]) / math.log(axis[-1] / axis[0])
        return start + share * (end - start)

    def x(value: float) -> float:
        return place(value, across, LEFT, WIDTH - RIGHT)

    def y(value: float) -> float:
        return place(value, up, HEIGHT - BOTTOM, TOP)

    grid = [f"<path d='M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}'/>" for tick in across]
    grid += [f"<path d='M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}'/>" for tick in up]
    labels = [f"<text x='{x(tick):.1f}' y='{HEIGHT - BOTTOM + 20}'>{tick:g}</text>" for tick in across]
    labels += [f"<text x='{LEFT - 8}' y='{y(tick) + 5:.1f}' text-anchor='end'>{tick:g}</text>" for tick in up]
    drawn = []
    for number, line in enumerate(lines):
        colour, height = COLOURS[number % len(COLOURS)], HEIGHT - BOTTOM + 48 + 20 * number
        corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        drawn.append(f"<polyline points='{corners}' fill='none' stroke='{colour}' stroke-width='2.5'/>")
        drawn += [f"<circle cx='{x(a):.1f}' cy='{y(b):.1f}' r='4' fill='{colour}'/>" for a, b in line.points]
        drawn.append(f"<path d='M{LEFT} {height - 5}h24' stroke='{colour}' stroke-width='2.5'/>")
        drawn.append(f"<text x='{LEFT + 32}' y='{height}' text-anchor='start'>{line.legend}</text>")
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        "aria-labelledby='title' font-family='sans-serif' font-size='14' text-anchor='middle' fill='#24292f'>",
        f"<title id='title'>{title}</title>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' rx='8' fill='#f6f8fa'/>",
        f"<text x='{WIDTH / 2:g}' y='34' font-size='18' font-weight='bold'>{title}</text>",
        f"<g stroke='#d0d7de'>{''.join(grid)}</g>",
        *labels,
        *drawn,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
