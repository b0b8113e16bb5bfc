"""How good the drafts are in the field: Dice between each draft and what a person made of it.

Only cases that were handed out at random tell the unbiased level: the other strategies look for cases that are hard,
and what somebody opens by hand is chosen too. Both are shown, apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from statistics import fmean, median
from typing import Any

from lib.ledger.corrections import CorrectionRow
from lib.taskfile import Task
from lib.workflows.config import FieldConfig
from lib.workflows.cusum import Cusum, falling
from lib.workflows.services import Services

RANDOM = "random"
FOREIGN = "foreign model"
UNKNOWN_SITE = "unknown"
BY: Mapping[str, Callable[[CorrectionRow], str]] = {
    "label": lambda row: row.label,
    "model version": lambda row: FOREIGN if row.model_version is None else f"version {row.model_version}",
    "annotator": lambda row: row.author,
    "site": lambda row: row.site or UNKNOWN_SITE,
    "month": lambda row: f"{row.at:%Y-%m}",
}


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
    curve: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True, slots=True)
class FieldReport:
    """How a task does in the field.

    Attributes:
        task: name.
        random: the unbiased lane.
        others: all other lanes together.
        chart: of the random lane's curve; None while it is too short.
    """

    task: str
    random: Lane
    others: Lane
    chart: Cusum | None

    @property
    def short(self) -> str:
        """One line for the installation's status."""
        if self.random.level is None:
            return f"no corrected draft of the random lane yet, {_cases(self.others.level)} of others"
        level = self.random.level
        words = f"Dice {level.mean:.3f} on {_cases(level)} of the random lane"
        if self.chart is None or self.chart.since is None:
            return words
        since, _ = self.random.curve[self.chart.since]
        return f"ALARM: fallen below {self.chart.reference:.3f} since {since:%Y-%m-%d}; {words}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "alarm": bool(self.chart and self.chart.alarm), "short": self.short}


def field_report(services: Services, task: Task) -> FieldReport:
    """How a task does in the field, from the ledger."""
    return field_of(task.name, services.ledger.corrections.list(task.name), services.settings.field)


def field_of(task: str, rows: Sequence[CorrectionRow], config: FieldConfig) -> FieldReport:
    """The figures of corrections.

    Args:
        task: name.
        rows: the oldest first, those of one annotation together.
        config: of the alarm.
    """
    drawn = lane([row for row in rows if row.lane == RANDOM])
    others = lane([row for row in rows if row.lane != RANDOM])
    chart = falling([dice for _, dice in drawn.curve], config.reference_cases, config.slack, config.threshold)
    return FieldReport(task, drawn, others, chart)


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
