"""Fits the model of estimated Dice on predictions whose masks a person has drawn.

The penalty is the one under which held-out patients are estimated best, so with few cases little but the labels' means
is left. With few patients the same held-out estimates are what the interval is made of; with many it is made of those
of a half that has no other part in them. So that a calibration case meets them as a new
patient's case would, its volumes are held against what was drawn of all others, never of its own patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidInput
from lib.core.values import LabelEvidence
from lib.inference.quality import QualityModel, Scores, design_row, spread, standardised
from lib.inference.quality_conformal import divided
from lib.inference.quality_features import FEATURES, Drawn, features, is_predicted, plausible_volumes
from lib.inference.quality_novelty import Neighbourhood
from lib.inference.quality_regression import fit_fractions, logistic

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Parts = Sequence[tuple[frozenset[int], frozenset[int]]]
"""Patients who are learned from, and those who are held out."""
FOLDS = 10
SPLIT_FROM = 100
"""Patients of whom half are enough to learn from; with fewer the interval is CV+, see `quality_conformal.divided`."""
PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3)
"""The strongest first: of equals it is taken."""
FAMILIAR = 0.975
"""Share of new patients' images, and of their masks, that count as familiar."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownCase:
    """A prediction whose Dice is known.

    Attributes:
        patient: whose image it is.
        evidence: of the prediction, by label name.
        dice: in [0, 1] by label name; None, or no entry, where there is none.
        embedding: (d,) of the image.
    """

    patient: str
    evidence: Mapping[str, LabelEvidence]
    dice: Mapping[str, float | None]
    embedding: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Case-label pairs, one a row."""

    raw: FloatArray  # (n, f) features, NaN where not known
    dice: FloatArray  # (n,)
    patients: IntArray  # (n,)
    labels: IntArray  # (n,)

    def design(self, centre: FloatArray, scale: FloatArray, labels: int) -> FloatArray:
        """(n, 1 + f + labels)."""
        rows = standardised(self.raw, centre, scale)
        return np.array([design_row(row, int(label), labels) for row, label in zip(rows, self.labels, strict=True)])

    def weights(self) -> FloatArray:
        """(n,), so that patients count alike and one row counts 1 on average."""
        _, owner, each = np.unique(self.patients, return_inverse=True, return_counts=True)
        return np.asarray(len(self.patients) / (len(each) * each[owner]))


def fit_quality(
    cases: Sequence[KnownCase], labels: Sequence[str], drawn: Mapping[str, Sequence[Drawn]], origin: str
) -> QualityModel:
    """The model of estimated Dice of one model version.

    Args:
        cases: that it has not learned from; some of each patient may be degraded copies.
        labels: all of the task.
        drawn: what people drew, by label: of those that the version learned from, and of the cases.
        origin: names the version and its kind of samples.

    Raises:
        InvalidInput: no case has a label that is predicted and has a Dice, or embeddings differ in width.
    """
    widths = {len(case.embedding) for case in cases}
    if len(widths) > 1:
        raise InvalidInput(f"all embeddings must be of one model and one width, got widths {sorted(widths)}")
    numbers = {patient: number for number, patient in enumerate(sorted({case.patient for case in cases}))}
    usual = {patient: plausible_volumes(drawn, without=patient) for patient in numbers}
    found = [
        (features(case.evidence[name], usual[case.patient].get(name)), dice, numbers[case.patient], place)
        for case in cases
        for place, name in enumerate(labels)
        if is_predicted(case.evidence.get(name)) and (dice := case.dice.get(name)) is not None
    ]
    if not found:
        raise InvalidInput(
            f"estimated Dice needs at least one calibration case with a predicted label, got none in {len(cases)} cases"
        )
    raw, known, patients, places = (np.array(column) for column in zip(*found, strict=True))
    pairs = _Pairs(raw, np.clip(known, 0.0, 1.0), patients, places)
    parts = divided(np.unique(patients).tolist(), FOLDS, SPLIT_FROM)
    centre, scale = _standard(pairs.raw[_learned(pairs, parts).any(axis=0)])
    coefficients, scores = _fitted(pairs, pairs.design(centre, scale, len(labels)), parts)
    points = np.where(np.isfinite(scale), np.where(np.isnan(raw), centre, raw), 0.0)
    owners = np.array([numbers[case.patient] for case in cases])
    embeddings = np.array([case.embedding for case in cases], dtype=np.float64)
    return QualityModel(
        origin=origin,
        labels=tuple(labels),
        seen=tuple(name for place, name in enumerate(labels) if place in set(places.tolist())),
        plausible=plausible_volumes(drawn),
        centre=centre,
        scale=scale,
        coefficients=coefficients,
        scores=scores,
        masks=Neighbourhood.of(points, pairs.patients, FAMILIAR),
        images=Neighbourhood.of(embeddings, owners, FAMILIAR),
    )


def _standard(raw: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (f,) of features (n, f); one that never has a value has an infinite deviation."""
    centre, scale = np.zeros(len(FEATURES)), np.full(len(FEATURES), np.inf)
    for column, values in enumerate(raw.T):
        there = values[np.isfinite(values)]
        if len(there):
            centre[column], scale[column] = there.mean(), there.std() or 1.0
    return centre, scale


