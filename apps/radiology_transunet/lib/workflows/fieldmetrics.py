"""How good the drafts are in the field: Dice between each draft and what a person made of it.

Only cases that were handed out at random tell the unbiased level: the other strategies look for cases that are hard,
and what somebody opens by hand is chosen too. Both are shown, apart.

The alarm holds the random lane against its own first cases. This reference starts anew with each version that serves
and with each alarm that a person acknowledges: it then says what is as it should be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from statistics import fmean, median
from typing import Any

from lib.core.errors import Conflict
from lib.ledger.corrections import CorrectionRow
from lib.taskfile import Task
from lib.workflows.config import FieldConfig
from lib.workflows.cusum import Cusum, Period, falling
from lib.workflows.promotion import PROMOTED, ROLLBACK
from lib.workflows.services import Services

RANDOM = "random"
FOREIGN = "foreign model"
UNKNOWN_SITE = "unknown"
ACKNOWLEDGED = "acknowledge field alarm"
ALL_MARKS = 1000
SERVES = (PROMOTED, ROLLBACK)
BY: Mapping[str, Callable[[CorrectionRow], str]] = {
    "label": lambda row: row.label,
    "model version": lambda row: FOREIGN if row.model_version is None else f"version {row.model_version}",
    "annotator": lambda row: row.author,
    "site": lambda row: row.site or UNKNOWN_SITE,
    "month": lambda row: f"{row.at:%Y-%m}",
}
Curve = tuple[tuple[datetime, float], ...]


@dataclass(frozen=True, slots=True)
class Level:
    """Dice of a group of corrections.

    Attributes:
        cases: corrected annotations.
        mean: over their labels, in [0, 1].
        median: the same.
        lowest: the same.
    """

    cases: int
    mean: float
    median: float
    lowest: float


@dataclass(frozen=True, slots=True)
class Lane:
    """The corrections of one way of handing cases out.

    Attributes:
        level: of all; None without any.
        by: levels by criterion (`BY`), then by value, in the order of the names.
        curve: (when, mean Dice over the labels) of each corrected case, the oldest first.
    """

    level: Level | None
    by: Mapping[str, Mapping[str, Level]]
    curve: Curve


@dataclass(frozen=True, slots=True)
class Mark:
    """From when on another level is as it should be.

    Attributes:
        at: when.
        version: that serves from then on; None = the same as before, whose alarm was acknowledged.
    """

    at: datetime
    version: int | None


@dataclass(frozen=True, slots=True)
class FieldReport:
    """How a task does in the field.

    Attributes:
        task: name.
        random: the unbiased lane.
        others: all other lanes together.
        charted: of the random lane's curve, the cases that the chart is of: drafts of the version that served then.
        chart: None while there is no reference.
        reference: which reference is in force, in words.
    """

    task: str
    random: Lane
    others: Lane
    charted: Curve
    chart: Cusum | None
    reference: str

    @property
    def short(self) -> str:
        """One line for the installation's status."""
        if self.random.level is None:
            return f"no corrected draft of the random lane yet, {_cases(self.others.level)} of others"
        level = self.random.level
        words = f"Dice {level.mean:.3f} on {_cases(level)} of the random lane"
        if self.chart is None or self.chart.since is None:
            return words
        since, _ = self.charted[self.chart.since]
        return f"ALARM: fallen below {self.chart.reference:.3f} since {since:%Y-%m-%d}; {words}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "alarm": bool(self.chart and self.chart.alarm), "short": self.short}


def field_report(services: Services, task: Task) -> FieldReport:
    """How a task does in the field, from the ledger."""
    rows = services.ledger.corrections.list(task.name)
    return field_of(task.name, rows, services.settings.field, marks(services, task))


def acknowledge(services: Services, task: Task, actor: str, reason: str) -> str:
    """Take note of an alarm: the reference starts anew from now on; which alarm that was, in one line.

    Raises:
        Conflict: there is no alarm.
    """
    report = field_report(services, task)
    if report.chart is None or not report.chart.alarm:
        raise Conflict(f"task {task.name} has no alarm to acknowledge: {report.short}")
    details = {"alarm": report.short, "reason": reason}
    services.ledger.audit.add(actor, ACKNOWLEDGED, _subject(task), details)
    return report.short


