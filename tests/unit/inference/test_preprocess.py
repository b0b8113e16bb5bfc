from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lib.core.errors import GeometryMismatch, InvalidSettings
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.inference.model import build_preprocess
from lib.inference.orientation import Orientation
from lib.inference.preprocess import Preprocess, class_numbers, neighbourhoods, resized
from lib.inference.restore import SliceRestorer
from lib.networks.config import NetworkConfig

Labelled = Callable[[Geometry, int], tuple[Volume, Mask]]
AXIAL = Geometry.from_spacing((3, 5, 7), (5.0, 2.0, 1.0))
HYPOTHESIS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any grid: up to 5 x 20 x 20, 0.3 to 3 mm, any rotation, any handedness."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)))
    spacing = draw(st.tuples(*[st.floats(0.3, 3.0)] * 3))
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    mirror = draw(st.sampled_from([-1.0, 1.0]))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([*spacing[:2], 0])
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    affine[:3, 2] *= mirror * spacing[2] / np.linalg.norm(affine[:3, 2])
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return Geometry(shape, affine)


def restored(preprocess: Preprocess, planes: np.ndarray, like: Volume) -> np.ndarray:
    """Planes (S, H, W) back on the volume's grid."""
    placement = preprocess.place(like.geometry)
    native = np.full(like.geometry.shape, np.nan, dtype=np.float32)
    view = placement.orientation.view(native)
    restorer = SliceRestorer(preprocess, placement)
    for first in range(0, len(planes), 3):
        for slices, back in restorer.push(torch.from_numpy(planes[first : first + 3])[:, None]):
            view[slices] = back[:, 0].numpy()
    return native


@HYPOTHESIS
@given(geometry=geometries(), stride=st.sampled_from([1, 8, 16]), seed=st.integers(0, 99))
def test_without_resampling_every_voxel_comes_back_to_its_place_for_any_grid(
    geometry: Geometry, stride: int, seed: int
) -> None:
    array = np.random.default_rng(seed).uniform(0, 1, geometry.shape).astype(np.float32)
    volume = Volume(array, geometry, "CT")
    preprocess = Preprocess(PreprocessConfig(window_hu=(-1, 1)), context_slices=0, stride=stride)
    planes = preprocess.apply(volume).planes
    assert planes.shape[1] % stride == 0 < planes.shape[1] // stride - 1
    assert planes.shape[2] % stride == 0 < planes.shape[2] // stride - 1
    np.testing.assert_allclose(restored(preprocess, planes, volume), array, atol=1e-6)


@HYPOTHESIS
@given(geometry=geometries(), wanted_mm=st.floats(0.4, 2.0))
def test_with_resampling_a_smooth_image_comes_back_on_its_own_grid(geometry: Geometry, wanted_mm: float) -> None:
    indices = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    height = geometry.to_lps(indices) @ np.array([0.5, 0.3, 0.2])  # a ramp in patient space, up to 0.62 a mm
    volume = Volume((height - height.mean()).astype(np.float32), geometry, "CT")
    preprocess = Preprocess(PreprocessConfig(spacing_mm=wanted_mm, window_hu=(-1000, 1000)), 0, stride=8)
    back = restored(preprocess, preprocess.apply(volume).planes * 1000, volume)
    assert back.shape == geometry.shape
    coarsest_mm = max(wanted_mm, *geometry.spacing_mm[1:])
    assert np.abs(back - volume.array).max() <= 2.5 * coarsest_mm  # at the border the outermost pixel repeats


@HYPOTHESIS
@given(geometry=geometries(), seed=st.integers(0, 99), stride=st.sampled_from([8, 16]))
def test_mask_and_image_stay_on_each_other(geometry: Geometry, seed: int, stride: int, labelled: Labelled) -> None:
    volume, mask = labelled(geometry, seed)
    preprocess = Preprocess(PreprocessConfig(window_hu=(0, 3)), context_slices=0, stride=stride)
    prepared = preprocess.apply(volume)
    classes = preprocess.apply_mask(mask, prepared.placement)
    np.testing.assert_allclose((prepared.planes + 1) * 1.5, classes, atol=1e-5)


