from datetime import UTC, datetime, timedelta

import pytest

from lib.ledger.rows import JobRow
from lib.workflows.jobs import RETRAIN
from lib.workflows.nightlist import nights
from lib.workflows.report import MorningReport, NightRow
from lib.workflows.reportfiles import write_report
from lib.workflows.services import Services

SOON = timedelta(minutes=1)


def taken(services: Services, attempts: int = 1) -> JobRow:
    """A job of retraining in the hands of a worker."""
    services.ledger.jobs.add(RETRAIN, services.task().name, {}, "key", attempts)
    job = services.ledger.jobs.take((RETRAIN,), "anybody", 60.0)
    assert job is not None
    return job


def only(services: Services) -> NightRow:
    (row,) = nights(services)
    return row


def test_nothing_was_asked_for(services: Services) -> None:
    assert nights(services) == []


def test_a_job_is_listed_from_its_request_to_its_failure(services: Services) -> None:
    job = taken(services, attempts=2)
    services.ledger.jobs.beat(job, 0.25, "step 30 of 120")
    assert (only(services).outcome, only(services).reason) == ("running", "25%, step 30 of 120")
    services.ledger.jobs.fail(job, "the registry is away", retry=True)
    assert (only(services).outcome, only(services).reason) == ("waiting", "for another attempt: the registry is away")
    assert only(services).is_open
    services.ledger.jobs.cancel(job.id)
    assert (only(services).outcome, only(services).reason) == ("cancelled", "while step 30 of 120")
    assert not only(services).is_open


def test_a_worker_that_fell_silent_is_not_shown_at_work(services: Services) -> None:
    services.ledger.jobs.add(RETRAIN, services.task().name, {}, "key", 1)
    assert services.ledger.jobs.take((RETRAIN,), "anybody", 1e-6) is not None
    row = only(services)
    assert row.outcome == "waiting"
    assert "worker anybody fell silent at 0%" in row.reason


def test_a_failure_says_why(services: Services) -> None:
    job = taken(services)
    services.ledger.jobs.fail(job, "2 usable labels, 4 are needed", retry=False)
    row = only(services)
    assert (row.outcome, row.reason, row.job) == ("failed", "2 usable labels, 4 are needed", job.id)
    assert (row.version, row.run) == (None, None)


@pytest.mark.parametrize("promoted", [True, False])
def test_a_job_with_a_report_is_one_line_and_without_it_says_so(services: Services, promoted: bool) -> None:
    task, job = services.task().name, taken(services)
    services.ledger.jobs.finish(job, {"version": 3, "promoted": promoted, "reason": "a gain is shown"})
    outcome = "promoted" if promoted else "champion stays"
    row = only(services)
    assert (row.outcome, row.run, row.version) == (outcome, None, 3)
    assert "its report is not there" in row.reason
    at = services.ledger.jobs.clock()
    write_report(services.settings.var, MorningReport(f"{task}-v0003", task, 3, 2, at, promoted, "a gain is shown"))
    row = only(services)
    assert (row.outcome, row.run, row.reason) == (outcome, f"{task}-v0003", "a gain is shown")


def test_the_open_one_comes_first_then_the_newest(services: Services) -> None:
    task = services.task().name
    early = MorningReport(f"{task}-v0001", task, 1, None, datetime(2026, 3, 2, tzinfo=UTC), True, "the first")
    late = MorningReport(f"{task}-v0002", task, 2, 1, services.ledger.jobs.clock() + SOON, False, "no gain")
    for report in (early, late):
        write_report(services.settings.var, report)
    job = taken(services)
    assert [row.version for row in nights(services)] == [None, 2, 1]
    services.ledger.jobs.fail(job, "no memory", retry=False)
    assert [row.version for row in nights(services)] == [2, None, 1]
