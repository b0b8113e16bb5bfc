"""Names of the kinds of jobs in the ledger, and their keys: one open job a key."""

CHECK = "check"
READ_SEG = "read_seg"
DRAFT = "draft"
RETRAIN = "retrain"
RANK = "rank"
SCORE = "score"

URGENT = (READ_SEG, CHECK, RANK, DRAFT)
BACKGROUND = (*URGENT, SCORE)
"""Kinds that the worker does in its own threads, the most urgent first: what a person drew does not wait for a pool of
new series, and scoring, which goes on for hours, gives way to all others. Retraining gets a process of its own."""
SOON, LATER = 0, 1
"""Priorities of drafts: of a series without any scores, which somebody may wait for, and of one that has some."""


def check_key(series_uid: str) -> str:
    """One check of a series at a time."""
    return f"{CHECK}:{series_uid}"


def read_seg_key(seg_series_uid: str) -> str:
    """One reading of a SEG series at a time."""
    return f"{READ_SEG}:{seg_series_uid}"


def draft_key(task: str, series_uid: str) -> str:
    """One draft of a series for a task at a time."""
    return f"{DRAFT}:{task}:{series_uid}"


def rank_key(task: str, strategy: str) -> str:
    """One ranking of a task's cases by a strategy at a time."""
    return f"{RANK}:{task}:{strategy}"


def score_key(task: str) -> str:
    """One scoring of a task's series at a time."""
    return f"{SCORE}:{task}"


def retrain_key(task: str) -> str:
    """One open training a task; of all tasks the ledger hands out one at a time, see `jobreads.ALONE`."""
    return f"{RETRAIN}:{task}"
