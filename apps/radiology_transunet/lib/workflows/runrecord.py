"""What is written down of a training: its task, curves, figures, cases, pictures, and where it ran.

The record stands beside the model and never decides about it: when it cannot be written, the model stays and a warning
says why.
"""

import hashlib
import logging
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from lib.core.errors import LabelError
from lib.registry.tracking import RunLog, RunRecord
from lib.taskfile import Task, task_dict
from lib.training.config import FitConfig
from lib.workflows.casefigures import common_mean_dice, mean_calibration_error, means_by_label
from lib.workflows.heartbeat import Stopped
from lib.workflows.overlays import overlay

if TYPE_CHECKING:
    import numpy.typing as npt

    from lib.inference.predictor import Predictor
    from lib.training.data import Case
    from lib.training.fit import FitResult

logger = logging.getLogger(__name__)

PICTURES = 3
PICTURE_BATCH = 8
GIT_TIMEOUT_S = 10

Values = dict[str, Any]
Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Training:
    """A training that is over.

    Attributes:
        name: of its run, for people.
        task: what was trained.
        config: how, with what the command or request said.
        fitted: what it ended with.
        learned: cases that it learned from.
        held_out: cases that it was measured on.
        device: as it was asked for.
        tags: what to remember beside.
    """

    name: str
    task: Task
    config: FitConfig
    fitted: "FitResult"
    learned: "Sequence[Case]"
    held_out: "Sequence[Case]"
    device: str
    tags: Mapping[str, str] = field(default_factory=dict)


def log_training(log: RunLog, training: Training, model: Path, check: Check = lambda: None) -> str | None:
    """Write a training down; the id of its run, or None when that did not work, with the reason as a warning.

    Args:
        log: where to.
        training: what.
        model: folder of what it made, which draws the pictures.
        check: called between cases; when it raises Stopped, nothing is written.

    Raises:
        Stopped: because of `check`.
    """
    from lib.inference.model import load_predictor

    try:
        predictor = load_predictor(model, training.task, training.device, PICTURE_BATCH)
        return log.write(describe(training, predictor, check))
    except Stopped:
        raise
    except Exception as error:  # whatever it is: the model is there and must not be lost for its record
        told = error if isinstance(error, LabelError) else f"{type(error).__name__}: {error}"
        logger.warning("the run %r is not written to the registry: %s", training.name, told)
        return None


def describe(training: Training, predictor: "Predictor", check: Check = lambda: None) -> RunRecord:
    """Everything that is written of a training."""
    sets = {"train": training.learned, "held out": training.held_out}
    cases = [case_row(case, split) for split, some in sets.items() for case in _each(some, range(len(some)), check)]
    shown = training.held_out if len(training.held_out) else training.learned
    chosen = enumerate(_each(shown, _fixed(len(shown)), check), start=1)
    return RunRecord(
        task=training.task.name,
        name=training.name,
        config=task_dict(replace(training.task, training=training.config)),
        curves=curves(training.fitted),
        metrics=figures(training),
        environment={**environment(training.device), **_usage(training.fitted)},
        cases=cases,
        pictures=dict(picture(case, predictor, number) for number, case in chosen),
        tags={**({"notes": "; ".join(training.fitted.notes)} if training.fitted.notes else {}), **training.tags},
    )


def curves(fitted: "FitResult") -> dict[str, list[tuple[int, float]]]:
    """Loss and learning rate of each step, mean Dice of each validation; steps from 1."""
    return {
        "loss": list(enumerate(fitted.losses, start=1)),
        "rate": list(enumerate(fitted.rates, start=1)),
        "validation dice": list(fitted.curve),
    }


def figures(training: Training) -> dict[str, float]:
    """What was measured at the end, by name."""
    fitted = training.fitted
    found: dict[str, float | None] = {
        "mean_dice": common_mean_dice(training.task, fitted.dice),
        "calibration_error": mean_calibration_error(fitted.cases),
        "steps": fitted.steps,
        "seconds": fitted.seconds,
    }
    for name, means in means_by_label(fitted.cases, training.task.schema.names).items():
        found.update({f"{what}/{name}": value for what, value in asdict(means).items()})
    return {name: value for name, value in found.items() if value is not None}


def case_row(case: "Case", split: str) -> Values:
    """Which case took part, such that the same one can be recognised: checksums of its voxels, not of its file."""
    return {
        "name": case.name,
        "patient": case.patient,
        "split": split,
        "shape": list(case.volume.geometry.shape),
        "spacing_mm": [round(mm, 4) for mm in case.volume.geometry.spacing_mm],
        "volume_sha256": _checksum(case.volume.array),
        "mask_sha256": _checksum(case.mask.array),
    }


def picture(case: "Case", predictor: "Predictor", number: int) -> tuple[str, bytes]:
    """A name and the PNG of a case with its mask and the model's."""
    found = predictor.predict(case.volume)
    return f"{number} {case.name}", overlay(case.volume, case.mask, found.mask, case.name)


def _usage(fitted: "FitResult") -> Values:
    """Device, precision and memory of the training, which may have been on another machine than this one."""
    return {} if fitted.usage is None else asdict(fitted.usage)


def environment(device: str) -> Values:
    """Packages, hardware and commit."""
    from lib.inference.devices import describe_device

    return {
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **describe_device(device),
        "packages": {found.name: found.version for found in sorted(metadata.distributions(), key=lambda d: d.name)},
    }


def commit(folder: Path) -> str:
    """The commit of the repository around a folder, with "-dirty" when files differ from it; "" without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _each(cases: "Sequence[Case]", numbers: Iterable[int], check: Check) -> "Iterator[Case]":
    """Cases by number; a loop over the cases themselves would hold the last one while the next is read."""
    for number in numbers:
        check()
        yield cases[number]


def _fixed(count: int) -> list[int]:
    """Numbers of a few cases from the first to the last, the same ones whenever there are so many."""
    return sorted({round(place) for place in np.linspace(0, count - 1, PICTURES)}) if count else []


def _checksum(array: "npt.NDArray[Any]") -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
