"""What a task file leaves out, where CPUs train from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lib.taskfile import Task
from lib.workflows.plansizes import CPU_SLICE_SIDE

if TYPE_CHECKING:
    from lib.training.data import Case

LOOKED_AT = 5
"""Cases, evenly chosen, that stand for all."""


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
