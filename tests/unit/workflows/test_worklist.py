"""Cases as people see them: the list, one case, and how good a draft probably is."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from lib.core.errors import NotFound
from lib.core.estimated import EstimatedDice
from lib.ledger.rows import NewDraft, NewHuman
from lib.ledger.series import Series
from lib.server.casejson import case_json
from lib.workflows import worklist
from lib.workflows.services import Services

SURE = EstimatedDice(0.9126, 0.85, 0.95, True)
UNKNOWN = EstimatedDice(0.4, 0.1, 0.9, False, "unlike what this model was calibrated on")


@pytest.fixture
def drafted(services: Services, add_series: Callable[..., str]) -> str:
    """A series with a draft whose model has estimates."""
    uid = add_series("p1")
    new = NewDraft(uid, services.task().name, "ours", 3, voxels={"ball": 10})
    told = {"ball": SURE, "cube": UNKNOWN}
    services.ledger.annotations.add_draft(new, scores={"ball": 0.5, "cube": math.nan}, estimates=told)
    return uid


def test_a_drafted_case_tells_the_estimated_dice_of_each_label(services: Services, drafted: str) -> None:
    case = worklist.case(services, services.task(), drafted)
    assert case.estimates == {"ball": SURE, "cube": UNKNOWN}
    nothing = {"value": None, "low": None, "high": None}
    assert case_json(case, "t")["estimated_dice"] == {
        "ball": {"value": 0.913, "low": 0.85, "high": 0.95, "is_familiar": True, "reason": ""},
        "cube": {**nothing, "is_familiar": False, "reason": "unlike what this model was calibrated on"},
    }


def test_estimates_go_with_the_draft_that_they_are_of(
    services: Services, drafted: str, add_series: Callable[..., str]
) -> None:
    task, plain = services.task(), add_series("p2")
    services.ledger.annotations.add_draft(NewDraft(plain, task.name, "ours", 3))
    assert worklist.case(services, task, plain).estimates == {}
    services.ledger.annotations.add_human(NewHuman(drafted, task.name, "anna"), accept=True)
    labelled = worklist.case(services, task, drafted)
    assert (labelled.state, labelled.estimates, labelled.scores) == ("labelled", {}, {})
    assert labelled.draft is not None


def test_the_list_shows_what_is_asked_for_and_counts_all(
    services: Services, drafted: str, add_series: Callable[..., str]
) -> None:
    task, others = services.task(), [add_series(f"p{number}") for number in (2, 3)]
    whole = worklist.page(services, task)
    assert [case.series.series_uid for case in whole.cases] == [drafted, *others]
    assert (whole.total, whole.counts["todo"], whole.counts["drafted"]) == (3, 2, 1)
    some = worklist.page(services, task, "todo", 1)
    assert ([case.series.series_uid for case in some.cases], some.total, some.counts) == (others[:1], 2, whole.counts)
    assert [worklist.page(services, task, each).total for each in ("labelled", "of another kind")] == [0, 0]
    heads = replace(task, series_description="head")
    assert worklist.page(services, heads) == worklist.Page([], 0, dict.fromkeys(worklist.STATES, 0))


def test_a_case_is_found_by_its_study(services: Services, drafted: str) -> None:
    task = services.task()
    study = services.ledger.series.get(drafted).study_uid
    assert worklist.case_of_study(services, task, study).series.series_uid == drafted
    with pytest.raises(NotFound, match=r"study 1\.2\.3 has no series"):
        worklist.case_of_study(services, task, "1.2.3")


def test_one_case_is_read_without_the_pool(services: Services, drafted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel polls every few seconds, in each viewer, whatever the number of series."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the whole pool was read")

    for owner, name in ((Series, "list"), (type(services.ledger.queue), "candidates")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(type(services.ledger.queue), "head", refuse)
    task = services.task()
    assert worklist.case(services, task, drafted).state == "drafted"
    assert worklist.case_of_study(services, task, services.ledger.series.get(drafted).study_uid).draft is not None
    assert len(worklist.page(services, task, limit=1).cases) == 1
