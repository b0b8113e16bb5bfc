"""The drafts of a night follow the queue of a strategy."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lib.core.errors import InvalidInput, NoChampion
from lib.ledger.rows import NewDraft
from lib.server.errors import status_of
from lib.server.routes.batch import _start_next, start
from lib.workflows.jobs import DRAFT
from lib.workflows.nightbatch import draft_next
from lib.workflows.presegment import enqueue_drafts
from lib.workflows.query import next_free
from lib.workflows.services import Services


class OneChampion:
    """Stands in for the registry."""

    def __init__(self, version: int | None) -> None:
        self.version = version

    def champion(self, _: str) -> "OneChampion | None":
        return None if self.version is None else self


class Asked:
    """Stands in for the context of a route."""

    def __init__(self, services: Services) -> None:
        self.services = services


@pytest.fixture
def night(services: Services, add_series: Callable[..., str], tmp_path: Path) -> Services:
    """Eight series of the pool that nothing has drafted, and a champion of version 3."""
    for number in range(8):
        add_series(f"P{number}")
    return replace(services, registry=OneChampion(3))


def taken(services: Services, count: int) -> list[str]:
    """Series of the draft jobs in the order in which a worker takes them."""
    jobs = [services.ledger.jobs.take((DRAFT,), "w", 60) for _ in range(count)]
    return [job.payload["series_uid"] for job in jobs if job is not None]


@pytest.mark.parametrize("all_asked_before", [False, True])
def test_the_next_cases_are_drafted_first_and_in_their_order(night: Services, all_asked_before: bool) -> None:
    task = night.task()
    if all_asked_before:
        assert enqueue_drafts(night, task) == 8
    wanted = [entry.series_uid for entry in next_free(night, task, 5, "random")]
    batch = draft_next(night, task, 5, "random")
    assert [case.series_uid for case in batch.cases] == list(batch.drafts) == wanted
    enqueue_drafts(night, task)
    assert taken(night, 8)[:5] == wanted
    assert night.ledger.queue.leases(task.name) == []


def test_what_the_champion_has_drafted_is_named_and_not_drafted_again(night: Services) -> None:
    task = night.task()
    first, second, *_ = [entry.series_uid for entry in next_free(night, task, 3, "random")]
    night.ledger.annotations.add_draft(NewDraft(first, task.name, "model", 3))
    night.ledger.annotations.add_draft(NewDraft(second, task.name, "model", 2))
    kept = replace(night.settings.presegment, redraft=False)
    keeping = replace(night, settings=replace(night.settings, presegment=kept))
    assert draft_next(keeping, task, 2, "random").drafts == ()
    told = _start_next(Asked(night), task.name, 2, "random")
    assert told["details"] == ["2 cases, 1 of them wait for a draft"]
    assert [(case["id"], case["drafting"]) for case in told["cases"]] == [(first, False), (second, True)]
    assert (told["status"], told["request"]["count"]) == ("SUBMITTED", 2)
    assert all(case["why"] for case in told["cases"])


@pytest.mark.parametrize("count", [0, -3, 10**9])
def test_a_bad_count_is_the_fault_of_who_asks(night: Services, count: int) -> None:
    with pytest.raises(InvalidInput, match=f"from 1 to 10000, got {count}") as refused:
        draft_next(night, night.task(), count)
    assert status_of(refused.value) == 400
    assert night.ledger.jobs.list(kind=DRAFT) == []


def test_a_strategy_without_a_count_is_refused_rather_than_drafting_everything(night: Services) -> None:
    with pytest.raises(InvalidInput, match=r"'random' needs \?count="):
        asyncio.run(start(Asked(night), night.task().name, strategy="random"))  # type: ignore[arg-type]
    assert night.ledger.jobs.list(kind=DRAFT) == []


def test_without_a_champion_or_cases_the_answer_says_so(services: Services, night: Services) -> None:
    with pytest.raises(NoChampion, match="no model serves task"):
        draft_next(replace(night, registry=OneChampion(None)), night.task(), 1)
    for entry in next_free(night, night.task(), 8, "random"):
        night.ledger.queue.lease(entry.series_uid, night.task().name, f"reader {entry.rank}", 60)
    told = _start_next(Asked(night), night.task().name, 4, "random")
    assert (told["status"], told["cases"]) == ("DONE", [])
    assert "8 in somebody's hands" in told["details"][0]
