import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from lib.core.errors import GeometryMismatch
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.metrics import (
    boundary,
    calibration_histogram,
    dice,
    evaluate,
    expected_calibration_error,
    label_metrics,
    mean_dice,
)
from lib.core.values import Mask

SPACING = (3.0, 1.0, 0.5)
regions = arrays(np.bool_, (5, 6, 7))


def box(*slices: slice) -> np.ndarray:
    region = np.zeros((8, 8, 8), bool)
    region[slices] = True
    return region


def test_dice_of_hand_counted_boxes():
    first, second = box(slice(0, 2), slice(0, 2), slice(0, 2)), box(slice(0, 2), slice(0, 2), slice(1, 3))
    assert dice(first, second) == 0.5
    assert dice(first, first) == 1.0
    assert dice(first, ~first) == 0.0


def test_a_label_empty_in_both_has_no_value_and_in_one_the_worst():
    empty, some = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert label_metrics(empty, empty, SPACING) is None
    for pair in ((empty, some), (some, empty)):
        found = label_metrics(*pair, SPACING)
        assert (found.dice, found.nsd, found.hd95_mm) == (0.0, 0.0, math.inf)


def test_a_plate_shifted_by_two_slices_is_two_spacings_away():
    first, second = box(slice(2, 3)), box(slice(4, 5))
    found = label_metrics(first, second, SPACING)
    assert found.hd95_mm == pytest.approx(6.0)
    assert found.nsd == 0.0
    assert label_metrics(first, second, SPACING, tolerance_mm=6.0).nsd == 1.0


def test_the_boundary_of_a_full_box_is_its_shell():
    assert boundary(box(slice(1, 6), slice(1, 6), slice(1, 6))).sum() == 125 - 27


@given(regions, regions)
def test_metrics_are_symmetric_bounded_and_perfect_for_equal_regions(first, second):
    there, back = label_metrics(first, second, SPACING), label_metrics(second, first, SPACING)
    assert there == back
    if there is not None:
        assert 0 <= there.dice <= 1
        assert 0 <= there.nsd <= 1
        assert there.hd95_mm >= 0
    if first.any():
        same = label_metrics(first, first.copy(), SPACING)
        assert (same.dice, same.hd95_mm, same.nsd) == (1.0, 0.0, 1.0)


@given(regions.filter(np.any), regions.filter(np.any))
def test_surface_distances_equal_those_of_all_pairs(first, second):
    found = label_metrics(first, second, SPACING)
    a, b = (np.argwhere(boundary(r)) * SPACING for r in (first, second))
    pairs = cdist(a, b)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    assert found.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.nsd == pytest.approx(((there <= 1).sum() + (back <= 1).sum()) / (len(a) + len(b)))


@given(regions.filter(np.any), regions.filter(np.any), st.tuples(*[st.integers(0, 3)] * 3))
def test_background_around_the_regions_changes_nothing(first, second, margin):
    # one voxel of background on both sides of each axis: at the array's edge a region has no neighbour either way
    wide = [np.pad(r, [(m + 1, 4 - m) for m in margin]) for r in (first, second)]
    tight = [np.pad(r, 1) for r in (first, second)]
    assert label_metrics(*wide, SPACING) == label_metrics(*tight, SPACING)


def test_evaluate_compares_label_by_label_on_one_grid():
    schema = LabelSchema(tuple(Label(n, i, (1, 2, 3), Code("1", n)) for n, i in (("a", 1), ("b", 2), ("c", 3))))
    grid = Geometry.from_spacing((2, 2, 2), (1, 1, 1))
    reference = Mask(np.array([[[1, 1], [0, 0]], [[2, 2], [0, 0]]]), grid, schema)
    predicted = Mask(np.array([[[1, 0], [0, 0]], [[2, 2], [0, 0]]]), grid, schema)
    found = evaluate(reference, predicted)
    assert found["a"].dice == pytest.approx(2 / 3)
    assert found["b"].dice == 1.0
    assert found["c"] is None
    moved = Geometry.from_spacing((2, 2, 2), (1, 1, 1), origin_mm=(0, 0, 5))
    with pytest.raises(GeometryMismatch, match="the predicted mask"):
        evaluate(reference, Mask(predicted.array, moved, schema))


def test_the_mean_leaves_labels_without_a_value_out():
    assert mean_dice({"a": 0.5, "b": None, "c": 1.0}) == 0.75
    assert mean_dice({"a": None}) is None


def test_the_calibration_error_equals_the_hand_computed_value_and_adds_up() -> None:
    confidence = np.array([0.95, 0.95, 0.62, 0.62, 0.62, 0.62], dtype=np.float32)
    hits = np.array([True, False, True, True, False, False])
    # bins of 1/15: 0.95 with accuracy 1/2, and 0.62 with 1/2
    expected = 2 / 6 * 0.45 + 4 / 6 * 0.12
    whole = calibration_histogram(confidence, hits)
    assert expected_calibration_error(whole) == pytest.approx(expected)
    parts = calibration_histogram(confidence[:1], hits[:1]) + calibration_histogram(confidence[1:], hits[1:])
    np.testing.assert_allclose(parts, whole)


def test_any_confidence_has_a_bin_and_no_voxels_have_no_error() -> None:
    counts = calibration_histogram(np.array([0.0, 0.19, 0.21, 1.0], dtype=np.float32), np.ones(4, dtype=bool))[:, 0]
    assert np.flatnonzero(counts).tolist() == [0, 2, 3, 14]
    assert expected_calibration_error(np.zeros((15, 3))) is None
