"""Labels between files of clients and annotations of the ledger."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import Response, UploadFile

from lib.core.errors import InconsistentSeries, InvalidInput, NotFound
from lib.dicom.nifti import write_volume
from lib.ledger.rows import AnnotationRow, SeriesRow
from lib.server.context import Context
from lib.server.images import kept_upload, scratch_folder, series_uid
from lib.server.labelnames import names_used, to_mask
from lib.server.replies import attachment, iso
from lib.server.volumefiles import WRITABLE, LabelFile, read_labels, write_labels
from lib.taskfile import Task
from lib.workflows import review
from lib.workflows.holdback import advice
from lib.workflows.presegment import load_series
from lib.workflows.services import Services

FINAL = "final"
ORIGINAL = "original"
TAGS: Mapping[str, tuple[str, ...]] = {FINAL: ("accepted", "submitted"), ORIGINAL: ("draft",)}
"""Statuses of the annotations behind each tag of MONAI Label."""

EXTENSION = ".nii.gz"
ALL_ROWS = 100_000


def save_upload(
    context: Context, uid: str, upload: UploadFile, params: Mapping[str, Any], author: str
) -> dict[str, Any]:
    """Take an uploaded label in; see `save`."""
    with kept_upload(upload, context.uploads) as path:
        return save(context.services, uid, path, params, author)


def save(services: Services, uid: str, path: Path, params: Mapping[str, Any], author: str) -> dict[str, Any]:
    """Take a label file in; the reply says in words when the label is held back.

    Raises:
        InvalidSegmentation: values or names that the task does not know.
        GeometryMismatch: another grid; names both.
    """
    row = usable_series(services, uid)
    info = _label_info(params)
    label = read_labels(path)
    task = task_of(services, row, params, label, info)
    source = load_series(services, uid)
    mask = to_mask(label, info, source.volume.geometry, task.schema)
    annotation = services.ledger.annotations.get(review.submit_mask(services, task, source, mask, author))
    told = {"message": advice(annotation.id, annotation.held_reason)} if annotation.is_held else {}
    return {"image": uid, "label": uid, **annotation_info(annotation), **told}


def usable_series(services: Services, uid: str) -> SeriesRow:
    """The row of a series that may be labelled.

    Raises:
        NotFound: the ledger does not know it.
        InconsistentSeries: it was refused; says why.
    """
    row = services.ledger.series.get(uid)
    if row.status == "gone":
        raise NotFound(f"series {uid} has left the archive")
    if row.status == "refused":
        raise InconsistentSeries(f"series {uid} cannot be used: {row.reason}")
    return row


def task_of(
    services: Services, row: SeriesRow, params: Mapping[str, Any], label: LabelFile, info: list[dict[str, Any]]
) -> Task:
    """The task that an upload is for: named, or the one that fits the series and knows the labels.

    Raises:
        InvalidInput: none or several fit; says how to name one.
    """
    named = params.get("model") or params.get("task")
    if named:
        return services.task(str(named))
    suitable = [task for task in services.tasks.values() if task.why_not(row.modality, row.description) is None]
    names = names_used(label, info)
    knowing = [task for task in suitable if all(task.schema.find(name) for name in names)] or suitable[:1]
    if len(knowing) != 1:
        raise InvalidInput(
            f"name the task of this label in params as model; it fits {[task.name for task in knowing] or 'none'}"
        )
    return knowing[0]


def find(services: Services, label: str, tag: str) -> AnnotationRow:
    """The newest annotation of a series behind a tag; one that is held back when there is no other.

    Raises:
        NotFound: there is none.
    """
    if tag not in TAGS:
        raise NotFound(f"tags are {', '.join(TAGS)}, got {tag!r}")
    rows = _held_last(services.ledger.annotations.list(series_uid=series_uid(label), limit=ALL_ROWS))
    found = next((row for row in rows if row.status in TAGS[tag] and row.task in services.tasks), None)
    if found is None:
        raise NotFound(f"series {label} has no label with the tag {tag!r}")
    return found


def label_file(context: Context, label: str, tag: str, extension: str) -> Response:
    """A label as NIfTI or NRRD."""
    if extension not in WRITABLE:
        raise InvalidInput(f"extension must be one of {', '.join(WRITABLE)}, got {extension!r}")
    row = find(context.services, label, tag)
    with scratch_folder(context.uploads) as folder:
        path = folder / f"label{extension}"
        write_label(context.services, row, path)
        return attachment(path.read_bytes(), f"{row.series_uid}{extension}")


def write_label(services: Services, row: AnnotationRow, path: Path) -> None:
    """Write an annotation's mask as a file, by the path's ending."""
    mask = review.annotation_mask(services, row.id)
    write_labels(mask.array, mask.geometry, path)


def image_file(context: Context, uid: str) -> Response:
    """A series as NIfTI."""
    with scratch_folder(context.uploads) as folder:
        path = folder / f"image{EXTENSION}"
        write_image(context.services, uid, path)
        return attachment(path.read_bytes(), f"{uid}{EXTENSION}")


def write_image(services: Services, uid: str, path: Path) -> None:
    """Write a series as NIfTI."""
    usable_series(services, uid)
    write_volume(load_series(services, uid).volume, path)


def image_info(services: Services, uid: str) -> dict[str, Any]:
    """What the ledger knows of a series; no patient data."""
    row = services.ledger.series.get(uid)
    return {
        "name": f"{uid}{EXTENSION}",
        "SeriesInstanceUID": uid,
        "StudyInstanceUID": row.study_uid,
        "Modality": row.modality,
        "SeriesDescription": row.description,
        "patient": row.patient,
        "split": row.split,
        "status": row.status,
        "reason": row.reason,
        "findings": list(row.findings),
        "instances": row.instances,
    }


def annotation_info(row: AnnotationRow) -> dict[str, Any]:
    """What the ledger knows of an annotation."""
    return {
        "annotation": row.id,
        "task": row.task,
        "status": row.status,
        "origin": row.origin,
        "author": row.author,
        "model_version": row.model_version,
        "parent": row.parent_id,
        "changed_voxels": row.changed_voxels,
        "voxels": dict(row.voxels),
        "nothing_found": row.nothing_found,
        "held": row.held_reason if row.is_held else "",
        "ts": int(row.created_at.timestamp()),
        "created_at": iso(row.created_at),
    }


def training_pairs(services: Services) -> list[dict[str, Any]]:
    """Series and label of each accepted annotation."""
    return [
        {"image": row.series_uid, "label": row.sop_instance_uid or "", "task": name, "annotation": row.id}
        for name in services.tasks
        for row in services.ledger.annotations.accepted(name)
    ]


def everything(services: Services) -> dict[str, Any]:
    """All usable images with their labels, in the shape of MONAI Label's own datastore file."""
    objects: dict[str, Any] = {
        row.series_uid: {"image": {"ext": EXTENSION, "info": _brief(row)}, "labels": {}}
        for row in services.ledger.series.list(status="ready")
    }
    for row in _held_last(services.ledger.annotations.list(limit=ALL_ROWS)):
        tag = next((tag for tag, statuses in TAGS.items() if row.status in statuses), None)
        if tag is not None and row.series_uid in objects and row.task in services.tasks:
            info = annotation_info(row)
            names = {name: services.tasks[row.task].schema.find(name) for name in row.voxels}
            info["params"] = {"label_names": {name: found.id for name, found in names.items() if found}}
            objects[row.series_uid]["labels"].setdefault(tag, {"ext": EXTENSION, "info": info})
    return {"name": "radiology_transunet", "description": "series of the archive", "objects": objects}


def _held_last(rows: Iterable[AnnotationRow]) -> list[AnnotationRow]:
    """In their order, but for those that are held back."""
    return sorted(rows, key=lambda row: row.is_held)


def _brief(row: SeriesRow) -> dict[str, Any]:
    return {"name": f"{row.series_uid}{EXTENSION}", "ts": int(row.created_at.timestamp()), "Modality": row.modality}


def _label_info(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    info = params.get("label_info") or []
    if not isinstance(info, list) or not all(isinstance(entry, dict) for entry in info):
        raise InvalidInput(f"label_info must be a list of objects with name and idx, got {str(info)[:200]}")
    return info
