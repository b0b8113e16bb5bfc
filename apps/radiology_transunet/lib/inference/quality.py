"""Estimated Dice of each label of a prediction, with an interval made to hold for nine of ten new patients.

What is estimated is the Dice that a person's mask of the same image would have with the prediction, given what the
prediction shows of itself. The model of it is fitted (`quality_fit`) on cases that the network has not learned from,
and belongs to the very weights and kind of samples that predicted them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.core.atomic import replacing
from lib.core.errors import ManifestMismatch, NotFound
from lib.core.estimated import EstimatedDice as EstimatedDice
from lib.core.values import LabelEvidence
from lib.inference.quality_conformal import bound, patients_needed
from lib.inference.quality_features import FEATURES, Plausible, features, is_predicted
from lib.inference.quality_novelty import Neighbourhood
from lib.inference.quality_regression import logistic

FORMAT = 2
QUALITY = "quality.json"
LEVEL = 0.9
"""Share of new patients whose Dice the interval is made to hold. From 100 calibration patients on (`SPLIT_FROM` in
`quality_fit`) that is proven, on average over calibrations, for pictures mixed as in the calibration: one in three as
it is, the others made worse. With fewer the interval is CV+, of which 80 % are proven (1 - 2 x 0.1) and about 90 % is
what it has in practice."""
ALONE_FROM = 30
"""Patients from which on a label's interval is read from this label alone."""
LEAST_SPREAD = 0.05
NOT_PREDICTED = "not predicted"
UNFAMILIAR = "unlike what this model was calibrated on"

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How far estimates were off on held-out patients, in units of the spread that each was told with.

    Attributes:
        sizes: (n,) |Dice - estimate| / spread.
        folds: (n,) which coefficients made the estimate.
        patients: (n,) number of the patient.
        labels: (n,) place of the label.
    """

    sizes: FloatArray
    folds: IntArray
    patients: IntArray
    labels: IntArray

    def of_label(self, label: int) -> "Scores":
        """Those of one label, where enough patients have them; otherwise all."""
        alone = self.labels == label
        if len(np.unique(self.patients[alone])) < ALONE_FROM:
            return self
        return Scores(*(array[alone] for array in (self.sizes, self.folds, self.patients, self.labels)))


@dataclass(frozen=True, slots=True, eq=False)
class QualityModel:
    """From evidence to Dice, for the predictions of one model version.

    Attributes:
        origin: names weights and kind of samples whose evidence this is of.
        labels: names, in the order of the label columns.
        seen: labels that calibration cases had a Dice of.
        plausible: how large labels usually are, by name.
        centre: (f,) mean of the features.
        scale: (f,) their standard deviation; infinite for one that never had a value.
        coefficients: (folds, 1 + f + labels).
        scores: of held-out patients.
        masks: where the features of calibration cases lie.
        images: where their embeddings lie.
    """

    origin: str
    labels: tuple[str, ...]
    seen: tuple[str, ...]
    plausible: Mapping[str, Plausible]
    centre: FloatArray
    scale: FloatArray
    coefficients: FloatArray
    scores: Scores
    masks: Neighbourhood
    images: Neighbourhood

    @property
    def patients(self) -> int:
        """How many patients the interval rests on."""
        return len(np.unique(self.scores.patients))

    def estimate(
        self, evidence: Mapping[str, LabelEvidence], embedding: npt.NDArray[np.float32], origin: str
    ) -> dict[str, EstimatedDice]:
        """The Dice of each label of a prediction, by name.

        A label that is predicted nowhere has no estimate: its Dice is 0 where a person would draw it, and else none.

        Args:
            evidence: by label name.
            embedding: (d,) of the image.
            origin: of the prediction.

        Raises:
            ManifestMismatch: the prediction is by another version, or with other samples.
        """
        if origin != self.origin:
            raise ManifestMismatch(
                f"this quality model is of predictions by {self.origin}, got one by {origin}; fit one for that version"
            )
        familiar = self.images.includes(np.asarray(embedding, dtype=np.float64))
        return {name: self._of(name, evidence.get(name), familiar) for name in self.labels}

    def _of(self, label: str, evidence: LabelEvidence | None, is_image_familiar: bool) -> EstimatedDice:
        if evidence is None or not is_predicted(evidence):
            return EstimatedDice(nan, nan, nan, is_image_familiar, NOT_PREDICTED)
        raw = features(evidence, self.plausible.get(label))
        place = self.labels.index(label)
        row = design_row(standardised(raw, self.centre, self.scale), place, len(self.labels))
        means = logistic(self.coefficients @ row)  # (folds,)
        low, high = self._interval(means, self.scores.of_label(place))
        known = np.where(np.isfinite(self.scale), raw, 0.0)  # a feature that never had a value needs none
        is_familiar = is_image_familiar and label in self.seen and self.masks.includes(known)
        value = float(means.mean())
        if not is_familiar:
            return EstimatedDice(value, low, high, False, UNFAMILIAR)
        if not isfinite(low):
            reason = f"no interval: {self.patients} calibration patients, {patients_needed(LEVEL)} are needed"
            return EstimatedDice(value, nan, nan, True, reason)
        return EstimatedDice(value, min(low, value), max(high, value), True)

    def _interval(self, means: FloatArray, scores: Scores) -> tuple[float, float]:
        """Ends within [0, 1] around the estimates (folds,) of each fold; NaN with too few patients."""
        each = means[scores.folds]
        reach = scores.sizes * spread(each)
        high = bound(each + reach, scores.patients, LEVEL)
        low = -bound(reach - each, scores.patients, LEVEL)
        if not (isfinite(high) and isfinite(low)):
            return nan, nan
        return float(np.clip(low, 0.0, 1.0)), float(np.clip(high, 0.0, 1.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {
            "format": FORMAT,
            "origin": self.origin,
            "labels": list(self.labels),
            "seen": list(self.seen),
            "features": list(FEATURES),
            "plausible": {name: asdict(found) for name, found in self.plausible.items()},
            "centre": self.centre.tolist(),
            "scale": [one if isfinite(one) else None for one in self.scale.tolist()],
            "coefficients": self.coefficients.tolist(),
            "scores": {name: getattr(self.scores, name).tolist() for name in Scores.__slots__},
            "masks": self.masks.to_dict(),
            "images": self.images.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QualityModel":
        """The model of such values.

        Raises:
            ManifestMismatch: another format, other features, or numbers that do not fit each other.
        """
        for key, wanted in (("format", FORMAT), ("features", list(FEATURES))):
            if values.get(key) != wanted:
                raise ManifestMismatch(f"a quality model must have {key} {wanted}, got {values.get(key)!r}; fit again")
        try:
            return cls(
                origin=str(values["origin"]),
                labels=tuple(map(str, values["labels"])),
                seen=tuple(map(str, values["seen"])),
                plausible={name: Plausible(**found) for name, found in values["plausible"].items()},
                centre=_numbers(values["centre"], len(FEATURES)),
                scale=np.array([np.inf if one is None else float(one) for one in values["scale"]]),
                coefficients=_numbers(values["coefficients"], 1 + len(FEATURES) + len(values["labels"])),
                scores=_scores(values["scores"], len(values["coefficients"])),
                masks=Neighbourhood.from_dict(values["masks"]),
                images=Neighbourhood.from_dict(values["images"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestMismatch(f"the values of a quality model do not fit: {error}; fit again") from error


def save_quality(folder: Path, model: QualityModel) -> None:
    """Write the model beside a manifest, whole or not at all.

    Raises:
        DiskFull: no room; one that was there before is still there.
    """
    text = json.dumps(model.to_dict(), allow_nan=False)
    with replacing(folder / QUALITY) as unnamed:
        unnamed.write_text(text + "\n", encoding="utf-8")


def load_quality(folder: Path) -> QualityModel:
    """The model of a folder.

    Raises:
        NotFound: there is none.
        ManifestMismatch: it cannot be read.
    """
    try:
        values = json.loads((folder / QUALITY).read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"{folder} has no {QUALITY}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestMismatch(f"{folder / QUALITY} is no valid JSON: {error}; fit again") from error
    if not isinstance(values, dict):
        raise ManifestMismatch(f"{folder / QUALITY} must hold a mapping, got a {type(values).__name__}; fit again")
    return QualityModel.from_dict(values)


def standardised(raw: FloatArray, centre: FloatArray, scale: FloatArray) -> FloatArray:
    """Features (..., f) in standard deviations from their mean; what is not known counts as the mean."""
    return np.nan_to_num((raw - centre) / scale, nan=0.0, posinf=0.0, neginf=0.0)


def design_row(features: FloatArray, label: int, labels: int) -> FloatArray:
    """1, the features, and 1 in the column of the label, in one row (1 + f + labels,)."""
    return np.concatenate([[1.0], features, np.arange(labels) == label])


def spread(mean: FloatArray) -> FloatArray:
    """How far a Dice with that mean scatters, up to a factor: as a fraction of trials, and never 0."""
    return np.asarray(np.sqrt(mean * (1 - mean)) + LEAST_SPREAD)


def _numbers(values: Any, width: int) -> FloatArray:
    """Finite numbers (..., width)."""
    array = np.array(values, dtype=np.float64)
    if not array.ndim or array.shape[-1] != width or not np.isfinite(array).all():
        raise ValueError(f"{width} finite numbers a row are needed, got shape {array.shape}")
    return array


def _scores(values: Mapping[str, Any], folds: int) -> Scores:
    sizes = np.array(values["sizes"], dtype=np.float64)
    whole = [np.array(values[name], dtype=np.int64) for name in ("folds", "patients", "labels")]
    if any(array.shape != sizes.shape for array in whole) or not np.isfinite(sizes).all():
        raise ValueError(f"each score needs a fold, a patient and a label, got {sizes.shape}")
    if len(sizes) and not 0 <= whole[0].min() <= whole[0].max() < folds:
        raise ValueError(f"scores must be of folds 0 to {folds - 1}")
    return Scores(sizes, *whole)
