"""Each scheduled night starts once, whoever asks; figures of models are replaced, and go with their annotation."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa
from ledger_support import Clock, add_series, human

from lib.core.errors import InvalidInput
from lib.ledger import tables
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger

NIGHT = "liver_ct", "2026-03-01 02:00"


def test_one_of_many_workers_starts_a_night_and_nobody_does_it_again(ledger: Ledger, clock: Clock) -> None:
    assert [ledger.nights.take(*NIGHT, worker, lease_s=600) for worker in ("a", "b", "a")] == [True, False, False]
    assert ledger.nights.finish(*NIGHT, "a")
    clock.turn(86_400)
    assert not ledger.nights.take(*NIGHT, "b", lease_s=600)
    assert ledger.nights.take(NIGHT[0], "2026-03-02 02:00", "b", lease_s=600)
    assert ledger.nights.take("spleen_ct", NIGHT[1], "b", lease_s=600)
    assert [(row.actor, row.subject) for row in ledger.audit.list() if row.action == "night.done"] == [
        ("a", "liver_ct 2026-03-01 02:00")
    ]


def test_the_night_of_a_worker_that_died_goes_to_another_and_the_late_one_is_not_heard(
    ledger: Ledger, clock: Clock
) -> None:
    assert ledger.nights.take(*NIGHT, "a", lease_s=600)
    clock.turn(599)
    assert not ledger.nights.take(*NIGHT, "b", lease_s=600)
    clock.turn(1)
    assert ledger.nights.take(*NIGHT, "b", lease_s=600)
    assert not ledger.nights.finish(*NIGHT, "a")
    assert ledger.nights.finish(*NIGHT, "b")


@pytest.mark.parametrize(("moment", "holder", "lease_s"), [("", "a", 600), ("now", "", 600), ("now", "a", 0)])
def test_a_night_needs_a_moment_a_holder_and_a_time(ledger: Ledger, moment: str, holder: str, lease_s: float) -> None:
    with pytest.raises(InvalidInput, match="a night is taken by"):
        ledger.nights.take("liver_ct", moment, holder, lease_s)


def test_figures_are_kept_by_model_and_annotation_and_replaced_by_newer_ones(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2")
    first, second = (ledger.annotations.add_human(human(uid), True) for uid in ("1.1", "1.2"))
    ledger.figures.keep("m1", {first: {"liver": 0.5, "cyst": None}, second: {"liver": 0.25, "cyst": 1.0}})
    ledger.figures.keep("m2", {first: {"liver": 0.75, "cyst": 0.0}})
    ledger.figures.keep("m1", {first: {"liver": 0.625, "cyst": None}, 999: {"liver": 1.0, "cyst": None}})
    assert ledger.figures.of(("m1", "m3")) == {
        "m1": {first: {"liver": 0.625, "cyst": None}, second: {"liver": 0.25, "cyst": 1.0}},
        "m3": {},
    }
    assert ledger.figures.of(()) == {}


def test_figures_of_more_cases_than_a_statement_takes_are_kept(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    one = ledger.annotations.add_human(human("1.1"), True)
    ledger.figures.keep("m", {one + number: {"liver": 0.5} for number in range(1201)})
    assert ledger.figures.of(["m"]) == {"m": {one: {"liver": 0.5}}}


def test_two_processes_that_keep_the_same_figures_at_once_do_not_disturb_each_other(ledger: Ledger, url: str) -> None:
    add_series(ledger, "1.1")
    one = ledger.annotations.add_human(human("1.1"), True)
    figures = {one: {"liver": 0.5}}
    with ThreadPoolExecutor() as pool:
        with closing(Database(url)) as database, database.write() as connection:
            row = {"model": "m", "annotation_id": one, "dice": figures[one]}
            connection.execute(sa.insert(tables.case_figures).values(row))
            second = pool.submit(ledger.figures.keep, "m", figures)
            time.sleep(0.3)  # it finds nothing to replace and waits for the row
        second.result(timeout=20)
    assert ledger.figures.of(["m"]) == {"m": figures}


def test_figures_go_with_their_annotation(ledger: Ledger, url: str) -> None:
    add_series(ledger, "1.1", "1.2")
    gone, stays = (ledger.annotations.add_human(human(uid), True) for uid in ("1.1", "1.2"))
    ledger.figures.keep("m", {gone: {"liver": 0.5}, stays: {"liver": 0.25}})
    with closing(Database(url)) as database, database.write() as connection:
        connection.execute(sa.delete(tables.annotations).where(tables.annotations.c.id == gone))
    assert ledger.figures.of(["m"]) == {"m": {stays: {"liver": 0.25}}}
