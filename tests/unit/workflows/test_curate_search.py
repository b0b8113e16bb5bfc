"""What a data team asks for, and that nothing else is found."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import InvalidInput, NotFound
from lib.core.estimated import EstimatedDice
from lib.ledger import curationreads
from lib.ledger.curationrows import CuratedCase
from lib.ledger.rows import NewDraft, NewHuman, NewSeries
from lib.workflows.curate.cases import case_dict, drawn_ml
from lib.workflows.curate.conditions import Conditions, day
from lib.workflows.curate.search import ORDERS, Found, _hit, search
from lib.workflows.services import Services

NAN = float("nan")
GRID = {"shape": [2, 3, 4], "affine": np.diag([10.0, 10.0, 10.0, 1.0]).tolist()}  # 1 ml a voxel
FAR = EstimatedDice(0.1, NAN, NAN, False, "unlike")


def add(services: Services, uid: str, patient: str = "p", split: str = "pool", **facts: str) -> str:
    services.ledger.series.add(NewSeries(uid, f"9.{uid}", patient, split, "CT", "ball", 2, **facts))
    services.ledger.series.set_ready(uid, (), "frame", GRID)
    return uid


def drafted(services: Services, uid: str, ball_ml: float, cube_ml: float, **entropy: float) -> None:
    """A draft with these volumes in ml and entropies, whose ball has an estimated Dice of a hundredth of its volume."""
    values = {"volume_ml": {"ball": ball_ml, "cube": cube_ml}}
    told = {"ball": EstimatedDice(ball_ml / 100, 0.0, 1.0, True), "cube": FAR}
    new = NewDraft(uid, services.task().name, "m", 1)
    services.ledger.annotations.add_draft(new, scores=entropy, values=values, estimates=told)


@pytest.fixture
def filled(services: Services) -> Services:
    """Four series: a large ball, a small ball with a cube, a labelled cube, one that nobody has looked at."""
    add(services, "1.1", "pa", institution="North Hospital", date="20260110")
    add(services, "1.2", "pb", institution="South", date="20260220")
    add(services, "1.3", "pc", "promotion", institution="Northern", date="")
    add(services, "1.4", "pd", date="20260301")
    drafted(services, "1.1", 30.0, 0.0, ball=0.2, cube=0.1)
    drafted(services, "1.2", 5.0, 2.0, ball=0.9, cube=0.6)
    human = NewHuman("1.3", services.task().name, "Ann", voxels={"cube": 7, "ball": 0})
    services.ledger.annotations.add_human(human, accept=True)
    return services


def uids(found: Found) -> list[str]:
    return [hit.case.series_uid for hit in found.hits]


def ask(services: Services, order: str = "series", **wanted: object) -> list[str]:
    return uids(search(services, services.task(), Conditions(**wanted), order))  # type: ignore[arg-type]


def test_without_conditions_every_ready_series_of_the_task_is_found(filled: Services) -> None:
    filled.ledger.series.add(NewSeries("1.5", "9", "pe", "pool", "MR", "ball", 2))
    filled.ledger.series.set_ready("1.5", (), "frame", GRID)
    filled.ledger.series.add(NewSeries("1.6", "9", "pe", "pool", "CT", "ball", 2))
    assert ask(filled) == ["1.1", "1.2", "1.3", "1.4"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"label": "CUBE"}, ["1.2", "1.3"]),
        ({"label": "ball"}, ["1.1", "1.2"]),
        ({"volume_ml": (5.0, None)}, ["1.1", "1.2"]),
        ({"volume_ml": (5.1, 30.0)}, ["1.1"]),
        ({"label": "cube", "volume_ml": (None, 0.0)}, ["1.1"]),
        ({"label": "cube", "uncertainty": (0.5, None)}, ["1.2"]),
        ({"uncertainty": (0.9, None)}, ["1.2"]),
        ({"label": "cube", "volume_ml": (3.0, None), "uncertainty": (0.5, None)}, []),
        ({"volume_ml": (3.0, None), "uncertainty": (None, 0.2)}, ["1.1"]),
        ({"quantity": "bald", "uncertainty": (0.0, None)}, []),
        ({"site": "north*"}, ["1.1", "1.3"]),
        ({"site": "SOUTH"}, ["1.2"]),
        ({"since": date(2026, 2, 20)}, ["1.2", "1.4"]),
        ({"until": date(2026, 2, 20)}, ["1.1", "1.2"]),
        ({"state": "labelled"}, ["1.3"]),
        ({"state": "todo"}, ["1.4"]),
        ({"split": "promotion"}, ["1.3"]),
        ({"patient": "pb"}, ["1.2"]),
        ({"label": "cube", "state": "drafted"}, ["1.2"]),
    ],
)
def test_each_condition_finds_what_meets_it(filled: Services, wanted: dict[str, object], found: list[str]) -> None:
    assert ask(filled, **wanted) == found


def test_tags_and_cohorts_are_conditions(filled: Services) -> None:
    curation = filled.ledger.curation
    curation.tag(["1.2", "1.4"], ["metal"], "anna")
    curation.create("odd", "", "anna")
    curation.add("odd", ["1.1", "1.2"], "anna")
    assert ask(filled, tag="metal") == ["1.2", "1.4"]
    assert ask(filled, cohort="odd") == ["1.1", "1.2"]
    assert ask(filled, tag="metal", cohort="odd") == ["1.2"]
    with pytest.raises(NotFound, match="no cohort 'none'"):
        ask(filled, cohort="none")


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("volume", ["1.1", "1.2", "1.3", "1.4"]),
        ("uncertainty", ["1.2", "1.1", "1.3", "1.4"]),
        ("date", ["1.4", "1.2", "1.1", "1.3"]),
    ],
)
def test_the_order_is_by_the_label_that_has_most_and_unknown_values_come_last(
    filled: Services, order: str, found: list[str]
) -> None:
    assert ask(filled, order) == found


def test_a_limit_cuts_what_is_shown_and_not_what_is_counted(filled: Services) -> None:
    found = search(filled, filled.task(), Conditions(), limit=3)
    assert (found.total, uids(found)) == (4, ["1.1", "1.2", "1.3"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"volume_ml": (2.0, 1.0)}, "the least volume_ml must not be above the largest, got 2 and 1"),
        ({"dice": (NAN, None)}, "bounds of dice must be finite numbers"),
        ({"since": date(2026, 2, 1), "until": date(2026, 1, 1)}, "since must not be after until"),
        ({"quantity": "doubt"}, "quantity must be one of entropy, bald, margin, disagreement, got 'doubt'"),
        ({"state": "lost"}, "state must be one of labelled, submitted, held, drafted, todo, got 'lost'"),
        ({"split": "test"}, "split must be one of pool, calibration, promotion, got 'test'"),
        ({"label": "liver"}, "label must be one of ball, cube of task"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(
    filled: Services, wanted: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        ask(filled, **wanted)


def test_an_unknown_order_a_limit_of_none_and_a_date_that_is_none_are_refused(filled: Services) -> None:
    with pytest.raises(InvalidInput, match=f"order must be one of {', '.join(ORDERS)}"):
        ask(filled, "beauty")
    with pytest.raises(InvalidInput, match="limit must be at least 1, got 0"):
        search(filled, filled.task(), Conditions(), limit=0)
    with pytest.raises(InvalidInput, match="a date must be like 2026-01-31 or 20260131"):
        day("31.1.2026")
    assert (day("2026-01-31"), day("20260131"), day("")) == (date(2026, 1, 31), date(2026, 1, 31), None)


def test_the_estimated_dice_is_a_condition_an_order_and_told(filled: Services) -> None:
    assert ask(filled, dice=(0.04, 0.1)) == ["1.2"]
    assert ask(filled, "dice") == ["1.2", "1.1", "1.3", "1.4"]
    assert ask(filled, label="cube", dice=(0.0, 1.0)) == []  # the model does not know such cubes
    assert ask(filled, volume_ml=(20.0, None), dice=(0.0, None)) == ["1.1"]
    task = filled.task()
    (hit,) = search(filled, task, Conditions(patient="pb")).hits
    labels = hit.to_dict(task)["labels"]
    assert (labels["ball"]["estimated_dice"]["value"], labels["ball"]["predicted_ml"]) == (0.05, 5.0)
    assert (labels["cube"]["estimated_dice"]["value"], labels["cube"]["estimated_dice"]["reason"]) == (None, "unlike")


def test_how_many_have_no_estimate_is_said_when_it_is_asked_for(filled: Services) -> None:
    found = search(filled, filled.task(), Conditions(dice=(0.0, None)))
    assert found.notes == ("2 series that meet all else have no draft with an estimated Dice",)
    assert search(filled, filled.task(), Conditions(dice=(0.0, None), state="drafted")).notes == ()
    assert search(filled, filled.task(), Conditions()).notes == ()


def test_a_case_as_plain_values_tells_volumes_and_none_for_what_nobody_knows(filled: Services) -> None:
    found = {hit.case.series_uid: hit.case for hit in search(filled, filled.task(), Conditions()).hits}
    told = case_dict(found["1.2"], filled.task())
    assert told["labels"]["cube"] == {
        "predicted_ml": 2.0, "drawn_ml": None, "entropy": 0.6, "bald": None, "margin": None, "disagreement": None,
    }  # fmt: skip
    assert (told["site"], told["date"], told["model_version"], told["annotation"]) == ("South", "20260220", 1, None)
    labelled = case_dict(found["1.3"], filled.task())
    assert labelled["labels"]["cube"]["drawn_ml"] == 7.0
    assert list(labelled["labels"]) == ["cube"]
    assert np.isnan(drawn_ml(replace(found["1.3"], geometry=None), "cube"))


CASE = CuratedCase("1", "2", "p", "pool", "CT", "", "", "ball", "", None, "drafted", None, "", {}, 1, 1)
NUMBER = st.one_of(st.none(), st.floats(0, 10))


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=8), NUMBER, NUMBER, NUMBER)
def test_narrower_conditions_never_find_more(
    numbers: list[tuple[float, float]],
    volume: float | None,
    least: float | None,
    most: float | None,
) -> None:
    if least is not None and most is not None and least > most:
        least, most = most, least
    cases = [
        replace(CASE, series_uid=str(n), said={"ball": {"volume_ml": ml, "entropy": nats}})
        for n, (ml, nats) in enumerate(numbers)
    ]
    wide = Conditions(volume_ml=(volume, None))
    narrow = Conditions(volume_ml=(volume, None), uncertainty=(least, most))

    def found(wanted: Conditions) -> set[str]:
        return {case.series_uid for case in cases if _hit(case, wanted, ("ball", "cube"), {}) is not None}

    assert found(narrow) <= found(wide)
    expected = {
        case.series_uid
        for case, (ml, nats) in zip(cases, numbers, strict=True)
        if (volume is None or ml >= volume) and (least is None or nats >= least) and (most is None or nats <= most)
    }
    assert found(narrow) == (expected if narrow.asks_for_numbers else {case.series_uid for case in cases})


def test_grids_are_read_of_the_series_alone_that_are_shown(filled: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = curationreads.grids

    def grids(connection: sa.Connection, series_uids: Sequence[str]) -> object:
        read.extend(series_uids)
        return plain(connection, series_uids)

    monkeypatch.setattr(curationreads, "grids", grids)
    found = search(filled, filled.task(), Conditions(), "volume", limit=2)
    assert (uids(found), read, found.total) == (["1.1", "1.2"], ["1.1", "1.2"], 4)
    assert all(hit.case.geometry for hit in found.hits)
    (drawn,) = search(filled, filled.task(), Conditions(state="labelled")).hits
    assert drawn.to_dict(filled.task())["labels"]["cube"]["drawn_ml"] > 0
    assert read[2:] == ["1.3"]


def test_more_sites_than_a_statement_holds_are_still_told_apart(
    filled: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.workflows.curate.search.MOST_SITES", 1)
    assert ask(filled, site="north*") == ["1.1", "1.3"]
