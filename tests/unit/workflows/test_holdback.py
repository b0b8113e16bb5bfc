"""Labels that look like a mistake wait for a reviewer, with the reason; all others are taken as they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.values import Mask
from lib.dicom.seg import SegOrigin, seg_summary, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft, NewSeries
from lib.server import labels
from lib.server.casejson import case_json, overview_json
from lib.server.volumefiles import write_labels
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows import review, worklist
from lib.workflows.collect import PoolCases, accepted_ids
from lib.workflows.services import Services

from .conftest import TASK, FileArchive, ball

BODY = (slice(1, 5), slice(4, 28), slice(4, 28))
ORIGIN = SegOrigin("MANUAL", "anna", "", "", "by hand")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """An archive of files and a ledger; nothing here asks the registry."""
    return installed(tmp_path)


def installed(folder: Path, *conf: tuple[str, str]) -> Services:
    (folder / "task.yaml").write_text(TASK.format(name="balls"))
    (folder / "var").mkdir(exist_ok=True)
    own = [("var", str(folder / "var")), ("tasks", str(folder / "task.yaml"))]
    ledger = Ledger(f"sqlite:///{folder}/var/ledger.db")
    ledger.upgrade()
    task = load_task(folder / "task.yaml")
    settings = load_settings([*own, *conf], environ={})
    return Services(settings, {task.name: task}, FileArchive(folder / "archive"), ledger, None, b"k" * 32)  # type: ignore[arg-type]


@pytest.fixture
def source(services: Services) -> SourceSeries:
    """A series of a body in air."""
    return arrived(services)


def arrived(services: Services) -> SourceSeries:
    identity = SeriesIdentity("p1", "p1", new_uid(), new_uid(), new_uid(), "ball")
    volume = ball(0)[0]
    air = np.full(volume.array.shape, -1000.0)
    air[BODY] = volume.array[BODY]
    services.archive.store(series_to_datasets(replace(volume, array=air), identity))
    services.ledger.series.add(
        NewSeries(identity.series_uid, identity.study_uid, "p1", "pool", "CT", "ball", len(volume.array))
    )
    services.ledger.series.set_ready(identity.series_uid, [], identity.frame_of_reference_uid, None)
    return assemble(services.archive.fetch(identity.series_uid))


def mask(services: Services, source: SourceSeries, **places: tuple[slice, slice]) -> Mask:
    """Labels by name in slice 2."""
    task, array = services.task(), np.zeros(source.geometry.shape, np.uint8)
    for name, place in places.items():
        array[(2, *place)] = task.schema.find(name).id
    return Mask(array, source.geometry, task.schema)


INSIDE = (slice(6, 12), slice(6, 12))
ELSEWHERE = (slice(16, 22), slice(16, 22))
AIR = (slice(0, 3), slice(0, 3))


def draft(services: Services, source: SourceSeries, drawn: Mask) -> int:
    sop, seg = (None, None) if drawn.is_empty else (new_uid(), new_uid())
    if sop is not None:
        origin = SegOrigin("AUTOMATIC", "model", "transunet", "1", "draft")
        services.archive.store([write_seg(drawn, source, origin, sop, seg)])
    new = NewDraft(source.series_uid, "balls", "model", 1, "model", sop, seg, drawn.voxels(), drawn.is_empty)
    return services.ledger.annotations.add_draft(new)


def submit(services: Services, source: SourceSeries, drawn: Mask, author: str = "anna"):
    return services.ledger.annotations.get(review.submit_mask(services, services.task(), source, drawn, author))


def test_an_empty_label_where_the_draft_shows_something_is_held_back(services: Services, source: SourceSeries) -> None:
    draft(services, source, mask(services, source, ball=INSIDE))
    row = submit(services, source, mask(services, source))
    assert row.is_held
    assert row.held_reason == "it is empty, but the draft shows ball"
    assert accepted_ids(services, services.task(), PoolCases) == ()
    assert review.annotation_mask(services, row.id, source).is_empty  # kept as it came


def test_an_empty_label_where_the_draft_shows_nothing_means_nothing_found(
    services: Services, source: SourceSeries
) -> None:
    draft(services, source, mask(services, source))
    row = submit(services, source, mask(services, source))
    assert (row.status, row.nothing_found, row.held_reason) == ("accepted", True, "")


def test_without_a_draft_an_empty_label_is_held_back_where_the_task_expects_something(
    services: Services, source: SourceSeries
) -> None:
    row = submit(services, source, mask(services, source))
    assert row.held_reason == "it is empty, but every case of task balls is expected to show ball"  # cube is rare
    task = replace(services.task(), rare=("ball", "cube"))
    rare = replace(services, tasks={task.name: task})
    again = submit(rare, source, mask(rare, source))
    assert (again.status, rare.ledger.annotations.get(row.id).status) == ("accepted", "superseded")


def test_a_label_in_the_air_is_held_back_with_its_share(services: Services, source: SourceSeries) -> None:
    row = submit(services, source, mask(services, source, ball=INSIDE, cube=AIR))
    assert row.held_reason == (
        "it lies beside the patient, where the image shows no tissue: cube (0% of its voxels) within the body"
    )
    mended = submit(services, source, mask(services, source, ball=INSIDE), author="")
    assert (mended.status, mended.held_reason) == ("accepted", "")
    assert services.ledger.annotations.get(row.id).status == "superseded"
    assert services.ledger.annotations.held() == []


def test_a_label_that_agrees_with_the_draft_nowhere_is_held_back_with_the_figures(
    services: Services, source: SourceSeries
) -> None:
    draft(services, source, mask(services, source, ball=INSIDE, cube=ELSEWHERE))
    row = submit(services, source, mask(services, source, ball=ELSEWHERE, cube=INSIDE))  # names exchanged
    assert row.held_reason == (
        "it differs from the draft everywhere: ball (Dice 0.00), cube (Dice 0.00); "
        "is it of another series, or are names exchanged?"
    )


def test_a_label_that_has_no_name_in_common_with_the_draft_is_held_back_with_both(
    services: Services, source: SourceSeries
) -> None:
    draft(services, source, mask(services, source, ball=INSIDE))
    row = submit(services, source, mask(services, source, cube=INSIDE))
    assert row.is_held
    assert row.held_reason == (
        "it differs from the draft everywhere: the draft shows ball, the label cube; "
        "is it of another series, or are names exchanged?"
    )
    mended = submit(services, source, mask(services, source, ball=INSIDE))
    assert (mended.status, mended.held_reason) == ("accepted", "")


CORNER = (slice(24, 27), slice(24, 27))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ball": INSIDE, "cube": ELSEWHERE}, {"ball": INSIDE}),  # one label alone: a task that is done in parts
        ({"ball": INSIDE, "cube": ELSEWHERE}, {"ball": INSIDE, "cube": CORNER}),  # the cube alone was wrong everywhere
        ({"ball": INSIDE}, {"ball": (slice(11, 14), slice(11, 14))}),  # one voxel in common
        ({"ball": INSIDE}, {"ball": INSIDE, "cube": ELSEWHERE}),  # the draft missed a label
        ({}, {"ball": ELSEWHERE}),  # or all of them
    ],
)
def test_a_correction_is_no_mistake(services: Services, source: SourceSeries, before: dict, after: dict) -> None:
    draft(services, source, mask(services, source, **before))
    row = submit(services, source, mask(services, source, **after))
    assert (row.status, row.held_reason) == ("accepted", "")


def test_a_model_that_draws_at_the_wrong_place_is_disbelieved_once_reviewers_released_three(
    services: Services,
) -> None:
    states = []
    for _ in range(5):
        source = arrived(services)
        draft(services, source, mask(services, source, ball=INSIDE))
        row = submit(services, source, mask(services, source, ball=ELSEWHERE))
        states.append("held" if row.is_held else row.status)
        if row.is_held:
            review.accept(services, row.id, "chief")
    assert states == ["held", "held", "held", "accepted", "accepted"]


def test_a_model_that_most_corrections_agree_with_stays_believed(services: Services) -> None:
    places = [INSIDE] * 4 + [ELSEWHERE] * 4
    states = []
    for place in places:
        source = arrived(services)
        draft(services, source, mask(services, source, ball=INSIDE))
        row = submit(services, source, mask(services, source, ball=place))
        states.append("held" if row.is_held else row.status)
        if row.is_held:
            review.accept(services, row.id, "chief")
    assert states == ["accepted"] * 4 + ["held"] * 4  # the fourth is held: three of seven disprove nothing


def states_of(services: Services, corrections: list[tuple[dict, dict]]) -> list[str]:
    """What becomes of each (draft, label), where a reviewer releases at once what is held back."""
    states = []
    for before, after in corrections:
        source = arrived(services)
        draft(services, source, mask(services, source, **before))
        row = submit(services, source, mask(services, source, **after))
        states.append("held" if row.is_held else row.status)
        if row.is_held:
            review.accept(services, row.id, "chief")
    return states


def test_drafts_that_miss_a_label_do_not_disprove_where_others_were_drawn(services: Services) -> None:
    missed, invented = ({}, {"ball": ELSEWHERE}), ({"ball": INSIDE}, {})
    misplaced = {"ball": INSIDE}, {"ball": ELSEWHERE}
    assert states_of(services, [missed] * 3 + [invented] * 3 + [misplaced]) == ["accepted"] * 3 + ["held"] * 4


def test_a_model_that_exchanges_names_is_disbelieved_in_them_alone_once_reviewers_released_three(
    services: Services,
) -> None:
    renamed, misplaced = ({"ball": INSIDE}, {"cube": INSIDE}), ({"ball": INSIDE}, {"ball": ELSEWHERE})
    assert states_of(services, [renamed] * 5 + [misplaced]) == ["held"] * 3 + ["accepted"] * 2 + ["held"]


def test_a_model_whose_names_most_corrections_keep_stays_believed_in_them(services: Services) -> None:
    kept, renamed = ({"ball": INSIDE}, {"ball": INSIDE}), ({"ball": INSIDE}, {"cube": INSIDE})
    assert states_of(services, [kept] * 4 + [renamed] * 4) == ["accepted"] * 4 + ["held"] * 4


def test_drafts_that_miss_the_only_label_do_not_disprove_names(services: Services) -> None:
    missed, renamed = ({}, {"ball": ELSEWHERE}), ({"ball": INSIDE}, {"cube": INSIDE})
    assert states_of(services, [missed] * 3 + [renamed]) == ["accepted"] * 3 + ["held"]


BOTH = {"ball": INSIDE, "cube": ELSEWHERE}


@pytest.mark.parametrize(
    ("correction", "state"),
    [(({}, BOTH), "accepted"), ((BOTH, {}), "held")],  # a weak model that drafts nothing; one that invents both
)
def test_labels_that_are_missed_or_invented_together_do_not_disprove_names(
    services: Services, correction: tuple[dict, dict], state: str
) -> None:
    renamed = {"ball": INSIDE}, {"cube": INSIDE}
    states = states_of(services, [correction] * 3 + [renamed] * 4)
    assert states == [state] * 3 + ["held"] * 3 + ["accepted"]  # nor do they keep what disproves them from being half


def test_a_correction_tells_what_was_drafted_and_drawn(services: Services, source: SourceSeries) -> None:
    draft(services, source, mask(services, source, ball=INSIDE))
    row = submit(services, source, mask(services, source, cube=INSIDE))
    review.accept(services, row.id, "chief")
    found = {
        row.label: (row.is_drafted, row.is_drawn, row.is_shared) for row in services.ledger.corrections.list("balls")
    }
    assert found == {"ball": (True, False, False), "cube": (False, True, False)}


def test_a_draft_that_cannot_be_read_holds_nothing_back(services: Services, source: SourceSeries) -> None:
    lost = draft(services, source, mask(services, source, ball=INSIDE))
    services.archive.delete_series(services.ledger.annotations.get(lost).seg_series_uid)
    row = submit(services, source, mask(services, source, ball=ELSEWHERE))
    assert (row.status, row.parent_id, row.changed_voxels) == ("accepted", lost, None)


@pytest.mark.parametrize(
    ("option", "before", "after"),
    [
        (("review.hold_back", "false"), {"ball": INSIDE}, {}),
        (("review.hold_empty", "false"), {"ball": INSIDE}, {}),
        (("review.min_tissue", "0"), {}, {"ball": AIR}),
        (("review.min_draft_dice", "-1"), {"ball": INSIDE}, {"ball": ELSEWHERE}),
        (("review.min_draft_dice", "-1"), {"ball": INSIDE}, {"cube": ELSEWHERE}),
    ],
)
def test_each_check_can_be_switched_off(tmp_path: Path, option: tuple[str, str], before: dict, after: dict) -> None:
    for conf, status in (((), "submitted"), ((option,), "accepted")):
        folder = tmp_path / status
        folder.mkdir()
        services = installed(folder, *conf)
        source = arrived(services)
        draft(services, source, mask(services, source, **before))
        assert submit(services, source, mask(services, source, **after)).status == status


def test_a_seg_of_the_viewer_is_held_back_and_a_reviewer_releases_it(services: Services, source: SourceSeries) -> None:
    draft(services, source, mask(services, source, ball=INSIDE))
    drawn = mask(services, source, ball=ELSEWHERE)
    dataset = write_seg(drawn, source, ORIGIN, new_uid(), new_uid())
    services.archive.store([dataset])
    made = review.record_seg(services, services.task(), source, drawn, seg_summary(dataset), None)
    assert [row.id for row in review.held_labels(services, services.task())] == [made]
    assert "differs from the draft everywhere" in services.ledger.annotations.get(made).held_reason
    review.accept(services, made, "chief")
    assert accepted_ids(services, services.task(), PoolCases) == (made,)
    assert services.ledger.audit.list(limit=1)[0].actor == "chief"


def test_with_review_required_too_the_reason_stands_with_the_label(tmp_path: Path) -> None:
    services = installed(tmp_path, ("review.mode", "required"))
    source = arrived(services)
    good = submit(services, source, mask(services, source, ball=INSIDE))
    empty = submit(services, source, mask(services, source))
    assert (good.status, empty.is_held) == ("submitted", True)
    assert services.ledger.annotations.get(good.id).status == "submitted"  # a slip replaces nothing


def test_the_worklist_the_status_and_the_reply_say_why(
    services: Services, source: SourceSeries, tmp_path: Path
) -> None:
    drawn = mask(services, source, ball=AIR)
    write_labels(drawn.array, drawn.geometry, tmp_path / "label.nii.gz")
    told = labels.save(services, source.series_uid, tmp_path / "label.nii.gz", {"model": "balls"}, "anna")
    assert (told["status"], "lies beside the patient" in told["held"]) == ("submitted", True)
    assert told["message"] == (
        f"Label {told['annotation']} is kept but held back until a reviewer has looked at it: {told['held']}. "
        "If it is a mistake, save the label again; the new one replaces it."
    )
    case = worklist.case(services, services.task(), source.series_uid)
    assert case.state == "held"
    assert case_json(case, "balls")["label"]["held"] == told["held"]
    loop = worklist.overview(services, services.task(), worklist.page(services, services.task()).counts)
    assert (loop.counts["held"], loop.counts["submitted"]) == (1, 0)
    assert overview_json(loop)["held"] == [
        {"annotation": told["annotation"], "series": source.series_uid, "author": "anna", "reason": told["held"]}
    ]


def test_a_held_label_is_shown_beside_the_one_that_counts_and_never_downloaded_in_its_place(
    services: Services, source: SourceSeries
) -> None:
    good = submit(services, source, mask(services, source, ball=INSIDE))
    slip = submit(services, source, mask(services, source))
    assert worklist.case(services, services.task(), source.series_uid).label.id == slip.id
    assert labels.find(services, source.series_uid, "final").id == good.id
    review.reject(services, slip.id, "chief", "a slip")
    assert worklist.case(services, services.task(), source.series_uid).state == "labelled"
    other = arrived(services)
    alone = submit(services, other, mask(services, other))
    assert labels.find(services, other.series_uid, "final").id == alone.id
