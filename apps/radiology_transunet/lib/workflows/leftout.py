"""What a task file leaves out, where CPUs train from it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lib.core.atomic import replacing
from lib.taskfile import Task
from lib.workflows.plansizes import CPU_SLICE_SIDE

if TYPE_CHECKING:
    from lib.training.data import Case

LOOKED_AT = 5
"""Cases, evenly chosen, that stand for all."""

KEPT = "spacing.json"
"""Beside the checkpoints of a training whose task leaves the spacing out: what it is there."""


def with_spacing(task: Task, cases: "Sequence[Case]", device: str, start: Path | None = None) -> Task:
    """The task, with a spacing within the slices at which CPUs learn in minutes, where it leaves that open.

    It stays as it is where it names a spacing, has a network of patches or trains on a graphics card, and where typical
    slices are small. Models keep the spacing in their manifests, so the file goes on fitting them.

    Args:
        task: as its file says.
        cases: to learn from.
        device: "auto", "cpu", "cuda" or "cuda:N".
        start: folder of a model to start from, whose spacing goes on; or None.

    Raises:
        NotFound, ManifestMismatch: no model to start from.
    """
    from lib.inference.devices import choose_device
    from lib.inference.match import trained_preprocess
    from lib.inference.model import read_manifest

    if start is not None:
        return replace(task, preprocess=trained_preprocess(read_manifest(start).preprocess, task))
    if task.preprocess.spacing_mm is not None or task.network.of_patches or choose_device(device).type != "cpu":
        return task
    grids = [cases[number].volume.geometry for number in range(0, len(cases), -(-len(cases) // LOOKED_AT) or 1)]
    if not grids or median(max(grid.shape[1:]) for grid in grids) <= CPU_SLICE_SIDE:
        return task
    extent_mm = median(max(n * mm for n, mm in zip(g.shape[1:], g.spacing_mm[1:], strict=True)) for g in grids)
    spacing_mm = float(f"{extent_mm / CPU_SLICE_SIDE:.3g}")
    return replace(task, preprocess=replace(task.preprocess, spacing_mm=spacing_mm))


def keep_spacing(task: Task, names: Sequence[str], chosen: Task, folder: Path) -> None:
    """Let a training that is interrupted in the folder go on at its spacing, whatever device is there then.

    Args:
        task: as its file says.
        names: of the cases.
        chosen: the task with the spacing of the training.
        folder: of the checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / KEPT) as unnamed:
        unnamed.write_text(json.dumps({"of": _of(task, names), "spacing_mm": chosen.preprocess.spacing_mm}))


def kept_spacing(task: Task, names: Sequence[str], folder: Path) -> Task | None:
    """The task with the spacing of the training that was interrupted in the folder; None = there is none of these."""
    from lib.training.checkpoint import BEFORE, CHECKPOINT

    path = folder / KEPT
    if not path.exists() or not any((folder / name).exists() for name in (CHECKPOINT, BEFORE)):
        return None
    values = json.loads(path.read_text())
    if values["of"] != _of(task, names):
        return None
    return replace(task, preprocess=replace(task.preprocess, spacing_mm=values["spacing_mm"]))


def forget_spacing(folder: Path) -> None:
    """Remove what was kept for a training that is over."""
    (folder / KEPT).unlink(missing_ok=True)


def _of(task: Task, names: Sequence[str]) -> str:
    return hashlib.sha256(repr((task, sorted(names))).encode()).hexdigest()
