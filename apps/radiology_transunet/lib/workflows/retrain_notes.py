"""What went other than planned in a retraining, in words: less memory than thought, a damaged file.

A note is written into the audit trail when the thing happens, once a job, and read from there by whoever tells of the
run: its job's result, its version, its record in the registry, its report.
"""

import logging

from lib.workflows.services import Services

logger = logging.getLogger(__name__)

ACTOR = "retraining"
ACTION = "training.note"
TAG = "notes"
MOST_ROWS = 1000
MOST_LETTERS = 4000
"""Of a tag; the registry refuses more than 5000."""


def take_note(services: Services, job_id: int, said: str) -> None:
    """Put something on record, unless an earlier attempt of the job did."""
    if said in notes_of(services, job_id):
        return
    logger.warning("job %d: %s", job_id, said)
    services.ledger.audit.add(ACTOR, ACTION, _subject(job_id), {"note": said})


def notes_of(services: Services, job_id: int) -> tuple[str, ...]:
    """What is on record of a job, the oldest first."""
    rows = services.ledger.audit.list(limit=MOST_ROWS, subject=_subject(job_id))
    return tuple(row.details["note"] for row in reversed(rows) if row.action == ACTION)


def note_tags(services: Services, job_id: int) -> dict[str, str]:
    """The notes of a job as a tag of what it made; nothing without any."""
    text = "; ".join(notes_of(services, job_id))
    return {TAG: text[:MOST_LETTERS]} if text else {}


def _subject(job_id: int) -> str:
    return f"job {job_id}"
