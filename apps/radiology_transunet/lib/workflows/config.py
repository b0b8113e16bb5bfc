"""Options of the use cases."""

import re
from dataclasses import dataclass
from typing import Literal

from lib.core.errors import InvalidSettings
from lib.selection.config import StrategyName
from lib.training.config import Schedule

TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """How the archive is followed.

    Attributes:
        poll_s: seconds between two looks at the archive's change feed.
        reconcile_s: seconds between two comparisons of all series of archive and ledger.
    """

    poll_s: float
    reconcile_s: float

    def __post_init__(self) -> None:
        _require("ingest.poll_s", self.poll_s, self.poll_s > 0, "above 0 seconds")
        _require("ingest.reconcile_s", self.reconcile_s, self.reconcile_s > 0, "above 0 seconds")


@dataclass(frozen=True, slots=True)
class PresegmentConfig:
    """When drafts are made.

    Attributes:
        automatic: draft each ready series without a human label as soon as a champion serves.
        redraft: replace drafts of older versions after a promotion.
        uncertainty_map: store a draft's uncertainty beside it, as a DICOM Parametric Map.
    """

    automatic: bool
    redraft: bool
    uncertainty_map: bool


@dataclass(frozen=True, slots=True)
class ReviewConfig:
    """What happens to a human's segmentation.

    Attributes:
        mode: "auto" accepts a valid one at once and records that; "required" waits for a reviewer.
        hold_back: whether one that looks like a mistake waits for a reviewer in both modes.
        hold_empty: whether an empty one does, where the draft or the task's common labels expect something.
        min_tissue: share of its voxels, in [0, 1], that each label needs within the body; 0 = any.
        min_draft_dice: one whose draft shows something is held back unless a label that both show has a higher Dice, so
            also where they have no name in common; -1 = never.
        disbelieve_after: so many labels that count and agree with a model's drafts in no place, and are half of all
            that share a name with them, disprove its places; so many without a name in common its names.
    """

    mode: Literal["auto", "required"]
    hold_back: bool
    hold_empty: bool
    min_tissue: float
    min_draft_dice: float
    disbelieve_after: int

    def __post_init__(self) -> None:
        _require("review.min_tissue", self.min_tissue, 0 <= self.min_tissue <= 1, "from 0 to 1")
        _require("review.min_draft_dice", self.min_draft_dice, -1 <= self.min_draft_dice < 1, "from -1 to below 1")
        _require("review.disbelieve_after", self.disbelieve_after, self.disbelieve_after >= 1, "at least 1")


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """How cases are handed out.

    Attributes:
        strategy: the strategy of `next` when the caller names none.
        lease_s: seconds for which a series handed out belongs to its annotator.
        seed: of the random order.
        random_share: share of the pool's cases handed out, in [0, 1], that is drawn at random whatever the strategy.
        held_out_share: share of all cases handed out, in [0, 1), of patients that no model learns from.
    """

    strategy: StrategyName
    lease_s: float
    seed: int
    random_share: float
    held_out_share: float

    def __post_init__(self) -> None:
        _require("query.lease_s", self.lease_s, self.lease_s > 0, "above 0 seconds")
        _require("query.random_share", self.random_share, 0 <= self.random_share <= 1, "from 0 to 1")
        _require("query.held_out_share", self.held_out_share, 0 <= self.held_out_share < 1, "from 0 to below 1")


