"""Champion and challenger before the gate: both are measured on the promotion patients, and the verdict is recorded.

The verdict with all its figures stands with the version in the registry, in the ledger's row of the promotion and in
the audit trail, whichever way it goes. One that was given is not given again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lib.core.errors import Conflict, ManifestMismatch, NotFound
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.anchors import keep_figures, patients_of, served_figures
from lib.workflows.casefigures import common_mean_dice, mean_calibration_error
from lib.workflows.collect import CalibrationCases, PromotionCases
from lib.workflows.comparison import Comparison
from lib.workflows.gate import Champion, Verdict, judge, unopposed, weigh
from lib.workflows.gatecosts import Tell, case_seconds, dice_of, golden_changes, measured
from lib.workflows.models import load_version
from lib.workflows.paired import FloatArray
from lib.workflows.promotion import GATE, KEPT, PROMOTED, keep, promote, rollback
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Opponent:
    """Who a challenger is held against.

    Attributes:
        serving: number of the champion; None when the task has none.
        found: the champion and what predicts with it, or where that cannot serve, the last version before it that
            served and can; None without any.
        misfit: why the champion cannot serve; empty when it can.
    """

    serving: int | None
    found: "tuple[ModelVersion, Predictor] | None" = None
    misfit: str = ""


class Overtaken(Conflict):
    """While a challenger was judged, another process gave a verdict on it, or another version came to serve."""


def decide(
    services: Services,
    task: Task,
    exam: Exam,
    tell: Tell,
    before_serving: Callable[[], object] = lambda: None,
    hold: Callable[[], None] = lambda: None,
) -> Verdict:
    """Let the gate decide on a challenger, and carry it out; a verdict that was given stands.

    Args:
        services: the rooms.
        task: that both are of.
        exam: who is judged, and on what.
        tell: called with the share done and what is going on; may raise to end it.
        before_serving: what a challenger needs that is going to serve; the verdict is written down once it is done.
        hold: called right before anything of the verdict is recorded; raises when whoever asks is not to decide any
            more, and nothing is.
    """
    while (given := _given(services, task, exam.version)) is None:
        opponent = find_opponent(services, task)
        verdict = _judge(services, task, exam, opponent, tell)
        if verdict.promote:
            before_serving()
        try:
            _carry_out(services, task, exam, opponent, verdict, hold)
        except Overtaken as error:
            logger.warning("a verdict on task %s version %d does not count: %s", task.name, exam.version, error)
        else:
            logger.info("task %s version %d: %s", task.name, exam.version, verdict.reason)
            return verdict
    return given


def find_opponent(services: Services, task: Task) -> Opponent:
    """The champion, or in the place of one that cannot be read or fits no more the last one before it that can serve.

    Raises:
        WeightsUnavailable: the folder of all weights is away, which tells nothing of any version.
    """
    served = services.registry.served(task.name)
    misfit = ""
    for version in reversed(served):
        try:
            model = services.registry.get(task.name, version)
            return Opponent(served[-1], (model, load_version(services, task, model)), misfit)
        except (NotFound, ManifestMismatch) as error:
            logger.warning("version %d of task %s cannot be compared with: %s", version, task.name, error)
            misfit = misfit or str(error)
    return Opponent(served[-1] if served else None, None, misfit)


def _carry_out(
    services: Services, task: Task, exam: Exam, opponent: Opponent, verdict: Verdict, hold: Callable[[], None]
) -> None:
    """Let serve who serves from now on, and record why: nothing of it before it is sure that the verdict counts.

    Where the challenger does not, and the champion cannot, the version that was compared with serves again.

    Raises:
        Overtaken: a verdict was given already, by a process that was slow and went on; or the champion is another one
            by now, and the verdict says nothing of it.
    """

    def undecided() -> None:
        hold()
        if (given := _given(services, task, exam.version)) is not None:
            raise Overtaken(f"a verdict was given meanwhile: {given.reason}")

    def require() -> None:
        undecided()
        now = (services.registry.served(task.name) or (None,))[-1]
        if now != opponent.serving:
            raise Overtaken(f"version {now} serves by now, compared was with version {opponent.serving}")

    metrics = {**exam.metrics, GATE: verdict.to_dict()}
    if verdict.promote:
        return promote(services, task, exam.version, verdict.reason, metrics, require)
    if opponent.misfit and opponent.found is not None:
        rollback(services, task, verdict.reason, opponent.found[0].version, require)
    keep(services, task, exam.version, verdict.reason, metrics, undecided)


def _given(services: Services, task: Task, version: int) -> Verdict | None:
    """The verdict that another attempt came to, or a person by hand."""
    for row in services.ledger.models.list(task.name):
        if row.version == version and row.verdict in (PROMOTED, KEPT):
            figures = row.metrics.get(GATE)
            return Verdict.from_dict(figures) if figures else Verdict(row.verdict == PROMOTED, row.reason)
    return None


def _judge(services: Services, task: Task, exam: Exam, opponent: Opponent, tell: Tell) -> Verdict:
    tested = len(exam.calibration)
    if opponent.found is None:
        champion = None if opponent.serving is None else Champion(opponent.serving, None, misfit=opponent.misfit)
        return unopposed(champion, exam.mean_dice, tested)
    model, predictor = opponent.found
    if not services.settings.ledger.splits.get(PromotionCases.split.value) and not exam.promotion:
        dice = _calibration_dice(task, predictor, exam.calibration, tell)
        tolerance = services.settings.retrain.tolerance
        return _told(opponent, judge(exam.mean_dice, Champion(model.version, dice), tolerance, tested))
    rival = services.registry.get(task.name, exam.version)
    predictors = predictor, load_version(services, task, rival)
    found = compare(services, task, model, predictors, exam.promotion, tell)
    verdict = weigh(found, services.settings.gate)
    keep_figures(services, task, model, exam.promotion, found.champion)
    if verdict.promote:
        keep_figures(services, task, rival, exam.promotion, found.challenger)
    return _told(opponent, verdict)


def _told(opponent: Opponent, verdict: Verdict) -> Verdict:
    """The verdict, which also says why it is not about the champion, where that is so."""
    if not opponent.misfit or opponent.found is None:
        return verdict
    version = opponent.found[0].version
    end = "" if verdict.promote else f"; version {version} serves again"
    why = f"version {opponent.serving} cannot serve ({opponent.misfit}), compared with version {version} before it"
    return replace(verdict, reason=f"{why}: {verdict.reason}{end}")


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
        measured(predictor, cases, _share(tell, number, f"comparing {who} on the promotion patients"))
        for number, (who, predictor) in enumerate(zip(("the champion", "the challenger"), predictors, strict=True))
    )

    def measure(former: ModelVersion, some: PromotionCases) -> FloatArray:
        report = _share(tell, 1, f"comparing version {former.version}, which served before")
        return dice_of(measured(load_version(services, task, former), some, report), names)

    before = dice_of(champion, names)
    return Comparison(
        version=model.version,
        labels=names,
        common=task.common_labels,
        patients=patients_of(services, cases),
        champion=before,
        challenger=dice_of(challenger, names),
        newest=np.array([row.created_at > model.created_at for row in cases.rows], dtype=np.bool_),
        calibration_error=(mean_calibration_error(champion), mean_calibration_error(challenger)),
        seconds=case_seconds(predictors, cases, tell),
        golden=golden_changes(services, task, predictors, tell),
        served=served_figures(services, task, before, cases, measure),
    )


def _calibration_dice(task: Task, champion: "Predictor", cases: CalibrationCases, tell: Tell) -> float | None:
    """The champion's mean Dice on the calibration cases, where there is no promotion set."""
    from lib.training.measure import validate

    return common_mean_dice(task, validate(champion, cases, lambda share: tell(share, "measuring the champion")))


def _share(tell: Tell, number: int, message: str) -> Callable[[float], None]:
    """A report of the first or the second half."""
    return lambda share: tell((number + share) / 2, message)
