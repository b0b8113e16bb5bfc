"""Champion and challenger before the gate: both are measured on the promotion patients, and the verdict is recorded.

The verdict with all its figures stands with the version in the registry, in the ledger's row of the promotion and in
the audit trail, whichever way it goes. One that was given is not given again.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lib.core.errors import InvalidInput, ManifestMismatch, NotFound
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.anchors import GATE, keep_figures, patients_of, served_figures
from lib.workflows.casecache import CaseCache, LazyCases
from lib.workflows.casefigures import common_mean_dice, mean_calibration_error
from lib.workflows.collect import CalibrationCases, PromotionCases
from lib.workflows.comparison import Comparison
from lib.workflows.gate import Champion, Verdict, judge, unopposed, weigh
from lib.workflows.models import load_version
from lib.workflows.paired import FloatArray, right_where_empty
from lib.workflows.promotion import KEPT, PROMOTED, keep, promote
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor
    from lib.training.data import Case
    from lib.training.measure import CaseMetrics

logger = logging.getLogger(__name__)

TIMED_CASES = 3
REPEATS = 2

Tell = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Exam:
    """Who is judged, and on what.

    Attributes:
        version: of the challenger, in the registry.
        metrics: of the challenger on the calibration cases; its mean counts where there is no promotion set.
        mean_dice: that mean, or None.
        calibration: cases that the challenger was tuned on.
        promotion: cases that nothing but this looks at.
    """

    version: int
    metrics: Mapping[str, float]
    mean_dice: float | None
    calibration: CalibrationCases
    promotion: PromotionCases


def decide(
    services: Services, task: Task, exam: Exam, tell: Tell, before_serving: Callable[[], object] = lambda: None
) -> Verdict:
    """Let the gate decide on a challenger, and carry it out; a verdict that was given stands.

    Args:
        services: the rooms.
        task: that both are of.
        exam: who is judged, and on what.
        tell: called with the share done and what is going on; may raise to end it.
        before_serving: what a challenger needs that is going to serve; the verdict is written down once it is done.
    """
    given = _given(services, task, exam.version)
    if given is not None:
        return given
    verdict = _judge(services, task, exam, tell)
    if verdict.promote:
        before_serving()
    figures = verdict.to_dict()
    services.registry.note(task.name, exam.version, GATE, json.dumps(figures))
    services.ledger.audit.add("gate", "model.gate", f"{task.name} {exam.version}", figures)
    record = promote if verdict.promote else keep
    record(services, task, exam.version, verdict.reason, {**exam.metrics, GATE: figures})
    logger.info("task %s version %d: %s", task.name, exam.version, verdict.reason)
    return verdict


def _given(services: Services, task: Task, version: int) -> Verdict | None:
    """The verdict that an earlier attempt came to."""
    for row in services.ledger.models.list(task.name):
        if row.version == version and row.verdict in (PROMOTED, KEPT):
            figures = row.metrics.get(GATE)
            return Verdict.from_dict(figures) if figures else Verdict(row.verdict == PROMOTED, row.reason)
    return None


def _judge(services: Services, task: Task, exam: Exam, tell: Tell) -> Verdict:
    tested = len(exam.calibration)
    try:
        model = services.registry.champion(task.name)
        if model is None:
            return unopposed(None, exam.mean_dice, tested)
    except NotFound as error:
        return unopposed(Champion(None, None, misfit=str(error)), exam.mean_dice, tested)
    try:
        champion = load_version(services, task, model)
    except (NotFound, ManifestMismatch) as error:
        return unopposed(Champion(model.version, None, misfit=str(error)), exam.mean_dice, tested)
    if not services.settings.ledger.splits.get(PromotionCases.split.value) and not exam.promotion:
        dice = _calibration_dice(task, champion, exam.calibration, tell)
        tolerance = services.settings.retrain.tolerance
        return judge(exam.mean_dice, Champion(model.version, dice), tolerance, tested)
    rival = services.registry.get(task.name, exam.version)
    predictors = champion, load_version(services, task, rival)
    found = compare(services, task, model, predictors, exam.promotion, tell)
    verdict = weigh(found, services.settings.gate)
    keep_figures(services, task, model, exam.promotion, found.champion)
    if verdict.promote:
        keep_figures(services, task, rival, exam.promotion, found.challenger)
    return verdict


def compare(
    services: Services,
    task: Task,
    model: ModelVersion,
    predictors: "tuple[Predictor, Predictor]",
    cases: PromotionCases,
    tell: Tell,
) -> Comparison:
    """Both models on the promotion cases, and of those that served before the ones that had a label best.

    Args:
        services: the rooms.
        task: of both.
        model: the champion.
        predictors: champion and challenger.
        cases: of promotion patients.
        tell: called with the share done and what is going on.
    """
    names = task.schema.names
    champion, challenger = (
        _measured(predictor, cases, _share(tell, number, f"comparing {who} on the promotion patients"))
        for number, (who, predictor) in enumerate(zip(("the champion", "the challenger"), predictors, strict=True))
    )

    def measure(former: ModelVersion, some: PromotionCases) -> FloatArray:
        report = _share(tell, 1, f"comparing version {former.version}, which served before")
        return _dice(_measured(load_version(services, task, former), some, report), names)

    before = _dice(champion, names)
    return Comparison(
        version=model.version,
        labels=names,
        common=task.common_labels,
        patients=patients_of(services, cases),
        champion=before,
        challenger=_dice(challenger, names),
        newest=np.array([row.created_at > model.created_at for row in cases.rows], dtype=np.bool_),
        calibration_error=(mean_calibration_error(champion), mean_calibration_error(challenger)),
        seconds=(seconds_a_case(predictors[0], cases), seconds_a_case(predictors[1], cases)),
        golden=golden_changes(services, task, predictors),
        served=served_figures(services, task, before, cases, measure),
    )


def golden_changes(services: Services, task: Task, predictors: "tuple[Predictor, Predictor]") -> dict[str, float]:
    """By series of the golden ones, the largest loss of Dice of a label, challenger minus champion.

    A golden series without an accepted label, or that cannot be read, is named in a warning.
    """
    cache, found = CaseCache(services, task), {}
    for series_uid in services.settings.gate.golden:
        accepted = services.ledger.annotations.list(task.name, "accepted", series_uid, limit=1)
        if not accepted:
            logger.warning(
                "golden series %s has no accepted label of task %s and is not looked at", series_uid, task.name
            )
            continue
        try:
            before, after = (_dice(_measured(one, LazyCases(cache, accepted)), task.schema.names) for one in predictors)
        except (NotFound, InvalidInput) as error:
            logger.warning("golden series %s is not looked at: %s", series_uid, error)
            continue
        changes = right_where_empty(after, before) - right_where_empty(before, after)
        found[series_uid] = float(np.nanmin(changes)) if not np.isnan(changes).all() else 0.0
    return found


def seconds_a_case(predictor: "Predictor", cases: "Sequence[Case]") -> float | None:
    """Seconds that a case takes, the mean of the first ones, each the fastest of two; None without cases."""
    seconds = []
    for number in range(min(TIMED_CASES, len(cases))):
        volume = cases[number].volume
        seconds.append(min(_timed(predictor, volume) for _ in range(REPEATS)))
    return float(np.mean(seconds)) if seconds else None


def _timed(predictor: "Predictor", volume: object) -> float:
    started = time.perf_counter()
    predictor.predict(volume)  # type: ignore[arg-type]
    return time.perf_counter() - started


def _measured(
    predictor: "Predictor", cases: "Sequence[Case]", report: Callable[[float], None] = lambda share: None
) -> "tuple[CaseMetrics, ...]":
    from lib.training.measure import measure

    return measure(predictor, cases, report)


def _calibration_dice(task: Task, champion: "Predictor", cases: CalibrationCases, tell: Tell) -> float | None:
    """The champion's mean Dice on the calibration cases, where there is no promotion set."""
    from lib.training.measure import validate

    return common_mean_dice(task, validate(champion, cases, lambda share: tell(share, "measuring the champion")))


def _share(tell: Tell, number: int, message: str) -> Callable[[float], None]:
    """A report of the first or the second half."""
    return lambda share: tell((number + share) / 2, message)


def _dice(cases: "Sequence[CaseMetrics]", labels: Sequence[str]) -> FloatArray:
    """Dice (n_cases, n_labels), NaN where a case has none."""
    rows = [[np.nan if (found := case.labels[name]) is None else found.dice for name in labels] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels))