def _fitted(pairs: _Pairs, design: FloatArray, parts: Parts) -> tuple[FloatArray, Scores]:
    """Coefficients (folds, p) under the best penalty, and how far they are off on the patients that they do not know.

    Of one part the held-out half has no say in the penalty either: it is chosen within the half that is learned from.
    One patient alone has coefficients and no scores.
    """
    if not parts:
        return fit_fractions(design, pairs.dice, pairs.weights(), PENALTIES[0])[None], _no_scores()
    tuned = parts if len(parts) > 1 else divided(sorted(parts[0][0]), FOLDS, len(parts[0][0]) + 1)
    penalty = min(PENALTIES, key=lambda one: _loss(pairs, design, tuned, one))
    best = _fits(pairs, design, parts, penalty)
    return best, _scores(pairs, design, best, [_rows(pairs, part) for _, part in parts])


def _fits(pairs: _Pairs, design: FloatArray, parts: Parts, penalty: float) -> FloatArray:
    """Coefficients (folds, p) of what each part learns from."""
    weights = pairs.weights()
    learned = _learned(pairs, parts)
    return np.array([fit_fractions(design[rows], pairs.dice[rows], weights[rows], penalty) for rows in learned])


def _loss(pairs: _Pairs, design: FloatArray, parts: Parts, penalty: float) -> float:
    """How far a penalty's estimates are off on the patients that each part holds out, in all."""
    weights, coefficients = pairs.weights(), _fits(pairs, design, parts, penalty)
    held_out = [_rows(pairs, part) for _, part in parts]
    each = zip(coefficients, held_out, strict=True)
    return float(sum(np.abs(logistic(design[rows] @ one) - pairs.dice[rows]) @ weights[rows] for one, rows in each))


def _rows(pairs: _Pairs, patients: frozenset[int]) -> BoolArray:
    """Which rows (n,) are of some patients."""
    return np.isin(pairs.patients, list(patients))


def _learned(pairs: _Pairs, parts: Parts) -> BoolArray:
    """(parts, n), which rows each part learns from; all where there is no part."""
    if not parts:
        return np.ones((1, len(pairs.patients)), np.bool_)
    return np.array([_rows(pairs, others) for others, _ in parts])


def _scores(pairs: _Pairs, design: FloatArray, coefficients: FloatArray, held_out: Sequence[BoolArray]) -> Scores:
    """Of all held-out rows, fold by fold."""
    folds = np.concatenate([np.full(int(rows.sum()), number) for number, rows in enumerate(held_out)])
    order = np.concatenate([np.flatnonzero(rows) for rows in held_out])
    means = logistic((design[order] * coefficients[folds]).sum(axis=1))
    sizes = np.abs(pairs.dice[order] - means) / spread(means)
    return Scores(sizes, folds.astype(np.int64), pairs.patients[order], pairs.labels[order])


def _no_scores() -> Scores:
    whole = np.empty(0, dtype=np.int64)
    return Scores(np.empty(0), whole, whole, whole)