@HYPOTHESIS
@given(
    geometry=geometries(),
    wanted_mm=st.tuples(*[st.floats(0.4, 3.0)] * 3),
    patch=st.tuples(*[st.integers(1, 24)] * 3),
)
def test_along_three_axes_a_smooth_image_comes_back_on_its_own_grid_whatever_the_patch(
    geometry: Geometry, wanted_mm: tuple[float, float, float], patch: tuple[int, int, int]
) -> None:
    indices = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    height = geometry.to_lps(indices) @ np.array([0.5, 0.3, 0.2])  # a ramp in patient space, up to 0.62 a mm
    volume = Volume((height - height.mean()).astype(np.float32), geometry, "CT")
    preprocess = Preprocess(PreprocessConfig(spacing_mm=wanted_mm, window_hu=(-1000, 1000)), 0, stride=1, patch=patch)
    prepared = preprocess.apply(volume)
    assert prepared.planes.shape == prepared.placement.padded
    assert all(side >= least for side, least in zip(prepared.planes.shape, patch, strict=True))
    back = restored(preprocess, prepared.planes * 1000, volume)
    coarsest_mm = max(*wanted_mm, *geometry.spacing_mm)
    assert np.abs(back - volume.array).max() <= 3.5 * coarsest_mm  # at the border the outermost voxel repeats


@HYPOTHESIS
@given(geometry=geometries(), seed=st.integers(0, 99), patch=st.tuples(*[st.integers(1, 24)] * 3))
def test_at_equal_spacing_image_and_mask_come_back_exactly_from_patches(
    geometry: Geometry, seed: int, patch: tuple[int, int, int], labelled: Labelled
) -> None:
    volume, mask = labelled(geometry, seed)
    spacing = geometry.spacing_mm
    oriented = (spacing[0], spacing[2], spacing[1]) if Orientation.of(geometry).transposed else spacing
    preprocess = Preprocess(PreprocessConfig(spacing_mm=oriented, window_hu=(0, 3)), 0, stride=1, patch=patch)
    prepared = preprocess.apply(volume)
    classes = preprocess.apply_mask(mask, prepared.placement)
    np.testing.assert_allclose((prepared.planes + 1) * 1.5, classes, atol=1e-5)  # also in the padding
    np.testing.assert_array_equal(restored(preprocess, classes.astype(np.float32), volume), class_numbers(mask))


def test_slices_are_resampled_linearly_and_averaged_where_they_shrink() -> None:
    ramp = np.array([0.0, 4.0, 8.0, 12.0], dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), dtype=np.float32)
    volume = Volume(ramp, Geometry.from_spacing((4, 2, 2), (4.0, 1.0, 1.0)), "CT")

    def column(spacing_mm: float) -> list[float]:
        config = PreprocessConfig(spacing_mm=(spacing_mm, 1.0, 1.0), window_hu=(0, 24))
        planes = Preprocess(config, 0, stride=1, patch=(1, 1, 1)).apply(volume).planes
        return [round(float(v), 4) for v in (planes[:, 0, 0] + 1) * 12]

    assert column(2.0) == [0, 1, 3, 5, 7, 9, 11, 12]  # centres at -1, 1, 3, ... mm of the first slice's
    assert column(8.0) == pytest.approx([20 / 7, 64 / 7], abs=1e-3)  # a triangle: (0 4 8) and (4 8 12) by 3 3 1, 1 3 3


def test_a_single_column_is_resampled_as_a_single_row_is() -> None:
    column = np.arange(4, dtype=np.float32)[None, :, None]
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert resized(column, (8, 1))[0, :, 0].tolist() == expected
    assert resized(column.swapaxes(1, 2), (1, 8))[0, 0].tolist() == expected
    assert resized(np.repeat(column, 2, axis=2), (8, 1))[0, :, 0].tolist() == expected


def test_the_way_back_along_slices_is_linear_and_needs_one_plane_more() -> None:
    preprocess = Preprocess(PreprocessConfig(spacing_mm=(8.0, 1.0, 1.0)), 0, stride=1, patch=(1, 1, 1))
    placement = preprocess.place(Geometry.from_spacing((4, 2, 2), (4.0, 1.0, 1.0)))
    restorer = SliceRestorer(preprocess, placement)
    first = [(s, back[:, 0, 0, 0].tolist()) for s, back in restorer.push(torch.zeros(1, 1, 2, 2))]
    second = [(s, back[:, 0, 0, 0].tolist()) for s, back in restorer.push(torch.ones(1, 1, 2, 2))]
    assert first == [(slice(0, 1), [0.0])]  # the outermost plane repeats
    assert second == [(slice(1, 4), [0.25, 0.75, 1.0])]


