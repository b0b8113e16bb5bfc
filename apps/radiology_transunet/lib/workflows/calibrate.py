"""Estimated Dice by hand: fitted for a version on the calibration patients as they are now, and told of its drafts."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from lib.ledger.estimates import DraftEvidence
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache
from lib.workflows.collect import CalibrationCases, accepted_ids, collect
from lib.workflows.estimates import fit_estimates
from lib.workflows.models import require_champion
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.quality import QualityModel


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a calibration ended with.

    Attributes:
        version: of the model.
        patients: that its intervals rest on.
        needed: so many have an interval.
        drafts: in force, by this version, that have estimates now.
    """

    version: int
    patients: int
    needed: int
    drafts: int


def calibrate(
    services: Services, task: Task, version: int | None, tell: Callable[[float, str], None] = lambda *_: None
) -> Calibrated:
    """Fit the estimates of a version anew, and tell them of its drafts.

    Args:
        services: the rooms.
        task: of the version.
        version: in the registry; None = the one that serves.
        tell: called with the share done and what is going on.

    Raises:
        NoChampion: no version is named and none serves.
        InvalidInput: no calibration case has a label that the version predicts.
        NotFound, ManifestMismatch: no such version, or one that does not fit the task.
        ArchiveUnavailable: the archive is away.
    """
    from lib.inference.quality import LEVEL
    from lib.inference.quality_conformal import patients_needed

    number = require_champion(services, task).version if version is None else version
    ids = accepted_ids(services, task, CalibrationCases)
    cases = collect(services, CaseCache(services, task), CalibrationCases, ids, tell)
    quality = fit_estimates(services, task, number, cases, tell)
    return Calibrated(number, quality.patients, patients_needed(LEVEL), tell_drafts(services, task, number, quality))


def tell_drafts(services: Services, task: Task, version: int, quality: "QualityModel") -> int:
    """Estimates of the drafts in force by a version, from the evidence that was kept of them; how many have some.

    A draft that was compared with samples of another kind than the version serves with has none.
    """
    is_sampled, count = services.settings.uncertainty.kind != "entropy", 0
    for part in services.ledger.estimates.evidence(task.name, version):
        told = {
            one.draft: quality.estimate(one.evidence, one.embedding, quality.origin)
            for one in part
            if _fits(one, is_sampled)
        }
        services.ledger.estimates.put(told)
        count += len(told)
    return count


def _fits(shown: DraftEvidence, is_sampled: bool) -> bool:
    """Whether a draft was compared with samples, or was not, as predictions are now."""
    agreements = [isfinite(one.samples_dice) for one in shown.evidence.values() if one.volume_ml > 0]
    return not agreements or any(agreements) == is_sampled