@dataclass(frozen=True, slots=True)
class RetrainConfig:
    """When a challenger replaces the champion.

    Attributes:
        tolerance: mean Dice that a challenger may lack on the calibration patients and still be promoted, where
            `ledger.splits.promotion` is 0; else the gate decides.
        min_labels: accepted annotations of the pool that a training needs at least.
        at: local time of day, HH:MM, at which the worker starts the trainings that are due; empty = never.
        grace_h: hours after `at` in which a worker that was down then still starts what is due, once; 0 = it has to be
            there in time.
        min_new: accepted annotations that the champion has not learned from that make a training due.
        max_days: days since the last training after which one new annotation is enough; 0 = never.
        seed: of the training, raised by the number of versions that exist.
        threads: CPU threads of the training process; 0 = half of the cores, at least one.
        gpu_share: of a CUDA device's memory, above 0 and at most 1, that a training may take there; processes on one
            device share it. The rest is for drafts and what else runs there.
        report_cases: calibration cases, drawn at random, on which the morning report compares both models; 0 = all.
    """

    tolerance: float
    min_labels: int
    at: str
    grace_h: float
    min_new: int
    max_days: float
    seed: int
    threads: int
    gpu_share: float
    report_cases: int

    def __post_init__(self) -> None:
        _require("retrain.tolerance", self.tolerance, 0 <= self.tolerance <= 1, "from 0 to 1")
        _require("retrain.min_labels", self.min_labels, self.min_labels >= 1, "at least 1")
        _require("retrain.grace_h", self.grace_h, 0 <= self.grace_h < 24, "from 0 to below 24 hours")
        _require("retrain.report_cases", self.report_cases, self.report_cases >= 0, "0 or more")
        _require("retrain.min_new", self.min_new, self.min_new >= 1, "at least 1")
        _require("retrain.max_days", self.max_days, self.max_days >= 0, "0 days or more")
        if self.at and not TIME_OF_DAY.fullmatch(self.at):
            raise InvalidSettings(f'retrain.at must be a time of day such as "02:00", got {self.at!r}')
        _require("retrain.seed", self.seed, self.seed >= 0, "0 or more")
        _require("retrain.gpu_share", self.gpu_share, 0 < self.gpu_share <= 1, "above 0 and at most 1")
        _require("retrain.threads", self.threads, self.threads >= 0, "0 or more")


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Where trainings run.

    Attributes:
        kind: "local" = on this machine, "ray" = on a Ray cluster.
        processes: of a training, each with a GPU of its own where there are any; 0 = one for each CUDA device of this
            machine (local alone).
        address: of the cluster's head, HOST:PORT; empty = the cluster that this machine belongs to.
        gpus: of each process on the cluster; may be a share of one.
        cpus: cores of each process on the cluster.
    """

    kind: Literal["local", "ray"]
    processes: int
    address: str
    gpus: float
    cpus: float

    def __post_init__(self) -> None:
        least = 1 if self.kind == "ray" else 0
        _require("executor.processes", self.processes, self.processes >= least, f"at least {least} with {self.kind}")
        _require("executor.gpus", self.gpus, self.gpus >= 0, "0 or more")
        _require("executor.cpus", self.cpus, self.cpus > 0, "above 0")


@dataclass(frozen=True, slots=True)
class RecipeConfig:
    """How a retraining goes on from the champion.

    Attributes:
        keep: share of the champion in the first weights, the rest is fresh; 1 = its weights as they are.
        steps: of such a training, as a share of the task's.
        rate: its peak learning rate, as a share of the task's.
        schedule: how that rate falls, as in a task file.
        new: share of the pictures drawn from labels that the champion has not learned from.
        validations: on the calibration patients during a training, the last one at its end, whose best weights are
            kept; 1 = the last weights; 0 = as the task says.
        reference_every: each so many-th training starts from fresh weights, as the reference; 0 = never.
    """

    keep: float
    steps: float
    rate: float
    schedule: Schedule
    new: float
    validations: int
    reference_every: int

    def __post_init__(self) -> None:
        _require("recipe.keep", self.keep, 0 <= self.keep <= 1, "from 0 to 1")
        _require("recipe.steps", self.steps, 0 < self.steps <= 1, "above 0 and at most 1")
        _require("recipe.rate", self.rate, 0 < self.rate <= 1, "above 0 and at most 1")
        _require("recipe.new", self.new, 0 < self.new < 1, "above 0 and below 1")
        _require("recipe.validations", self.validations, self.validations >= 0, "0 or more")
        _require("recipe.reference_every", self.reference_every, self.reference_every >= 0, "0 or more")


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What a challenger has to show on the promotion patients.

    Attributes:
        margin: Dice that a label may lack, as far as the data can tell, and still count as not worse.
        alpha: error rate of the gate: the probability that a challenger passes that is no better, or worse in a label.
        resamples: of the bootstrap.
        min_patients: promotion patients that must show each label, at least 3. A failure that none shows passes.
        calibration_slack: how much the expected calibration error may rise.
        latency_factor: how much longer a case may take, as a factor.
        golden: UIDs of series whose Dice must not change for the worse.
        golden_drop: Dice that such a series may lose in a label.
        seed: of the bootstrap.
    """

    margin: float
    alpha: float
    resamples: int
    min_patients: int
    calibration_slack: float
    latency_factor: float
    golden: tuple[str, ...]
    golden_drop: float
    seed: int

    def __post_init__(self) -> None:
        _require("gate.margin", self.margin, 0 < self.margin < 1, "above 0 and below 1")
        _require("gate.alpha", self.alpha, 0 < self.alpha <= 0.5, "above 0 and at most 0.5")
        _require("gate.resamples", self.resamples, self.resamples >= 100, "at least 100")
        _require("gate.min_patients", self.min_patients, self.min_patients >= 3, "at least 3")
        _require("gate.calibration_slack", self.calibration_slack, 0 <= self.calibration_slack <= 1, "from 0 to 1")
        _require("gate.latency_factor", self.latency_factor, self.latency_factor >= 1, "at least 1")
        _require("gate.golden_drop", self.golden_drop, 0 <= self.golden_drop <= 1, "from 0 to 1")
        _require("gate.seed", self.seed, self.seed >= 0, "0 or more")


@dataclass(frozen=True, slots=True)
class FieldConfig:
    """When a fall of the drafts' quality is an alarm.

    Attributes:
        reference_cases: first cases of the random lane, whose mean and spread later ones are held against.
        slack: of the CUSUM chart in standard deviations; half of the fall that shall be found.
        threshold: of the chart's sum in standard deviations; above it is an alarm.
    """

    reference_cases: int
    slack: float
    threshold: float

    def __post_init__(self) -> None:
        _require("field.reference_cases", self.reference_cases, self.reference_cases >= 2, "at least 2")
        _require("field.slack", self.slack, self.slack >= 0, "0 or more")
        _require("field.threshold", self.threshold, self.threshold > 0, "above 0")


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

    def __post_init__(self) -> None:
        _require("worker.threads", self.threads, self.threads >= 1, "at least 1")
        _require("worker.job_lease_s", self.job_lease_s, self.job_lease_s > 0, "above 0 seconds")
        _require("worker.attempts", self.attempts, self.attempts >= 1, "at least 1")


def _require(name: str, value: float, holds: bool, wanted: str) -> None:
    if not holds:
        raise InvalidSettings(f"{name} must be {wanted}, got {value:g}")
