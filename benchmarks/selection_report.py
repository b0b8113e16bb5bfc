"""The page of a simulated selection: curves of all strategies and tables, as one HTML file that needs nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34
COLOURS = (
    *("#0b6e99", "#a8232c", "#14713d", "#8a5a00", "#6a3fa0", "#536475"),
    *("#c2548d", "#2f9e9e", "#b8860b", "#333f4b", "#7aa02c", "#d2691e"),
)
STYLE = """body{margin:0 auto;max-width:1180px;padding:16px 20px;background:#f4f6f8;color:#17222d;
font:15px/1.5 Inter,system-ui,"Segoe UI",sans-serif} h1{font-size:23px;margin:0} h2{font-size:16px;margin:0 0 8px}
section{background:#fff;border:1px solid #d6dee6;border-radius:8px;padding:14px 18px;margin:14px 0;overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums} th{text-align:left;color:#536475;font-weight:500}
th,td{padding:4px 16px 4px 0;border-bottom:1px solid #e9eef2;vertical-align:bottom} td{white-space:nowrap}
.n{text-align:right} .soft{color:#536475}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:12px 26px}
svg text{font:12px system-ui,sans-serif;fill:#536475} svg .axis{fill:none;stroke:#b8c4cf}
svg .goal{fill:none;stroke:#536475;stroke-dasharray:5 4} svg .end{text-anchor:end} svg .middle{text-anchor:middle}"""
Curves = Mapping[str, Sequence[float]]


def page(result: Mapping[str, Any]) -> str:
    """The page of what the simulator writes as JSON."""
    preset, rows, where = result["preset"], result["figures"], result["surroundings"]
    seeds, title = preset["seeds"], f"Which case next: {result['preset']['name']}"
    kind = "planned comparisons" if preset["is_planned"] else "exploratory: nothing is judged"
    told = (
        f"{seeds} paired seeds, {preset['start']} cases at first, {preset['rounds']} rounds of {preset['per_round']}, "
        f"{preset['steps']} steps of network {result['network']} on {result['device']}, "
        f"split {result['split']}; {kind}. "
        f"Pool {counted(result['sets']['pool'])}, held out {counted(result['sets']['test'])}. "
        f"Commit {where['commit'][:10]}, {where['date']}, {where['cpu']}."
    )
    parts = [
        Markup('<section><h2>Means of the seeds</h2><div class="curves">{}</div></section>').format(charts(result)),
        section("Strategies", strategy_table(rows, preset["focus"])),
        section("Cost and labels needed", cost_table(rows)),
    ]
    if result["default_minus"]:
        parts.append(section(f"Default minus its rivals: {verdict_words(result)}", comparison_table(result)))
    return str(
        Markup(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{0}</title><style>{1}</style></head>'
            '<body><h1>{0}</h1><p class="soft">{2}</p>{3}</body></html>\n'
        ).format(title, Markup(STYLE), told, Markup("\n").join(parts))
    )


def counted(there: Mapping[str, int]) -> str:
    """Cases and heads of a set."""
    return f"{there['cases']} cases of {there['heads']} heads"


def charts(result: Mapping[str, Any]) -> Markup:
    """The curve of the mean Dice, with what all data give, and that of the focus."""
    rows, focus = result["figures"], result["preset"]["focus"]
    labels = next(iter(rows.values()))["labels"]
    dice = list(result["full_data"]["dice"].values())
    full = sum(dice) / len(dice)
    goals = {"full data": full, "95 %": 0.95 * full, "90 %": 0.9 * full}
    drawn = [chart("Mean Dice over the labels", labels, {name: row["curve"] for name, row in rows.items()}, goals)]
    if focus is not None:
        known = {**result["full_data"]["dice"], **result["full_data"]["sites"]}
        curves = {name: row["focus_curve"] for name, row in rows.items()}
        drawn.append(chart(f"Dice: {focus}", labels, curves, {"full data": known[focus]}))
    return Markup("").join(drawn)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where values lie in a chart, in the units of its view box.

    Attributes:
        left: labelled cases at the left end.
        right: and at the right end.
        low: height at the floor.
        high: and at the top.
    """

    left: float
    right: float
    low: float
    high: float

    def x(self, labels: float) -> float:
        """From the left."""
        return round(LEFT + (labels - self.left) / max(self.right - self.left, 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, height: float) -> float:
        """From the top."""
        return round(TOP + (self.high - height) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM), 1)


def chart(title: str, labels: Sequence[float], curves: Curves, goals: Mapping[str, float]) -> Markup:
    """Curves over labelled cases, with a legend; goals as dashed lines where they are in sight.

    Args:
        title: what the curves tell.
        labels: (n,) labelled cases of each point.
        curves: (n,) heights by name.
        goals: heights by name; those far above or below all curves are left out.
    """
    heights = [value for curve in curves.values() for value in curve]
    lowest, highest = min(heights), max(heights)
    span = max(highest - lowest, 0.01)
    seen = {name: value for name, value in goals.items() if lowest - span <= value <= highest + span}
    ends = [lowest, highest, *seen.values()]
    frame = Frame(labels[0], labels[-1], min(ends) - 0.05 * span, max(ends) + 0.05 * span)
    parts = [*axes(frame, labels, (lowest, highest)), *dashed(frame, seen), *lines_of(frame, labels, curves)]
    word = Markup('<span style="color:{}">&#9632;&nbsp;{}</span>')
    legend = Markup(" ").join(word.format(colour, name) for colour, (name, _) in coloured(curves))
    figure = '<div><h3>{0}</h3><svg viewBox="0 0 {1} {2}" role="img" aria-label="{0}">{3}</svg><div>{4}</div></div>'
    return Markup(figure).format(title, WIDTH, HEIGHT, Markup("").join(parts), legend)


def axes(frame: Frame, labels: Sequence[float], heights: Sequence[float]) -> Iterator[Markup]:
    """Both axes, with the labels and some heights written beside them."""
    yield Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT)
    for value in heights:
        yield Markup('<text class="end" x="{}" y="{}">{:.3f}</text>').format(LEFT - 5, frame.y(value) + 4, value)
    for count in labels:
        place = frame.x(count), HEIGHT - BOTTOM + 16
        yield Markup('<text class="middle" x="{}" y="{}">{}</text>').format(*place, count)


def dashed(frame: Frame, goals: Mapping[str, float]) -> Iterator[Markup]:
    """A line at each goal."""
    line = Markup('<path class="goal" d="M{0} {1}H{2}"/><text class="end" x="{2}" y="{3}">{4}</text>')
    for name, value in goals.items():
        yield line.format(LEFT, frame.y(value), WIDTH - RIGHT, frame.y(value) - 4, name)


def lines_of(frame: Frame, labels: Sequence[float], curves: Curves) -> Iterator[Markup]:
    """The curves."""
    line = Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2"><title>{}</title></polyline>')
    for colour, (name, curve) in coloured(curves):
        points = " ".join(f"{frame.x(n)},{frame.y(value)}" for n, value in zip(labels, curve, strict=True))
        yield line.format(points, colour, name)


def coloured(curves: Curves) -> list[tuple[str, tuple[str, Sequence[float]]]]:
    """The curves, each with its colour."""
    return [(COLOURS[place % len(COLOURS)], item) for place, item in enumerate(curves.items())]


def section(title: str, table: Markup) -> Markup:
    """A table under its title."""
    return Markup("<section><h2>{}</h2>{}</section>").format(title, table)


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table, its first column of words."""
    titles = Markup("").join(Markup("<th{}>{}</th>").format(_side(n), head) for n, head in enumerate(heads))
    lines = [
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td{}>{}</td>").format(_side(n), cell) for n, cell in enumerate(row))
        )
        for row in rows
    ]
    return Markup("<table><tr>{}</tr>{}</table>").format(titles, Markup("").join(lines))


def _side(column: int) -> Markup:
    return Markup(' class="n"') if column else Markup("")


def strategy_table(rows: Mapping[str, Mapping[str, Any]], focus: str | None) -> Markup:
    """Dice of each strategy."""
    columns: list[tuple[str, str]] = [
        ("aubc", "AUBC"),
        ("final", "Mean Dice at the end"),
        ("worst_label", "Worst label"),
    ]
    columns += [] if focus is None else [("focus", f"{focus}, at the end"), ("focus_aubc", f"{focus}, area")]
    alarms = list(next(iter(rows.values()))["false_alarms"])
    heads = ["Strategy", *(title for _, title in columns), *(f"False alarms, {name}" for name in alarms)]
    lines = [
        [name, *(f"{row[key]:.4f}" for key, _ in columns), *(f"{row['false_alarms'][label]:.0%}" for label in alarms)]
        for name, row in rows.items()
    ]
    return table_of(heads, lines)


def cost_table(rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    """What the end of each strategy has cost, which labels it has found, and the labels it needs."""
    some = next(iter(rows.values()))
    heads = ["Strategy", "Annotated foreground voxels", "Corrected voxels"]
    heads += [f"Labelled cases with {name}" for name in some["showing"]]
    heads += [f"Labels for {share} of full data" for share in some["needed"]]
    lines = []
    for name, row in rows.items():
        voxels = [f"{row[key]:,.0f}" for key in ("foreground_voxels", "corrected_voxels")]
        lines.append(
            [
                name,
                *voxels,
                *(f"{found[-1]:.1f}" for found in row["showing"].values()),
                *map(needs, row["needed"].values()),
            ]
        )
    return table_of(heads, lines)


def needs(one: Mapping[str, Any]) -> str:
    """Labels needed in words."""
    median = "more" if one["median"] is None else f"{one['median']:.1f}"
    return f"{median} ({one['reached']} of {one['of']} reach it)"


def comparison_table(result: Mapping[str, Any]) -> Markup:
    """The planned comparisons."""
    titles = {"aubc": "AUBC", "focus": f"Dice at the end, {result['preset']['focus']}"}
    lines = []
    for figure, by in result["default_minus"].items():
        for name, one in by.items():
            half = "" if one["half_interval"] is None else f" ± {one['half_interval']:.4f}"
            ps = ["" if one[key] is None else f"{one[key]:.3f}" for key in ("p", "p_holm")]
            lines.append([f"{titles[figure]}, minus {name}", f"{one['mean']:+.4f}{half}", *ps])
    return table_of(["Figure", "Paired difference, 95 % interval", "p", "p by Holm"], lines)


def verdict_words(result: Mapping[str, Any]) -> str:
    """Whether the default wins, in words."""
    wins = [won for by in result["verdict"]["wins"].values() for won in by.values()]
    if None in wins:
        return "one seed shows nothing"
    return f"shown to be better, p by Holm at most {result['preset']['error']}, in {sum(wins)} of {len(wins)}"
