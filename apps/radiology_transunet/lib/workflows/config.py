"""Options of the use cases."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """How the archive is followed.

    Attributes:
        poll_s: seconds between two looks at the archive's change feed.
        reconcile_s: seconds between two comparisons of all series of archive and ledger.
    """

    poll_s: float
    reconcile_s: float


@dataclass(frozen=True, slots=True)
class PresegmentConfig:
    """When drafts are made.

    Attributes:
        automatic: draft each ready series without a human label as soon as a champion serves.
        redraft: replace drafts of older versions after a promotion.
    """

    automatic: bool
    redraft: bool


@dataclass(frozen=True, slots=True)
class ReviewConfig:
    """What happens to a human's segmentation.

    Attributes:
        mode: "auto" accepts a valid one at once and records that; "required" waits for a reviewer.
    """

    mode: Literal["auto", "required"]


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """How cases are handed out.

    Attributes:
        strategy: the strategy of `next` when the caller names none.
        lease_s: seconds for which a series handed out belongs to its annotator.
        seed: of the random order.
    """

    strategy: str
    lease_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class RetrainConfig:
    """When a challenger replaces the champion.

    Attributes:
        tolerance: mean Dice that a challenger may lack on the calibration patients and still be promoted.
        min_labels: accepted annotations of the pool that a training needs at least.
        seed: of the training, raised by the number of versions that exist.
        threads: CPU threads of the training process; 0 = half of the cores, at least one.
    """

    tolerance: float
    min_labels: int
    seed: int
    threads: int


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The background process.

    Attributes:
        threads: drafts made at the same time (each holds one series in memory).
        job_lease_s: seconds without a heartbeat after which another worker takes a job over.
        attempts: times a job is tried before it counts as failed.
    """

    threads: int
    job_lease_s: float
    attempts: int
