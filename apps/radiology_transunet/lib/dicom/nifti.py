"""NIfTI files <-> volumes and masks. The one place that knows RAS.

NIfTI arrays are (x, y, z) with an affine to RAS mm; ours are (slice, row, column) to LPS mm: axes are turned around and
the first two world axes change sign. The order of voxels stays as in the file.
"""

import os
import uuid
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError

from lib.core.errors import InvalidInput, InvalidMask, InvalidVolume, LabelError
from lib.core.geometry import FloatArray, Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns LPS positions into RAS ones, and back."""

REVERSE_AXES = np.eye(4)[[2, 1, 0, 3]]
"""(x, y, z) indices from (slice, row, column) indices, and back."""

SUFFIXES = (".nii.gz", ".nii")
SCANNER = 1
"""NIfTI's code for coordinates of the scanner (NIFTI_XFORM_SCANNER_ANAT)."""


def read_volume(path: Path, modality: str = "MR") -> Volume:
    """The image of a NIfTI file, with the file's own scaling applied.

    Args:
        path: a .nii or .nii.gz file of three axes; further axes of length 1 are dropped.
        modality: NIfTI does not say it.

    Raises:
        InvalidVolume: not a NIfTI file, not three axes, NaN.
    """
    try:
        array, geometry = _read(path)
        return Volume(array.astype(np.float32), geometry, modality)
    except LabelError as error:
        raise InvalidVolume(f"{path}: {error}") from error


def read_mask(path: Path, schema: LabelSchema) -> Mask:
    """The mask of a NIfTI file; whole numbers of any type are label ids.

    Raises:
        InvalidMask: not a NIfTI file, not three axes, values that are no ids of the schema.
    """
    try:
        array, geometry = _read(path)
        return Mask(array, geometry, schema)
    except LabelError as error:
        raise InvalidMask(f"{path}: {error}") from error


def write_volume(volume: Volume, path: Path) -> None:
    """Write the volume as float32; the file appears complete or not at all.

    Raises:
        InvalidInput: a name that does not end in .nii or .nii.gz.
    """
    _write(volume.array, volume.geometry, path)


def write_mask(mask: Mask, path: Path) -> None:
    """Write the label ids as uint8; the file appears complete or not at all.

    Raises:
        InvalidInput: a name that does not end in .nii or .nii.gz.
    """
    _write(mask.array, mask.geometry, path)


def _read(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Values (S, R, C) and their grid."""
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise InvalidInput(f"not a readable NIfTI file: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise InvalidInput(f"a NIfTI file is needed, got {type(image).__name__}")
    if array.ndim < 3 or any(size != 1 for size in array.shape[3:]):
        raise InvalidInput(f"three axes are needed, got an array of shape {array.shape}")
    array = array.reshape(array.shape[:3]).transpose()  # (x, y, z) -> (S, R, C)
    return array, Geometry(array.shape, RAS_FROM_LPS @ image.affine @ REVERSE_AXES)


def _write(array: npt.NDArray[Any], geometry: Geometry, path: Path) -> None:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None:
        raise InvalidInput(f"a NIfTI file ends in {' or '.join(SUFFIXES)}, got {path.name!r}")
    image = nibabel.Nifti1Image(array.transpose(), _ras_affine(geometry))
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(image.affine, code=SCANNER)
    image.set_qform(image.affine, code=SCANNER)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        nibabel.save(image, draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _ras_affine(geometry: Geometry) -> FloatArray:
    """(x, y, z, 1) indices of NIfTI to RAS mm."""
    return np.asarray(RAS_FROM_LPS @ geometry.affine @ REVERSE_AXES)
