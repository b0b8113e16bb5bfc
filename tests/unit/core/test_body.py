"""Labels in the air are told from labels in the body, in CT, in MR and where an image was padded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.body import air_threshold, body_slices, off_body, padding_value
from lib.core.errors import GeometryMismatch
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume

SHAPE = (5, 40, 48)
SCHEMA = LabelSchema(
    (
        Label("lung", 4, (200, 60, 60), Code("1", "SCT", "Lung")),
        Label("skin", 1, (60, 60, 200), Code("2", "SCT", "Skin")),
    )
)
BODY = (slice(None), slice(10, 30), slice(10, 38))
GAS = (slice(None), slice(16, 24), slice(18, 28))
AIR = (slice(None), slice(1, 7), slice(2, 9))


def ct(seed: int = 0, noise: float = 15.0) -> Volume:
    """Air, a body, and gas that the body encloses in each slice."""
    array = np.full(SHAPE, -1000.0)
    array[BODY], array[GAS] = 40.0, -1000.0
    array += np.random.default_rng(seed).normal(0, noise, SHAPE)
    return Volume(np.round(array).clip(-1024), Geometry.from_spacing(SHAPE, (3, 1, 1)), "CT")


def mr(seed: int = 0, tissue: float = 400.0, noise: float = 25.0) -> Volume:
    """The same as a magnitude image, whose noise in the air is no noise around 0 (Rayleigh)."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(SHAPE)
    signal[BODY], signal[GAS] = tissue, 0.0
    array = np.hypot(signal + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE))
    return Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "MR")


def labelled(volume: Volume, *places: tuple[int, tuple[slice, ...]]) -> Mask:
    array = np.zeros(volume.geometry.shape, np.uint8)
    for value, place in places:
        array[place] = value
    return Mask(array, volume.geometry, SCHEMA)


@pytest.mark.parametrize("volume", [ct(), mr(), mr(tissue=40.0, noise=1.5)], ids=["ct", "mr", "faint mr"])
def test_a_label_in_the_air_is_off_the_body_and_one_in_gas_within_it_is_not(volume: Volume) -> None:
    found = off_body(volume, labelled(volume, (4, GAS), (1, AIR)), 0.1)
    assert list(found) == ["skin"]
    assert found["skin"] < 0.05
    assert off_body(volume, labelled(volume, (4, BODY)), 0.1) == {}


def test_a_label_that_is_half_in_the_air_has_half_its_share() -> None:
    volume = ct(noise=0.0)
    half = labelled(volume, (4, (slice(None), slice(0, 20), slice(15, 17))))  # rows 10 to 19 are body
    assert off_body(volume, half, 0.1) == {}
    assert off_body(volume, half, 0.9) == {"lung": 0.5}


def test_lungs_cut_off_by_the_field_of_view_are_tissue() -> None:
    array = ct().array.copy()
    array[:, :, :] += np.where(array < -900, 150.0, 0.0)  # -850 HU up to the border
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "CT")
    assert off_body(volume, labelled(volume, (4, AIR)), 0.5) == {}


def test_padding_is_no_image_whatever_its_value() -> None:
    array = np.random.default_rng(0).normal(40, 10, SHAPE)
    array[:, :, :16] = array[:, :8] = array[:, 32:] = array[:, :, 40:] = 0.0
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "CT")
    assert padding_value(volume.array) == 0.0
    assert off_body(volume, labelled(volume, (4, AIR)), 0.1) == {"lung": 0.0}
    assert off_body(volume, labelled(volume, (4, (slice(2, 4), slice(12, 20), slice(20, 30)))), 0.1) == {}


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_in_a_constant_image_nothing_is_tissue(modality: str) -> None:
    volume = Volume(np.full(SHAPE, 100.0), Geometry.from_spacing(SHAPE, (3, 1, 1)), modality)
    assert off_body(volume, labelled(volume, (4, BODY)), 0.1) == {"lung": 0.0}


def test_a_cut_out_from_within_the_body_has_no_air() -> None:
    array = np.random.default_rng(0).normal(30, 20, SHAPE)
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "CT")
    assert off_body(volume, labelled(volume, (4, AIR), (1, GAS)), 0.5) == {}


