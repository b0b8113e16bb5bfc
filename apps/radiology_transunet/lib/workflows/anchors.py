"""The versions that served before the champion, on the promotion cases: what the gate anchors each label to.

Figures of a version are kept when it is promoted, so that the nights after it measure only cases that came since. A
decision by hand starts the line anew: who promotes a version whatever the gate says has weighed what it loses, and one
that was rolled back is no standard for others.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lib.core.errors import ManifestMismatch, NotFound
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache
from lib.workflows.collect import PromotionCases
from lib.workflows.paired import FloatArray, by_patient, present_means, right_where_empty
from lib.workflows.promotion import GATE, PROMOTED
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.ledger.figures import Dice

logger = logging.getLogger(__name__)

Measure = Callable[[ModelVersion, PromotionCases], FloatArray]
Known = tuple[FloatArray, npt.NDArray[np.bool_]]
"""Dice (n_cases, n_labels) with NaN where a case has none, and (n_cases,) of which cases it is known."""


def line(services: Services, task: Task) -> tuple[int, ...]:
    """The versions that served before the champion since the last decision by hand, the oldest first."""
    served = services.registry.served(task.name)
    rows = services.ledger.models.list(task.name, limit=1000)
    by_hand = {row.version for row in rows if row.verdict == PROMOTED and not row.metrics.get(GATE)}
    start = max((place for place, version in enumerate(served) if version in by_hand), default=0)
    return served[start:-1]


def keep_figures(services: Services, task: Task, model: ModelVersion, cases: PromotionCases, dice: FloatArray) -> None:
    """Keep what a version that serves was measured to have: Dice (n_cases, n_labels), NaN where a case has none."""
    values = np.where(np.isnan(dice), None, dice).tolist()  # type: ignore[call-overload]  # None is what JSON knows
    rows = (dict(zip(task.schema.names, row, strict=True)) for row in values)
    services.ledger.figures.keep(model.folder.name, dict(zip(cases.ids, rows, strict=True)))


def served_figures(
    services: Services, task: Task, champion: FloatArray, cases: PromotionCases, measure: Measure
) -> dict[int, FloatArray]:
    """Dice (n_cases, n_labels) by version of those that had a label best of all that served before the champion.

    Which ones these are is told by the figures that were kept; on cases that came since, they are measured. A version
    without any kept figure on these cases is no anchor.

    Args:
        services: the rooms.
        task: of all versions.
        champion: its Dice on the cases.
        cases: of promotion patients.
        measure: gives the Dice of a version on some of them.
    """
    models = {model.version: model for model in _there(services, task)}
    kept = services.ledger.figures.of([model.folder.name for model in models.values()])
    known = {version: _known(kept[model.folder.name], cases, task) for version, model in models.items()}
    best = contenders(known, champion, patients_of(services, cases))
    found = {version: _completed(services, task, models[version], known[version], cases, measure) for version in best}
    return {version: dice for version, dice in found.items() if dice is not None}


def patients_of(services: Services, cases: PromotionCases) -> tuple[str, ...]:
    """The patient of each case."""
    return tuple(services.ledger.series.get(row.series_uid).patient for row in cases.rows)


def contenders(known: Mapping[int, Known], champion: FloatArray, patients: tuple[str, ...]) -> tuple[int, ...]:
    """The versions that have a label best, held against the champion on the cases where they are known.

    As at the gate, a patient counts once, however many cases there are of it.
    """
    best: dict[int, tuple[float, int]] = {}
    for version, (dice, there) in sorted(known.items()):
        ahead = right_where_empty(dice, champion)[there] - right_where_empty(champion, dice)[there]
        by_column = present_means(by_patient(ahead, tuple(np.array(patients)[there])))
        for column, value in enumerate(by_column):
            if value > best.get(column, (-np.inf, 0))[0]:
                best[column] = float(value), version
    return tuple(sorted({version for _, version in best.values()}))


def _there(services: Services, task: Task) -> list[ModelVersion]:
    """The versions of the line whose weights still exist; the champion itself is none of them."""
    found = []
    for version in line(services, task):
        try:
            found.append(services.registry.get(task.name, version))
        except NotFound as error:
            logger.info("version %d is no anchor any more: %s", version, error)
    return found


def _known(kept: "Mapping[int, Dice]", cases: PromotionCases, task: Task) -> Known:
    """What was kept of the cases; figures of another label set are not known."""
    names = task.schema.names
    dice = np.full((len(cases), len(names)), np.nan)
    there = np.zeros(len(cases), np.bool_)
    for place, annotation_id in enumerate(cases.ids):
        row = kept.get(annotation_id)
        if row is not None and set(row) == set(names):
            dice[place] = [np.nan if row[name] is None else row[name] for name in names]
            there[place] = True
    return dice, there


def _completed(
    services: Services, task: Task, model: ModelVersion, known: Known, cases: PromotionCases, measure: Measure
) -> FloatArray | None:
    """The version's Dice on all cases, measured where it is not known; None when it cannot be loaded for that."""
    dice, there = known
    missing = [row for row, found in zip(cases.rows, there, strict=True) if not found]
    if missing:
        some = PromotionCases(CaseCache(services, task), missing)
        try:
            measured = measure(model, some)
        except (NotFound, ManifestMismatch) as error:
            logger.warning("version %d is no anchor of this verdict: %s", model.version, error)
            return None
        keep_figures(services, task, model, some, measured)
        dice = dice.copy()
        dice[~there] = measured
    return dice
