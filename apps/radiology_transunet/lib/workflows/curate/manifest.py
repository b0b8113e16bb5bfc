"""What an export was made of: UIDs, checksums of voxels and files, annotations, label ids, versions.

It has no field for a patient's name, a person, an institution or the date of an examination, and no text that people
or scanners wrote: of series that are left out a word of `picking.Reason`, of the cohort its name. It does name the
archive's own UIDs, by which an export can be traced here; where they were not replaced before, a UID may begin with the
root of an institution or a maker and hold the date and time of the examination.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.values import Mask, Volume
from lib.ledger.curationrows import CuratedCase
from lib.ledger.rows import AnnotationRow
from lib.ledger.schema import HEAD
from lib.taskfile import Task
from lib.workflows.curate.picking import Picked

FORMAT = "radiology_transunet cohort 1"
PACKAGE = "radiology-transunet"
HASHED = (
    "SHA-256 of the voxels in the order (slice, row, column): images as little-endian float32 (HU for CT, raw values "
    "for MR), labels as uint8 ids of the task; of files as they lie here"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A case in the manifest.

    Attributes:
        name: in files.
        case: what the ledger knows of it.
        image_sha256: of its voxels.
        shape: (slices, rows, columns).
        affine: (4, 4), (slice, row, column, 1) to LPS mm.
        annotation: the accepted human label, None for a case without one.
        label_sha256: of its label's voxels; "" without one.
        files: checksum by path in the data set; empty where there is no data set.
    """

    name: str
    case: CuratedCase
    image_sha256: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    annotation: AnnotationRow | None = None
    label_sha256: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, case: CuratedCase, volume: Volume, mask: Mask | None, annotation: AnnotationRow | None
    ) -> "Entry":
        """The entry of a case, its image and its label, if any."""
        affine = tuple(tuple(row) for row in volume.geometry.affine.tolist())
        label = "" if mask is None else label_sha256(mask)
        return cls(name, case, image_sha256(volume), volume.geometry.shape, affine, annotation, label)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        image = {"sha256": self.image_sha256, "shape": list(self.shape), "affine_lps_mm": [*map(list, self.affine)]}
        return {
            "case": self.name,
            "series_uid": self.case.series_uid,
            "study_uid": self.case.study_uid,
            "patient": self.case.patient,
            "split": self.case.split,
            "modality": self.case.modality,
            "image": image,
            "label": None if self.annotation is None else self._label(self.annotation),
            "files": dict(self.files),
        }

    def _label(self, annotation: AnnotationRow) -> dict[str, Any]:
        return {
            "annotation": annotation.id,
            "sop_instance_uid": annotation.sop_instance_uid,
            "sha256": self.label_sha256,
            "voxels": dict(annotation.voxels),
        }


def manifest(
    task: Task, picked: Picked, layout: str, entries: Sequence[Entry], ids: Mapping[str, int], made_at: datetime
) -> dict[str, Any]:
    """The manifest as plain values.

    Args:
        task: that the labels are of.
        picked: what was to be exported.
        layout: how it was.
        entries: what was.
        ids: label ids in the files by name.
        made_at: when, aware.
    """
    labelled = sum(entry.annotation is not None for entry in entries)
    labels = [{"name": label.name, "task_id": label.id, "file_id": ids[label.name]} for label in task.schema]
    return {
        "format": FORMAT,
        "cohort": {"name": picked.cohort.name},
        "layout": layout,
        "made_at": made_at.astimezone(UTC).isoformat(timespec="seconds"),
        "task": {"name": task.name, "labels": labels},
        "versions": {"software": metadata.version(PACKAGE), "ledger": HEAD},
        "checksums": HASHED,
        "splits": list(picked.splits),
        "counts": {"labelled": labelled, "unlabelled": len(entries) - labelled, "held_out": dict(picked.held_out)},
        "left_out": [{"series_uid": one.series_uid, "reason": one.reason} for one in picked.left_out],
        "cases": [entry.to_dict() for entry in entries],
    }


def image_sha256(volume: Volume) -> str:
    """Of the voxels; see `HASHED`."""
    return hashlib.sha256(np.ascontiguousarray(volume.array, dtype="<f4").tobytes()).hexdigest()


def label_sha256(mask: Mask) -> str:
    """Of the label ids of the task."""
    return hashlib.sha256(np.ascontiguousarray(mask.array, dtype="u1").tobytes()).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
