"""A real browser opens a study in OHIF, loads the draft and sees its named segments; then stores it as a label."""

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Dialog, Page, Request, expect

from lib.cli.orthanc_process import OrthancProcess, free_port, start_orthanc
from lib.core.estimated import EstimatedDice
from lib.core.values import Mask
from lib.demo.cohort import case_files, phantom_cohort
from lib.dicom.seg import SegOrigin
from lib.dicom.series import SourceSeries, assemble, match_slice_order
from lib.dicom.writer import new_uid
from lib.ledger.rows import NewDraft
from lib.workflows import query
from lib.workflows.presegment import deliver_outbox, seg_file
from lib.workflows.query import viewer_path
from lib.workflows.services import Services
from loop import conf_of, install, settle
from serving import Serving, serve
from viewing import WAIT_MS, browser_page, drag, load_mask, panel_of, what_is_missing

VIEWER = Path(os.environ.get("TRANSUNET_OHIF", Path(__file__).resolve().parents[2] / "var" / "ohif"))
LOOK_MS = 3000
"""Longer than it takes to ask for a lease."""

VERA = "Dr. Vera"
TASK = "phantom_ct"
"""Served as the second task: what the viewer shows must not depend on the order."""

pytestmark = [pytest.mark.browser, pytest.mark.orthanc, pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    """Browser and viewer are there. Without them nothing is tested, which scripts/test does not let pass."""
    missing = what_is_missing(VIEWER)
    if missing:
        (pytest.fail if os.environ.get("TRANSUNET_REQUIRE_BROWSER") == "1" else pytest.skip)(missing)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancProcess]:
    running = start_orthanc(tmp_path_factory.mktemp("orthanc"), free_port(), "tester", secrets.token_urlsafe(12))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def services(orthanc: OrthancProcess, tmp_path_factory: pytest.TempPathFactory) -> Services:
    var = tmp_path_factory.mktemp("site") / "var"
    found = install(orthanc, var, tasks=f"hippocampus_mr,{TASK}")
    (var / "ohif").symlink_to(VIEWER)
    return found


@pytest.fixture(scope="module")
def source(services: Services) -> SourceSeries:
    """A phantom in the archive with a draft: what a good model would draw."""
    [case] = phantom_cohort(services.task(TASK).schema, ("draft",))
    images = case_files(case).images
    services.archive.store(list(images))
    settle(services)
    found = assemble(images)
    drafted(services, found, match_slice_order(case.load()[1], found.geometry))
    query.refresh_queues(services, services.task(TASK))
    return found


@pytest.fixture(scope="module")
def serving(orthanc: OrthancProcess, services: Services, source: SourceSeries) -> Iterator[Serving]:
    var = services.settings.var
    with serve(conf_of(orthanc, var, tasks=f"hippocampus_mr,{TASK}"), var.parent) as running:
        yield running


@pytest.fixture
def requests() -> list[Request]:
    """Every request of the page."""
    return []


@pytest.fixture
def page(serving: Serving, requests: list[Request]) -> Iterator[Page]:
    with browser_page(serving.url, VERA) as made:
        made.on("request", lambda request: requests.append(request))
        yield made


def drafted(services: Services, source: SourceSeries, mask: Mask) -> None:
    """Record a mask as the model's draft and bring its SEG into the archive."""
    sop_uid, seg_uid = new_uid(), new_uid()
    origin = SegOrigin("AUTOMATIC", "radiology_transunet", "TransUNet phantom_ct", "1", "Draft phantom_ct v1")
    draft = NewDraft(source.series_uid, TASK, "radiology_transunet", 1, "model", sop_uid, seg_uid, mask.voxels())
    scores = {name: 0.1 * (place + 1) for place, name in enumerate(services.task(TASK).schema.names)}
    told = {"liver": EstimatedDice(0.91, 0.85, 0.95, True), "aorta": EstimatedDice(0.62, 0.4, 0.75, True)}
    file = seg_file(mask, source, origin, sop_uid, seg_uid)
    services.ledger.annotations.add_draft(draft, file, scores, estimates=told)
    deliver_outbox(services)


def cookie_of(page: Page) -> str:
    """The annotator whom the browser remembers, as the cookie has it."""
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "transunet_user")


def test_the_worklist_leads_to_the_case(page: Page, source: SourceSeries, requests: list[Request]) -> None:
    page.goto("/worklist")
    expect(page.get_by_text("No series yet")).to_be_visible()
    page.get_by_label("Task").select_option(TASK)
    row = page.locator(f"tr[data-series='{source.series_uid}']")
    expect(row.get_by_text("Draft ready")).to_be_visible()
    expect(row).to_contain_text("liver")
    expect(row.locator(".dice")).to_have_text(re.compile("^0.62 *0.40.0.75 . aorta$"))  # of the worst label
    expect(row.locator(".dice")).to_have_attribute("title", re.compile("overlap with a correction"))
    row.get_by_role("link", name="Open").click()
    expect(panel_of(page).get_by_text("draft ready")).to_be_visible(timeout=WAIT_MS)
    assert source.study_uid in page.url
    expect(panel_of(page).get_by_text(TASK)).to_be_visible()
    expect(panel_of(page).get_by_role("row", name="liver")).to_contain_text(re.compile("0.91 *0.85.0.95"))
    panel_of(page).get_by_role("link", name="Worklist").click()
    expect(row).to_be_visible()


