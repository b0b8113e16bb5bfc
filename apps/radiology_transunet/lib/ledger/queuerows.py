"""What the queues take and give: places, leases and the series that may be ranked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A series in the hands of one annotator until `expires_at`.

    Attributes:
        strategy: the queue it was taken from; "" for a series that was asked for by name.
        score: its score in that queue; None without one.
        why: its reason in that queue.
        lane: how that queue came to it: the strategy's name, "random" or "held-out"; "" when asked for by name.
    """

    id: int
    series_uid: str
    study_uid: str
    task: str
    annotator: str
    strategy: str
    score: float | None
    why: str
    acquired_at: datetime
    expires_at: datetime
    lane: str


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A place in a queue; not free while the series is leased, labelled or not ready.

    Attributes:
        lane: how the queue came to it; see `LeaseRow`.
    """

    rank: int
    series_uid: str
    score: float | None
    why: str
    is_free: bool
    lane: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series that may be ranked.

    Attributes:
        scores: by label name, NaN allowed; empty without a draft of ours.
        model_version: of that draft; None without one.
    """

    series_uid: str
    split: str
    scores: Mapping[str, float]
    model_version: int | None
