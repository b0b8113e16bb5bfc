from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import GeometryMismatch, InvalidInput, InvalidSegmentation, InvalidVolume
from lib.core.geometry import Geometry
from lib.server.volumefiles import onto_grid, read_labels, read_volume, suffix_of, write_labels

SHAPE = (3, 4, 5)


def oblique(shape: tuple[int, int, int] = SHAPE) -> Geometry:
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn[:, ::-1] * (2.5, 0.8, 0.7)
    affine[:3, 3] = (-12.5, 30.25, 100.0)
    return Geometry(shape, affine)


def labels(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 5


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd"])
def test_labels_come_back_with_values_and_grid(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{extension}"
    write_labels(labels(), oblique(), path)
    read = read_labels(path)
    assert np.array_equal(read.array, labels())
    assert read.geometry.is_close(oblique())


def test_a_file_of_ours_is_read_as_an_image_too(tmp_path: Path) -> None:
    write_labels(labels(), oblique(), tmp_path / "x.nii.gz")
    volume = read_volume(tmp_path / "x.nii.gz", "CT")
    assert volume.modality == "CT"
    assert np.array_equal(volume.array, labels())


def test_nifti_is_read_as_the_dicom_room_reads_it(tmp_path: Path) -> None:
    from lib.dicom.nifti import read_volume as read_nifti

    write_labels(labels(), oblique(), tmp_path / "x.nii.gz")
    other = read_nifti(tmp_path / "x.nii.gz", "MR")
    mine = read_volume(tmp_path / "x.nii.gz", "MR")
    assert np.array_equal(onto_grid(other.array, other.geometry, mine.geometry), mine.array)


@given(order=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_any_reordering_of_axes_is_undone(order: list[int], signs: tuple[int, int, int]) -> None:
    target = oblique()
    wanted = labels()
    moved = np.transpose(wanted, order)[tuple(slice(None, None, s) for s in signs)]
    affine = np.eye(4)
    affine[:3, :3] = target.affine[:3, order] * signs
    first = np.zeros(3)
    first[order] = [0 if s > 0 else n - 1 for s, n in zip(signs, moved.shape, strict=True)]
    affine[:3, 3] = target.to_lps(first)
    assert np.array_equal(onto_grid(moved, Geometry(moved.shape, affine), target), wanted)


@pytest.mark.parametrize("change", ["shape", "spacing", "origin", "turn"])
def test_another_grid_is_refused_with_both_grids(change: str) -> None:
    target = oblique()
    affine = target.affine.copy()
    shape = SHAPE
    if change == "shape":
        shape = (3, 4, 6)
    elif change == "spacing":
        affine[:3, 0] *= 1.1
    elif change == "origin":
        affine[0, 3] += 0.5
    else:
        affine[:3, :3] = affine[:3, :3] @ np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(GeometryMismatch) as caught:
        onto_grid(np.zeros(shape), Geometry(shape, affine), target)
    assert "3x4x5" in str(caught.value)
    assert "x".join(map(str, shape)) in str(caught.value).split("got")[1]


def test_a_rounding_of_single_precision_is_no_other_grid() -> None:
    target = oblique()
    affine = target.affine.astype(np.float32).astype(np.float64)
    affine[:3] += 1e-5
    rounded = Geometry(SHAPE, affine)
    assert np.array_equal(onto_grid(labels(), rounded, target), labels())


def test_slicers_own_format_brings_names_and_layers(tmp_path: Path) -> None:
    layers = np.zeros((*SHAPE, 2), dtype=np.uint8)
    layers[0, ..., 0] = 3
    layers[1, ..., 1] = 7
    image = SimpleITK.GetImageFromArray(layers, isVector=True)
    names = {"Segment0": ("spleen", "3", "0"), "Segment1": ("liver", "7", "1")}
    for segment, (name, value, layer) in names.items():
        image.SetMetaData(f"{segment}_Name", name)
        image.SetMetaData(f"{segment}_LabelValue", value)
        image.SetMetaData(f"{segment}_Layer", layer)
    SimpleITK.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    read = read_labels(tmp_path / "x.seg.nrrd")
    assert read.names == {1: "spleen", 2: "liver"}
    assert (read.array[0] == 1).all()
    assert (read.array[1] == 2).all()
    assert (read.array[2] == 0).all()


def test_overlapping_segments_are_refused(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.ones((*SHAPE, 2), dtype=np.uint8), isVector=True)
    for number in (0, 1):
        image.SetMetaData(f"Segment{number}_Name", f"s{number}")
        image.SetMetaData(f"Segment{number}_LabelValue", "1")
        image.SetMetaData(f"Segment{number}_Layer", str(number))
    SimpleITK.WriteImage(image, str(tmp_path / "x.seg.nrrd"))
    with pytest.raises(InvalidSegmentation, match="60 voxels"):
        read_labels(tmp_path / "x.seg.nrrd")


def test_an_image_uploaded_as_the_label_is_noticed(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full(SHAPE, 0.5, dtype=np.float32)), str(tmp_path / "x.nii.gz"))
    with pytest.raises(InvalidSegmentation, match="whole numbers"):
        read_labels(tmp_path / "x.nii.gz")


def test_what_is_no_image_is_refused_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(b"not an image")
    with pytest.raises(InvalidSegmentation, match="cannot be read"):
        read_labels(tmp_path / "x.nii.gz")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.NII.GZ", ".nii.gz"), ("x.seg.nrrd", ".seg.nrrd"), ("x.nrrd", ".nrrd"), ("/a/b.nii", ".nii")],
)
def test_the_longest_ending_counts(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


def test_an_unknown_ending_names_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"\.seg\.nrrd.*got 'x\.png'"):
        suffix_of("x.png")


SECRET = b"the password is horse...."
ATTACHED = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n"


@pytest.fixture
def secret(tmp_path: Path) -> bytes:
    """Path of a file of the server that is nobody's upload."""
    (tmp_path / "secret").write_bytes(SECRET)
    return str(tmp_path / "secret").encode()


@pytest.mark.parametrize("name", ["x.nrrd", "x.seg.nrrd", "X.NRRD"])
@pytest.mark.parametrize("field", [b"data file: ", b"datafile: ", b"DATA FILE: ", b"Data File: "])
@pytest.mark.parametrize("end", [b"", b"\n" + bytes(24)])
def test_a_header_that_names_another_file_is_refused_before_it_is_read(
    name: str, field: bytes, end: bytes, secret: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(ATTACHED + field + secret + b"\n" + end)
    with pytest.raises(InvalidVolume, match="names another file"):
        read_volume(tmp_path / name, "CT")
    with pytest.raises(InvalidSegmentation, match="names another file"):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("field", [b"data  file : ", b"\tdata file: LIST\n", b"data\tfile:"])
def test_other_spellings_of_that_field_are_refused_too(field: bytes, secret: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.nrrd").write_bytes(ATTACHED + field + secret + b"\n\n" + bytes(24))
    with pytest.raises(InvalidVolume, match="names another file"):
        read_volume(tmp_path / "x.nrrd", "CT")


def test_lines_may_end_as_on_any_machine(secret: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.nrrd").write_bytes((ATTACHED + b"data file: " + secret + b"\n\n").replace(b"\n", b"\r") + bytes(24))
    with pytest.raises(InvalidVolume, match="names another file"):
        read_volume(tmp_path / "x.nrrd", "CT")
    (tmp_path / "y.nrrd").write_bytes((ATTACHED + b"\n").replace(b"\n", b"\r\n") + bytes(range(24)))
    assert np.array_equal(read_volume(tmp_path / "y.nrrd", "CT").array.ravel(), np.arange(24))


def test_a_word_in_the_voxels_or_in_a_value_is_no_field(tmp_path: Path) -> None:
    words = b"\ndata file: /etc/hostname"[:24]
    (tmp_path / "x.nrrd").write_bytes(ATTACHED + b"content: the data file: mine\n\n" + words)
    assert read_volume(tmp_path / "x.nrrd", "CT").array.astype(np.uint8).tobytes() == words


@pytest.mark.parametrize("name", ["x.mha", "x.mhd", "x.nhdr", "x.hdr", "x.vtk"])
def test_formats_that_name_other_files_are_not_accepted(name: str, secret: bytes, tmp_path: Path) -> None:
    header = b"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = "
    (tmp_path / name).write_bytes(header + secret + b"\n")
    with pytest.raises(InvalidInput, match="ends with one of"):
        suffix_of(name)
    with pytest.raises(InvalidInput, match="ends with one of"):
        read_volume(tmp_path / name, "CT")


@pytest.mark.parametrize("name", ["x.nrrd", "x.nii", "x.nii.gz"])
def test_the_name_decides_how_a_file_is_read(name: str, secret: bytes, tmp_path: Path) -> None:
    header = b"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = "
    for content in (header + secret + b"\n", ATTACHED.replace(b"NRRD", b"\nNRRD") + b"data file: " + secret + b"\n\n"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidVolume, match="cannot be read"):
            read_volume(tmp_path / name, "CT")


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.nrrd").write_bytes(ATTACHED)
    with pytest.raises(InvalidVolume, match="empty line"):
        read_volume(tmp_path / "x.nrrd", "CT")
