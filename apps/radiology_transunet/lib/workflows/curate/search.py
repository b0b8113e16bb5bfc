"""The cases that meet conditions: by label, predicted volume, uncertainty, estimated Dice, site, date, tag, cohort."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from lib.core.errors import InvalidInput
from lib.core.estimated import EstimatedDice
from lib.ledger.curationrows import CuratedCase, Wanted
from lib.taskfile import Task
from lib.workflows.curate.cases import NOTHING, case_dict, predicted_ml, shows, task_cases
from lib.workflows.curate.conditions import ANY, Conditions, Range, require_word
from lib.workflows.curate.dice import Estimates, estimated_dice
from lib.workflows.services import Services

ORDERS = ("series", "volume", "uncertainty", "dice", "date")
"""By UID, the largest volume, the largest uncertainty, the smallest estimated Dice, the newest first."""
NO_ESTIMATES: Estimates = {}
MOST_SITES = 500
"""That a statement should hold."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A case that meets the conditions.

    Attributes:
        case: the case.
        labels: that meet those of a label; all that the case shows where none was wanted.
        estimates: the estimated Dice by label; empty where there is none.
    """

    case: CuratedCase
    labels: tuple[str, ...]
    estimates: Estimates = field(default_factory=dict)

    def to_dict(self, task: Task) -> dict[str, Any]:
        """As plain values."""
        values = case_dict(self.case, task)
        for label, estimate in self.estimates.items():
            if label in values["labels"]:
                values["labels"][label]["estimated_dice"] = estimate.told()
        return {**values, "matching": list(self.labels)}


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search.

    Attributes:
        total: cases that meet the conditions.
        hits: the first of them.
        notes: what is not known and so cannot be met, in words.
    """

    total: int
    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self, task: Task) -> dict[str, Any]:
        """As plain values."""
        hits = [hit.to_dict(task) for hit in self.hits]
        return {"task": task.name, "total": self.total, "notes": list(self.notes), "series": hits}


def search(
    services: Services, task: Task, wanted: Conditions, order: str = "series", limit: int | None = None
) -> Found:
    """The cases that meet the conditions.

    Args:
        services: the rooms.
        task: whose cases, labels and drafts.
        wanted: the conditions.
        order: one of `ORDERS`; what has no such value comes last.
        limit: how many at most; None = all.

    Raises:
        InvalidInput: no such label, order or limit.
        NotFound: no such cohort.
    """
    require_word("order", order, ORDERS)
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit must be at least 1, got {limit}")
    labels = _labels(task, wanted.label)
    curation = services.ledger.curation
    cases = curation.with_values(_cases(services, task, wanted))
    unsure = [case for case in cases if _hit(case, replace(wanted, dice=ANY), labels, NO_ESTIMATES) is not None]
    estimates = estimated_dice(services, unsure)
    known = [(case, estimates.get(case.series_uid, NO_ESTIMATES)) for case in unsure]
    hits = [hit for case, mine in known if (hit := _hit(case, wanted, labels, mine)) is not None]
    hits.sort(key=_key(order, wanted.quantity))
    asked = order == "dice" or wanted.dice != ANY
    shown = zip(hits, curation.with_grids([hit.case for hit in hits[:limit]]), strict=False)
    return Found(
        len(hits),
        tuple(replace(hit, case=case) for hit, case in shown),
        _notes(len(unsure) - len(estimates)) if asked else (),
    )


def _notes(unknown: int) -> tuple[str, ...]:
    """What is said of series whose Dice was asked for and that have none."""
    return (f"{unknown} series that meet all else have no draft with an estimated Dice",) if unknown else ()


def _labels(task: Task, name: str) -> tuple[str, ...]:
    if not name:
        return task.schema.names
    label = task.schema.find(name)
    if label is None:
        raise InvalidInput(f"label must be one of {', '.join(task.schema.names)} of task {task.name}, got {name!r}")
    return (label.name,)


