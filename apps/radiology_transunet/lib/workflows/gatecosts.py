"""What a gain must not cost: golden cases and time, of champion and challenger side by side.

The two take turns on each case, so that a load of the machine which comes and goes meets both alike.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lib.core.errors import InvalidInput, NotFound
from lib.ledger.rows import AnnotationRow
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache, LazyCases
from lib.workflows.collect import HUMAN
from lib.workflows.paired import FloatArray, right_where_empty
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.core.values import Volume
    from lib.inference.predictor import Predictor
    from lib.training.data import Case
    from lib.training.measure import CaseMetrics

logger = logging.getLogger(__name__)

TIMED_CASES = 3
PAIRS = 6
"""Both models are timed so often, one right after the other, spread over the timed cases."""

Both = tuple["Predictor", "Predictor"]
Tell = Callable[[float, str], None]


def measured(
    predictor: "Predictor", cases: "Sequence[Case]", report: Callable[[float], None] = lambda share: None
) -> "tuple[CaseMetrics, ...]":
    """All metrics of each case."""
    from lib.training.measure import measure

    return measure(predictor, cases, report)


def dice_of(cases: "Sequence[CaseMetrics]", labels: Sequence[str]) -> FloatArray:
    """Dice (n_cases, n_labels), NaN where a case has none."""
    rows = [[np.nan if (found := case.labels[name]) is None else found.dice for name in labels] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels))


def golden_changes(services: Services, task: Task, predictors: Both, tell: Tell) -> dict[str, float | str]:
    """By series of the task's golden ones, the largest loss of Dice of a label, challenger minus champion.

    In its place stands why, in words, where it cannot be measured: nobody labelled the series, or it cannot be read.
    The setting is of all tasks: a series that is for others alone is no golden one of this task and left out.
    """
    found: dict[str, float | str] = {}
    for series_uid in services.settings.gate.golden:
        accepted = services.ledger.annotations.list(task.name, "accepted", series_uid, limit=1)
        if not accepted and _is_for_others(services, task, series_uid):
            continue
        try:
            found[series_uid] = _change(services, task, predictors, series_uid, accepted, tell)
        except (NotFound, InvalidInput) as error:
            logger.warning("golden series %s cannot be measured: %s", series_uid, error)
            found[series_uid] = str(error)
    return found


def _is_for_others(services: Services, task: Task, series_uid: str) -> bool:
    """Whether a task refuses a series that it never had a label of, or people have labelled it for other tasks alone.

    Who had labelled it for this task as well, whatever became of that label and whatever the task's file says by now,
    wants this task to keep to it: so the labels are asked first.
    """
    drawn = [row for row in services.ledger.annotations.list(series_uid=series_uid, limit=None) if row.origin == HUMAN]
    if any(row.task == task.name for row in drawn):
        return False
    if any(task.why_not(row.modality, row.description) for row in services.ledger.series.some([series_uid])):
        return True
    others = sorted({row.task for row in drawn if row.status == "accepted"})
    if not others:
        return False
    words = "golden series %s is not looked at for task %s, which could have it: it is labelled for %s alone"
    logger.warning(words, series_uid, task.name, ", ".join(others))
    return True


def _change(
    services: Services, task: Task, predictors: Both, series_uid: str, accepted: "Sequence[AnnotationRow]", tell: Tell
) -> float:
    if not accepted:
        raise NotFound(f"it has no accepted label of task {task.name}")
    cases = LazyCases(CaseCache(services, task), accepted)

    def report(share: float) -> None:
        tell(1.0, f"comparing golden series {series_uid}")

    before, after = (dice_of(measured(one, cases, report), task.schema.names) for one in predictors)
    changes = right_where_empty(after, before) - right_where_empty(before, after)
    return float(np.nanmin(changes)) if not np.isnan(changes).all() else 0.0


def case_seconds(predictors: Both, cases: "Sequence[Case]", tell: Tell) -> tuple[float | None, float | None]:
    """Seconds that a case takes champion and challenger; None without cases.

    The first is a median, the second that times the median of the ratios of both, each of two runs in a row.
    """
    count = min(TIMED_CASES, len(cases))
    if not count:
        return None, None
    pairs = []
    for number in range(count):
        volume = cases[number].volume
        for turn in range(-(-PAIRS // count)):
            tell(1.0, "timing both models")
            pairs.append(_pair(predictors, volume, challenger_first=turn % 2 == 1))
    times = np.array(pairs)  # (n_pairs, 2) seconds, champion and challenger
    before = float(np.median(times[:, 0]))
    return before, before * float(np.median(times[:, 1] / times[:, 0]))


def _pair(predictors: Both, volume: "Volume", challenger_first: bool) -> tuple[float, float]:
    """Seconds of champion and challenger, one right after the other."""
    champion, challenger = predictors
    if challenger_first:
        late = _timed(challenger, volume)
        return _timed(champion, volume), late
    return _timed(champion, volume), _timed(challenger, volume)


def _timed(predictor: "Predictor", volume: "Volume") -> float:
    started = time.perf_counter()
    predictor.predict(volume)
    return time.perf_counter() - started
