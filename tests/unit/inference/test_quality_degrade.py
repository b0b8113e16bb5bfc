import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.quality_degrade import KINDS, degrade, planned

SCHEMA = LabelSchema((Label("liver", 4, (9, 9, 9), Code("1", "Liver")),))
GRID = Geometry.from_spacing((12, 20, 24), (3.0, 1.0, 2.0), (5.0, -7.0, 11.0))


@pytest.fixture
def volume() -> Volume:
    return Volume(np.random.default_rng(0).normal(40, 300, GRID.shape).astype(np.float32), GRID, "CT")


@pytest.mark.parametrize("kind", KINDS)
def test_no_strength_changes_next_to_nothing(volume: Volume, kind: str) -> None:
    made = degrade(volume, kind, 0.0, np.random.default_rng(1)).volume
    assert made.geometry.is_close(GRID)
    np.testing.assert_allclose(made.array, volume.array, atol=1e-2)


@pytest.mark.parametrize("kind", ["noise", "motion", "bias"])
def test_a_stronger_degradation_is_further_from_the_picture(volume: Volume, kind: str) -> None:
    far = [
        float(np.abs(degrade(volume, kind, strength, np.random.default_rng(1)).volume.array - volume.array).mean())
        for strength in (0.2, 0.5, 0.9)
    ]
    assert 0 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_leaves_every_voxel_where_it_was_in_the_patient(volume: Volume, seed: int) -> None:
    mask = Mask((volume.array > 0).astype(np.uint8) * 4, GRID, SCHEMA)
    made = degrade(volume, "crop", 0.9, np.random.default_rng(seed))
    cut = made.cut(mask)
    assert made.volume.array.size < volume.array.size
    last = np.array(made.volume.geometry.shape) - 1
    there = np.round(GRID.to_index(made.volume.geometry.to_lps(last))).astype(int)
    assert made.volume.array[tuple(last)] == volume.array[tuple(there)]
    np.testing.assert_array_equal(cut.array == 4, made.volume.array > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_picture(volume: Volume, kind: str) -> None:
    first, second, other = (degrade(volume, kind, 0.6, np.random.default_rng(seed)).volume for seed in (1, 1, 5))
    np.testing.assert_array_equal(first.array, second.array)
    assert first.array.shape != other.array.shape or (first.array != other.array).any()


def test_a_picture_without_contrast_stays_finite() -> None:
    flat = Volume(np.full(GRID.shape, 7, dtype=np.float32), GRID, "MR")
    for kind in KINDS:
        assert np.isfinite(degrade(flat, kind, 1.0, np.random.default_rng(0)).volume.array).all()


def test_copies_of_many_pictures_have_every_kind_at_every_strength() -> None:
    plans = [plan for number in range(8) for plan in planned(number, 2, (0.2, 0.8))]
    assert {plan: plans.count(plan) for plan in plans} == {
        (kind, strength): 2 for kind in KINDS for strength in (0.2, 0.8)
    }
