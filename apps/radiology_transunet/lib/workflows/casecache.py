"""Labelled series as cases, through a cache on disk.

A volume is kept under a hash of its series' UID and number of instances, a mask under one of its SEG's SOP instance UID
and the labels it was read with; both never change under that name. UIDs come from files that anybody may send, so none
becomes a part of a path. The cache may be deleted at any time, also while it is read.
"""

import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from lib.core.errors import InvalidInput
from lib.core.values import Mask, Volume
from lib.ledger.rows import AnnotationRow
from lib.taskfile import Task
from lib.workflows.casefiles import read_arrays, read_volume, write_arrays, write_volume
from lib.workflows.presegment import load_series
from lib.workflows.review import annotation_mask
from lib.workflows.services import Services
from lib.workflows.shipping import CaseFile, Shippable

if TYPE_CHECKING:
    from lib.training.data import Case

logger = logging.getLogger(__name__)

UID = re.compile(r"[0-9.]{1,64}")
VOLUMES = "volumes"
MASKS = "masks"


class CaseCache:
    """Reads annotations as cases.

    Args:
        services: the rooms.
        task: whose annotations.
    """

    def __init__(self, services: Services, task: Task) -> None:
        self._services = services
        self._task = task

    def fill(self, row: AnnotationRow) -> None:
        """Make sure that a case can be read from the disk.

        Raises:
            NotFound: series or SEG have left the archive.
            InvalidInput: series or SEG cannot be used, or has a UID that is none.
            ArchiveUnavailable: the archive does not answer.
        """
        _require_uids(row)
        volume, mask = self._paths(row)
        if not (volume.exists() and (_has_no_file(row) or mask.exists())):
            self._fetch(row)

    def case(self, row: AnnotationRow) -> "Case":
        """The image and the mask of an annotation.

        Raises:
            NotFound: series or SEG have left the archive.
            InvalidInput: series or SEG cannot be used, or has a UID that is none.
            ArchiveUnavailable: the archive does not answer.
        """
        from lib.training.data import Case

        _require_uids(row)
        volume_path, mask_path = self._paths(row)
        volume = read_volume(volume_path)
        mask = self._read_mask(mask_path, row, volume) if volume is not None else None
        if volume is None or mask is None:
            volume, mask = self._fetch(row)
        patient = self._services.ledger.series.get(row.series_uid).patient
        return Case(volume, mask, patient, name=f"annotation {row.id}")

    def file(self, row: AnnotationRow) -> CaseFile:
        """The files of a case, which are fetched when they are not there; raises what `fill` raises."""
        self.fill(row)
        volume, mask = self._paths(row)
        patient = self._services.ledger.series.get(row.series_uid).patient
        return CaseFile(
            volume, None if _has_no_file(row) else mask, self._task.schema, patient, name=f"annotation {row.id}"
        )

    def _paths(self, row: AnnotationRow) -> tuple[Path, Path]:
        """Of the volume and of the mask."""
        instances = self._services.ledger.series.get(row.series_uid).instances
        folder = _folder(self._services)
        return folder / VOLUMES / volume_name(row.series_uid, instances), folder / MASKS / mask_name(self._task, row)

    def _fetch(self, row: AnnotationRow) -> tuple[Volume, Mask]:
        """Volume and mask from the archive, in the cache from now on."""
        volume_path, mask_path = self._paths(row)
        source = load_series(self._services, row.series_uid)
        mask = annotation_mask(self._services, row.id, source)
        write_volume(volume_path, source.volume)
        if not _has_no_file(row):
            write_arrays(mask_path, array=mask.array)
        return source.volume, mask

    def _read_mask(self, path: Path, row: AnnotationRow, volume: Volume) -> Mask | None:
        if _has_no_file(row):
            return Mask(np.zeros(volume.geometry.shape, np.uint8), volume.geometry, self._task.schema)
        values = read_arrays(path)
        return None if values is None else Mask(values["array"], volume.geometry, self._task.schema)


class LazyCases(Shippable):
    """Cases that are read each time they are asked for, so that whoever asks decides how many are in memory.

    Args:
        cache: reads them.
        rows: their annotations.
    """

    def __init__(self, cache: CaseCache, rows: Sequence[AnnotationRow]) -> None:
        self._cache = cache
        self._rows = tuple(rows)

    @property
    def rows(self) -> tuple[AnnotationRow, ...]:
        """The annotations."""
        return self._rows

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the annotations."""
        return tuple(row.id for row in self._rows)

    def file(self, number: int) -> CaseFile:
        """The files of one case, for other processes."""
        return self._cache.file(self._rows[number])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> "Case": ...

    @overload
    def __getitem__(self, index: slice) -> "LazyCases": ...

    def __getitem__(self, index: int | slice) -> "Case | LazyCases":
        if isinstance(index, slice):
            return LazyCases(self._cache, self._rows[index])
        return self._cache.case(self._rows[index])


def prune_cache(services: Services) -> int:
    """Remove what no accepted annotation of a served task names; how many files and folders that were."""
    rows = services.ledger.annotations.list(status="accepted", limit=None)
    instances = {row.series_uid: row.instances for row in services.ledger.series.list()}
    keep = {
        VOLUMES: {volume_name(row.series_uid, instances[row.series_uid]) for row in rows},
        MASKS: {mask_name(services.tasks[row.task], row) for row in rows if row.task in services.tasks},
    }
    return sum(_prune(_folder(services) / name, names) for name, names in keep.items())


def volume_name(series_uid: str, instances: int) -> str:
    """Name of the file of a series' volume."""
    return _hashed(series_uid, instances)


def mask_name(task: Task, row: AnnotationRow) -> str:
    """Name of the file of an annotation's mask."""
    return _hashed(task.name, [(label.name, label.id) for label in task.schema], row.sop_instance_uid)


def _folder(services: Services) -> Path:
    return services.settings.var / "cache"


def _hashed(*parts: object) -> str:
    return f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.npz"


def _has_no_file(row: AnnotationRow) -> bool:
    """Whether the mask is known to be empty."""
    return row.nothing_found or row.sop_instance_uid is None


def _prune(folder: Path, keep: set[str]) -> int:
    removed = [path for path in folder.glob("*") if path.name not in keep]
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if removed:
        logger.info("%d cached files that no label names any more are removed from %s", len(removed), folder)
    return len(removed)


def _require_uids(row: AnnotationRow) -> None:
    for uid in filter(None, (row.series_uid, row.sop_instance_uid)):
        if not UID.fullmatch(uid):
            raise InvalidInput(f"annotation {row.id}: a UID must be 1 to 64 digits and dots, got {uid!r}")
