"""The morning report, what a retraining did, and the line of the list that tells of it: plain frozen values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from lib.workflows.gate import Condition
from lib.workflows.paired import Interval

Curve = tuple[tuple[float, float], ...]
Outcome = Literal["promoted", "champion stays", "failed", "cancelled", "waiting", "running"]


@dataclass(frozen=True, slots=True)
class CaseChange:
    """One case that nothing learned from, under both models.

    Attributes:
        name: of the case, for people.
        patient: pseudonym.
        champion: mean Dice over the labels that the case shows, in [0, 1].
        challenger: the same.
        picture: PNG with the outlines of annotation, champion and challenger; empty without one.
        where: which slice it shows, in words.
    """

    name: str
    patient: str
    champion: float
    challenger: float
    picture: bytes = field(default=b"", repr=False)
    where: str = ""

    @property
    def change(self) -> float:
        """Dice gained."""
        return self.challenger - self.champion


@dataclass(frozen=True, slots=True)
class Corrections:
    """What one annotator changed.

    Attributes:
        annotations: that the training learned from.
        drafts: of these, how many corrected a draft.
        median_changed: voxels that differ from the draft, the median over those; None without any.
        most_changed: the same, the largest.
    """

    annotations: int
    drafts: int
    median_changed: float | None
    most_changed: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was not learned from.

    Attributes:
        what: series, SEG or annotation.
        name: its UID or number.
        reason: in words.
    """

    what: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class MorningReport:
    """One retraining.

    Attributes:
        run: name of the report, safe in paths.
        task: that was trained.
        version: of the challenger.
        champion: version that it was held against; None without one.
        finished_at: when the verdict was given.
        promoted: whether the challenger serves now.
        reason: the gate's, in words.
        labels: differences by label, challenger minus champion, with one-sided bounds.
        anchored: differences by label from the version that had it best of those that served before the champion.
        mean: of the common labels.
        newest: the same on the cases that came after the champion; None where they are too few.
        conditions: what the gate asks for besides.
        margin: Dice that a label may lack; None where the gate did not weigh labels.
        alpha: error rate of the bounds of labels.
        patients: that both were measured on.
        missing: more patients that a decision would need.
        learned: number of annotations by criterion (label, annotator, site), then by name.
        annotations: that were learned from, in all.
        new: of these, those that the champion had not learned from.
        curves: by name, (step, value).
        improved: the cases that gained most, the best first.
        worsened: those that lost most, the worst first.
        compared: calibration cases that both models were compared on for these.
        comparable: calibration cases that there are; where they are more, those compared were drawn at random.
        colors: of the labels in the pictures, red, green and blue from 0 to 255.
        corrections: by annotator.
        failures: data that was not learned from.
        in_the_field: how drafts do, in one line.
        costs: by name, in words: time, memory, device.
        notes: what went other than planned, in words.
    """

    run: str
    task: str
    version: int
    champion: int | None
    finished_at: datetime
    promoted: bool
    reason: str
    labels: tuple[Interval, ...] = ()
    anchored: tuple[Interval, ...] = ()
    mean: Interval | None = None
    newest: Interval | None = None
    conditions: tuple[Condition, ...] = ()
    margin: float | None = None
    alpha: float | None = None
    patients: int = 0
    missing: int = 0
    learned: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    annotations: int = 0
    new: int = 0
    curves: Mapping[str, Curve] = field(default_factory=dict)
    improved: tuple[CaseChange, ...] = ()
    worsened: tuple[CaseChange, ...] = ()
    compared: int = 0
    comparable: int = 0
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    corrections: Mapping[str, Corrections] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    in_the_field: str = ""
    costs: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the pictures."""
        values = asdict(self)
        for case in (*values["improved"], *values["worsened"]):
            del case["picture"]
            case["change"] = case["challenger"] - case["champion"]
        return {**values, "finished_at": self.finished_at.isoformat()}


@dataclass(frozen=True, slots=True)
class NightRow:
    """One retraining in the list of all.

    Attributes:
        at: when it ended; of one that is open, when it was asked for.
        task: that was trained.
        job: that it was done for; None where its report is all that is known.
        version: that it made; None without one.
        run: name of its report; None without one.
        outcome: what became of it.
        reason: in words.
    """

    at: datetime
    task: str
    job: int | None
    version: int | None
    run: str | None
    outcome: Outcome
    reason: str

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.outcome in ("waiting", "running")


def run_name(task: str, version: int) -> str:
    """The name of the report on a version, safe in paths."""
    return f"{task}-v{version:04d}"
