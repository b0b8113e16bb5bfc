"""The morning report as people see it in a browser: from the list to the pictures, whole in itself."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Request, expect

from lib.core.values import Mask
from lib.demo.phantom import make_phantom
from lib.taskfile import load_task
from lib.workflows.gate import Condition
from lib.workflows.overlays import most_different, side_by_side, slice_words
from lib.workflows.paired import Interval
from lib.workflows.report import CaseChange, Corrections, MorningReport
from lib.workflows.reportfiles import write_report
from loop import conf_of, install
from serving import Serving, eventually, free_port, serve
from viewing import browser_page, no_browser

pytestmark = [pytest.mark.server, pytest.mark.browser, pytest.mark.slow]

TASK = load_task("phantom_ct")


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    """A browser is there. Without one nothing is tested, which scripts/test does not let pass."""
    missing = no_browser()
    if missing:
        (pytest.fail if os.environ.get("TRANSUNET_REQUIRE_BROWSER") == "1" else pytest.skip)(missing)


def report() -> MorningReport:
    """A night whose challenger was kept out for one label, with a case of each kind."""
    steps = range(1, 401)
    return MorningReport(
        run="phantom_ct-v0003",
        task=TASK.name,
        version=3,
        champion=2,
        finished_at=datetime(2026, 3, 2, 4, 17, tzinfo=UTC),
        promoted=False,
        reason="the champion stays, on 14 promotion patients against version 2: lesion -0.0300 (at least -0.0520)",
        labels=(
            Interval("liver", 14, 0.942, 0.951, 0.009, 0.002, 0.016, -0.02),
            Interval("lesion", 12, 0.61, 0.58, -0.03, -0.052, -0.008, -0.02),
        ),
        anchored=(Interval("spleen", 14, 0.93, 0.921, -0.009, -0.016, -0.002, -0.02, against=1),),
        mean=Interval("mean of the common labels", 14, 0.921, 0.935, 0.014, 0.006, 0.022, 0.0),
        conditions=(Condition("time a case", "0.61 s against 0.60 s", "1.5 times as much", True),),
        margin=0.02,
        alpha=0.05,
        patients=14,
        learned={"label": {"liver": 40}, "annotator": {"anna": 40}, "site": {"North": 40}},
        annotations=40,
        new=12,
        curves={"loss": tuple((float(step), float(np.exp(-step / 90))) for step in steps)},
        improved=(change(1, 0.70, 0.88),),
        worsened=(change(2, 0.91, 0.84),),
        compared=40,
        comparable=500,
        colors={label.name: label.color for label in TASK.schema},
        corrections={"anna": Corrections(40, 31, 1834.0, 92110)},
        in_the_field="Dice 0.871 on 42 cases of the random lane",
        costs={"training": "31 min", "device": "cpu"},
    )


def change(seed: int, before: float, after: float) -> CaseChange:
    """A phantom whose champion and challenger miss different slices."""
    volume, truth = make_phantom(seed, TASK.schema)
    ends = (truth.array * (np.arange(64) % count > 0)[:, None, None].astype(np.uint8) for count in (5, 7))
    masks = truth, *(Mask(array, truth.geometry, TASK.schema) for array in ends)
    number = most_different(*masks[1:])
    picture = side_by_side(volume, masks, number, zoom=True, window_hu=TASK.preprocess.window_hu, width=3)
    return CaseChange(f"annotation {seed}", f"{seed:032x}", before, after, picture, slice_words(volume, number))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server whose archive is away: reports need none."""
    var = tmp_path_factory.mktemp("site") / "var"
    away: Any = SimpleNamespace(dicomweb_url=f"http://127.0.0.1:{free_port()}/dicom-web", username="", password="")
    install(away, var)
    write_report(
        var, replace(report(), run="phantom_ct-v0002", version=2, finished_at=datetime(2026, 3, 1, tzinfo=UTC))
    )
    write_report(var, report())
    with serve(conf_of(away, var), var.parent, "--no-worker") as running:
        eventually(lambda: is_warm(running), what="the end of the server's imports, before which it cannot end")
        yield running


def is_warm(serving: Serving) -> bool:
    facts = httpx.get(f"{serving.url}/info/", timeout=60, trust_env=False).json()
    return facts["champions"][TASK.name] is None


@pytest.fixture(scope="module")
def errors() -> list[str]:
    """What the browser complained about."""
    return []


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Every request of the page."""
    return []


@pytest.fixture(scope="module")
def page(serving: Serving, requests: list[Request], errors: list[str]) -> Iterator[Page]:
    """The newest report, opened from the list as people do."""
    with browser_page(serving.url) as made:
        made.on("request", lambda request: requests.append(request))
        made.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        made.on("pageerror", lambda error: errors.append(str(error)))
        made.goto("/reports")
        made.locator("table a").first.click()
        yield made


def test_the_newest_report_leads_the_list_and_tells_the_verdict_first(page: Page, serving: Serving) -> None:
    assert page.url == f"{serving.url}/reports/phantom_ct-v0003"
    verdict = page.locator(".verdict")
    expect(verdict).to_be_in_viewport()
    expect(verdict).to_contain_text("Not promoted: version 2 goes on making the drafts.")
    expect(verdict).to_contain_text("lesion -0.0300 (at least -0.0520)")


def test_champion_and_challenger_stand_side_by_side_for_each_label(page: Page) -> None:
    table = page.locator("#labels")
    expect(table).to_be_visible()
    lesion = table.get_by_role("row").filter(has_text="lesion")
    assert lesion.get_by_role("cell").all_inner_texts()[:7] == [
        "lesion",
        "12",
        "0.610",
        "0.580",
        "-0.030",
        "-0.052",
        "-0.008",
    ]
    expect(lesion.locator("svg")).to_be_visible()
    expect(table.get_by_text("against version 1, the best before the champion in this label")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="time a case")).to_contain_text("kept")


def test_the_curve_is_drawn_over_the_width_of_its_place(page: Page) -> None:
    place, line = (page.locator(f".curves {part}").first.bounding_box() for part in ("svg", "polyline"))
    assert place is not None
    assert line is not None
    assert line["width"] > 0.8 * place["width"]
    assert line["height"] > 0.6 * place["height"]


def test_pictures_are_shown_large_enough_to_judge_and_say_which_panel_is_whose(page: Page) -> None:
    pictures = page.locator("figure img")
    expect(pictures).to_have_count(2)
    for picture in pictures.all():
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] > 3 * 280
        assert picture.evaluate("image => image.complete && image.naturalWidth") >= 3 * 320
    assert page.locator(".panels").first.locator("span").all_inner_texts() == [
        "Annotation", "Champion, Dice 0.700", "Challenger, Dice 0.880",
    ]  # fmt: skip
    expect(page.get_by_text("drawn at random out of 500")).to_be_visible()


def test_the_page_is_whole_in_itself_and_nothing_goes_wrong(
    page: Page, requests: list[Request], errors: list[str], serving: Serving
) -> None:
    page.wait_for_load_state("networkidle")
    asked = [request.url for request in requests if not request.url.startswith("data:")]
    own = {f"{serving.url}/reports", f"{serving.url}/reports/phantom_ct-v0003", f"{serving.url}/favicon.ico"}
    assert set(asked) <= own
    assert errors == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_reaches_beyond_the_sides_of_a_screen_or_a_telephone(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
