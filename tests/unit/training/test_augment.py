import numpy as np
import pytest
import torch

from lib.training.augment import Draw, apply, draw
from lib.training.config import AugmentConfig

NOTHING = AugmentConfig(0, 0, 0, 0, 0, 0, 0)


def still(count: int = 1, **changes: object) -> Draw:
    """A draw that changes nothing but what is named."""
    values: dict[str, object] = {
        "angle_rad": np.zeros(count, np.float32),
        "scale": np.ones(count, np.float32),
        "shift": np.zeros((count, 2), np.float32),
        "exponent": np.ones(count, np.float32),
        "contrast": np.ones(count, np.float32),
        "brightness": np.zeros(count, np.float32),
        "noise": np.zeros(count, np.float32),
        "noise_seed": 0,
        "flips": np.zeros((count, 3), dtype=bool),
    }
    return Draw(**{**values, **changes})  # type: ignore[arg-type]


def spot(row: int, column: int, rows: int = 16, columns: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    classes = torch.zeros(1, rows, columns, dtype=torch.int64)
    classes[0, row, column] = 2
    return classes[:, None].float(), classes


def places(classes: torch.Tensor) -> list[list[int]]:
    found: list[list[int]] = torch.nonzero(classes[0]).tolist()
    return found


def test_without_ranges_nothing_changes() -> None:
    images, classes = torch.randn(3, 3, 16, 24), torch.randint(0, 4, (3, 16, 24))
    changed, moved = apply(images, classes, draw(np.random.default_rng(0), NOTHING, 3))
    torch.testing.assert_close(changed, images, atol=1e-4, rtol=1e-4)
    assert torch.equal(moved, classes)


def test_a_shift_moves_image_and_classes_by_that_share_of_the_side() -> None:
    images, classes = spot(4, 5)
    changed, moved = apply(images, classes, still(shift=np.array([[2 / 16, 3 / 24]], np.float32)))
    assert places(moved) == [[6, 8]]
    assert float(changed[0, 0, 6, 8]) == pytest.approx(2.0, abs=1e-3)


def test_a_quarter_turn_of_a_plane_that_is_not_square_turns_pixels_not_proportions() -> None:
    images, classes = spot(8, 18)  # 0.5 pixels below and 6.5 right of the centre (7.5, 11.5)
    changed, moved = apply(images, classes, still(angle_rad=np.array([np.pi / 2], np.float32)))
    assert places(moved) in ([[14, 11]], [[1, 12]])
    assert torch.equal(changed[0, 0].round().long(), moved[0])


def test_a_scale_of_two_shows_the_content_twice_as_large() -> None:
    classes = torch.zeros(1, 16, 16, dtype=torch.int64)
    classes[0, 6:10, 6:10] = 1
    _, moved = apply(classes[:, None].float(), classes, still(scale=np.array([2.0], np.float32)))
    assert int(moved.sum()) == 8 * 8
    assert places(moved)[0] == [4, 4]


def test_flips_mirror_the_axes_that_are_named() -> None:
    images = torch.arange(3 * 2 * 4, dtype=torch.float32).reshape(1, 3, 2, 4)
    classes = torch.arange(8).reshape(1, 2, 4)
    for axis in range(3):
        flips = np.zeros((1, 3), dtype=bool)
        flips[0, axis] = True
        changed, moved = apply(images, classes, still(flips=flips))
        torch.testing.assert_close(changed[0], images[0].flip(axis), atol=1e-4, rtol=0)
        assert torch.equal(moved[0], classes[0] if axis == 0 else classes[0].flip(axis - 1))


def test_flips_are_drawn_only_for_the_axes_of_the_task() -> None:
    flips = draw(np.random.default_rng(1), AugmentConfig(flips=("columns",)), 200).flips
    assert not flips[:, :2].any()
    assert 60 < flips[:, 2].sum() < 140
    assert not draw(np.random.default_rng(1), AugmentConfig(), 200).flips.any()


def test_intensities_follow_exponent_contrast_and_brightness() -> None:
    images = torch.tensor([[[[0.0, 0.5], [1.0, 2.0]]]])
    classes = torch.zeros(1, 2, 2, dtype=torch.int64)
    change = still(
        exponent=np.array([2.0], np.float32),
        contrast=np.array([3.0], np.float32),
        brightness=np.array([0.1], np.float32),
    )
    changed, _ = apply(images, classes, change)
    expected = 3 * (images / 2) ** 2 * 2 + 0.1
    torch.testing.assert_close(changed, expected, atol=1e-4, rtol=1e-4)


def test_noise_has_the_drawn_deviation_and_follows_its_seed() -> None:
    images, classes = torch.zeros(1, 1, 64, 64), torch.zeros(1, 64, 64, dtype=torch.int64)
    noisy = still(noise=np.array([0.5], np.float32), noise_seed=8)
    first, second = apply(images, classes, noisy)[0], apply(images, classes, noisy)[0]
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.5, rel=0.05)


def test_draws_stay_in_their_ranges_and_follow_the_generator() -> None:
    config = AugmentConfig(rotate_deg=15, scale=0.2, translate=0.1, gamma=0.3, contrast=0.1, brightness=0.2, noise=0.05)
    drawn = draw(np.random.default_rng(2), config, 500)
    assert 0.2 < np.abs(drawn.angle_rad).max() <= np.deg2rad(15) + 1e-6
    assert 1 / 1.2 - 1e-6 <= drawn.scale.min() < 0.9
    assert 1.1 < drawn.scale.max() <= 1.2 + 1e-6
    assert 0 <= drawn.noise.min() <= drawn.noise.max() <= 0.05
    again = draw(np.random.default_rng(2), config, 500)
    np.testing.assert_array_equal(drawn.shift, again.shift)
    assert drawn.noise_seed == again.noise_seed
