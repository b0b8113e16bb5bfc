"""A cohort leaves the house: as a manifest, or as a data set with its manifest beside it.

Only accepted labels of people become labels; drafts and what waits for review do not. Cases are read one by one. A
killed export leaves nothing that could be taken for a whole one, and can be run again.
"""

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lib.core.atomic import replacing
from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.ledger.curationrows import CuratedCase
from lib.ledger.rows import AnnotationRow
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache
from lib.workflows.curate.layouts import (
    DataSet,
    LayoutName,
    dataset_json,
    file_ids,
    image_path,
    label_path,
    require_folder_name,
)
from lib.workflows.curate.manifest import Entry, file_sha256, manifest
from lib.workflows.curate.picking import DEFAULT_SPLITS, LeftOut, Picked, held_out_words, pick
from lib.workflows.curate.staging import staged_folder
from lib.workflows.presegment import load_series
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Format = Literal["manifest", "nnunet", "msd"]
Tell = Callable[[float, str], None]
Write = Callable[[str, Volume, Mask | None], dict[str, str]]
"""Writes a case; checksums by path."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made.

    Attributes:
        path: the folder, or the manifest's file.
        manifest: what it says.
        sha256: of the manifest's file.
        left_out: series that could not be used, with details that the manifest does not have.
    """

    path: Path
    manifest: dict[str, Any]
    sha256: str
    left_out: tuple[LeftOut, ...]

    @property
    def words(self) -> str:
        """What went out and what did not, for people."""
        counts = self.manifest["counts"]
        parts = [f"{counts['labelled']} labelled and {counts['unlabelled']} unlabelled cases"]
        if counts["held_out"]:
            parts.append(f"held out: {held_out_words(counts['held_out'])}")
        if self.left_out:
            parts.append(f"{len(self.left_out)} series could not be used")
        return "; ".join(parts)