@pytest.mark.parametrize("spread", [50.0, 0.0], ids=["bell", "even"])
def test_dark_tissue_at_the_border_of_a_cut_out_of_mr_is_no_air(spread: float) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(300, spread, SHAPE) if spread else rng.uniform(100, 1000, SHAPE)
    vessel = (slice(None), slice(0, 9), slice(0, 9))  # flowing blood, black up to the edge
    array[vessel] = np.abs(rng.normal(8, 4, array[vessel].shape))
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "MR")
    assert off_body(volume, labelled(volume, (4, vessel)), 0.5) == {}


def test_behind_white_padding_tissue_stays_tissue() -> None:
    array = np.full(SHAPE, 4095.0)
    array[BODY] = np.random.default_rng(0).normal(100, 10, SHAPE)[BODY]
    array[GAS] = 5.0
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "MR")
    assert off_body(volume, labelled(volume, (4, GAS), (1, AIR)), 0.5) == {"skin": 0.0}
    assert off_body(volume, labelled(volume, (4, BODY)), 0.5) == {}


def test_the_threshold_of_mr_is_a_tenth_of_the_way_between_the_robust_ends() -> None:
    array = np.linspace(0, 1000, 5 * 40 * 48).reshape(SHAPE)
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "MR")
    assert air_threshold(volume) == pytest.approx(20 + 0.1 * 960, abs=0.2)
    assert air_threshold(ct()) == -900


def test_another_grid_is_refused() -> None:
    other = Volume(np.zeros((5, 40, 40)), Geometry.from_spacing((5, 40, 40), (3, 1, 1)), "CT")
    with pytest.raises(GeometryMismatch):
        off_body(ct(), labelled(other), 0.1)


def test_nothing_labelled_is_nowhere_off_the_body() -> None:
    assert off_body(ct(), labelled(ct()), 1.0) == {}


VOLUMES = [ct(1), mr(1)]


@settings(max_examples=40, deadline=None)
@given(
    which=st.sampled_from(range(len(VOLUMES))),
    size=st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(2, 6)),
    corner=st.tuples(st.integers(0, 4), st.integers(0, 34), st.integers(0, 42)),
)
def test_a_box_within_the_body_is_never_off_it_and_a_box_two_voxels_away_always(
    which: int, size: tuple[int, int, int], corner: tuple[int, int, int]
) -> None:
    volume = VOLUMES[which]
    place = tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))
    is_off = bool(off_body(volume, labelled(volume, (4, place)), 0.1))
    rows, columns = place[1:]
    if rows.start >= 10 and rows.stop <= 30 and columns.start >= 10 and columns.stop <= 38:
        assert not is_off
    if rows.stop <= 8 or rows.start >= 32 or columns.stop <= 8 or columns.start >= 40:
        assert is_off


@pytest.mark.parametrize("volume", [ct(), mr()], ids=["ct", "mr"])
@pytest.mark.parametrize("empty", ["constant", "noise"])
def test_slices_around_the_body_hold_none_and_do_not_change_which_do(volume: Volume, empty: str) -> None:
    around = {"constant": np.full((9, *SHAPE[1:]), volume.array.min()), "noise": volume.array[:1].repeat(9, axis=0)}[
        empty
    ]
    if empty == "noise":
        around[:, 8:32, 8:40] = volume.array[0, :2, :2].mean()  # what is left is air alone
    array = np.concatenate([around, volume.array, around])
    longer = Volume(array, Geometry.from_spacing(array.shape, (3, 1, 1)), volume.modality)
    assert body_slices(volume).tolist() == [True] * 5
    assert body_slices(longer).tolist() == [False] * 9 + [True] * 5 + [False] * 9


def test_a_table_alone_is_no_body_and_a_white_frame_is_none_either() -> None:
    array = ct().array.copy()
    array[:, 33:35, 18:30] = 200.0  # a table below the patient
    array[3:, :33] = -1000.0
    array[0] = 3071.0
    volume = Volume(array, Geometry.from_spacing(SHAPE, (3, 1, 1)), "CT")
    assert body_slices(volume).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("value", [-1000.0, 0.0, 3071.0])
def test_no_slice_of_a_constant_image_holds_the_body(value: float) -> None:
    volume = Volume(np.full(SHAPE, value), Geometry.from_spacing(SHAPE, (3, 1, 1)), "CT")
    assert body_slices(volume).tolist() == [False] * 5
