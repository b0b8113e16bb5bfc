"""Image and label files that clients upload and download: NIfTI, NRRD and Slicer's .seg.nrrd.

Formats whose header may name another file as the place of the voxels are not read: such an upload would hand out any
file of the server. NRRD is read when its voxels follow its header.

SimpleITK reads and writes them: it works in LPS millimetres like core. Its arrays come as (slice, row, column), its
positions and directions per axis as (column, row, slice).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.core.errors import GeometryMismatch, InvalidInput, InvalidSegmentation, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.values import Volume

READERS: Mapping[str, str] = {
    ".seg.nrrd": "NrrdImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
}
"""By ending, the one reader that SimpleITK may use: it would choose by content otherwise."""

SUFFIXES = tuple(READERS)
NRRD_MAGIC = b"NRRD"
MAX_HEADER = 2**20
"""Bytes; Slicer's header of a hundred segments has some ten thousand."""

ELSEWHERE = re.compile(rb"\s*data\s*file\s*:", re.IGNORECASE)
"""A header field that names the file with the voxels; the format knows two spellings."""

WRITABLE = (".nii.gz", ".nii", ".nrrd")
SEGMENT_KEY = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")
UPLOAD_TOLERANCE_MM = 0.1
"""Label files keep their grid in single precision; voxel centres may differ by this much."""


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file as it came.

    Attributes:
        array: (S, R, C) whole numbers.
        geometry: its grid.
        names: by voxel value, what the file itself says; empty when it says nothing.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    names: Mapping[int, str] = field(default_factory=dict)


def suffix_of(name: str) -> str:
    """The ending of an image file's name.

    Raises:
        InvalidInput: an ending that is not read here; lists those that are.
    """
    lower = Path(name).name.casefold()
    suffix = next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), None)
    if suffix is None:
        raise InvalidInput(f"an image or label file ends with one of {', '.join(SUFFIXES)}, got {name[:100]!r}")
    return suffix


def read_volume(path: Path, modality: str) -> Volume:
    """An uploaded image.

    Raises:
        InvalidInput: no image file, or not three axes.
    """
    image = _read(path)
    array, geometry = _array(image), _geometry(image)
    return Volume(np.asarray(array, dtype=np.float32), geometry, modality)


def read_labels(path: Path) -> LabelFile:
    """An uploaded label file; values keep their meaning of the file.

    Raises:
        InvalidSegmentation: no label file, fractional values, or segments that overlap.
    """
    try:
        image = _read(path)
    except InvalidVolume as error:
        raise InvalidSegmentation(str(error)) from error
    if not path.name.casefold().endswith(".seg.nrrd"):
        return LabelFile(_whole_numbers(_array(image)), _geometry(image))
    segments = _segments(image)
    array = _flattened(_whole_numbers(_layers(image)), segments)
    return LabelFile(array, _geometry(image), {number + 1: str(s.get("Name", "")) for number, s in enumerate(segments)})


def write_labels(array: npt.NDArray[np.uint8], geometry: Geometry, path: Path) -> None:
    """Write label ids (S, R, C) as NIfTI or NRRD, by the path's ending."""
    import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    spacing_mm = geometry.spacing_mm
    directions = geometry.affine[:3, :3] / np.array(spacing_mm)
    image.SetSpacing(tuple(reversed(spacing_mm)))
    image.SetOrigin(tuple(float(x) for x in geometry.affine[:3, 3]))
    image.SetDirection([float(x) for x in directions[:, ::-1].reshape(-1)])
    sitk.WriteImage(image, str(path), useCompression=path.suffix != ".nii")


def onto_grid(array: npt.NDArray[Any], geometry: Geometry, target: Geometry) -> npt.NDArray[Any]:
    """The array with axes swapped and reversed so that it lies on the target grid.

    Viewers may load a series with its slices in the other order; anything beyond that is another grid.

    Raises:
        GeometryMismatch: no such reordering; the message has both grids.
    """
    turn = np.rint(np.linalg.inv(target.affine)[:3, :3] @ geometry.affine[:3, :3])  # target axis by array axis
    order = np.abs(turn).argmax(axis=1)  # for each target axis, the array's axis
    signs = turn[np.arange(3), order]
    if sorted(order.tolist()) != [0, 1, 2] or np.abs(turn).sum() != 3:
        raise _mismatch(geometry, target)
    first = np.zeros(3)  # index in the array of the voxel that comes first on the target's axes
    first[order] = np.where(signs > 0, 0, np.array(array.shape)[order] - 1)
    affine = np.eye(4)
    affine[:3, :3] = geometry.affine[:3, order] * signs
    affine[:3, 3] = geometry.to_lps(first)
    moved = np.transpose(array, order)[tuple(slice(None, None, int(sign)) for sign in signs)]
    shape = (moved.shape[0], moved.shape[1], moved.shape[2])
    if not Geometry(shape, affine).is_close(target, UPLOAD_TOLERANCE_MM):
        raise _mismatch(geometry, target)
    return moved