def _cases(services: Services, task: Task, wanted: Conditions) -> list[CuratedCase]:
    """The cases of which everything holds but what is asked of labels.

    The ledger gives those of few sites alone, and those between two dates with others that have none.
    """
    if wanted.cohort:
        services.ledger.curation.cohort(wanted.cohort)  # raises NotFound
    sites = [site for site in services.ledger.curation.sites() if _is_site(site, wanted)] if wanted.site else None
    same = {name: getattr(wanted, name) for name in ("state", "split", "tag", "cohort", "patient")}
    asked = Wanted(**same, sites=sites if sites is None or len(sites) <= MOST_SITES else None)
    asked = replace(asked, since=_dicom(wanted.since), until=_dicom(wanted.until))
    found = task_cases(services, task, asked)
    return [case for case in found if _is_site(case.site, wanted) and _is_in_time(case.date, wanted)]


def _is_site(site: str, wanted: Conditions) -> bool:
    return not wanted.site or fnmatchcase(site.casefold(), wanted.site.casefold())


def _dicom(day: date | None) -> str:
    """YYYYMMDD; "" for none."""
    return "" if day is None else day.isoformat().replace("-", "")


def _is_in_time(text: str, wanted: Conditions) -> bool:
    if wanted.since is None and wanted.until is None:
        return True
    try:
        when = date.fromisoformat(text)
    except ValueError:
        return False
    return (wanted.since is None or wanted.since <= when) and (wanted.until is None or when <= wanted.until)


def _hit(case: CuratedCase, wanted: Conditions, labels: Sequence[str], estimates: Estimates) -> Hit | None:
    """The case with its labels that meet the conditions; None when none does and one has to."""
    if wanted.asks_for_numbers:
        met = tuple(label for label in labels if _meets(case, label, wanted, estimates.get(label)))
    else:
        met = tuple(label for label in labels if shows(case, label))
    must = wanted.asks_for_numbers or wanted.label != ""
    return None if must and not met else Hit(case, met, estimates)


def _meets(case: CuratedCase, label: str, wanted: Conditions, estimate: EstimatedDice | None) -> bool:
    return (
        _lies(predicted_ml(case, label), wanted.volume_ml)
        and _lies(_uncertainty(case, label, wanted.quantity), wanted.uncertainty)
        and _lies(_dice(estimate), wanted.dice)
    )


def _lies(value: float, bounds: Range) -> bool:
    """Whether a number lies within; what is not known lies only where anything does."""
    low, high = bounds
    if low is None and high is None:
        return True
    return (low is None or value >= low) and (high is None or value <= high)


def _uncertainty(case: CuratedCase, label: str, quantity: str) -> float:
    return case.said.get(label, NOTHING).get(quantity, math.nan)


def _dice(estimate: EstimatedDice | None) -> float:
    """NaN for what the model does not know: its guess is not to be shown."""
    return estimate.value if estimate is not None and estimate.is_familiar else math.nan


def _key(order: str, quantity: str) -> Callable[[Hit], tuple[bool, float, str]]:
    """Sorts by the value of the label that has most of it, unknown values last."""
    values: Mapping[str, Callable[[Hit, str], float]] = {
        "volume": lambda hit, label: -predicted_ml(hit.case, label),
        "uncertainty": lambda hit, label: -_uncertainty(hit.case, label, quantity),
        "dice": lambda hit, label: _dice(hit.estimates.get(label)),
    }

    def key(hit: Hit) -> tuple[bool, float, str]:
        if order == "date":
            value = -float(hit.case.date) if hit.case.date.isdigit() else math.nan
        elif order == "series":
            value = 0.0
        else:
            known = [number for label in hit.labels if not math.isnan(number := values[order](hit, label))]
            value = min(known, default=math.nan)
        return math.isnan(value), 0.0 if math.isnan(value) else value, hit.case.series_uid

    return key
