from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.core.errors import InvalidSettings
from lib.training.augment import Draw, Intensities, Mixing, Moves, apply, draw
from lib.training.augment_space import CONTROL_POINTS, bend, spline_weights, thickness
from lib.training.config import AugmentConfig

NOTHING = AugmentConfig(0, 0, 0, 0, 0, 0, 0)
EVERYTHING = AugmentConfig(elastic=0.08, low_resolution=0.8, flips=("slices", "rows", "columns"))
IGNORE = 255


def still(count: int = 1, mixing: Mixing | None = None, **changes: object) -> Draw:
    """A draw that changes nothing but what is named."""
    moves: dict[str, object] = {
        "angle_rad": np.zeros(count, np.float32),
        "scale": np.ones(count, np.float32),
        "shift": np.zeros((count, 3), np.float32),
        "flips": np.zeros((count, 3), dtype=bool),
        "tilt_rad": np.zeros((count, 2), np.float32),
        "elastic": None,
    }
    intensities: dict[str, object] = {
        "exponent": np.ones(count, np.float32),
        "contrast": np.ones(count, np.float32),
        "brightness": np.zeros(count, np.float32),
        "noise": np.zeros(count, np.float32),
        "noise_seed": 0,
        "coarseness": np.ones(count, np.float32),
    }
    for name, value in changes.items():
        (moves if name in moves else intensities)[name] = np.asarray(value, np.float32) if name != "flips" else value
    intensities["noise_seed"] = int(intensities["noise_seed"])  # type: ignore[call-overload]
    return Draw(Moves(**moves), Intensities(**intensities), mixing)  # type: ignore[arg-type]


def spot(*place: int, space: tuple[int, ...] = (16, 24)) -> tuple[Tensor, Tensor]:
    """One voxel of class 2 in a slice or a patch, as bright as its class."""
    classes = torch.zeros(1, *space, dtype=torch.int64)
    classes[(0, *place)] = 2
    return classes[:, None].float(), classes


def places(classes: Tensor) -> list[list[int]]:
    found: list[list[int]] = torch.nonzero(classes[0]).tolist()
    return found


@pytest.mark.parametrize("space", [(16, 24), (5, 16, 24)])
def test_without_ranges_nothing_changes_at_all(space: tuple[int, ...]) -> None:
    images, classes = torch.randn(3, 1, *space), torch.randint(0, 4, (3, *space))
    changed, moved = apply(images, classes, draw(np.random.default_rng(0), NOTHING, 3, len(space)))
    assert torch.equal(changed, images)
    assert torch.equal(moved, classes)


def test_a_shift_moves_image_and_classes_by_that_share_of_the_side() -> None:
    images, classes = spot(4, 5)
    changed, moved = apply(images, classes, still(shift=[[0, 2 / 16, 3 / 24]]))
    assert places(moved) == [[6, 8]]
    assert float(changed[0, 0, 6, 8]) == pytest.approx(2.0, abs=1e-3)


def test_a_shift_of_a_patch_moves_it_along_all_three_axes() -> None:
    images, classes = spot(2, 4, 5, space=(8, 16, 24))
    changed, moved = apply(images, classes, still(shift=[[-1 / 8, 2 / 16, 3 / 24]]))
    assert places(moved) == [[1, 6, 8]]
    assert float(changed[0, 0, 1, 6, 8]) == pytest.approx(2.0, abs=1e-3)


def test_a_quarter_turn_of_a_plane_that_is_not_square_turns_pixels_not_proportions() -> None:
    images, classes = spot(8, 18)  # 0.5 pixels below and 6.5 right of the centre (7.5, 11.5)
    changed, moved = apply(images, classes, still(angle_rad=[np.pi / 2]))
    assert places(moved) in ([[14, 11]], [[1, 12]])
    assert torch.equal(changed[0, 0].round().long(), moved[0])


def test_a_quarter_turn_of_a_patch_stays_in_the_slice_and_equals_that_of_the_slice() -> None:
    images, classes = spot(2, 8, 18, space=(6, 16, 24))
    turn = still(angle_rad=[np.pi / 2])
    changed, moved = apply(images, classes, turn)
    plane = apply(*spot(8, 18), turn)[1]
    assert places(moved) == [[2, *places(plane)[0]]]
    assert torch.equal(changed[0, 0].round().long(), moved[0])


