"""Volumes and masks as files of a cache: small, quick to read, and never more than a copy.

Volumes of whole numbers, as scanners make them, are stored as int16, and everything is deflated at the fastest level: a
CT takes a quarter of its memory, a mask next to nothing, and reading stays far below preprocessing.
"""

import io
import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.core.atomic import replacing
from lib.core.geometry import Geometry
from lib.core.values import Volume

logger = logging.getLogger(__name__)

FASTEST = 1
INT16 = np.iinfo(np.int16)

Arrays = dict[str, npt.NDArray[Any]]


def write_volume(path: Path, volume: Volume) -> None:
    """Put a volume into a file; nothing of it is lost."""
    array = _compact(volume.array)
    write_arrays(path, array=array, affine=volume.geometry.affine, modality=np.array(volume.modality))


def read_volume(path: Path | io.BytesIO) -> Volume | None:
    """The volume in a file, or in its bytes; None when it is not there or not readable."""
    values = read_arrays(path)
    if values is None:
        return None
    slices, rows, columns = values["array"].shape
    geometry = Geometry((slices, rows, columns), values["affine"])
    return Volume(values["array"], geometry, str(values["modality"]))


def read_arrays(path: Path | io.BytesIO) -> Arrays | None:
    """The arrays of a file, or of its bytes; None when it is not there or not readable."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s cannot be read and is fetched again: %s", path, error)
        return None


def write_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Put a file into the cache; a folder that is deleted at that moment costs the file, not the run.

    Raises:
        DiskFull: no room.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as unnamed,
            zipfile.ZipFile(unnamed, "w", zipfile.ZIP_DEFLATED, compresslevel=FASTEST) as file,
        ):
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    contiguous = np.asarray(array, order="C")
                    np.lib.format.write_array(stream, contiguous, allow_pickle=False)  # type: ignore[no-untyped-call]
    except FileNotFoundError as error:
        logger.info("the cache was deleted meanwhile: %s", error)


def _compact(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | npt.NDArray[np.int16]:
    """As int16 when that changes no value."""
    if array.min() < INT16.min or array.max() > INT16.max:
        return array
    whole = array.astype(np.int16)
    return whole if np.array_equal(whole, array) else array
