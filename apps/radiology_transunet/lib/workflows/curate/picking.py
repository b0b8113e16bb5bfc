"""Which series of a cohort leave the house, and which do not and why."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from lib.core.errors import InvalidInput
from lib.ledger.curationrows import CohortRow, CuratedCase, Wanted
from lib.taskfile import Task
from lib.workflows.collect import Split
from lib.workflows.curate.cases import task_cases
from lib.workflows.curate.conditions import require_word
from lib.workflows.services import Services

PATIENT_CHARACTERS = 12
SERIES_CHARACTERS = 8
DEFAULT_SPLITS: tuple[str, ...] = (Split.POOL.value,)
"""What may be trained on elsewhere: a model that saw the gate's patients could not be judged by them any more."""


Reason = Literal["not-for-this-task", "not-ready", "unreadable", "label-changed"]
"""Why a series of the cohort is not exported. These words alone go out: details may quote what a scanner wrote."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A series that is not exported.

    Attributes:
        reason: why; goes out.
        details: the same in words for people of this house; stay here.
    """

    series_uid: str
    reason: Reason
    details: str


@dataclass(frozen=True, slots=True)
class Picked:
    """What of a cohort is exported for a task.

    Attributes:
        cohort: the cohort.
        splits: whose patients are exported.
        cases: by name in files, in the order of their UIDs.
        held_out: series of patients of other splits, by split.
        left_out: series that cannot be exported.
    """

    cohort: CohortRow
    splits: tuple[str, ...]
    cases: Mapping[str, CuratedCase]
    held_out: Mapping[str, int]
    left_out: tuple[LeftOut, ...]


def pick(services: Services, task: Task, cohort: str, splits: Collection[str] = DEFAULT_SPLITS) -> Picked:
    """The cases of a cohort that may be exported.

    Raises:
        NotFound: no such cohort.
        InvalidInput: no such split, nothing to export, images of several modalities.
    """
    for split in splits:
        require_word("split", split, tuple(Split))
    row = services.ledger.curation.cohort(cohort)
    members = [member.series_uid for member in services.ledger.curation.members(cohort)]
    ready = {case.series_uid: case for case in task_cases(services, task, Wanted(cohort=cohort))}
    found = [ready[uid] for uid in members if uid in ready]
    chosen = [case for case in found if case.split in splits]
    held_out = Counter(case.split for case in found if case.split not in splits)
    left_out = tuple(_left_out(services, task, uid) for uid in members if uid not in ready)
    picked = Picked(row, tuple(splits), {case_name(case): case for case in chosen}, dict(held_out), left_out)
    _require_one_kind(picked)
    return picked


def case_name(case: CuratedCase) -> str:
    """The name of a case in files: the beginning of the pseudonym and of a hash of the series' UID.

    Cases of one patient begin alike; the name is the same in every export.
    """
    patient = re.sub("[^A-Za-z0-9]", "", case.patient)[:PATIENT_CHARACTERS]
    return f"{patient}_{hashlib.sha256(case.series_uid.encode()).hexdigest()[:SERIES_CHARACTERS]}"


def held_out_words(held_out: Mapping[str, int]) -> str:
    """How many series of which splits were left out, "" for none."""
    return ", ".join(f"{count} of {split} patients" for split, count in sorted(held_out.items()))


def _require_one_kind(picked: Picked) -> None:
    kinds = Counter(case.modality for case in picked.cases.values())
    if not kinds:
        held = held_out_words(picked.held_out)
        raise InvalidInput(
            f"cohort {picked.cohort.name} has nothing to export for {', '.join(picked.splits)} patients: of "
            f"{picked.cohort.size} series {held or 'none'} are held out, {len(picked.left_out)} cannot be used"
        )
    if len(kinds) > 1:
        came = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise InvalidInput(f"a data set has images of one modality, got {came}: make a cohort of each")


def _left_out(services: Services, task: Task, series_uid: str) -> LeftOut:
    row = services.ledger.series.get(series_uid)
    if row.status != "ready":
        return LeftOut(series_uid, "not-ready", f"it is {row.status}{': ' if row.reason else ''}{row.reason}")
    details = task.why_not(row.modality, row.description)
    if details is None:
        return LeftOut(series_uid, "not-ready", "it has become ready a moment ago")
    return LeftOut(series_uid, "not-for-this-task", details)
