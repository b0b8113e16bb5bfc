import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import GeometryMismatch, InconsistentSeries, UnreadablePixels
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.dicom.series import DRIFT_TOLERANCE_MM, assemble, match_slice_order, reversed_slices
from lib.dicom.writer import series_to_datasets

ANGLES = st.floats(-3.1, 3.1)
SPACINGS = st.floats(0.2, 6.0)
GRIDS = st.tuples(
    st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(2, 6)),
    st.tuples(SPACINGS, SPACINGS, SPACINGS),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(ANGLES, ANGLES, ANGLES),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
)


@given(grid=GRIDS, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_orthogonal_grid_comes_back_with_values_and_places(
    grid, seed, oblique, identity, through_bytes, shuffled
) -> None:
    geometry = oblique(*grid)
    values = np.random.default_rng(seed).integers(-1000, 2000, geometry.shape).astype(np.float32)
    written = [through_bytes(d) for d in series_to_datasets(Volume(values, geometry, "CT"), identity())]

    series = assemble(shuffled(written, seed))

    against_normal = np.linalg.det(geometry.affine[:3, :3]) > 0  # slices counted against row x column
    expected, places = (values[::-1], reversed_slices(geometry)) if against_normal else (values, geometry)
    assert series.geometry.is_close(places, 0.001)
    np.testing.assert_array_equal(series.volume.array, expected)


def test_slices_follow_positions_and_not_instance_numbers(ct) -> None:
    datasets = ct(shape=(4, 3, 2))
    expected = assemble(datasets).volume.array
    for number, dataset in enumerate(reversed(datasets)):
        dataset.InstanceNumber = number
        dataset.SliceLocation = number
    np.testing.assert_array_equal(assemble(datasets[::-1]).volume.array, expected)


def test_the_volume_knows_its_series(ct) -> None:
    datasets = ct()
    series = assemble(datasets)
    assert series.series_uid == datasets[0].SeriesInstanceUID
    assert series.study_uid == datasets[0].StudyInstanceUID
    assert series.frame_of_reference_uid == datasets[0].FrameOfReferenceUID
    assert series.volume.modality == "CT"
    assert series.findings == ()


def test_headers_are_ordered_like_slices_and_carry_no_pixels(ct, shuffled) -> None:
    series = assemble(shuffled(ct()))
    heights = [float(header.ImagePositionPatient[2]) for header in series.headers]
    assert heights == sorted(heights)
    assert not any("PixelData" in header for header in series.headers)
    assert str(series.headers[0].PatientName) == "Prüfer^Ärmin"


def test_the_given_data_sets_stay_as_they_are(ct) -> None:
    datasets = ct()
    before = copy.deepcopy(datasets)
    assemble(datasets)
    assert datasets == before


def test_each_slice_has_its_own_rescale(ct) -> None:
    datasets = ct(shape=(3, 2, 2))
    for index, dataset in enumerate(datasets):
        dataset.PixelData = np.full((2, 2), 10, np.int16).tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = index + 1, -100 * index
    array = assemble(datasets).volume.array
    np.testing.assert_array_equal(array[:, 0, 0], [10, -80, -170])


@pytest.mark.parametrize(("signed", "expected"), [(0, 65535.0), (1, -1.0)])
def test_the_pixel_representation_decides_the_sign(ct, signed, expected) -> None:
    datasets = ct(shape=(2, 2, 2))
    for dataset in datasets:
        dataset.PixelData = b"\xff\xff" * 4
        dataset.PixelRepresentation = signed
    assert (assemble(datasets).volume.array == expected).all()


def test_bits_above_the_stored_ones_do_not_count(ct) -> None:
    datasets = ct(shape=(2, 2, 2))
    for dataset in datasets:
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 1
        dataset.PixelData = np.full(4, 0x7FFE, np.uint16).tobytes()  # an overlay above, -2 in 12 bits below
    assert (assemble(datasets).volume.array == -2).all()


def test_rounded_positions_are_tolerated_and_mentioned(ct) -> None:
    datasets = ct(shape=(5, 3, 3), spacing_mm=(0.625, 1, 1))
    for dataset in datasets:
        dataset.ImagePositionPatient = [round(float(x), 2) for x in dataset.ImagePositionPatient]
    series = assemble(datasets)
    assert series.geometry.spacing_mm[0] == pytest.approx(0.625, abs=0.0026)
    assert series.findings == ("slice gaps vary by 0.005 mm",)


def test_a_missing_slice_is_named(ct) -> None:
    datasets = ct(shape=(7, 3, 3), spacing_mm=(2.5, 1, 1))
    del datasets[3]
    with pytest.raises(InconsistentSeries, match=r"2\.500 mm, got 5\.000 mm between slices 3 and 4 of 6"):
        assemble(datasets)


def test_a_gap_that_changes_slowly_is_refused(ct) -> None:
    datasets = ct(shape=(40, 2, 2), spacing_mm=(2.0, 1, 1))
    for index, dataset in enumerate(datasets):
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y, z + 0.03 * max(0, index - 20)]
    with pytest.raises(InconsistentSeries, match=f"within {DRIFT_TOLERANCE_MM} mm of an even grid"):
        assemble(datasets)


