"""Strange series and series like one: by embeddings of one model alone, with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from lib.core.errors import InvalidInput, NotFound
from lib.ledger.curationrows import CuratedCase, Embedded
from lib.ledger.rows import NewDraft, NewHuman, NewSeries
from lib.workflows.curate.alike import like
from lib.workflows.curate.outliers import Outliers, outliers
from lib.workflows.curate.space import version_for
from lib.workflows.curate.usual import FEWEST_VOLUMES, Usual
from lib.workflows.services import Services

GRID = {"shape": [2, 3, 4], "affine": np.diag([10.0, 10.0, 10.0, 1.0]).tolist()}  # 1 ml a voxel


def add(services: Services, uid: str, split: str = "pool", site: str = "North") -> str:
    services.ledger.series.add(NewSeries(uid, "9", f"p-{uid}", split, "CT", "ball", 2, site))
    services.ledger.series.set_ready(uid, (), "frame", GRID)
    return uid


def draft(services: Services, uid: str, *vector: float, version: int = 1, ball_ml: float = 1.0) -> None:
    new = NewDraft(uid, services.task().name, "m", version)
    values = {"volume_ml": {"ball": ball_ml}}
    embedding = np.array(vector) if vector else None
    services.ledger.annotations.add_draft(new, embedding=embedding, values=values, unless_labelled=False)


def label(services: Services, uid: str, voxels: int = 2, **more: object) -> int:
    new = NewHuman(uid, services.task().name, "Ann", voxels={"ball": voxels}, **more)  # type: ignore[arg-type]
    return services.ledger.annotations.add_human(new, accept=True)


@pytest.fixture
def filled(services: Services) -> Services:
    """Labelled series at 0, 1, 2, 3, 4, 5 along a line, unlabelled ones at 2.5, 30 and 60; the last is of the gate."""
    for n in range(6):
        draft(services, add(services, f"1.{n}"), n, 0.0)
        label(services, f"1.{n}", voxels=n + 2)
    draft(services, add(services, "2.1"), 2.5, 0.0, ball_ml=4.0)
    draft(services, add(services, "2.2", site="South"), 30.0, 0.0, ball_ml=70.0)
    draft(services, add(services, "2.3", "promotion"), 60.0, 0.0)
    add(services, "2.4")  # no model has seen it
    return services


def found(services: Services, **more: object) -> Outliers:
    return outliers(services, services.task(), **more)  # type: ignore[arg-type]


def test_a_strange_series_comes_with_its_nearest_labelled_ones_and_the_reasons(filled: Services) -> None:
    queue = found(filled)
    assert (queue.version, queue.compared, queue.labelled, queue.outlying) == (1, 2, 6, 1)
    (one,) = queue.queue
    assert one.case.series_uid == "2.2"
    assert [(near.series_uid, near.distance, near.labels) for near in one.neighbours[:2]] == [
        ("1.5", pytest.approx(25.0), ("ball",)),
        ("1.4", pytest.approx(26.0), ("ball",)),
    ]
    assert len(one.neighbours) == filled.settings.selection.rare_neighbours == 5
    assert one.distance == pytest.approx(27.0)
    assert one.reasons == (
        "its 5 nearest labelled cases are 27 away, further than 6 of 6 labelled cases are from the other labelled ones",
        "no labelled case is of site South",
        "ball: 70 ml predicted, 2 to 7 ml in 6 labelled cases",
    )
    assert queue.notes == (
        "compared by embeddings of model version 1 alone; 1 series and 0 labelled ones have no embedding by it and are "
        "left out",
    )


def test_all_are_ranked_when_asked_and_gate_patients_never(filled: Services) -> None:
    ranked = found(filled, every=True)
    assert [(one.case.series_uid, one.is_outlying) for one in ranked.queue] == [("2.2", True), ("2.1", False)]
    assert [one.case.series_uid for one in found(filled, every=True, limit=1).queue] == ["2.2"]
    assert ranked.queue[1].reasons[1:] == ()


def test_as_plain_values_nothing_is_nan(filled: Services) -> None:
    told = found(filled, every=True).to_dict(filled.task())
    assert told["series"][0]["neighbours"][0] == {"series": "1.5", "distance": 25.0, "labels": ["ball"]}
    assert (told["outlying"], told["series"][0]["share"], told["series"][1]["is_outlying"]) == (1, 1.0, False)


def test_a_newer_model_that_saw_no_labelled_series_is_not_compared_with_the_older_one(filled: Services) -> None:
    """After a promotion it takes a while until the new version has seen all, in a space of its own."""
    draft(filled, "2.1", 900.0, 0.0, version=2)
    draft(filled, "2.2", 0.0, 900.0, version=2)
    again = found(filled)
    assert (again.version, again.outlying, again.queue[0].distance) == (1, 1, pytest.approx(27.0))
    draft(filled, add(filled, "2.5"), 901.0, 0.0, version=2)
    left = found(filled)
    assert (left.compared, [one.case.series_uid for one in left.queue]) == (2, ["2.2"])
    assert "2 series and 0 labelled ones have no embedding by it" in left.notes[0]


def test_a_newer_model_takes_over_once_it_can_compare_as_many(filled: Services) -> None:
    for n in range(6):
        draft(filled, f"1.{n}", 0.0, n, version=2)
    draft(filled, "2.1", 0.0, 50.0, version=2)
    assert found(filled).version == 1  # it has seen one of two unlabelled ones
    draft(filled, "2.2", 0.0, 3.0, version=2)
    queue = found(filled)
    assert (queue.version, [one.case.series_uid for one in queue.queue]) == (2, ["2.1"])
    assert found(filled, version=1).version == 1
    with pytest.raises(
        NotFound, match="version 3 has no embeddings that could be compared here; versions that have: 1, 2"
    ):
        found(filled, version=3)


def test_without_anything_to_compare_that_is_said_and_nothing_is_ranked(services: Services) -> None:
    draft(services, add(services, "2.1"), 1.0, 2.0, version=2)
    draft(services, add(services, "1.1"), 1.0, 2.0, version=1)
    label(services, "1.1")
    told = found(services)
    assert (told.version, told.queue, told.compared) == (None, (), 0)
    assert told.notes == (
        "nothing can be compared: of 1 series without a label and 1 labelled ones in the pool no model version has "
        "embeddings of both; draft them first",
    )
    draft(services, "2.1", float("nan"), 2.0, version=1)
    assert found(services).version is None
    assert outliers(services, services.task()).to_dict(services.task())["series"] == []


def test_with_one_labelled_case_everything_is_ranked_and_nothing_called_outlying(services: Services) -> None:
    draft(services, add(services, "1.1"), 0.0, 0.0)
    label(services, "1.1")
    for n in (1, 5):
        draft(services, add(services, f"2.{n}"), float(n), 0.0)
    told = found(services)
    assert [(one.case.series_uid, one.is_outlying) for one in told.queue] == [("2.5", False), ("2.1", False)]
    assert "with one labelled case nothing can be called outlying: all are ranked" in told.notes
    assert "nobody knows what is usual" in told.queue[0].reasons[0]
    assert told.to_dict(services.task())["series"][0]["share"] is None


def test_a_label_that_is_held_back_says_nothing_of_what_is_usual(filled: Services) -> None:
    add(filled, "1.9")
    draft(filled, "1.9", 30.0, 0.0)
    label(filled, "1.9", held_reason="it is empty")
    queue = found(filled)
    assert (queue.labelled, queue.outlying) == (6, 1)


def test_a_limit_below_one_is_refused(filled: Services) -> None:
    with pytest.raises(InvalidInput, match="limit must be at least 1, got 0"):
        found(filled, limit=0)
    with pytest.raises(InvalidInput, match="limit must be at least 1, got -1"):
        like(filled, filled.task(), "2.1", limit=-1)


def test_the_newest_version_is_taken_under_which_nearly_most_pairs_can_be_compared() -> None:
    rows = [
        Embedded(uid, version, 0) for version, uids in {1: "abxy", 2: "ax", 3: "bx", 4: "ab"}.items() for uid in uids
    ]
    assert version_for(rows, "ab", "xy") == 1
    assert version_for(rows, "a", "x") == 2
    assert version_for(rows, "ab", "x") == 1
    assert version_for([row for row in rows if row.model_version > 1], "ab", "x") == 3
    assert version_for(rows, "ab", "z") is None
    assert version_for(rows, "ab", "xy", 2) == 2
    assert version_for([], "ab", "xy") is None
    many = [str(n) for n in range(100)]
    most = [Embedded(uid, 1, 0) for uid in [*many, "x"]]
    assert version_for([*most, *(Embedded(uid, 2, 0) for uid in [*many[:95], "x"])], many, "x") == 2
    assert version_for([*most, *(Embedded(uid, 2, 0) for uid in [*many[:94], "x"])], many, "x") == 1


def test_volumes_are_usual_only_when_some_cases_have_them(services: Services) -> None:
    case = CuratedCase(
        "1", "2", "p", "pool", "CT", "", "Acme", "ball", "", GRID, "labelled", 1, "accepted", {"ball": 3}, 1, 1
    )
    strange = replace(case, site="North", scanner="Other", said={"ball": {"volume_ml": 9.0}})
    few = Usual.of([case] * (FEWEST_VOLUMES - 1), services.task())
    assert few.strange(strange) == ("no labelled case is of site North", "no labelled case is of scanner of Other")
    enough = Usual.of([case] * FEWEST_VOLUMES, services.task())
    assert enough.strange(strange)[2] == "ball: 9 ml predicted, 3 to 3 ml in 5 labelled cases"
    assert enough.strange(case) == ()


def test_series_like_one_come_by_distance_labelled_or_not(filled: Services) -> None:
    near = like(filled, filled.task(), "2.1", limit=2)
    assert [(case.series_uid, distance) for case, distance in near.near] == [
        ("1.2", pytest.approx(0.5)),
        ("1.3", pytest.approx(0.5)),
    ]
    assert (near.version, near.compared) == (1, 8)
    assert "model version 1 alone; 1 others have no embedding" in near.notes[0]
    drafts = like(filled, filled.task(), "2.1", state="drafted")
    assert [case.series_uid for case, _ in drafts.near] == ["2.2", "2.3"]
    told = drafts.to_dict(filled.task())
    assert (told["like"], told["series"][0]["series"], told["series"][0]["distance"]) == ("2.1", "2.2", 27.5)


def test_equal_series_are_no_distance_apart_and_none_is_like_itself(filled: Services) -> None:
    draft(filled, add(filled, "2.6"), 2.5, 0.0)
    ((case, distance), *_) = like(filled, filled.task(), "2.6").near
    assert (case.series_uid, distance) == ("2.1", 0.0)
    assert "2.6" not in {case.series_uid for case, _ in like(filled, filled.task(), "2.6").near}


def test_series_of_other_versions_are_never_like_one(filled: Services) -> None:
    draft(filled, add(filled, "3.1"), 2.5, 0.0, version=7)
    with pytest.raises(NotFound, match=r"no other series was seen by a model version that saw 3\.1"):
        like(filled, filled.task(), "3.1")
    draft(filled, "2.2", 9.0, 9.0, version=7)
    found = like(filled, filled.task(), "3.1")
    assert (found.version, [case.series_uid for case, _ in found.near]) == (7, ["2.2"])
    with pytest.raises(
        NotFound, match="version 1 has no embeddings that could be compared here; versions that have: 7"
    ):
        like(filled, filled.task(), "3.1", version=1)


def test_a_series_that_no_model_has_seen_is_not_there_or_is_not_for_the_task_says_so(filled: Services) -> None:
    task = filled.task()
    with pytest.raises(NotFound, match="have a model draft it first"):
        like(filled, task, "2.4")
    with pytest.raises(NotFound, match=r"no series 9\.9"):
        like(filled, task, "9.9")
    with pytest.raises(InvalidInput, match="state must be one of"):
        like(filled, task, "2.1", state="lost")
    filled.ledger.series.add(NewSeries("5.1", "9", "p", "pool", "MR", "ball", 2))
    with pytest.raises(NotFound, match="takes CT, the series is MR"):
        like(filled, task, "5.1")
    filled.ledger.series.refuse("2.4", "slices are missing")
    with pytest.raises(NotFound, match=r"series 2\.4 must be ready, it is refused slices are missing"):
        like(filled, task, "2.4")