def marks(services: Services, task: Task) -> tuple[Mark, ...]:
    """Versions that came to serve and alarms that were acknowledged, the oldest first."""
    verdicts = services.ledger.models.list(task.name, limit=ALL_MARKS)
    served = [Mark(row.finished_at or row.created_at, row.version) for row in verdicts if row.verdict in SERVES]
    noted = services.ledger.audit.list(limit=ALL_MARKS, subject=_subject(task))
    acknowledged = [Mark(row.at, None) for row in noted if row.action == ACKNOWLEDGED]
    return tuple(sorted((*served, *acknowledged), key=lambda mark: mark.at))


def field_of(task: str, rows: Sequence[CorrectionRow], config: FieldConfig, since: Sequence[Mark] = ()) -> FieldReport:
    """The figures of corrections.

    Args:
        task: name.
        rows: the oldest first, those of one annotation together.
        config: of the alarm.
        since: when the reference starts anew, the oldest first.
    """
    drawn = [row for row in rows if row.lane == RANDOM]
    others = lane([row for row in rows if row.lane != RANDOM])
    parts = _periods(drawn, since)
    charted = tuple(point for _, points in parts for point in points)
    found = [period for period, _ in parts]
    chart = falling(found, config.reference_cases, config.slack, config.threshold)
    return FieldReport(task, lane(drawn), others, charted, chart, _in_force(found, chart, config.reference_cases))


def _periods(rows: Sequence[CorrectionRow], since: Sequence[Mark]) -> list[tuple[Period, Curve]]:
    """The cases between two marks: drafts of the version that served, corrected while it did.

    Periods without a case are left out, but for the last one.
    """
    parts: list[tuple[Period, Curve]] = []
    version, inherits = None, True
    for mark, end in zip((None, *since), (*(mark.at for mark in since), None), strict=True):
        version = version if mark is None or mark.version is None else mark.version
        inherits = inherits and (mark is None or mark.version is not None)
        curve = lane([row for row in rows if _belongs(row, version, mark, end)]).curve
        if curve or end is None:
            parts.append((Period(_name(mark, version), tuple(dice for _, dice in curve), inherits), curve))
            inherits = True
    return parts


def _belongs(row: CorrectionRow, version: int | None, mark: Mark | None, end: datetime | None) -> bool:
    """Whether a case is a draft of the version (None = any), corrected between mark and end."""
    in_time = (mark is None or row.at >= mark.at) and (end is None or row.at < end)
    return in_time and version in (None, row.model_version)


def _name(mark: Mark | None, version: int | None) -> str:
    whose = "all versions" if version is None else f"version {version}"
    if mark is None:
        return whose
    what = "serving since" if mark.version is not None else "after the alarm acknowledged on"
    return f"{whose}, {what} {mark.at:%Y-%m-%d}"


def _in_force(periods: Sequence[Period], chart: Cusum | None, first: int) -> str:
    """Which reference is in force."""
    last = periods[-1]
    so_far = f"{len(last.values)} of {first} cases"
    if chart is None:
        return f"no reference yet: {so_far} of {last.name}"
    words = f"reference {chart.reference:.3f}, the first {first} cases of {periods[chart.period].name}"
    if chart.period == len(periods) - 1:
        return words
    if len(last.values) < first:
        return f"{words}; {last.name}: {so_far} for a reference of its own"
    if chart.alarm:
        return f"{words}; {last.name}: no reference of its own before the alarm is acknowledged"
    return f"{words}; {last.name}: no reference of its own, as there was an alarm when it had {first} cases"


def _subject(task: Task) -> str:
    return f"field {task.name}"


def lane(rows: Sequence[CorrectionRow]) -> Lane:
    """Levels and curve of corrections, the oldest first."""
    cases = [list(of) for _, of in groupby(rows, lambda row: row.annotation_id)]
    curve = tuple((of[0].at, fmean(row.dice for row in of)) for of in cases)
    return Lane(_level(rows) if rows else None, {name: _levels(rows, key) for name, key in BY.items()}, curve)


def _levels(rows: Sequence[CorrectionRow], key: Callable[[CorrectionRow], str]) -> dict[str, Level]:
    names = sorted({key(row) for row in rows})
    return {name: _level([row for row in rows if key(row) == name]) for name in names}


def _level(rows: Sequence[CorrectionRow]) -> Level:
    values = [row.dice for row in rows]
    return Level(len({row.annotation_id for row in rows}), fmean(values), median(values), min(values))


def _cases(level: Level | None) -> str:
    count = level.cases if level else 0
    return f"{count} case{'' if count == 1 else 's'}"
