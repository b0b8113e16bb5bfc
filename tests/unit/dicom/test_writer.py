from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage

from lib.core.errors import InvalidInput, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.values import Volume
from lib.dicom.files import decode, encode
from lib.dicom.series import assemble
from lib.dicom.writer import instance_uid, new_uid, series_to_datasets


def volume(array: np.ndarray, modality: str) -> Volume:
    return Volume(array, Geometry.from_spacing(array.shape, (2.0, 0.5, 0.75), (1, 2, 3)), modality)


def back(given_volume: Volume, identity, through_bytes) -> Volume:
    return assemble([through_bytes(d) for d in series_to_datasets(given_volume, identity())]).volume


@given(array=arrays(np.float32, (2, 3, 4), elements=st.floats(-32768, 32767, width=32)))
@settings(max_examples=40, deadline=None)
def test_ct_comes_back_in_whole_hounsfield_units(array, identity, through_bytes) -> None:
    np.testing.assert_array_equal(back(volume(array, "CT"), identity, through_bytes).array, np.rint(array))


@pytest.mark.parametrize("value", [-32769, 32768])
def test_hounsfield_units_beyond_16_bits_are_refused(value, identity) -> None:
    array = np.full((1, 2, 2), value, np.float32)
    with pytest.raises(InvalidVolume, match=rf"\[-32768, 32767\] to be stored, got \[{value}, {value}\]"):
        series_to_datasets(volume(array, "CT"), identity())


@given(start=st.integers(-100_000, 1_000_000), span=st.integers(0, 65535), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_whole_numbers_of_mr_stay_exact_within_16_bits(start, span, seed, identity, through_bytes) -> None:
    array = (start + np.random.default_rng(seed).integers(0, span + 1, (2, 3, 4))).astype(np.float32)
    np.testing.assert_array_equal(back(volume(array, "MR"), identity, through_bytes).array, array)


@given(array=arrays(np.float32, (2, 3, 4), elements=st.floats(-1e6, 1e6, width=32)))
@settings(max_examples=60, deadline=None)
def test_other_mr_values_come_back_within_half_a_step(array, identity, through_bytes) -> None:
    found = back(volume(array, "MR"), identity, through_bytes).array.astype(np.float64)
    step = (float(array.max()) - float(array.min())) / 65535
    rounding = np.spacing(np.float32(np.abs(array).max()))  # float32 holds the result
    assert np.abs(found - array).max() <= step / 2 * 1.001 + rounding


def test_mr_beyond_a_million_keeps_its_contrast(identity, through_bytes) -> None:
    array = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32) * 3e6
    found = back(volume(array, "MR"), identity, through_bytes).array
    assert np.abs(found - array).max() < 3e6 / 65535


@pytest.mark.parametrize(("modality", "sop_class"), [("CT", CTImageStorage), ("MR", MRImageStorage)])
def test_instances_say_whose_and_where_they_are(modality, sop_class, identity, through_bytes) -> None:
    who = identity()
    datasets = [through_bytes(d) for d in series_to_datasets(volume(np.zeros((3, 4, 5)), modality), who)]
    middle = datasets[1]
    assert (middle.SOPClassUID, middle.Modality) == (sop_class, modality)
    assert (middle.PatientID, str(middle.PatientName)) == ("P-1", "Prüfer^Ärmin")
    assert (middle.StudyInstanceUID, middle.SeriesInstanceUID) == (who.study_uid, who.series_uid)
    assert (middle.SeriesDescription, middle.StudyDescription) == ("axial", "abdomen")
    assert (middle.StudyDate, middle.SeriesDate, middle.InstitutionName) == ("20240229", "20240229", "Institute")
    assert (middle.Rows, middle.Columns, middle.InstanceNumber) == (4, 5, 2)
    assert list(middle.ImagePositionPatient) == [1, 2, 5]
    assert list(middle.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert list(middle.PixelSpacing) == [0.5, 0.75]
    assert middle.SliceThickness == 2


def test_writing_twice_gives_the_same_instances(identity) -> None:
    who = identity()
    first, second = (series_to_datasets(volume(np.zeros((3, 4, 5)), "CT"), who) for _ in range(2))
    assert first == second
    assert len({dataset.SOPInstanceUID for dataset in first}) == 3
    assert instance_uid("1.2", 0) != instance_uid("1.2", 1)
    assert instance_uid("1.2", 0).startswith("2.25.")
    assert len(new_uid()) <= 64


def test_grids_with_shear_and_other_modalities_are_refused(identity) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.1
    with pytest.raises(InvalidVolume, match=r"orthogonal axes .* cosine of 0\.0995"):
        series_to_datasets(Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 4), affine), "CT"), identity())
    with pytest.raises(InvalidVolume, match="only CT and MR volumes become a series, got 'US'"):
        series_to_datasets(volume(np.zeros((2, 3, 4)), "US"), identity())


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"patient_id": " "}, "1 to 64"), ({"accession": "a" * 17}, "at most 16"), ({"date": "2024-01-01"}, "YYYYMMDD")],
)
def test_identities_that_dicom_cannot_hold_are_refused(identity, change, reason) -> None:
    with pytest.raises(InvalidInput, match=reason):
        replace(identity(), **change)


def test_files_survive_bytes_and_nonsense_is_refused(ct) -> None:
    dataset = ct(shape=(1, 3, 4))[0]
    content = encode(dataset)
    assert content[128:132] == b"DICM"
    assert decode(content) == dataset
    with pytest.raises(InvalidInput, match="a DICOM file is needed, got 3 bytes"):
        decode(b"abc")
    with pytest.raises(InvalidInput, match="cannot become a DICOM file"):
        encode(Dataset())
