from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.training.data import Case, Coverage
from lib.training.measure import CaseMetrics, LabelFigures, mean_dice_by_label, measure, validate, volume_errors

Call = Callable[[slice, np.ndarray], None]


class Says:
    """A model that answers with a mask, sure of it to a degree."""

    def __init__(self, schema: LabelSchema, array: np.ndarray, confidence: float = 1.0) -> None:
        self.schema, self.array, self.confidence = schema, array, confidence

    def predict(self, volume: Volume, on_probabilities: Call | None = None) -> object:
        if on_probabilities is not None:
            classes = np.select([self.array == 5, self.array == 3], [1, 2], 0)
            hot = np.moveaxis(np.eye(3)[classes], -1, 1)  # (S, 3, R, C)
            soft = hot * self.confidence + (1 - hot) * (1 - self.confidence) / 2
            for first in (2, 0):  # slabs may come in any order
                on_probabilities(slice(first, first + 2), soft[first : first + 2].astype(np.float32))
        return SimpleNamespace(mask=Mask(self.array, volume.geometry, self.schema))


@pytest.fixture
def case(schema: LabelSchema) -> Case:
    """4 slices of 10 x 10, voxels of 2 x 1 x 1 mm: 8 bright voxels, no dark one."""
    array = np.zeros((4, 10, 10), dtype=np.uint8)
    array[1:3, 4:6, 4:6] = 5
    geometry = Geometry.from_spacing(array.shape, (2.0, 1.0, 1.0))
    return Case(Volume(array.astype(np.float32), geometry, "MR"), Mask(array, geometry, schema), "p", "c1")


def test_a_perfect_prediction_has_perfect_figures(case: Case, schema: LabelSchema) -> None:
    (found,) = measure(Says(schema, case.mask.array), [case])  # type: ignore[arg-type]
    assert found == CaseMetrics("c1", {"bright": LabelFigures(1.0, 0.0, 1.0, 0.0, 0.0), "dark": None}, 0.0)


def test_volume_errors_are_signed_in_ml_and_as_a_share(case: Case, schema: LabelSchema) -> None:
    assert volume_errors(8, 12, 500.0) == (2.0, 0.5)
    assert volume_errors(8, 4, 500.0) == (-2.0, -0.5)
    assert volume_errors(0, 4, 500.0) == (2.0, None)
    half = case.mask.array.copy()
    half[2] = 0
    half[0, 0, 0] = 3
    (found,) = measure(Says(schema, half), [case])  # type: ignore[arg-type]
    bright, dark = found.labels["bright"], found.labels["dark"]
    assert bright is not None
    assert (bright.dice, bright.volume_error_ml, bright.volume_error) == (
        pytest.approx(2 / 3),
        pytest.approx(-0.008),
        -0.5,
    )
    assert dark == LabelFigures(0.0, float("inf"), 0.0, pytest.approx(0.002), None)


def test_the_calibration_error_is_the_gap_of_confidence_and_hits_around_the_labels(
    case: Case, schema: LabelSchema
) -> None:
    (sure,) = measure(Says(schema, case.mask.array, confidence=0.9), [case])  # type: ignore[arg-type]
    assert sure.calibration_error == pytest.approx(0.1, abs=1e-6)
    half = case.mask.array.copy()
    half[2] = 0  # 4 of the 400 voxels of the box are wrong
    (wrong,) = measure(Says(schema, half, confidence=1.0), [case])  # type: ignore[arg-type]
    assert wrong.calibration_error == pytest.approx(4 / 400)


def test_only_what_the_annotation_speaks_of_is_measured(case: Case, schema: LabelSchema) -> None:
    half = case.mask.array.copy()
    half[2] = 0
    half[3] = 3
    model = Says(schema, half)
    slices = replace(case, coverage=Coverage(slices=(True, True, False, False)))
    (found,) = measure(model, [slices])  # type: ignore[arg-type]
    assert found.labels["bright"] == LabelFigures(1.0, 0.0, 1.0, 0.0, 0.0)
    assert found.labels["dark"] is None
    assert found.calibration_error == 0.0
    labels = replace(case, coverage=Coverage(labels=("bright",)))
    (found,) = measure(model, [labels])  # type: ignore[arg-type]
    assert found.labels["dark"] is None
    assert found.calibration_error is None
    assert validate(model, [labels]) == {"bright": pytest.approx(2 / 3), "dark": None}  # type: ignore[arg-type]


def test_dice_of_labels_are_means_over_the_cases_that_have_a_value(case: Case, schema: LabelSchema) -> None:
    empty = np.zeros_like(case.mask.array)
    nothing = Case(case.volume, Mask(empty, case.mask.geometry, schema))
    model = Says(schema, case.mask.array)
    shares: list[float] = []
    assert validate(model, [case, nothing], shares.append) == {"bright": 0.5, "dark": None}  # type: ignore[arg-type]
    assert shares == [0.5, 1.0]
    cases = measure(model, [case, nothing])  # type: ignore[arg-type]
    assert mean_dice_by_label(cases, schema.names) == {"bright": 0.5, "dark": None}
