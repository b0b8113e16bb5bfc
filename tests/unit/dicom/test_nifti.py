import subprocess
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import InvalidInput, InvalidMask, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.dicom.nifti import read_mask, read_volume, write_mask, write_volume


def save(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_a_voxel_of_the_file_lies_where_ras_says(tmp_path) -> None:
    array = np.zeros((3, 4, 5), np.float32)  # (x, y, z)
    array[2, 1, 4] = 7
    affine = np.array([[2.0, 0, 0, -10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    volume = read_volume(save(tmp_path / "a.nii.gz", array, affine), "CT")
    assert (volume.array.shape, volume.modality) == ((5, 4, 3), "CT")
    index = tuple(np.argwhere(volume.array == 7)[0])
    assert index == (4, 1, 2)
    np.testing.assert_allclose(volume.geometry.to_lps(index), (6, -23, 46))  # RAS (-6, 23, 46)
    assert volume.geometry.spacing_mm == (4, 3, 2)


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.2, 6)] * 3),
    origin_mm=st.tuples(*[st.floats(-500, 500)] * 3),
    turns=st.tuples(*[st.floats(-3, 3)] * 3),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
@settings(max_examples=50, deadline=None)
def test_volumes_and_masks_survive_the_file_on_any_grid(
    shape, spacing_mm, origin_mm, turns, flips, oblique, schema, tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("nifti")
    geometry = oblique(shape, spacing_mm, origin_mm, turns, flips)
    random = np.random.default_rng(0)
    volume = Volume(random.normal(size=shape).astype(np.float32), geometry, "MR")
    mask = Mask(random.choice([0, *schema.ids], shape), geometry, schema)
    write_volume(volume, folder / "v.nii.gz")
    write_mask(mask, folder / "m.nii")
    np.testing.assert_array_equal(read_volume(folder / "v.nii.gz").array, volume.array)
    np.testing.assert_array_equal(read_mask(folder / "m.nii", schema).array, mask.array)
    assert read_volume(folder / "v.nii.gz").geometry.is_close(geometry, 0.001)
    assert read_mask(folder / "m.nii", schema).geometry.is_close(geometry, 0.001)
    assert sorted(path.name for path in folder.iterdir()) == ["m.nii", "v.nii.gz"]


def test_the_file_says_millimetres_of_the_scanner_in_both_forms(tmp_path, schema) -> None:
    geometry = Geometry.from_spacing((2, 3, 4), (3, 2, 1), (5, 6, 7))
    write_mask(Mask(np.zeros((2, 3, 4), np.uint8), geometry, schema), tmp_path / "m.nii.gz")
    image = nibabel.load(tmp_path / "m.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.get_sform(coded=True)[0], image.get_qform(coded=True)[0], atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)


def test_float_masks_with_whole_values_are_masks(tmp_path, schema) -> None:
    array = np.array([[[0.0, 2.0], [6.0, 9.0]]], np.float32)
    mask = read_mask(save(tmp_path / "m.nii.gz", array), schema)
    np.testing.assert_array_equal(mask.array, array.transpose())


def test_the_scaling_of_the_file_is_applied(tmp_path) -> None:
    image = nibabel.Nifti1Image(np.array([[[1, 2]]], np.int16), np.eye(4))
    image.header.set_slope_inter(2, -10)
    nibabel.save(image, tmp_path / "v.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nii").array.ravel(), [-8, -6])


def test_a_fourth_axis_of_one_is_dropped_and_a_longer_one_refused(tmp_path) -> None:
    assert read_volume(save(tmp_path / "a.nii", np.zeros((2, 3, 4, 1), np.float32))).array.shape == (4, 3, 2)
    with pytest.raises(InvalidVolume, match=r"three axes are needed, got an array of shape \(2, 3, 4, 2\)"):
        read_volume(save(tmp_path / "b.nii", np.zeros((2, 3, 4, 2), np.float32)))


def test_wrong_files_are_named(tmp_path, schema) -> None:
    wrong = tmp_path / "wrong.nii.gz"
    wrong.write_bytes(b"nothing")
    for path in (wrong, tmp_path / "missing.nii.gz"):
        with pytest.raises(InvalidVolume, match=f"{path.name}: not a readable NIfTI file"):
            read_volume(path)
    with pytest.raises(InvalidMask, match=r"m\.nii: label ids must be 0 or among \(6, 2, 9\), got \[0\.5, 3\.0\]"):
        read_mask(save(tmp_path / "m.nii", np.array([[[0.5, 3, 6]]], np.float32)), schema)
    with pytest.raises(InvalidVolume, match="finite, got 1 of 2"):
        read_volume(save(tmp_path / "n.nii", np.array([[[np.nan, 1]]], np.float32)))
    mask = Mask(np.zeros((1, 1, 1), np.uint8), Geometry.from_spacing((1, 1, 1), (1, 1, 1)), schema)
    with pytest.raises(InvalidInput, match=r"ends in \.nii\.gz or \.nii, got 'm\.nrrd'"):
        write_mask(mask, tmp_path / "m.nrrd")


def test_a_failed_write_leaves_the_old_file(tmp_path, schema, monkeypatch) -> None:
    path = save(tmp_path / "m.nii", np.zeros((1, 1, 1), np.uint8))
    before = path.read_bytes()

    def fail(image, target) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("lib.dicom.nifti.nibabel.save", fail)
    mask = Mask(np.ones((1, 1, 1), np.uint8) * 2, Geometry.from_spacing((1, 1, 1), (1, 1, 1)), schema)
    with pytest.raises(OSError, match="disk full"):
        write_mask(mask, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nifti_needs_no_pydicom() -> None:
    code = "import sys; sys.modules['pydicom'] = None; import lib.dicom.nifti"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
