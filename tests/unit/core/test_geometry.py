import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lib.core.errors import GeometryMismatch, InvalidVolume
from lib.core.geometry import GEOMETRY_TOLERANCE_MM, Geometry

sizes = st.tuples(*[st.integers(1, 40)] * 3)
spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)
angles = st.tuples(*[st.floats(-180, 180)] * 3)


def oblique(shape, spacing, degrees, origin=(-120.0, 35.5, 700.0)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * np.asarray(spacing)
    affine[:3, 3] = origin
    return Geometry(shape, affine)


@given(sizes, spacings, angles)
def test_spacing_and_volume_survive_any_orientation(shape, spacing, degrees):
    geometry = oblique(shape, spacing, degrees)
    np.testing.assert_allclose(geometry.spacing_mm, spacing, rtol=1e-9)
    assert geometry.voxel_volume_mm3 == pytest.approx(np.prod(spacing))


@given(sizes, spacings, angles)
def test_indices_go_to_millimetres_and_back(shape, spacing, degrees):
    geometry = oblique(shape, spacing, degrees)
    indices = np.array([[0, 0, 0], [0.5, 1.25, 2], np.array(shape) - 1])
    np.testing.assert_allclose(geometry.to_index(geometry.to_lps(indices)), indices, atol=1e-6)


def test_an_axial_grid_steps_along_z_y_and_x():
    geometry = Geometry.from_spacing((3, 4, 5), (5.0, 0.8, 0.7), origin_mm=(-10, -20, 30))
    np.testing.assert_allclose(geometry.to_lps([1, 0, 0]), (-10, -20, 35))
    np.testing.assert_allclose(geometry.to_lps([0, 1, 0]), (-10, -19.2, 30))
    np.testing.assert_allclose(geometry.to_lps([0, 0, 1]), (-9.3, -20, 30))


@given(sizes, spacings, angles, st.floats(1.5, 50))
def test_a_shift_beyond_the_tolerance_is_another_grid(shape, spacing, degrees, factor):
    geometry = oblique(shape, spacing, degrees)
    moved = oblique(shape, spacing, degrees, origin=(-120.0 + factor * GEOMETRY_TOLERANCE_MM, 35.5, 700.0))
    assert geometry.is_close(oblique(shape, spacing, degrees))
    assert not geometry.is_close(moved)


def test_a_small_error_of_spacing_counts_at_the_far_corner():
    near = Geometry.from_spacing((400, 10, 10), (1.0, 1.0, 1.0))
    far = Geometry.from_spacing((400, 10, 10), (1.0001, 1.0, 1.0))
    assert not near.is_close(far)


def test_single_slices_of_different_thickness_are_different_grids():
    assert not Geometry.from_spacing((1, 8, 8), (1, 1, 1)).is_close(Geometry.from_spacing((1, 8, 8), (2, 1, 1)))


def test_a_mismatch_names_both_grids():
    wanted, got = Geometry.from_spacing((3, 4, 5), (5, 1, 1)), Geometry.from_spacing((3, 4, 6), (5, 1, 1))
    with pytest.raises(GeometryMismatch, match=r"the label must lie on the grid 3x4x5 .* got 3x4x6"):
        wanted.require_same(got, "the label")


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((0, 4, 4), np.eye(4), "3 positive sizes"),
        ((4, 4), np.eye(4), "3 positive sizes"),
        ((4, 4, 4), np.eye(3), r"finite \(4, 4\)"),
        ((4, 4, 4), np.full((4, 4), np.nan), r"finite \(4, 4\)"),
        ((4, 4, 4), np.diag([1.0, 1, 0, 1]), "invertible"),
        ((4, 4, 4), np.diag([1.0, 1, 1, 2]), "last row"),
    ],
)
def test_impossible_grids_are_refused(shape, affine, message):
    with pytest.raises(InvalidVolume, match=message):
        Geometry(shape, affine)


def test_the_affine_cannot_be_changed_from_outside():
    source = np.eye(4)
    geometry = Geometry((2, 2, 2), source)
    source[0, 3] = 99
    assert geometry.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 1