def test_an_ordinary_name_is_kept_and_a_wrong_one_is_said_to_be_wrong_where_it_is_typed(
    page: Page, source: SourceSeries
) -> None:
    page.goto("/worklist")
    name = page.get_by_label("Annotator")
    name.fill("a\\b")
    name.press("Tab")
    expect(page.get_by_role("status")).to_contain_text("no backslash")
    assert cookie_of(page) == quote(VERA)
    name.fill("Müller, Anna")
    name.press("Tab")
    expect(name).to_have_attribute("placeholder", "Müller, Anna")
    page.context.add_cookies([{"name": "transunet_user", "value": "a%3Db", "url": page.url}])  # of an older version
    page.goto(viewer_path(source.study_uid, source.series_uid, TASK))
    panel = panel_of(page)
    expect(panel.get_by_text("a user name has no")).to_be_visible(timeout=WAIT_MS)
    panel.get_by_label("Annotator").fill("Dr. O'Neill")
    panel.get_by_label("Annotator").press("Tab")
    expect(panel.get_by_text("draft ready")).to_be_visible(timeout=WAIT_MS)
    assert cookie_of(page) == "Dr.%20O'Neill"


def test_a_stroke_takes_the_case_and_looking_at_it_does_not(
    page: Page, source: SourceSeries, services: Services
) -> None:
    page.goto(viewer_path(source.study_uid, source.series_uid, TASK))
    load_mask(page)
    drag(page, "WindowLevel")
    panel_of(page).get_by_role("button", name="liver").click()
    page.wait_for_timeout(LOOK_MS)
    assert services.ledger.queue.holder(source.series_uid, TASK) is None
    drag(page, "Brush")
    expect(panel_of(page).get_by_text("Yours until")).to_be_visible(timeout=WAIT_MS)
    lease = services.ledger.queue.holder(source.series_uid, TASK)
    assert lease is not None
    assert lease.annotator == VERA
    query.release(services, services.task(TASK), source.series_uid, VERA)


def test_corrections_that_are_not_stored_are_left_only_when_the_annotator_says_so(
    page: Page, source: SourceSeries, services: Services
) -> None:
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.goto(viewer_path(source.study_uid, source.series_uid, TASK))
    load_mask(page)
    panel = panel_of(page)
    panel.get_by_role("button", name="Next case").click()  # nothing was drawn: nobody asks
    expect(panel.get_by_role("status")).to_contain_text(re.compile("still yours|No case is free"), timeout=WAIT_MS)
    assert asked == []
    drag(page, "Brush")
    expect(panel.get_by_text("Yours until")).to_be_visible(timeout=WAIT_MS)
    for name in ("Skip", "Next case"):
        panel.get_by_role("button", name=name).click()
        expect(panel.get_by_role("status")).to_contain_text("Submit your corrections first")
    panel.get_by_role("link", name="Worklist").click()
    page.locator("[data-cy='return-to-work-list']").click(position={"x": 5, "y": 20})
    assert asked == ["confirm"] * 4
    with page.expect_event("dialog"):
        page.close(run_before_unload=True)
    assert asked[4:] == ["beforeunload"]
    assert services.ledger.queue.holder(source.series_uid, TASK) is not None
    page.remove_listener("dialog", stay)
    page.on("dialog", lambda dialog: dialog.accept())
    panel.get_by_role("button", name="Skip").click()
    expect(panel.get_by_role("status")).to_contain_text("No case is free", timeout=WAIT_MS)
    assert services.ledger.queue.holder(source.series_uid, TASK) is None


def test_the_draft_opens_in_the_viewer_with_its_named_segments_and_is_stored_as_a_label(
    page: Page, source: SourceSeries, services: Services, requests: list[Request], serving: Serving
) -> None:
    page.goto(viewer_path(source.study_uid, source.series_uid, TASK))
    panel = panel_of(page)
    load_mask(page)
    segments = page.locator("[data-cy='data-row']")
    for name in ("spine", "liver", "spleen", "left kidney", "right kidney", "aorta"):
        expect(segments.filter(has_text=name)).to_have_count(1, timeout=WAIT_MS)
    panel.get_by_role("button", name="Submit label").click()
    expect(panel.get_by_role("status")).to_contain_text("Saved as label", timeout=WAIT_MS)
    [label] = services.ledger.annotations.list(series_uid=source.series_uid, status="accepted")
    assert (label.author, label.origin, label.changed_voxels) == (VERA, "human", 0)
    assert label.parent_id is not None
    elsewhere = [found.url for found in requests if not found.url.startswith((serving.url, "data:", "blob:"))]
    assert elsewhere == []


def test_a_corrected_label_is_stored_again_and_then_left_without_a_question(
    page: Page, source: SourceSeries, services: Services
) -> None:
    page.goto(viewer_path(source.study_uid, source.series_uid, TASK))
    load_mask(page, "label")
    panel = panel_of(page)
    drag(page, "Brush")
    panel.get_by_role("button", name="Submit label").click()
    expect(panel.get_by_role("status")).to_contain_text("Saved as label", timeout=WAIT_MS)
    [label] = services.ledger.annotations.list(series_uid=source.series_uid, status="accepted")
    assert label.author == VERA
    assert label.changed_voxels is not None
    assert label.changed_voxels > 0
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    panel.get_by_role("link", name="Worklist").click()
    expect(page.get_by_role("heading", name="Worklist")).to_be_visible()
    assert asked == []
