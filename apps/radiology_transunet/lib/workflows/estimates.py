"""Estimated Dice of a version's predictions: fitted before it comes to serve, kept beside its weights.

The calibration patients, from whom the network has not learned, are predicted with the samples with which it serves,
each also as two worse pictures: on good ones alone nobody could learn what a bad mask looks like. The file is an
addition to the version's folder, written whole; while there is none, there are no estimates.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib.core import metrics
from lib.core.errors import InvalidInput, ManifestMismatch, NotFound, OutOfMemory, PredictionFailed
from lib.core.estimated import EstimatedDice
from lib.core.values import Prediction
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.heartbeat import Stopped
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.config import PredictConfig, UncertaintyConfig
    from lib.inference.predictor import Predictor
    from lib.inference.quality import QualityModel
    from lib.inference.quality_features import Drawn
    from lib.inference.quality_fit import KnownCase
    from lib.training.data import Case

logger = logging.getLogger(__name__)

COPIES = 2
STRENGTHS = (0.2, 0.5, 0.8)
MOST_CASES = 150
"""Calibration cases that are predicted, each three times; more would cost hours and add little."""

Tell = Callable[[float, str], None]


def refit_quality(
    services: Services, task: Task, version: int, cases: "Sequence[Case]", tell: Tell = lambda *_: None
) -> bool:
    """Fit the estimates of a version and write them beside its weights, unless they are there.

    A version without estimates serves as well, so what cannot be fitted is a warning.

    Args:
        services: the rooms.
        task: of the version.
        version: in the registry.
        cases: of calibration patients.
        tell: called with the share done and what is going on; may raise to end it.

    Returns:
        Whether estimates of this version are there.

    Raises:
        Stopped: by `tell`.
        DiskFull: no room.
    """
    try:
        if not has_estimates(services, task, version):
            fit_estimates(services, task, version, cases, tell)
        return True
    except Stopped:
        raise
    except (InvalidInput, ManifestMismatch, NotFound, OutOfMemory, PredictionFailed) as error:
        logger.warning("version %d of task %s has no estimates of its Dice: %s", version, task.name, error)
        return False


def fit_estimates(
    services: Services, task: Task, version: int, cases: "Sequence[Case]", tell: Tell = lambda *_: None
) -> "QualityModel":
    """Fit the estimates of a version, write them beside its weights and return them; see `refit_quality`.

    Raises:
        InvalidInput: no case has a label that the version predicts.
        NotFound, ManifestMismatch: no such version, or one that does not fit the task.
        OutOfMemory: a case is too large.
        DiskFull: no room.
    """
    from lib.inference.quality import save_quality
    from lib.inference.quality_fit import fit_quality
    from lib.workflows.drawn import drawn_volumes
    from lib.workflows.models import load_served, served_origin

    model = services.registry.get(task.name, version)
    origin = served_origin(services, task, model)
    known = known_cases(load_served(services, task, model), cases, COPIES, STRENGTHS, tell)
    quality = fit_quality(known, task.schema.names, drawn_volumes(services, task), origin)
    save_quality(model.folder, quality)
    return quality


def has_estimates(services: Services, task: Task, version: int) -> bool:
    """Whether estimates of a version are there for the samples with which it serves.

    Raises:
        NotFound, ManifestMismatch: no such version, or no manifest of it that can be read.
    """
    from lib.inference.quality import load_quality
    from lib.workflows.models import served_origin

    model = services.registry.get(task.name, version)
    origin = served_origin(services, task, model)
    try:
        return load_quality(model.folder).origin == origin
    except (NotFound, ManifestMismatch):
        return False


def known_cases(
    predictor: "Predictor", cases: "Sequence[Case]", copies: int, strengths: Sequence[float], tell: Tell
) -> "list[KnownCase]":
    """Predictions of cases and of worse copies of them, with their Dice.

    Args:
        predictor: the model, with samples.
        cases: that it has not learned from; at most `MOST_CASES` are used, spread over all.
        copies: worse pictures of each.
        strengths: of what is done to them, in turn.
        tell: called with the share done and what is going on.
    """
    from lib.inference.quality_degrade import planned

    found = []
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(len(cases), MOST_CASES)).round().astype(int))
    for done, number in enumerate(chosen.tolist()):
        tell(done / len(chosen), "learning how far its masks can be trusted")
        case = cases[number]
        found.append(known_case(predictor, case))
        for kind, strength in planned(number, copies, strengths):
            found.append(known_case(predictor, worse(case, kind, strength, np.random.default_rng(number))))
    return found


def known_case(predictor: "Predictor", case: "Case") -> "KnownCase":
    """What a predictor says of a case, and its Dice of each label that the annotation speaks of."""
    from lib.inference.quality_fit import KnownCase

    made = predictor.predict(case.volume)
    there = np.ones(len(case.mask.array), np.bool_) if case.coverage.slices is None else np.array(case.coverage.slices)
    spoken = predictor.schema.names if case.coverage.labels is None else case.coverage.labels
    dice = {
        label.name: metrics.dice((case.mask.array == label.id)[there], (made.mask.array == label.id)[there])
        for label in predictor.schema
        if label.name in spoken
    }
    return KnownCase(case.patient, made.evidence, dice, made.embedding)


def worse(case: "Case", kind: str, strength: float, rng: np.random.Generator) -> "Case":
    """The same case with a worse picture, and what of its mask is on it."""
    from dataclasses import replace

    from lib.inference.quality_degrade import degrade

    made = degrade(case.volume, kind, strength, rng)
    slices = None if case.coverage.slices is None else case.coverage.slices[made.box[0]]
    return replace(case, volume=made.volume, mask=made.cut(case.mask), coverage=replace(case.coverage, slices=slices))


def annotated_volumes(cases: "Sequence[Case]") -> "dict[str, list[Drawn]]":
    """What people drew on cases, by label; as `drawn_volumes`, for who has no ledger."""
    from lib.inference.quality_features import Drawn

    found: dict[str, list[Drawn]] = {}
    for case in cases:
        if case.coverage.slices is None:
            ml = case.mask.geometry.voxel_volume_mm3 / 1000
            for name, voxels in case.mask.voxels().items():
                found.setdefault(name, []).append(Drawn(case.patient, voxels * ml))
    return found


def described(text: str, estimates: Mapping[str, EstimatedDice], room: int) -> str:
    """A description that ends with the least estimate of a label, as far as there is room for it.

    Args:
        text: what it begins with.
        estimates: by label; those of labels that are predicted nowhere count for nothing.
        room: characters in all.
    """
    told = [one for one in estimates.values() if isfinite(one.value)]
    if not told:
        return text
    least = min(told, key=lambda one: (one.is_familiar, one.value))
    endings = [f"lowest Dice {least.value:.2f}"] if least.is_familiar else ["Dice unknown: unfamiliar"]
    if least.is_familiar and isfinite(least.low):
        endings.insert(0, f"{endings[0]} ({least.low:.2f}-{least.high:.2f})")
    return next((whole for end in endings if len(whole := f"{text}, {end}") <= room), text)


def origin_of(
    folder: Path, uncertainty: "UncertaintyConfig", predict: "PredictConfig | None" = None, others: Sequence[Path] = ()
) -> str:
    """Names the weights of a model's folder, how it is asked, and the samples that its predictions are compared with.

    Args:
        folder: of the model.
        uncertainty: kind and number of samples.
        predict: how the network is asked; None = as by default.
        others: folders of the models that an ensemble compares it with: as many of the first ones as there are samples
            beside its own; one whose manifest cannot be read is left out, as it is when they are loaded.

    Raises:
        NotFound, ManifestMismatch: as `read_manifest`.
    """
    from lib.inference.config import PredictConfig
    from lib.inference.model import read_manifest

    kind, usual = uncertainty.kind, PredictConfig()
    asked = predict or usual
    parts = [f"{read_manifest(folder).sha256} {kind}"]
    parts[0] += "" if kind == "entropy" else f" {uncertainty.samples} samples, seed {uncertainty.seed}"
    parts += [f"mirrored along {' and '.join(asked.flips)}"] if asked.flips else []
    parts += [f"overlap {asked.overlap:g}"] if asked.overlap != usual.overlap else []
    parts += [f"beside {weights}" for weights in _readable(others)[: uncertainty.samples - 1]]
    return ", ".join(parts)


def _readable(folders: Sequence[Path]) -> list[str]:
    """Hashes of the weights of models, without those whose manifest cannot be read."""
    from lib.inference.model import read_manifest

    found = []
    for folder in folders:
        try:
            found.append(read_manifest(folder).sha256)
        except (NotFound, ManifestMismatch) as error:
            logger.info("the model in %s is not compared with: %s", folder, error)
    return found


class Qualities:
    """Estimates of predictions, by the model beside the weights that made them; read again when its file changes.

    Safe to use from many threads.

    Args:
        origin: of a version's predictions, as `origin_of` names it; asked for again when the file changes.
    """

    def __init__(self, origin: Callable[[ModelVersion], str]) -> None:
        self._origin = origin
        self._reading = threading.Lock()
        self._known: dict[Path, tuple[int, QualityModel | None, str]] = {}

    def estimates(self, model: ModelVersion, prediction: Prediction) -> Mapping[str, EstimatedDice]:
        """By label; empty where nothing was fitted for these weights and samples."""
        quality, origin = self._model(model)
        return {} if quality is None else quality.estimate(prediction.evidence, prediction.embedding, origin)

    def patients(self, model: ModelVersion) -> int | None:
        """How many patients a version's intervals rest on; None where nothing was fitted."""
        quality = self._model(model)[0]
        return None if quality is None else quality.patients

    def _model(self, model: ModelVersion) -> "tuple[QualityModel | None, str]":
        """The model that fits, and the origin of predictions by this version."""
        from lib.inference.quality import QUALITY

        try:
            written = (model.folder / QUALITY).stat().st_mtime_ns
        except OSError:
            return None, ""
        with self._reading:
            known = self._known.get(model.folder)
            if known is None or known[0] != written:
                known = self._known[model.folder] = (written, *self._read(model))
            return known[1:]

    def _read(self, model: ModelVersion) -> "tuple[QualityModel | None, str]":
        from lib.inference.quality import load_quality

        try:
            quality, origin = load_quality(model.folder), self._origin(model)
        except (NotFound, ManifestMismatch) as error:
            logger.warning("version %d of task %s has no estimates of its Dice: %s", model.version, model.task, error)
            return None, ""
        if quality.origin != origin:
            logger.warning(
                "version %d of task %s has no estimates: they were fitted for %s, it serves as %s; fit them again: "
                "transunet-label models calibrate",
                model.version, model.task, quality.origin, origin,
            )  # fmt: skip
            return None, ""
        return quality, origin