def test_a_tilted_gantry_is_refused_with_its_angle(ct) -> None:
    datasets = ct(shape=(6, 3, 3), spacing_mm=(2.0, 1, 1))
    for index, dataset in enumerate(datasets):
        x, y, z = (float(v) for v in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + index * 2.0 * np.tan(np.radians(12)), z]
    with pytest.raises(InconsistentSeries, match=r"gantry tilt of 12\.0 degrees"):
        assemble(datasets)


def test_two_slices_at_one_position_are_refused(ct) -> None:
    datasets = ct(shape=(4, 3, 3))
    datasets[2].ImagePositionPatient = datasets[1].ImagePositionPatient
    with pytest.raises(InconsistentSeries, match="each position may hold one slice, got 1 doubled"):
        assemble(datasets)


def _turn(dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _skew(dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_turn, "several orientations"),
        (lambda d: setattr(d, "Rows", 6), "one size, got 2: 6x6; 7x6"),
        (lambda d: setattr(d, "PixelSpacing", [1, 1]), "one PixelSpacing, got 2"),
        (lambda d: setattr(d, "SeriesInstanceUID", "1.2.3"), "one SeriesInstanceUID, got 2"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "one FrameOfReferenceUID, got 2"),
        (lambda d: setattr(d, "Modality", "MR"), "one Modality, got 2: CT; MR"),
        (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
        (lambda d: delattr(d, "ImagePositionPatient"), "lacks ImagePositionPatient"),
        (lambda d: setattr(d, "FrameOfReferenceUID", ""), "lacks FrameOfReferenceUID"),
        (lambda d: setattr(d, "ImagePositionPatient", [1, 2]), "must be 3 numbers, got"),
        (lambda d: setattr(d, "RescaleSlope", [1, 2]), "a header of the series is malformed: TypeError"),
    ],
)
def test_mixed_series_are_refused_with_the_reason(ct, change, reason) -> None:
    datasets = ct()
    change(datasets[1])
    with pytest.raises(InconsistentSeries, match=reason):
        assemble(datasets)


def test_directions_that_are_not_orthogonal_are_refused(ct) -> None:
    datasets = ct()
    for dataset in datasets:
        _skew(dataset)
    with pytest.raises(InconsistentSeries, match="two orthogonal unit vectors"):
        assemble(datasets)


def _colour(dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: delattr(d, "PixelData"), "has no pixel data"),
        (_colour, "must be grey"),
        (lambda d: setattr(d, "NumberOfFrames", 2), "holds 2 frames"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-4]), "Explicit VR Little Endian cannot be decoded"),
        (lambda d: setattr(d, "ModalityLUTSequence", []), "lookup table"),
    ],
)
def test_pixels_that_cannot_be_used_are_named(ct, change, reason) -> None:
    datasets = ct()
    change(datasets[1])
    with pytest.raises(UnreadablePixels, match=reason) as caught:
        assemble(datasets)
    assert datasets[1].SOPInstanceUID in str(caught.value)


def test_no_instance_makes_no_volume() -> None:
    with pytest.raises(InconsistentSeries, match="at least one instance, got none"):
        assemble([])


def test_a_single_slice_is_as_thick_as_it_says(ct) -> None:
    series = assemble(ct(shape=(1, 4, 3), spacing_mm=(3.5, 1, 1)))
    assert series.geometry.spacing_mm == pytest.approx((3.5, 1, 1))
    assert series.findings == ("a single slice, taken as 3.5 mm thick",)


def test_a_single_slice_without_thickness_is_too_few(ct) -> None:
    dataset = ct(shape=(1, 4, 3))[0]
    del dataset.SliceThickness
    with pytest.raises(InconsistentSeries, match="too few slices"):
        assemble([dataset])


def test_missing_rescale_of_a_ct_is_mentioned(ct) -> None:
    datasets = ct()
    for dataset in datasets:
        del dataset.RescaleSlope, dataset.RescaleIntercept
    assert assemble(datasets).findings == ("CT without rescale: stored values are taken as HU",)


def test_a_mask_counted_backwards_is_turned_to_the_series(schema) -> None:
    geometry = Geometry.from_spacing((3, 2, 2), (2, 1, 1), (5, 6, 7))
    array = np.zeros((3, 2, 2), np.uint8)
    array[0, 0, 1] = 6
    backwards = Mask(array, reversed_slices(geometry), schema)
    turned = match_slice_order(backwards, geometry)
    assert turned.geometry.is_close(geometry)
    assert np.argwhere(turned.array == 6).tolist() == [[2, 0, 1]]


def test_a_mask_of_another_grid_is_not_turned(schema) -> None:
    geometry = Geometry.from_spacing((3, 2, 2), (2, 1, 1))
    other = Mask(np.zeros((3, 2, 2), np.uint8), Geometry.from_spacing((3, 2, 2), (2, 1, 1.1)), schema)
    with pytest.raises(GeometryMismatch, match=r"2\.000 x 1\.000 x 1\.100"):
        match_slice_order(other, geometry)
