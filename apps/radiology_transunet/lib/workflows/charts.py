"""Small drawings as inline SVG: a curve over steps, and an interval beside zero. Pure."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from lib.workflows.paired import Interval

WIDTH, HEIGHT = 460, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26
MOST_POINTS = 400
INTERVAL_WIDTH, INTERVAL_HEIGHT = 200, 22

Points = Sequence[tuple[float, float]]


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: means of runs of neighbours; the last point stays as it is."""
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 1) / (most - 1))
    runs = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    means = [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
    return [*means, points[-1]]


def curve(name: str, points: Points) -> Markup:
    """A curve with the range of both axes written beside it; points that are no numbers are left out."""
    drawn = thinned([point for point in points if all(map(math.isfinite, point))])
    if not drawn:
        return Markup("")
    (left, right), (low, high) = _range([x for x, _ in drawn]), _range([y for _, y in drawn])
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    places = " ".join(
        f"{LEFT + (x - left) / (right - left) * inner_width:.1f},{TOP + (high - y) / (high - low) * inner_height:.1f}"
        for x, y in drawn
    )
    floor = HEIGHT - BOTTOM
    last = places.rpartition(" ")[2].split(",")
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{name}: from {first} to {final}">'
        '<path class="axis" d="M{l} {t}V{f}H{r}"/>'
        '<text x="{lt}" y="{tt}" class="end">{high}</text><text x="{lt}" y="{f}" class="end">{low}</text>'
        '<text x="{l}" y="{b}">step {left}</text><text x="{r}" y="{b}" class="end">{right}</text>'
        '<polyline points="{places}"/><circle cx="{cx}" cy="{cy}" r="3"/></svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        l=LEFT,
        r=WIDTH - RIGHT,
        t=TOP,
        f=floor,
        lt=LEFT - 5,
        tt=TOP + 9,
        b=HEIGHT - 8,
        name=escape(name),
        first=number(drawn[0][1]),
        final=number(drawn[-1][1]),
        high=number(high),
        low=number(low),
        left=f"{left:.0f}",
        right=f"{right:.0f}",
        places=places,
        cx=last[0],
        cy=last[1],
    )


def interval(of: Interval, span: float) -> Markup:
    """A difference with its bounds on an axis from -span to +span, zero in the middle, the floor dashed."""
    if of.difference is None:
        return Markup("")

    def place(value: float) -> str:
        share = (min(span, max(-span, value)) + span) / (2 * span)
        return f"{4 + share * (INTERVAL_WIDTH - 8):.1f}"

    low, high = (of.difference if bound is None else bound for bound in (of.lower, of.upper))
    floor = Markup('<path class="floor" d="M{x} 1V21"/>').format(x=place(of.floor)) if of.floor else Markup("")
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" aria-hidden="true"><path class="axis" d="M{zero} 1V21"/>{floor}'
        '<path class="range" d="M{low} 11H{high}"/><circle cx="{at}" cy="11" r="4"/></svg>'
    ).format(
        w=INTERVAL_WIDTH,
        h=INTERVAL_HEIGHT,
        zero=place(0.0),
        floor=floor,
        low=place(low),
        high=place(high),
        at=place(of.difference),
    )


def span_of(intervals: Sequence[Interval]) -> float:
    """A span that shows all of them: the largest distance from zero and a little more."""
    ends = [abs(x) for of in intervals for x in (of.difference, of.lower, of.upper, of.floor) if x is not None]
    return max([0.01, *ends]) * 1.1


def number(value: float) -> str:
    """Three or four digits that tell."""
    return f"{value:.3g}" if abs(value) < 0.01 or abs(value) >= 1000 else f"{value:.3f}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, apart by more than nothing."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