@pytest.mark.parametrize(("axis", "expected"), [("row", [11, 5, 3]), ("column", [10, 3, 4])])
def test_a_quarter_tilt_of_a_cube_turns_the_two_other_axes_into_each_other(axis: str, expected: list[int]) -> None:
    images, classes = spot(3, 5, 4, space=(16, 16, 16))
    tilt = still(tilt_rad=[[np.pi / 2 * (axis == "row"), np.pi / 2 * (axis == "column")]])
    changed, moved = apply(images, classes, tilt)
    assert places(moved) == [expected]
    assert torch.equal(changed[0, 0].round().long(), moved[0])


def test_a_patch_of_few_slices_is_tilted_less() -> None:
    assert thickness(torch.Size((2, 1, 4, 16, 10))) == 0.25
    assert thickness(torch.Size((20, 16, 10))) == 1.0
    classes = torch.zeros(1, 4, 17, 17, dtype=torch.int64)
    classes[0, 1:3] = 1
    moved = apply(classes[:, None].float(), classes, still(tilt_rad=[[0.5, 0.0]]))[1]
    risen = [int(column) for column in torch.nonzero(moved[0, 3, 8])]
    # the tilt of 0.5 becomes 0.5 * 4 / 17 = 0.118: slice 3 is met where 8 voxels from the axis rise by sin 0.118 = 0.94
    assert risen
    assert min(abs(column - 8) for column in risen) >= 5


def test_a_scale_of_two_shows_the_content_twice_as_large() -> None:
    classes = torch.zeros(1, 16, 16, dtype=torch.int64)
    classes[0, 6:10, 6:10] = 1
    _, moved = apply(classes[:, None].float(), classes, still(scale=[2.0]))
    assert int(moved.sum()) == 8 * 8
    assert places(moved)[0] == [4, 4]


def test_a_scale_of_two_shows_a_box_in_a_patch_eight_times_as_large() -> None:
    classes = torch.zeros(1, 8, 16, 16, dtype=torch.int64)
    classes[0, 3:5, 6:10, 6:10] = 1
    _, moved = apply(classes[:, None].float(), classes, still(scale=[2.0]))
    assert int(moved.sum()) == 4 * 8 * 8
    assert places(moved)[0] == [2, 4, 4]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_mirror_the_axes_that_are_named(axis: int) -> None:
    flips = np.zeros((1, 3), dtype=bool)
    flips[0, axis] = True
    images, classes = torch.arange(24.0).reshape(1, 3, 2, 4), torch.arange(8).reshape(1, 2, 4)
    changed, moved = apply(images, classes, still(flips=flips))
    assert torch.equal(changed[0], images[0].flip(axis))
    assert torch.equal(moved[0], classes[0] if axis == 0 else classes[0].flip(axis - 1))
    patch, its_classes = images[:, None], images.long()
    changed, moved = apply(patch, its_classes, still(flips=flips))
    assert torch.equal(changed[0, 0], images[0].flip(axis))
    assert torch.equal(moved[0], its_classes[0].flip(axis))


def test_only_the_pictures_that_drew_a_change_are_changed() -> None:
    images, classes = torch.randn(3, 2, 9, 7), torch.randint(0, 4, (3, 9, 7))
    flips = np.array([[False] * 3, [False, True, False], [False] * 3])
    one = still(3, angle_rad=[0, 1, 0], exponent=[1, 2, 1], noise=[0, 1, 0], coarseness=[1, 2, 1], flips=flips)
    changed, moved = apply(images, classes, one)
    for untouched in (0, 2):
        assert torch.equal(changed[untouched], images[untouched])
        assert torch.equal(moved[untouched], classes[untouched])
    assert not torch.equal(changed[1], images[1])


def test_flips_are_drawn_only_for_the_axes_of_the_task() -> None:
    flips = draw(np.random.default_rng(1), AugmentConfig(flips=("columns",)), 200).moves.flips
    assert not flips[:, :2].any()
    assert 60 < flips[:, 2].sum() < 140
    assert not draw(np.random.default_rng(1), AugmentConfig(), 200).moves.flips.any()