def _mismatch(geometry: Geometry, target: Geometry) -> GeometryMismatch:
    return GeometryMismatch(f"the label must lie on the series' grid {target.describe()}, got {geometry.describe()}")


def _read(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813

    reader = READERS[suffix_of(path.name)]
    if reader == "NrrdImageIO":
        _require_attached(path)
    try:
        image = sitk.ReadImage(str(path), imageIO=reader)
    except RuntimeError as error:
        lines = str(error).replace(str(path), "the file").strip().splitlines()
        reason = lines[-1] if lines else "unknown format"
        raise InvalidVolume(f"the upload cannot be read as an image volume: {reason[:200]}") from error
    if image.GetDimension() != 3:
        raise InvalidVolume(f"an image volume has 3 axes, the upload has {image.GetDimension()}")
    return image


def _require_attached(path: Path) -> None:
    """Refuse a NRRD file whose voxels do not follow its own header.

    Raises:
        InvalidVolume: it is no NRRD file, names another file, or has no end of its header.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER)
    if not head.startswith(NRRD_MAGIC):
        raise InvalidVolume("the upload cannot be read as an image volume: a NRRD file begins with NRRD")
    for line in head.splitlines():
        if not line:
            return
        if ELSEWHERE.match(line):
            raise InvalidVolume("a NRRD upload must hold its voxels itself, its header names another file")
    raise InvalidVolume(f"the header of a NRRD upload ends with an empty line within {MAX_HEADER} bytes, got none")


def _array(image: Any) -> npt.NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InvalidVolume(f"one value a voxel is expected, got {image.GetNumberOfComponentsPerPixel()}")
    return np.asarray(sitk.GetArrayFromImage(image))


def _layers(image: Any) -> npt.NDArray[Any]:
    """Voxels of a .seg.nrrd, (S, R, C, layers)."""
    import SimpleITK as sitk  # noqa: N813

    array = np.asarray(sitk.GetArrayFromImage(image))
    return np.asarray(array if array.ndim == 4 else array[..., np.newaxis])


def _geometry(image: Any) -> Geometry:
    """The grid in core's axis order; ITK's directions are columns for (column, row, slice)."""
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = directions[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    columns, rows, slices = image.GetSize()
    return Geometry((slices, rows, columns), affine)


def _whole_numbers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rounded = array if np.issubdtype(array.dtype, np.integer) else np.rint(array)
    if not np.array_equal(rounded, array):
        raise InvalidSegmentation(
            "a label file holds whole numbers, got fractions; was an image uploaded as the label?"
        )
    return np.asarray(rounded, dtype=np.int64)


def _segments(image: Any) -> list[dict[str, str]]:
    """Name, LabelValue and Layer of each segment of a .seg.nrrd, in order."""
    segments: dict[int, dict[str, str]] = {}
    for key in image.GetMetaDataKeys():
        match = SEGMENT_KEY.fullmatch(key)
        if match:
            segments.setdefault(int(match[1]), {})[match[2]] = image.GetMetaData(key)
    return [segments[number] for number in sorted(segments)]


def _flattened(layers: npt.NDArray[Any], segments: list[dict[str, str]]) -> npt.NDArray[np.int64]:
    """One value a voxel, segment number from 1, of layers (S, R, C, layers).

    Raises:
        InvalidSegmentation: a voxel that belongs to two segments.
    """
    flat = np.zeros(layers.shape[:3], dtype=np.int64)
    for number, segment in enumerate(segments):
        region = layers[..., int(segment.get("Layer", 0))] == int(segment.get("LabelValue", number + 1))
        twice = int((flat[region] != 0).sum())
        if twice:
            raise InvalidSegmentation(
                f"segments must not overlap, {twice} voxels belong to {segment.get('Name')!r} and another"
            )
        flat[region] = number + 1
    return flat
