"""How long work that failed rests before it is tried again; pure functions."""

from datetime import datetime, timedelta

from lib.ledger.rows import JobRow

FIRST_DRAFT_PAUSE = timedelta(minutes=1)
LONGEST_DRAFT_PAUSE = timedelta(days=1)
SHORTEST_WAIT_S = 5.0
LONGEST_WAIT_S = 600.0


def draft_pause(failures: int) -> timedelta:
    """How long a series rests after that many failed drafts of one model version: a minute, doubling up to a day."""
    doublings = min(max(failures, 1) - 1, 20)  # more would overflow
    return min(LONGEST_DRAFT_PAUSE, FIRST_DRAFT_PAUSE * float(2**doublings))


def archive_pause_s(asked_at: datetime, now: datetime) -> float:
    """Seconds that a job rests for want of archive or disk: as long as it has waited by now, in [5, 600]."""
    return min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, (now - asked_at).total_seconds()))


def failures_before(last: JobRow | None) -> int:
    """How many jobs for the same have failed, given the last of them."""
    return 0 if last is None else int(last.payload.get("failures", 0)) + 1


def is_resting(last: JobRow | None, now: datetime) -> bool:
    """Whether the failure of a draft or a scoring, given its last job, is too fresh for another try."""
    if last is None or last.finished_at is None:
        return False
    return now < last.finished_at + draft_pause(failures_before(last))
