"""The morning report as one HTML page that needs nothing from outside."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.workflows import charts
from lib.workflows.report import MorningReport, NightRow, Outcome

PAGES = Path(__file__).parent / "pages"
COLOURS: Mapping[Outcome, str] = {"promoted": "good", "champion stays": "warn", "failed": "bad"}
"""Classes of the page's style; the other outcomes have none."""
UNKNOWN = "–"  # noqa: RUF001 a dash for people


def render(report: MorningReport) -> str:
    """The page; every text is escaped, curves are inline SVG, pictures inline PNG."""
    gains = [gain for gain in (report.mean, report.newest) if gain and gain.patients]
    rows = [*report.labels, *report.anchored, *gains]
    return _environment().get_template("report.html").render(report=report, rows=rows, span=charts.span_of(rows))


def render_index(nights: Sequence[NightRow]) -> str:
    """The list of retrainings."""
    return _environment().get_template("reports.html").render(nights=nights, colours=COLOURS)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(
        base64=lambda data: base64.b64encode(data).decode(),
        dice=lambda value: UNKNOWN if value is None else f"{value:.3f}",
        signed=lambda value: UNKNOWN if value is None else f"{round(value, 3) + 0.0:+.3f}",  # no -0.000
        count=lambda value: UNKNOWN if value is None else f"{value:,.0f}",
        curve=lambda points, name: charts.curve(name, points),
        interval=charts.interval,
    )
    return made
