import base64
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import InvalidInput, NotFound
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.workflows import charts
from lib.workflows.gate import Condition
from lib.workflows.overlays import most_different, side_by_side
from lib.workflows.paired import Interval
from lib.workflows.report import CaseChange, Corrections, Failure, MorningReport, NightRow
from lib.workflows.reportfiles import PAGE, VALUES, report_file, reports, write_report
from lib.workflows.reportpage import render, render_index

ORGAN = Code("1", "Organ")
SCHEMA = LabelSchema((Label("liver", 1, (220, 90, 70), ORGAN), Label("spleen", 2, (80, 160, 220), ORGAN)))
GRID = Geometry.from_spacing((3, 96, 96), (3.0, 1.0, 1.0))


def disc(row: float, radius: float) -> Mask:
    slices, rows, columns = np.indices(GRID.shape)
    liver = (slices == 1) & ((rows - row) ** 2 + (columns - 40) ** 2 < radius**2)
    spleen = (slices == 1) & ((rows - 60) ** 2 + (columns - 75) ** 2 < 100)
    return Mask(np.where(liver, 1, np.where(spleen, 2, 0)), GRID, SCHEMA)


def picture(row: float) -> bytes:
    image = np.random.default_rng(0).normal(0, 20, GRID.shape) + 120 * (disc(48, 22).array > 0)
    masks = (disc(48, 22), disc(row, 22), disc(48, 20))
    return side_by_side(
        Volume(image.astype(np.float32), GRID, "CT"), masks, most_different(*masks[1:]), zoom=True, width=3
    )


def sample() -> MorningReport:
    """A night with everything in it; names and reasons as hostile as they may come."""
    rng = np.random.default_rng(1)
    loss = tuple((step, float(1.1 * np.exp(-step / 300) + 0.25 + rng.normal(0, 0.03))) for step in range(1, 1201))
    dice = tuple((step, float(0.9 - 0.4 * np.exp(-step / 250))) for step in range(100, 1201, 100))
    return MorningReport(
        run="abdomen_ct-v0012",
        task="abdomen_ct",
        version=12,
        champion=11,
        finished_at=datetime(2026, 3, 2, 4, 17, tzinfo=UTC),
        promoted=True,
        reason="better on 14 promotion patients against version 11: mean +0.0140 (at least +0.0060)",
        labels=(
            Interval("liver", 14, 0.942, 0.951, 0.009, 0.002, 0.016, -0.02),
            Interval("spleen", 13, 0.901, 0.92, 0.019, 0.004, 0.035, -0.02),
            Interval("pancreas <tail>", 6, 0.71, 0.702, -0.008, -0.031, 0.014, -0.02),
            Interval("adrenal gland", 0, None, None, None, None, None, -0.02),
        ),
        anchored=(Interval("spleen", 13, 0.93, 0.92, -0.01, -0.018, -0.002, -0.02, against=7),),
        newest=Interval("mean on the newest cases", 5, 0.9, 0.91, 0.01, -0.01, 0.03, 0.0),
        conditions=(Condition("calibration error", "0.051 against 0.030", "0.02 more", False),),
        alpha=0.05,
        mean=Interval("mean of the common labels", 14, 0.921, 0.935, 0.014, 0.006, 0.022, 0.0),
        margin=0.02,
        patients=14,
        missing=1,
        learned={
            "label": {"liver": 86, "spleen": 84, "pancreas <tail>": 31},
            "annotator": {"anna": 60, "<script>alert(1)</script>": 26},
            "site": {"North": 51, "unknown": 35},
        },
        annotations=86,
        new=22,
        curves={"loss": loss, "validation dice": dice},
        improved=(CaseChange("CT 0041", "p-7f3a", 0.84, 0.91, picture(54), "slice 31 of 64"),),
        worsened=(CaseChange('CT "0102"', "p-91bc", 0.9, 0.87, picture(44)),),
        compared=17,
        comparable=500,
        colors={label.name: label.color for label in SCHEMA},
        corrections={"anna": Corrections(60, 55, 1834.0, 92110), "bert": Corrections(26, 0, None, None)},
        failures=(Failure("series", "1.2.840.1", "slice gaps must agree within 0.1 mm, got [3, 6] & more"),),
        in_the_field="ALARM: fallen below 0.912 since 2026-02-20; Dice 0.871 on 42 cases of the random lane",
        costs={"whole run": "38 min", "training": "31 min", "peak memory": "5.2 GiB", "device": "cuda:0"},
    )