def test_intensities_follow_exponent_contrast_and_brightness() -> None:
    images, classes = torch.tensor([[[[0.0, 0.5], [1.0, 2.0]]]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    changed, _ = apply(images, classes, still(exponent=[2.0], contrast=[3.0], brightness=[0.1]))
    expected = 3 * (images / 2) ** 2 * 2 + 0.1
    torch.testing.assert_close(changed, expected, atol=1e-4, rtol=1e-4)


def test_a_constant_picture_stays_finite_under_a_curve() -> None:
    images, classes = torch.full((1, 1, 4, 4), 7.0), torch.zeros(1, 4, 4, dtype=torch.int64)
    torch.testing.assert_close(apply(images, classes, still(exponent=[1.7]))[0], images)


def test_coarser_sampling_averages_neighbours_and_leaves_classes() -> None:
    images, classes = torch.arange(16.0).reshape(1, 1, 1, 16), torch.arange(16).reshape(1, 1, 16)
    changed, moved = apply(images, classes, still(coarseness=[4.0]))
    # means of four: 1.5, 5.5, 9.5, 13.5, at the positions 1.5, 5.5, 9.5, 13.5: linear between, constant outside
    torch.testing.assert_close(changed, images.clamp(1.5, 13.5))
    assert torch.equal(moved, classes)


def test_coarser_sampling_spares_the_few_slices_of_a_thick_patch() -> None:
    rows = torch.arange(16.0)[None, None, None, :, None].expand(1, 1, 2, 16, 16)
    slices = torch.tensor([0.0, 100.0])[None, None, :, None, None]
    classes = torch.zeros(1, 2, 16, 16, dtype=torch.int64)
    changed, _ = apply(rows + slices, classes, still(coarseness=[2.0]))
    torch.testing.assert_close(changed, rows.clamp(0.5, 14.5) + slices)


def test_noise_has_the_drawn_deviation_and_follows_its_seed() -> None:
    images, classes = torch.zeros(1, 1, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int64)
    noisy = still(noise=[0.5], noise_seed=8)
    first, second = apply(images, classes, noisy)[0], apply(images, classes, noisy)[0]
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(first, apply(images, classes, still(noise=[0.5], noise_seed=9))[0])


def test_draws_stay_in_their_ranges_and_follow_the_generator() -> None:
    config = AugmentConfig(rotate_deg=15, scale=0.2, translate=0.1, gamma=0.3, contrast=0.1, brightness=0.2, noise=0.05)
    drawn = draw(np.random.default_rng(2), config, 500)
    assert 0.2 < np.abs(drawn.moves.angle_rad).max() <= np.deg2rad(15) + 1e-6
    assert 1 / 1.2 - 1e-6 <= drawn.moves.scale.min() < 0.9
    assert 1.1 < drawn.moves.scale.max() <= 1.2 + 1e-6
    assert 0 <= drawn.intensities.noise.min() <= drawn.intensities.noise.max() <= 0.05
    again = draw(np.random.default_rng(2), config, 500)
    np.testing.assert_array_equal(drawn.moves.shift, again.moves.shift)
    assert drawn.intensities.noise_seed == again.intensities.noise_seed


def test_options_that_came_later_leave_the_earlier_draws_of_a_seed_as_they_were() -> None:
    rng = np.random.default_rng(3)
    angles = rng.uniform(-10, 10, 4)
    rng.uniform(size=4)  # scale
    shifts = rng.uniform(-0.05, 0.05, (4, 2))
    for config in (AugmentConfig(), EVERYTHING, AugmentConfig(mixup=1.0)):
        drawn = draw(np.random.default_rng(3), config, 4)
        np.testing.assert_allclose(drawn.moves.angle_rad, np.deg2rad(angles), rtol=1e-6)
        np.testing.assert_allclose(drawn.moves.shift, np.pad(shifts, ((0, 0), (1, 0))), rtol=1e-6)


def test_slices_are_neither_tilted_nor_shifted_across_and_patches_are() -> None:
    plane, patch = (draw(np.random.default_rng(4), AugmentConfig(), 50, dimensions).moves for dimensions in (2, 3))
    assert not plane.tilt_rad.any()
    assert not plane.shift[:, 0].any()
    assert 0 < np.abs(patch.tilt_rad).max() <= np.deg2rad(10) + 1e-6
    assert 0 < np.abs(patch.shift[:, 0]).max() <= 0.05


def test_each_change_happens_to_its_share_of_the_pictures_apart_from_the_others() -> None:
    config = replace(EVERYTHING, share=0.3)
    drawn = draw(np.random.default_rng(5), config, 1000, 3)
    moves, intensities = drawn.moves, drawn.intensities
    assert moves.elastic is not None
    changed = {
        "rotate": moves.angle_rad != 0,
        "scale": moves.scale != 1,
        "translate": moves.shift.any(axis=1),
        "elastic": moves.elastic.reshape(1000, -1).any(axis=1),
        "gamma": intensities.exponent != 1,
        "contrast": intensities.contrast != 1,
        "brightness": intensities.brightness != 0,
        "noise": intensities.noise != 0,
        "low_resolution": intensities.coarseness != 1,
    }
    assert all(240 < chosen.sum() < 360 for chosen in changed.values()), {k: v.sum() for k, v in changed.items()}
    assert 50 < (changed["rotate"] & changed["scale"]).sum() < 130  # 0.09 of them
    np.testing.assert_array_equal(changed["rotate"], moves.tilt_rad.any(axis=1))
    assert 400 < moves.flips[:, 0].sum() < 600


def test_spline_weights_are_those_of_the_cubic_b_spline() -> None:
    weights = spline_weights(8)  # two voxels an interval, at 1/4 and 3/4 of it
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    quarter = np.array([27, 235, 121, 1]) / 384  # by hand: (3/4)^3 / 6, (3/64 - 6/16 + 4) / 6, ..., (1/4)^3 / 6
    np.testing.assert_allclose(weights[0, :4], quarter, atol=1e-6)
    np.testing.assert_allclose(weights[7, 3:], quarter[::-1], atol=1e-6)


def test_control_points_that_all_move_alike_shift_the_picture() -> None:
    elastic = np.zeros((1, 2, CONTROL_POINTS, CONTROL_POINTS), np.float32)
    elastic[0, 0] = -3 / 16  # columns, as a share of the shortest side, to where the picture is read
    images, classes = spot(4, 5)
    assert places(apply(images, classes, still(elastic=elastic))[1]) == [[4, 8]]


def test_a_deformation_is_smooth_and_no_larger_than_its_control_points() -> None:
    drawn = draw(np.random.default_rng(6), AugmentConfig(elastic=0.08), 4, 3).moves.elastic
    assert drawn is not None
    assert 0.07 < np.abs(drawn).max() <= 0.08
    space = torch.Size((12, 40, 56))
    voxels = bend(torch.from_numpy(drawn), space) * torch.tensor([56.0, 40, 12]) / 2  # (B, S, H, W, D)
    assert 0.2 * 0.08 * 12 < float(voxels.abs().max()) <= 0.08 * 12
    assert float(voxels.diff(dim=3).abs().max()) < 0.25  # neighbours along the columns move nearly alike


@pytest.mark.parametrize("dimensions", [2, 3])
def test_images_and_classes_move_together(dimensions: int) -> None:
    space = (24, 32) if dimensions == 2 else (12, 24, 32)
    classes = torch.zeros(4, *space, dtype=torch.int64)
    classes[(..., slice(8, 16), slice(10, 22))] = 1
    config = replace(NOTHING, rotate_deg=30, scale=0.2, translate=0.1, elastic=0.08, flips=("rows", "columns"))
    changed, moved = apply(classes[:, None].float(), classes, draw(np.random.default_rng(7), config, 4, dimensions))
    clear = (changed[:, 0] - 0.5).abs() > 0.45  # away from the border, where linear and nearest differ
    assert torch.equal((changed[:, 0] > 0.5)[clear], (moved == 1)[clear])
    assert not torch.equal(moved, classes)


def test_voxels_without_a_class_stay_without_one() -> None:
    classes = torch.randint(0, 3, (4, 6, 20, 20))
    classes[:, :, :10] = IGNORE
    drawn = draw(np.random.default_rng(8), replace(EVERYTHING, flips=()), 4, 3)
    moved = apply(torch.randn(4, 1, 6, 20, 20), classes, drawn)[1]
    assert moved.dtype == torch.int64
    assert set(np.unique(moved)) == {0, 1, 2, IGNORE}
    assert 0.3 < float((moved == IGNORE).float().mean()) < 0.7


def test_blended_pictures_are_weighted_sums_with_the_one_before() -> None:
    images = torch.tensor([10.0, 20.0, 40.0])[:, None, None, None].expand(3, 1, 2, 2)
    classes = torch.arange(3)[:, None, None].expand(3, 2, 2)
    changed, own = apply(images, classes, still(3, Mixing(weight=0.75)))
    assert changed[:, 0, 0, 0].tolist() == [0.75 * 10 + 0.25 * 40, 0.75 * 20 + 0.25 * 10, 0.75 * 40 + 0.25 * 20]
    assert torch.equal(own, classes)


@pytest.mark.parametrize(("space", "sides"), [((20, 10), (10, 5)), ((16, 20, 12), (8, 10, 6))])
def test_a_box_has_the_drawn_share_of_the_picture_and_comes_from_the_one_before(
    space: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    dimensions = len(space)
    classes = torch.arange(2).view(2, *[1] * dimensions).expand(2, *space)
    mixing = Mixing(1 - 0.5**dimensions, (0.0, *[1.0] * (dimensions - 1)))
    changed, moved = apply(classes[:, None].float(), classes, still(2, mixing))
    assert int((moved[0] == 1).sum()) == int(np.prod(sides))
    assert torch.equal(moved[1], 1 - moved[0])
    assert torch.equal(changed[:, 0].long(), moved)
    assert places(moved)[0] == [0, *(n - side for n, side in zip(space[1:], sides[1:], strict=True))]


def test_steps_are_mixed_as_often_as_the_config_says() -> None:
    rng, config = np.random.default_rng(9), replace(NOTHING, mixup=0.2, cutmix=0.5)
    drawn = [draw(rng, config, 2, 3).mixing for _ in range(400)]
    assert 55 < sum(mixing is not None and mixing.blends for mixing in drawn) < 105
    assert 160 < sum(mixing is not None and not mixing.blends for mixing in drawn) < 240
    assert all(len(mixing.corner) in (0, 3) and 0 <= mixing.weight <= 1 for mixing in drawn if mixing is not None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"elastic": -0.1}, "elastic is out of range"),
        ({"low_resolution": -1.0}, "low_resolution must be 0 or more, got -1.0"),
        ({"low_resolution": float("nan")}, "low_resolution must be 0 or more, got nan"),
        ({"low_resolution": float("inf")}, "low_resolution must be 0 or more, got inf"),
        ({"share": 1.5}, "share must be from 0 to 1, got 1.5"),
        ({"mixup": 0.7, "cutmix": 0.4}, "must share the steps"),
        ({"flips": ("diagonal",)}, "flips may hold"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        AugmentConfig(**options)


@settings(max_examples=40, deadline=None)
@given(
    space=st.lists(st.integers(1, 13), min_size=2, max_size=3),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_shape_keeps_its_size_its_classes_and_finite_values(
    space: list[int], count: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(count, 1, *space)).astype(np.float32))
    classes = torch.from_numpy(rng.integers(0, 3, (count, *space)))
    before = images.clone(), classes.clone()
    config = replace(EVERYTHING, share=share, mixup=0.3, cutmix=0.3)
    drawn = draw(rng, config, count, len(space))
    changed, moved = apply(images, classes, drawn)
    assert changed.shape == images.shape
    assert moved.shape == classes.shape
    assert bool(changed.isfinite().all())
    assert set(np.unique(moved)) <= set(np.unique(classes))
    assert torch.equal(images, before[0])
    assert torch.equal(classes, before[1])
    again = apply(images, classes, drawn)
    assert torch.equal(changed, again[0])
    assert torch.equal(moved, again[1])