def test_a_patch_larger_than_the_volume_is_padded_all_around_with_the_lowest_intensity() -> None:
    volume = Volume(np.full((1, 2, 3), 240.0), Geometry.from_spacing((1, 2, 3), (5.0, 1.0, 1.0)), "CT")
    prepared = Preprocess(PreprocessConfig(window_hu=(-160, 240)), 0, stride=1, patch=(4, 4, 3)).apply(volume)
    assert prepared.planes.shape == (4, 4, 3)
    assert np.argwhere(prepared.planes == 1).tolist() == [[1, row, column] for row in (1, 2) for column in range(3)]
    assert sorted(np.unique(prepared.planes)) == [-1, 1]


@pytest.mark.parametrize("spacing_mm", [None, 1.5, (7.7, 1.25, 1.25), (4.0, 1.5, 1.5)])
@pytest.mark.parametrize("patch", [None, (8, 48, 48)])
def test_thick_slices_of_mr_fit_networks_of_slices_and_of_patches(
    spacing_mm: float | tuple[float, float, float] | None, patch: tuple[int, int, int] | None
) -> None:
    geometry = Geometry.from_spacing((35, 64, 64), (7.7, 1.25, 1.25))
    array = np.random.default_rng(0).uniform(0, 900, geometry.shape).astype(np.float32)
    network = NetworkConfig(kind="transunet" if patch is None else "transunet3d", patch=patch)
    preprocess = build_preprocess(PreprocessConfig(spacing_mm=spacing_mm), network)
    volume = Volume(array, geometry, "MR")
    planes = preprocess.apply(volume).planes
    thick_mm = spacing_mm[0] if isinstance(spacing_mm, tuple) else 7.7
    assert len(planes) == round(35 * 7.7 / thick_mm)
    assert np.isfinite(restored(preprocess, planes, volume)).all()


def test_probabilities_still_sum_to_one_after_resampling() -> None:
    preprocess = Preprocess(PreprocessConfig(spacing_mm=1.5), context_slices=0, stride=8)
    placement = preprocess.place(AXIAL)
    probabilities = torch.randn(3, 4, *placement.padded[1:]).softmax(dim=1)
    back = preprocess.restore(probabilities, placement)
    assert back.shape == (3, 4, 5, 7)
    torch.testing.assert_close(back.sum(dim=1), torch.ones(3, 5, 7))


def test_a_mask_is_resampled_to_the_nearest_voxel_and_keeps_its_extent(schema: LabelSchema) -> None:
    ids = np.zeros(AXIAL.shape, dtype=np.uint8)
    ids[1, 2, 3:] = 7
    preprocess = Preprocess(PreprocessConfig(spacing_mm=1.0), context_slices=0, stride=1)
    classes = preprocess.apply_mask(Mask(ids, AXIAL, schema), preprocess.place(AXIAL))
    assert classes.shape == (3, 10, 7)  # rows of 2 mm become two rows of 1 mm
    assert np.argwhere(classes).tolist() == [[1, row, column] for row in (4, 5) for column in (3, 4, 5, 6)]
    assert classes.max() == 1  # label 7 is the first one of the schema


def test_a_window_ends_in_minus_one_to_one_and_pads_with_its_lowest_intensity() -> None:
    array = np.full((1, 2, 2), 40.0, dtype=np.float32)
    array[0, 0] = -1000, 3000
    volume = Volume(array, Geometry.from_spacing((1, 2, 2), (1, 1, 1)), "CT")
    planes = Preprocess(PreprocessConfig(window_hu=(-160, 240)), 0, stride=2).apply(volume).planes
    expected = np.full((4, 4), -1.0)
    expected[1:3, 1:3] = [[-1, 1], [0, 0]]
    np.testing.assert_allclose(planes[0], expected)