def make_manifest(
    services: Services,
    task: Task,
    cohort: str,
    splits: Collection[str] = DEFAULT_SPLITS,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """The manifest of a cohort, without any file; reads every image and label for its checksum.

    Args:
        services: the rooms.
        task: whose labels.
        cohort: its name.
        splits: whose patients.
        tell: called with the share done and what is going on.

    Raises:
        NotFound: no such cohort.
        InvalidInput: nothing to export; see `pick`.
        ArchiveUnavailable: the archive does not answer.
    """
    return _made(services, task, pick(services, task, cohort, splits), tell)[0]


def export_manifest(
    services: Services,
    task: Task,
    cohort: str,
    to: Path,
    actor: str,
    splits: Collection[str] = DEFAULT_SPLITS,
    tell: Tell = lambda *_: None,
) -> Exported:
    """Write the manifest of a cohort into a file, in place of one that is there; see `make_manifest`.

    Raises:
        InvalidInput: a path that is a folder.
        DiskFull: no room; what was there stays.
    """
    if to.is_dir():
        raise InvalidInput(f"the manifest needs the path of a file, got the folder {to}")
    made, picked = _made(services, task, pick(services, task, cohort, splits), tell)
    to.parent.mkdir(parents=True, exist_ok=True)
    with replacing(to) as unnamed:
        _write_json(unnamed, made)
        done = Exported(to, made, file_sha256(unnamed), picked.left_out)
        _note(services, done, actor)
    return done


def export_data_set(
    services: Services,
    task: Task,
    cohort: str,
    layout: LayoutName,
    to: Path,
    actor: str,
    splits: Collection[str] = DEFAULT_SPLITS,
    tell: Tell = lambda *_: None,
) -> Exported:
    """Write a cohort as a data set with its manifest, into a folder that is not there yet.

    Args:
        services: the rooms.
        task: whose labels.
        cohort: its name.
        layout: of the folder.
        to: the folder.
        actor: who wants it, for the audit trail.
        splits: whose patients.
        tell: called with the share done and what is going on; may raise to end it.

    Raises:
        NotFound: no such cohort.
        Conflict: the folder is there already, or another export fills it.
        InvalidInput: nothing to export, or a name that nnU-Net would not find.
        ArchiveUnavailable: the archive does not answer.
        DiskFull: no room.
    """
    require_folder_name(layout, to.name)
    picked = pick(services, task, cohort, splits)
    ids = file_ids(task.schema)
    with staged_folder(to) as folder:
        entries, picked = _entries(services, task, picked, _writer(folder, layout, task.schema), tell)
        made = manifest(task, picked, layout, entries, ids, services.ledger.curation.clock())
        _write_json(folder / "dataset.json", dataset_json(layout, _data_set(to.name, task, entries, ids)))
        _write_json(folder / MANIFEST, made)
        done = Exported(to, made, file_sha256(folder / MANIFEST), picked.left_out)
        _note(services, done, actor)
    return done


def _made(services: Services, task: Task, picked: Picked, tell: Tell) -> tuple[dict[str, Any], Picked]:
    """The manifest without any file; with those that could not be read left out of what was picked."""
    ids = {label.name: label.id for label in task.schema}
    entries, picked = _entries(services, task, picked, lambda *_: {}, tell)
    return manifest(task, picked, "manifest", entries, ids, services.ledger.curation.clock()), picked


def _entries(services: Services, task: Task, picked: Picked, write: Write, tell: Tell) -> tuple[list[Entry], Picked]:
    """Read and write each case; with those that could not be read left out of what was picked."""
    cache, entries, lost = CaseCache(services, task), list[Entry](), list[LeftOut]()
    for done, (name, case) in enumerate(picked.cases.items()):
        tell(done / len(picked.cases), f"case {done + 1} of {len(picked.cases)}")
        try:
            annotation, volume, mask = _read(services, cache, case)
        except Conflict as error:
            lost.append(LeftOut(case.series_uid, "label-changed", str(error)))
            continue
        except (NotFound, InvalidInput) as error:
            lost.append(LeftOut(case.series_uid, "unreadable", str(error)))
            continue
        entry = Entry.of(name, case, volume, mask, annotation)
        entries.append(replace(entry, files=write(name, volume, mask)))
    picked = replace(picked, left_out=(*picked.left_out, *lost))
    for one in picked.left_out:
        logger.warning("series %s is left out of an export, %s: %s", one.series_uid, one.reason, one.details)
    if not entries:
        raise InvalidInput(f"no series of cohort {picked.cohort.name} can be read: {lost[0].details}")
    return entries, picked


def _read(services: Services, cache: CaseCache, case: CuratedCase) -> tuple[AnnotationRow | None, Volume, Mask | None]:
    """Image and accepted label of a case; the label is looked up again, it may have changed since.

    Raises:
        NotFound: series or SEG have left the archive.
        InvalidInput: they cannot be used.
        Conflict: the label does not count any more.
    """
    if case.label_status != "accepted" or case.label_id is None:
        return None, load_series(services, case.series_uid).volume, None
    label = services.ledger.annotations.get(case.label_id)
    if label.status != "accepted":
        raise Conflict(f"annotation {label.id} became {label.status} while the cohort was exported: export again")
    found = cache.case(label)
    return label, found.volume, found.mask


def _writer(folder: Path, layout: LayoutName, schema: LabelSchema) -> Write:
    from lib.dicom.nifti import write_mask, write_volume

    numbered = _numbered(schema)

    def write(name: str, volume: Volume, mask: Mask | None) -> dict[str, str]:
        image = image_path(layout, name, mask is not None)
        write_volume(volume, folder / image)
        written = [image]
        if mask is not None:
            write_mask(renumbered(mask, numbered), folder / label_path(name))
            written.append(label_path(name))
        return {path: file_sha256(folder / path) for path in written}

    return write


def renumbered(mask: Mask, schema: LabelSchema) -> Mask:
    """The mask with the ids that a schema of the same names has."""
    table = np.zeros(256, np.uint8)
    for label in mask.schema:
        other = schema.find(label.name)
        if other is None:
            raise InvalidInput(f"labels must be {', '.join(schema.names)}, got {label.name!r}")
        table[label.id] = other.id
    return Mask(table[mask.array], mask.geometry, schema)


def _numbered(schema: LabelSchema) -> LabelSchema:
    ids = file_ids(schema)
    return LabelSchema(tuple(replace(label, id=ids[label.name]) for label in schema))


def _data_set(name: str, task: Task, entries: list[Entry], ids: dict[str, int]) -> DataSet:
    labelled = tuple(entry.name for entry in entries if entry.annotation is not None)
    unlabelled = tuple(entry.name for entry in entries if entry.annotation is None)
    return DataSet(name, task.description, entries[0].case.modality, ids, labelled, unlabelled)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _note(services: Services, done: Exported, actor: str) -> None:
    """Write down which data leave, before anybody can see them."""
    made = done.manifest
    details = {"layout": made["layout"], "task": made["task"]["name"], "splits": made["splits"], "sha256": done.sha256}
    counts = {**made["counts"], "series": [entry["series_uid"] for entry in made["cases"]]}
    services.ledger.audit.add(actor, "cohort.exported", f"cohort {made['cohort']['name']}", {**details, **counts})