class Page(HTMLParser):
    """Text of the cells by row, addresses and names of all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self._is_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._is_cell = tag in ("td", "th") or (self._is_cell and tag not in ("p", "h2", "h3", "svg"))

    def handle_data(self, data: str) -> None:
        if self._is_cell and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_the_page_shows_the_figures_of_the_report() -> None:
    html = render(sample())
    page = Page(html)
    assert ["liver", "14", "0.942", "0.951", "+0.009", "+0.002", "+0.016", ""] in page.rows
    assert ["pancreas <tail>", "6", "0.710", "0.702", "-0.008", "-0.031", "+0.014", ""] in page.rows
    assert ["adrenal gland", "0", "–", "–", "–", "–", "–", ""] in page.rows  # noqa: RUF001
    assert ["anna", "60", "55", "1,834", "92,110"] in page.rows
    assert ["series", "1.2.840.1", "slice gaps must agree within 0.1 mm, got [3, 6] & more"] in page.rows
    assert "Promoted: version 12 makes the drafts from now on." in html
    assert '<dt>More patients needed</dt><dd class="warn">1</dd>' in html
    assert '<strong class="bad">-0.030</strong> mean Dice' in html
    assert "<span>Champion, Dice 0.900</span><span>Challenger, Dice 0.870</span>" in html
    assert "slice 31 of 64" in html
    assert "Of 17 calibration cases, drawn at random out of 500, which no training learns from." in html
    spleen = "spleenagainst version 7, the best before the champion in this label"
    assert [spleen, "13", "0.930", "0.920", "-0.010", "-0.018", "-0.002", ""] in page.rows
    assert ["mean on the newest cases", "5", "0.900", "0.910", "+0.010", "-0.010", "+0.030", ""] in page.rows
    assert ["calibration error", "0.051 against 0.030", "0.02 more", "not kept"] in page.rows
    assert "each label's errs in 5 of 100" in html


@pytest.mark.parametrize(("alpha", "said"), [(0.025, "2.5"), (0.005, "0.5"), (0.07, "7")])
def test_the_error_rate_of_the_bounds_is_told_as_it_is(alpha: float, said: str) -> None:
    assert f"each label's errs in {said} of 100" in render(replace(sample(), alpha=alpha))


def test_a_report_of_all_cases_speaks_of_no_sample() -> None:
    html = render(replace(sample(), comparable=17))
    assert "Of 17 calibration cases, which no training learns from." in html


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing() -> None:
    html = render(sample())
    page = Page(html)
    assert {address.partition(",")[0] for address in page.addresses} == {"/reports", "data:", "data:image/png;base64"}
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_pictures_stand_in_the_page_as_they_were_drawn() -> None:
    report = sample()
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', render(report))
    assert [base64.b64decode(data) for data in found] == [report.improved[0].picture, report.worsened[0].picture]
    assert found[0] != found[1]
    assert '<i style="background: rgb(220, 90, 70)"></i>liver' in render(report)


def test_a_picture_can_be_cut_to_what_any_mask_labels() -> None:
    volume = Volume(np.zeros(GRID.shape, np.float32), GRID, "CT")
    masks = (disc(48, 10), disc(48, 22))
    whole, cut = (Image.open(io.BytesIO(side_by_side(volume, masks, 1, "", zoom=zoom))).size for zoom in (False, True))
    assert whole == (2 * 96 * 4, 96 * 4)
    rows = (69 - 27 + 1) + 2 * 15  # all columns: the margin of 23 reaches both sides
    assert cut == (2 * 96 * 5, rows * 5)


def test_a_first_model_and_a_kept_champion_are_told_apart() -> None:
    first = MorningReport("t-v0001", "t", 1, None, datetime(2026, 3, 2, tzinfo=UTC), True, "the first model")
    html = render(first)
    assert "There was no champion to compare with" in html
    assert "No calibration case changed: there was none to compare" in html
    assert "All data passed the checks." in html
    kept = render(replace(first, champion=3, promoted=False))
    assert "Not promoted: version 3 goes on making the drafts." in kept


def test_curves_are_thinned_to_means_that_keep_their_end() -> None:
    points = [(float(step), float(step % 2)) for step in range(1001)]
    drawn = charts.thinned(points, most=101)
    assert len(drawn) == 101
    assert drawn[0] == (4.5, 0.5)
    assert drawn[-1] == (1000.0, 0.0)


def test_a_curve_lies_between_its_extremes_and_names_them() -> None:
    drawn = charts.curve("loss", [(0.0, 2.0), (5.0, float("nan")), (10.0, 1.0)])
    assert 'points="52.0,10.0 450.0,144.0"' in drawn
    assert ">2.000<" in drawn
    assert ">1.000<" in drawn
    assert charts.curve("loss", []) == ""


def test_an_interval_is_drawn_to_scale_around_zero() -> None:
    drawn = charts.interval(Interval("liver", 5, 0.8, 0.9, 0.1, 0.05, 0.15, -0.1), span=0.2)
    assert "M100.0 1V21" in drawn
    assert 'class="floor" d="M52.0 1V21"' in drawn
    assert 'class="range" d="M124.0 11H172.0"' in drawn
    assert '<circle cx="148.0"' in drawn
    assert charts.interval(Interval("none", 0, None, None, None, None, None, 0.0), 0.2) == ""


def test_a_report_is_there_whole_and_a_later_one_of_the_run_replaces_it(tmp_path: Path) -> None:
    write_report(tmp_path, sample())
    path = write_report(tmp_path, replace(sample(), promoted=False))
    assert path == tmp_path / "reports" / "abdomen_ct-v0012" / PAGE
    assert [found.name for found in (tmp_path / "reports").iterdir()] == ["abdomen_ct-v0012"]
    values = json.loads(report_file(tmp_path, "abdomen_ct-v0012", VALUES).read_text())
    assert (values["promoted"], values["labels"][0]["lower"], values["learned"]["site"]["North"]) == (False, 0.002, 51)
    assert values["worsened"][0]["change"] == pytest.approx(-0.03)
    assert "picture" not in values["improved"][0]


def test_reports_are_read_newest_first(tmp_path: Path) -> None:
    assert reports(tmp_path) == []
    early = replace(sample(), run="t-v0001", version=1, finished_at=datetime(2026, 1, 1, tzinfo=UTC))
    write_report(tmp_path, sample())
    write_report(tmp_path, early)
    found = reports(tmp_path)
    assert [values["version"] for values in found] == [12, 1]


def test_the_index_leads_to_the_reports_and_names_what_has_none() -> None:
    assert "No retraining was asked for yet" in render_index([])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with_page = NightRow(at, "t", 4, 1, "t-v0001", "promoted", "better")
    without = NightRow(at, "t", 5, None, None, "failed", "too <few> labels")
    text = render_index([without, with_page])
    assert [address for address in Page(text).addresses if "v0001" in address] == [
        "/reports/t-v0001",
        "/reports/t-v0001.json",
    ]
    assert "none, job 5" in text
    assert "too &lt;few&gt; labels" in text


@pytest.mark.parametrize("run", ["../ledger.db", "a/b", ".hidden", "", "x" * 200])
def test_a_report_is_read_from_its_folder_alone(tmp_path: Path, run: str) -> None:
    with pytest.raises(InvalidInput, match="a report is named by"):
        report_file(tmp_path, run)


def test_a_report_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="transunet-label report --list"):
        report_file(tmp_path, "t-v0001")
