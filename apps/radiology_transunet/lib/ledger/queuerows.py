"""What the queues take and give: places, leases and the series that may be ranked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import nan
from typing import NamedTuple


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


class LabelScores(NamedTuple):
    """What a model said of a label in a case; NaN = no value.

    Of the first four a larger value means less sure: `entropy` and mutual information, `bald`, in nats, `margin` and
    `disagreement` in [0, 1]. `volume_ml` is the predicted volume in millilitres, `largest_probability` the largest of
    any voxel.
    """

    entropy: float = nan
    bald: float = nan
    margin: float = nan
    disagreement: float = nan
    volume_ml: float = nan
    largest_probability: float = nan


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series that may be ranked.

    Attributes:
        scores: by label name, the champion's, else those of the version that scored it last; empty without any.
        model_version: that made the scores; None without one.
        patient: pseudonym.
        site: institution; "" = unknown, as below.
        scanner: its manufacturer; the ledger knows no more of it.
        protocol: description of the series, which stands for it.
        vector: what the encoder of the version asked for saw, (d,) float32, little endian; empty without one.
        scored_at: when the scores were made; None without any.
    """

    series_uid: str
    split: str
    scores: Mapping[str, LabelScores]
    model_version: int | None
    patient: str = ""
    site: str = ""
    scanner: str = ""
    protocol: str = ""
    vector: bytes = b""
    scored_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """A series that a person labelled; see `Candidate`.

    Attributes:
        labels: names of those that the person's annotation holds.
        vector: see `Candidate`.
    """

    series_uid: str
    labels: frozenset[str]
    vector: bytes
    patient: str
    site: str
    scanner: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of series.

    Attributes:
        ready: that can be labelled, for any task.
        labelled: of them, for the task.
        held: that are in somebody's hands for the task.
        skipped: that the annotator gave back a while ago.
    """

    ready: int
    labelled: int
    held: int
    skipped: int
