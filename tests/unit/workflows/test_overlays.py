import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lib.core.errors import GeometryMismatch
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.workflows.overlays import CAPTION, outline, overlay, shown_slice, side_by_side

SCHEMA = LabelSchema((Label("box", 4, (255, 0, 0), Code("1", "Box")), Label("dot", 2, (0, 255, 0), Code("2", "Dot"))))
GRID = Geometry.from_spacing((3, 16, 8), (5.0, 1.0, 2.0))


def mask(*boxes: tuple[int, int, int, int, int, int], grid: Geometry = GRID) -> Mask:
    """Boxes of (label, slice, first row, last row, first column, last column)."""
    array = np.zeros(grid.shape, np.uint8)
    for label, number, top, bottom, left, right in boxes:
        array[number, top:bottom, left:right] = label
    return Mask(array, grid, SCHEMA)


def pixels(png: bytes) -> npt.NDArray[np.intp]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_an_outline_is_what_touches_another_value_or_the_border() -> None:
    ids = np.array([[0, 0, 0, 0, 0], [4, 4, 4, 4, 0], [4, 4, 4, 2, 0], [4, 4, 4, 2, 0], [0, 0, 0, 0, 0]], np.uint8)
    expected = [[0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(outline(ids), np.array(expected, bool))


def test_a_wider_outline_reaches_further_inside_and_never_outside() -> None:
    ids = np.zeros((11, 11), np.uint8)
    ids[1:10, 1:10] = 4
    thin, wide = outline(ids), outline(ids, 3)
    assert (thin.sum(), wide.sum()) == (9**2 - 7**2, 9**2 - 3**2)
    assert not wide[ids == 0].any()


def test_a_ct_is_shown_in_its_window_and_without_words_without_a_strip() -> None:
    hu = np.full(GRID.shape, 50, np.float32)
    hu[1, :8] = -900
    volume = Volume(hu, GRID, "CT")
    shown = pixels(side_by_side(volume, [mask()], 1, window_hu=(-150.0, 250.0)))
    assert shown.shape == (320, 320, 3)
    assert set(np.unique(shown[:150])) == {0}
    assert set(np.unique(shown[170:])) == {127}


def test_the_slice_with_the_most_labelled_voxels_is_shown() -> None:
    small_and_large = mask((4, 0, 0, 2, 0, 2), (2, 2, 0, 5, 0, 5))
    assert shown_slice(small_and_large, mask((4, 1, 0, 9, 0, 8))) == 2
    assert shown_slice(mask(), mask((4, 0, 0, 9, 0, 8))) == 0
    assert shown_slice(mask(), mask()) == 1


def test_a_picture_shows_reference_and_prediction_side_by_side_in_square_millimetres() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32), GRID, "CT")
    reference, predicted = mask((4, 1, 4, 12, 2, 6)), mask((2, 1, 4, 12, 2, 6))
    shown = pixels(overlay(volume, reference, predicted, "case ä"))
    assert shown.shape == (320 + CAPTION, 2 * 320, 3)  # 16 rows of 1 mm, 8 columns of 2 mm, 20 pixels a mm
    left, right = shown[:320, :320], shown[:320, 320:]
    assert left[4 * 20, 2 * 40 + 5].tolist() == [255, 0, 0]
    assert right[4 * 20, 2 * 40 + 5].tolist() == [0, 255, 0]
    inside = left[8 * 20, 4 * 40]
    assert inside[0] == inside[1] == inside[2]
    assert (left == [255, 0, 0]).all(axis=2).sum() == 2 * 160 + 2 * 160 - 4
    assert shown[320:].max() > 200  # words


def test_a_constant_image_and_a_wide_one_are_shown_too() -> None:
    grid = Geometry.from_spacing((1, 400, 500), (1.0, 1.0, 1.0))
    volume = Volume(np.full(grid.shape, 7, np.float32), grid, "MR")
    shown = pixels(overlay(volume, mask(grid=grid), mask(grid=grid), "flat"))
    assert shown.shape == (400 + CAPTION, 1000, 3)
    assert shown[:400].max() == 0


def test_masks_of_another_grid_are_refused() -> None:
    volume = Volume(np.zeros(GRID.shape, np.float32), GRID, "CT")
    other = Geometry.from_spacing((3, 16, 8), (5.0, 1.0, 1.0))
    with pytest.raises(GeometryMismatch):
        overlay(volume, mask(), mask(grid=other), "x")
