"""What the ledger takes and gives: frozen values, never objects of the database layer.

Times are aware datetimes in UTC. `series_uid` is a SeriesInstanceUID; `patient` is always a pseudonym.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from lib.core.errors import InvalidInput

SeriesStatus = Literal["new", "ready", "refused", "gone"]
AnnotationStatus = Literal["draft", "submitted", "accepted", "rejected", "superseded"]
Origin = Literal["model", "foreign_model", "human"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
OutboxAction = Literal["store", "delete"]
VerdictState = Literal["open", "done"]

SERIES_STATUSES: tuple[SeriesStatus, ...] = ("new", "ready", "refused", "gone")
ANNOTATION_STATUSES: tuple[AnnotationStatus, ...] = ("draft", "submitted", "accepted", "rejected", "superseded")
ORIGINS: tuple[Origin, ...] = ("model", "foreign_model", "human")
JOB_STATES: tuple[JobState, ...] = ("queued", "running", "done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class NewSeries:
    """A series as it arrives.

    Attributes:
        split: the split of the patient, used only when the patient is new.
        instances: number of instances in the archive.
        date: DICOM date of the series, "" when unknown.
    """

    series_uid: str
    study_uid: str
    patient: str
    split: str
    modality: str
    description: str = ""
    instances: int = 0
    institution: str = ""
    manufacturer: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A series in the ledger.

    Attributes:
        status: new (not looked at), ready, refused (see `reason`) or gone (no longer in the archive).
        findings: harmless remarks of the check.
        geometry: the grid as the check found it, None before.
    """

    series_uid: str
    study_uid: str
    patient: str
    split: str
    status: SeriesStatus
    reason: str
    modality: str
    description: str
    instances: int
    institution: str
    manufacturer: str
    date: str
    frame_of_reference_uid: str
    findings: tuple[str, ...]
    geometry: Mapping[str, Any] | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewDraft:
    """A mask that a model made: never a label.

    Attributes:
        author: name of the model in words.
        model_version: version in the registry; None only for a foreign model.
        origin: "model" is ours, "foreign_model" somebody else's.
        sop_instance_uid: of its SEG; None when nothing was found, so that there is no SEG.
        voxels: number of voxels by label name.
        nothing_found: whether every voxel is background.
        made_at: when it was made, aware; None = now.
    """

    series_uid: str
    task: str
    author: str
    model_version: int | None = None
    origin: Literal["model", "foreign_model"] = "model"
    sop_instance_uid: str | None = None
    seg_series_uid: str | None = None
    voxels: Mapping[str, int] = field(default_factory=dict)
    nothing_found: bool = False
    reason: str = ""
    made_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.origin == "model" and self.model_version is None:
            raise InvalidInput(f"a draft of ours needs its model version, got None for series {self.series_uid}")


@dataclass(frozen=True, slots=True)
class NewHuman:
    """A mask that a person made.

    Attributes:
        parent_id: the annotation that the person started from.
        changed_voxels: number of voxels that differ from the parent.
        made_at: when the person saved it, aware; None = now.
        held_reason: why a reviewer has to look before it may count; "" = it need not be looked at.
    """

    series_uid: str
    task: str
    author: str
    sop_instance_uid: str | None = None
    seg_series_uid: str | None = None
    parent_id: int | None = None
    changed_voxels: int | None = None
    voxels: Mapping[str, int] = field(default_factory=dict)
    nothing_found: bool = False
    reason: str = ""
    made_at: datetime | None = None
    held_reason: str = ""


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """One person's or model's mask of one series.

    Attributes:
        series_uid: what it refers to; "" for a rejected SEG that names no series.
        task: "" for a rejected SEG that fits no task.
        reason: why it was rejected, or superseded without a newer one.
        made_at: when it was made; what was made last counts, in whatever order it arrives.
        reviewed_at: when a reviewer accepted or rejected it; None for what `auto` review accepted.
        stored_at: since when its SEG is known to be in the archive; None when it is not there.
        held_reason: why it was held back for a reviewer when it came, whatever became of it; "" = it was not.
    """

    id: int
    series_uid: str
    task: str
    status: AnnotationStatus
    origin: Origin
    author: str
    model_version: int | None
    parent_id: int | None
    sop_instance_uid: str | None
    seg_series_uid: str | None
    changed_voxels: int | None
    voxels: Mapping[str, int]
    nothing_found: bool
    reason: str
    made_at: datetime
    created_at: datetime
    reviewed_at: datetime | None
    reviewer: str | None
    stored_at: datetime | None
    held_reason: str = ""

    @property
    def is_held(self) -> bool:
        """Whether it is held back now: a reviewer has yet to accept or reject it."""
        return self.status == "submitted" and bool(self.held_reason)


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job.

    Attributes:
        key: at most one open job (queued or running) has this kind, task and key.
        attempts: how often it was taken.
        not_before: a queued job rests until then.
        progress: 0 to 1.
    """

    id: int
    kind: str
    task: str
    payload: Mapping[str, Any]
    key: str
    state: JobState
    attempts: int
    max_attempts: int
    worker: str | None
    progress: float
    message: str
    error: str
    created_at: datetime
    not_before: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Companion:
    """An object that goes with a draft, such as its map of uncertainty: stored with it, and deleted with it.

    Attributes:
        sop_instance_uid: of the object.
        series_uid: SeriesInstanceUID of the object itself; it is deleted as a whole.
        content: the DICOM file.
    """

    sop_instance_uid: str
    series_uid: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Something the archive has to be told.

    Attributes:
        series_uid: SeriesInstanceUID of the SEG, or of what goes with it, not of the images.
        payload: the DICOM file to store; None for a deletion.
        attempts: how often it failed.
    """

    id: int
    action: OutboxAction
    sop_instance_uid: str
    series_uid: str
    annotation_id: int
    payload: bytes | None
    attempts: int
    error: str
    created_at: datetime
    next_try_at: datetime


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What the gate said of a model version; open until the registry's alias is switched."""

    id: int
    task: str
    version: int
    verdict: str
    reason: str
    metrics: Mapping[str, Any]
    state: VerdictState
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a feed was read, and of which source (another source starts over)."""

    name: str
    value: int
    source: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what to what, when."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]