def test_without_a_window_outliers_are_clipped_and_scale_and_offset_do_not_matter() -> None:
    array = np.random.default_rng(3).normal(100, 10, (4, 16, 16)).astype(np.float32)
    array[0, 0, 0] = 1e6
    geometry = Geometry.from_spacing((4, 16, 16), (1, 1, 1))
    preprocess = Preprocess(PreprocessConfig(), context_slices=0, stride=8)
    planes = preprocess.apply(Volume(array, geometry, "MR")).planes
    low, high = np.percentile(array, (0.5, 99.5))
    clipped = np.clip(array, low, high).astype(np.float64)
    np.testing.assert_allclose(planes, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)
    stretched = preprocess.apply(Volume(array * 40 + 7, geometry, "MR")).planes
    np.testing.assert_allclose(stretched, planes, atol=1e-3)


def test_empty_slices_around_an_image_change_no_intensity_of_it() -> None:
    array = np.random.default_rng(3).normal(100, 10, (4, 16, 16)).astype(np.float32)
    padded = np.pad(array, ((2, 3), (0, 0), (0, 0)))
    preprocess = Preprocess(PreprocessConfig(), context_slices=0, stride=8)

    def planes(values: np.ndarray) -> np.ndarray:
        return preprocess.apply(Volume(values, Geometry.from_spacing(values.shape, (1, 1, 1)), "MR")).planes

    np.testing.assert_array_equal(planes(padded)[2:-3], planes(array))


def test_an_image_of_one_intensity_becomes_zeros() -> None:
    volume = Volume(np.full(AXIAL.shape, 12.0, dtype=np.float32), AXIAL, "MR")
    assert not Preprocess(PreprocessConfig(), 1, stride=8).apply(volume).slices.any()


def test_neighbours_enter_as_channels_and_the_outermost_slice_repeats() -> None:
    planes = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), dtype=np.float32)
    channels = neighbourhoods(planes, 1)[:, :, 0, 0]
    assert channels.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    assert neighbourhoods(planes, 0).shape == (3, 1, 2, 2)


def test_the_same_patient_stored_another_way_round_gives_the_same_planes() -> None:
    array = np.random.default_rng(5).uniform(0, 1, (3, 5, 7)).astype(np.float32)
    stored = Volume(array, AXIAL, "CT")
    affine = AXIAL.affine @ np.array([[-1, 0, 0, 2], [0, 0, -1, 4], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    turned = Volume(array[::-1, ::-1].swapaxes(1, 2), Geometry((3, 7, 5), affine), "CT")
    np.testing.assert_allclose(turned.geometry.to_lps((2, 6, 4)), AXIAL.to_lps((0, 0, 6)))
    preprocess = Preprocess(PreprocessConfig(window_hu=(0, 1)), 0, stride=8)
    np.testing.assert_array_equal(preprocess.apply(turned).planes, preprocess.apply(stored).planes)


def test_an_axial_grid_along_lps_is_read_as_it_is_stored() -> None:
    assert Orientation.of(AXIAL) == Orientation(transposed=False, flips=(False, False, False))


def test_a_mask_on_another_grid_is_refused(schema: LabelSchema) -> None:
    preprocess = Preprocess(PreprocessConfig(), 0, stride=8)
    other = Geometry.from_spacing((3, 5, 7), (5.0, 2.0, 1.1))
    with pytest.raises(GeometryMismatch, match="the mask must lie on the grid 3x5x7"):
        preprocess.apply_mask(Mask(np.zeros((3, 5, 7)), other, schema), preprocess.place(AXIAL))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing_mm": 0}, "one positive number, three .* or left out, got 0"),
        ({"spacing_mm": float("inf")}, "one positive number, three .* got inf"),
        ({"spacing_mm": (1.0, 1.0)}, r"one positive number, three .* got \(1.0, 1.0\)"),
        ({"window_hu": (240, -160)}, "the lower one first"),
        ({"window_hu": (0, float("inf"))}, "two finite numbers"),
        ({"clip_percentiles": (-1, 99)}, "within 0 and 100"),
    ],
)
def test_a_wrong_option_is_refused_with_what_came(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        PreprocessConfig(**options)  # type: ignore[arg-type]
