"""Labelled series as cases, through a cache on disk.

A volume is kept under a hash of its series' UID and number of instances, a mask under one of its SEG's SOP instance UID
and the labels it was read with; both never change under that name. UIDs come from files that anybody may send, so none
becomes a part of a path. The cache may be deleted at any time, also while it is read.
"""

import hashlib
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidInput
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.ledger.rows import AnnotationRow, SeriesRow
from lib.taskfile import Task
from lib.workflows.presegment import load_series
from lib.workflows.review import annotation_mask
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.training.data import Case

logger = logging.getLogger(__name__)

UID = re.compile(r"[0-9.]{1,64}")


class CaseCache:
    """Reads annotations as cases.

    Args:
        services: the rooms.
        task: whose annotations.
    """

    def __init__(self, services: Services, task: Task) -> None:
        folder = services.settings.var / "cache"
        self._services = services
        self._task = task
        self._volumes = folder / "volumes"
        self._masks = folder / "masks"

    def case(self, row: AnnotationRow) -> "Case":
        """The image and the mask of an annotation.

        Raises:
            NotFound: series or SEG have left the archive.
            InvalidInput: series or SEG cannot be used, or has a UID that is none.
            ArchiveUnavailable: the archive does not answer.
        """
        from lib.training.data import Case

        _require_uids(row)
        series = self._services.ledger.series.get(row.series_uid)
        volume_path = self._volumes / volume_name(series)
        mask_path = self._masks / mask_name(self._task, row)
        volume = _read_volume(volume_path)
        mask = self._read_mask(mask_path, row, volume) if volume is not None else None
        if volume is None or mask is None:
            source = load_series(self._services, row.series_uid)
            volume, mask = source.volume, annotation_mask(self._services, row.id, source)
            _write(volume_path, array=volume.array, affine=volume.geometry.affine, modality=np.array(volume.modality))
            if row.sop_instance_uid is not None:
                _write(mask_path, array=mask.array)
        return Case(volume, mask, patient=series.patient, name=f"annotation {row.id}")

    def _read_mask(self, path: Path, row: AnnotationRow, volume: Volume) -> Mask | None:
        if row.nothing_found or row.sop_instance_uid is None:
            return Mask(np.zeros(volume.geometry.shape, np.uint8), volume.geometry, self._task.schema)
        values = _read(path)
        return None if values is None else Mask(values["array"], volume.geometry, self._task.schema)


def volume_name(series: SeriesRow) -> str:
    """Name of the file of a series' volume."""
    return _hashed(series.series_uid, series.instances)


def mask_name(task: Task, row: AnnotationRow) -> str:
    """Name of the file of an annotation's mask."""
    return _hashed(task.name, [(label.name, label.id) for label in task.schema], row.sop_instance_uid)


def _hashed(*parts: object) -> str:
    return f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.npz"


def _require_uids(row: AnnotationRow) -> None:
    for uid in filter(None, (row.series_uid, row.sop_instance_uid)):
        if not UID.fullmatch(uid):
            raise InvalidInput(f"annotation {row.id}: a UID must be 1 to 64 digits and dots, got {uid!r}")


def _read_volume(path: Path) -> Volume | None:
    values = _read(path)
    if values is None:
        return None
    slices, rows, columns = values["array"].shape
    geometry = Geometry((slices, rows, columns), values["affine"])
    return Volume(values["array"], geometry, str(values["modality"]))


def _read(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a file, or None when it is not there or not readable."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read and is fetched again: %s", path, error)
        return None


def _write(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Put a file into the cache; a folder that is deleted at that moment costs the file, not the run."""
    unnamed = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unnamed.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(unnamed, path)
    except FileNotFoundError as error:
        logger.info("the cache was deleted meanwhile: %s", error)
