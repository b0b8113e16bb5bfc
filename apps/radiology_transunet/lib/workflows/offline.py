"""Train on folders of files and label files, without archive, ledger or server."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import InvalidInput
from lib.core.values import Prediction
from lib.registry.tracking import RunLog
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.workflows.casefigures import common_mean_dice
from lib.workflows.runrecord import Training, log_training
from lib.workflows.userfiles import NIFTI, FileCases, Pair, pairs_of, read_image, read_series

if TYPE_CHECKING:
    from lib.dicom.series import SourceSeries
    from lib.inference.model import Manifest, StateDict
    from lib.inference.predictor import Predictor
    from lib.training.fit import FitProgress, FitResult

DICOM = ".dcm"
MIN_PATIENTS_TO_HOLD_OUT = 3
SOFTWARE = "radiology_transunet"

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a folder is trained on.

    Attributes:
        max_minutes: time budget, or None for the task's own.
        seed: of the training, or None for the task's own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        holdout: share of the patients that the model is measured on instead of trained on.
        patient_of: the patient of a file name without its suffix.
        start: folder of a model of the task to start from, or None to start from weights drawn from the seed.
        log: where the run is written down, or None.
    """

    max_minutes: float | None = None
    seed: int | None = None
    device: str = "auto"
    holdout: float = 0.2
    patient_of: Callable[[str], str] = str
    start: Path | None = None
    log: RunLog | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise InvalidInput(f"the share held out must be at least 0 and below 1, got {self.holdout}")

    def applied_to(self, config: FitConfig) -> FitConfig:
        """The task's training block with what is asked for."""
        return replace(
            config,
            max_minutes=config.max_minutes if self.max_minutes is None else self.max_minutes,
            seed=config.seed if self.seed is None else self.seed,
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training on folders ends with: the fit, the model's manifest, the numbers of cases, the run in the log."""

    fit: "FitResult"
    manifest: "Manifest"
    cases: int
    held_out: int
    run: str | None = None


def divide(pairs: Sequence[Pair], share: float, patient_of: Callable[[str], str]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held out; a patient is in one of them, always the same by its name.

    With fewer than three patients nobody is held out.
    """
    patients = sorted({patient_of(pair.name) for pair in pairs}, key=lambda p: hashlib.sha256(p.encode()).digest())
    count = min(math.floor(share * len(patients) + 0.5), len(patients) - 1)
    kept_apart = set(patients[:count]) if len(patients) >= MIN_PATIENTS_TO_HOLD_OUT else set()
    held_out = [pair for pair in pairs if patient_of(pair.name) in kept_apart]
    return [pair for pair in pairs if pair not in held_out], held_out


def train_folder(
    images: Path, labels: Path, task: Task, out: Path, options: TrainOptions, report: "Callable[[FitProgress], None]"
) -> Trained | None:
    """Train a model of the task and write it to the folder `out`; a killed run goes on from there.

    Where torchrun has started several processes, they train together; one of them writes, the others get None.

    Raises:
        InvalidInput: files that do not pair or cannot be read.
        NotFound, ManifestMismatch: no model to start from, or one that does not fit the task.
        TrainingFailed: no labelled voxel, a loss that is not a number, no memory.
        DiskFull: checkpoint or model has no room; the same call goes on from there.
    """
    from lib.inference.model import Manifest, file_sha256, save_model
    from lib.training.checkpoint import Checkpoint
    from lib.training.distributed import joined_by_torchrun
    from lib.training.fit import fit

    start = None if options.start is None else _weights_of(options.start, task)
    learn, measure = divide(pairs_of(images, labels), options.holdout, options.patient_of)
    cases, held_out = (FileCases(pairs, task, options.patient_of) for pairs in (learn, measure))
    held_out.require_readable()  # before hours of training; those to learn from are read at its beginning
    config = options.applied_to(task.training)
    parts, device = (cases, held_out, task.network, task.preprocess, config, out), options.device
    with joined_by_torchrun() as group:
        fitted = fit(*parts, device, report, start, task.predict, group=group)
    if not group.leads:
        return None
    figures = {f"dice/{name}": value for name, value in fitted.dice.items() if value is not None}
    mean = common_mean_dice(task, fitted.dice)
    figures.update({} if mean is None else {"mean_dice": mean})
    files = tuple(sorted({file_sha256(pair.image) for pair in learn}))
    manifest = save_model(out, Manifest.describe(task, config.seed, figures, files=files), fitted.state_dict)
    Checkpoint.clear(out)
    run = None
    if options.log is not None:
        record = Training(f"train, seed {config.seed}", task, config, fitted, cases, held_out, options.device)
        run = log_training(options.log, record, out)
    return Trained(fitted, manifest, len(cases), len(held_out), run)


def _weights_of(folder: Path, task: Task) -> "StateDict":
    """The weights of a model of the task.

    Raises:
        NotFound: no model there.
        ManifestMismatch: a model of something else.
    """
    from lib.inference.model import read_manifest, read_state

    read_manifest(folder).require_starts(task)
    return read_state(folder)


def predict_file(source: Path, target: Path, task: Task, predictor: "Predictor", version: str, report: Report) -> bool:
    """Label a NIfTI file or a folder of DICOM files and write NIfTI (.nii, .nii.gz) or DICOM SEG (.dcm).

    Args:
        source: an image of the task.
        target: file to write; it appears complete or not at all.
        task: what the labels mean.
        predictor: the model.
        version: of the model, for the SEG.
        report: called with the share done and words.

    Returns:
        Whether anything was found. An empty mask becomes no SEG: DICOM has none; NIfTI is written.

    Raises:
        InvalidInput: a source that cannot be read or is not for the task, a target of another kind.
    """
    as_seg = _require_target(source, target)
    report(0.0, "reading")
    series = read_series(source, task) if source.is_dir() else None
    volume = series.volume if series else read_image(source, task)
    prediction = predictor.predict(volume, lambda share: report(share, "predicting"))
    if as_seg and series is not None:
        if not prediction.mask.is_empty:
            _write_seg(prediction, series, task, version, target)
    else:
        from lib.dicom.nifti import write_mask

        write_mask(prediction.mask, target)
    return not prediction.mask.is_empty


def _require_target(source: Path, target: Path) -> bool:
    """Whether a SEG is to be written."""
    if not source.exists():
        raise InvalidInput(f"a NIfTI file or a folder of DICOM files is needed, but there is no {source}")
    as_seg = target.name.endswith(DICOM)
    if not as_seg and not target.name.endswith(NIFTI):
        raise InvalidInput(f"the output must end in {', '.join(NIFTI)} or {DICOM}, got {target.name!r}")
    if as_seg and not source.is_dir():
        raise InvalidInput(f"a SEG needs the DICOM files that it refers to, got the single file {source}; write NIfTI")
    return as_seg


def _write_seg(prediction: Prediction, series: "SourceSeries", task: Task, version: str, target: Path) -> None:
    from lib.dicom.files import encode
    from lib.dicom.seg import SegOrigin, write_seg
    from lib.dicom.writer import new_uid

    origin = SegOrigin("AUTOMATIC", SOFTWARE, task.name, version, f"{task.name} model {version}")
    target.parent.mkdir(parents=True, exist_ok=True)
    unnamed = target.with_name(f".{target.name}.{os.getpid()}")
    unnamed.write_bytes(encode(write_seg(prediction.mask, series, origin, new_uid())))
    os.replace(unnamed, target)
