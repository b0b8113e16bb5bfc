"""All retrainings, those too that made no report: what failed, what waits, what runs.

The reports on disk say what was decided; the ledger's jobs say of the others what became of them, whoever killed them.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lib.ledger.rows import JobRow
from lib.workflows.jobs import RETRAIN
from lib.workflows.report import NightRow, Outcome, run_name
from lib.workflows.reportfiles import reports
from lib.workflows.services import Services

MOST_JOBS = 500


def nights(services: Services) -> list[NightRow]:
    """Every retraining that is on record: the open ones first, then the newest first."""
    told = {str(values["run"]): _of_report(values) for values in reports(services.settings.var)}
    held = services.ledger.jobs.held(RETRAIN)
    rows = [_of_job(job, job.id in held) for job in services.ledger.jobs.list(kind=RETRAIN, limit=MOST_JOBS)]
    silent = [row for row in rows if row.version is None or run_name(row.task, row.version) not in told]
    return sorted([*told.values(), *silent], key=lambda row: (row.is_open, row.at), reverse=True)


def _of_report(values: Mapping[str, Any]) -> NightRow:
    outcome: Outcome = "promoted" if values["promoted"] else "champion stays"
    at, run = datetime.fromisoformat(values["finished_at"]), str(values["run"])
    return NightRow(at, str(values["task"]), None, int(values["version"]), run, outcome, str(values["reason"]))


def _of_job(job: JobRow, is_held: bool) -> NightRow:
    """A job as the ledger knows it, without its report."""
    outcome, reason = _outcome(job, is_held)
    version = job.result["version"] if job.state == "done" else None
    return NightRow(job.finished_at or job.created_at, job.task, job.id, version, None, outcome, reason)


def _outcome(job: JobRow, is_held: bool) -> tuple[Outcome, str]:
    """What became of a job, and why."""
    if job.state == "done":
        reason = f"{job.result['reason']} (its report is not there: the log of that time says why)"
        return "promoted" if job.result["promoted"] else "champion stays", reason
    if job.state == "running" and not is_held:
        return "waiting", f"worker {job.worker} fell silent at {job.progress:.0%}; it goes on when somebody trains"
    if job.state == "running":
        return "running", f"{job.progress:.0%}, {job.message}" if job.message else f"{job.progress:.0%}"
    if job.state == "queued":
        return "waiting", f"for another attempt: {job.error}" if job.error else "for a worker"
    if job.state == "cancelled":
        return "cancelled", f"while {job.message}" if job.message else "before it began"
    return "failed", job.error
