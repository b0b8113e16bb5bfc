"""Fit a network to cases: one loop, top to bottom.

Deterministic: the weights follow from the seed; batch, augmentation and dropout of step n from (seed, n). So a run
that was killed and resumed ends with the weights of one that was not (on a CPU, with the same number of threads and a
budget of steps).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from lib.core import metrics
from lib.core.errors import TrainingFailed
from lib.inference.config import PreprocessConfig
from lib.inference.devices import choose_device
from lib.inference.model import StateDict, build_preprocess
from lib.inference.predictor import Predictor
from lib.networks.config import NetworkConfig
from lib.training import augment
from lib.training.checkpoint import CHECKPOINT, Checkpoint
from lib.training.config import FitConfig
from lib.training.data import Case, TrainingSet, prepare, schema_of
from lib.training.run import Run
from lib.training.schedule import Budget, rate_factor

REPORT_EVERY_S = 0.5
RECENT_STEPS = 20
VALIDATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class FitProgress:
    """Where a run is.

    Attributes:
        stage: "prepare", "train" or "validate".
        share: of the stage, in [0, 1].
        step: steps done.
        steps: steps of the whole run; fewer are done when the time budget ends first.
        loss: mean of the last steps, or None before the first.
        dice: mean Dice of the last validation, or None before it.
        left_s: estimated seconds until the steps are done, or None.
    """

    stage: str
    share: float
    step: int = 0
    steps: int = 0
    loss: float | None = None
    dice: float | None = None
    left_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What a run ends with.

    Attributes:
        state_dict: averaged weights, on the CPU.
        dice: by label name, the mean over the validation cases that have a value, or None.
        losses: of each step.
        curve: (step, mean Dice) of each validation.
        steps: steps done.
        seconds: of the whole run, with its earlier parts when it was resumed.
    """

    state_dict: dict[str, Tensor]
    dice: Mapping[str, float | None]
    losses: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    steps: int
    seconds: float

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that have a value."""
        return metrics.mean_dice(self.dice)


Report = Callable[[FitProgress], None]


def fit(
    cases: Sequence[Case],
    validation: Sequence[Case],
    network_config: NetworkConfig,
    preprocess_config: PreprocessConfig,
    config: FitConfig,
    folder: Path,
    device: str = "auto",
    report: Report = lambda _: None,
    start: StateDict | None = None,
) -> FitResult:
    """Train a network.

    Args:
        cases: to learn from; asked for one after the other and kept as the network's planes alone.
        validation: to measure on, also one after the other; may be empty.
        network_config: which network.
        preprocess_config: Volume -> network input.
        config: how to train.
        folder: for the checkpoint; a run with the same inputs goes on from there.
        device: "auto", "cpu", "cuda" or "cuda:N".
        report: called about twice a second; an exception that it raises ends the run, whose last checkpoint stays.
        start: weights to start from, of the same network and labels; None = drawn from the seed.

    Raises:
        TrainingFailed: no cases, no labelled voxel, a loss that is not a number (the last checkpoint stays).
    """
    started = monotonic()
    schema, where = schema_of(cases), choose_device(device)
    preprocess = build_preprocess(preprocess_config, network_config)
    data = prepare(cases, preprocess, config.crop, lambda share: report(FitProgress("prepare", share)))
    key = _key(network_config, preprocess_config, config, data, start)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        run = Run.start(network_config, schema, config, where, start)
        seconds = _seconds_left(config, monotonic() - started)
        started = monotonic()
        if (last := Checkpoint.load(folder, key)) is not None:
            run.resume(last)
            started -= last.seconds
        budget = Budget(config.steps, seconds, lambda: monotonic() - started)
        predictor = Predictor(run.average, preprocess, schema, where, VALIDATION_BATCH)
        reported = 0.0
        while (progress := budget.progress(run.step)) < 1:
            images, classes = draw_batch(data, config, run.step)
            rate = config.learning_rate * rate_factor(progress, config.warmup, config.schedule)
            run.learn(images.to(where), classes.to(where), rate)
            if config.validate_every and run.step % config.validate_every == 0:
                run.curve.append((run.step, metrics.mean_dice(validate(predictor, validation)) or 0.0))
            if run.step % config.checkpoint_every == 0:
                run.checkpoint(key, budget.clock()).save(folder)
            if monotonic() - reported >= REPORT_EVERY_S:
                reported = monotonic()
                report(_progress(run, budget))
    dice = validate(predictor, validation, lambda share: report(FitProgress("validate", share, run.step, run.step)))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    state = {name: value.cpu().contiguous() for name, value in run.average.state_dict().items()}
    return FitResult(state, dice, tuple(run.losses), tuple(run.curve), run.step, budget.clock())


def draw_batch(data: TrainingSet, config: FitConfig, step: int) -> tuple[Tensor, Tensor]:
    """Images (B, in, H, W) and classes (B, H, W) of a step; also seeds torch, for the step's dropout."""
    rng = np.random.default_rng((config.seed, step))
    torch.manual_seed(int(rng.integers(2**63)))
    images, classes = data.batch(data.draw(rng, config.batch_size, config.foreground))
    images, classes = augment.apply(images, classes, augment.draw(rng, config.augment, config.batch_size))
    return images.contiguous(memory_format=torch.channels_last), classes


def validate(
    predictor: Predictor, cases: Sequence[Case], report: Callable[[float], None] = lambda _: None
) -> dict[str, float | None]:
    """Dice of each label on the cases' own grids: the mean over the cases that have a value, or None.

    Args:
        predictor: the model.
        cases: images with masks.
        report: called with the share of cases done.
    """
    found: dict[str, list[float]] = {name: [] for name in predictor.schema.names}
    for number in range(len(cases)):  # a loop over the cases would hold the last one while the next is read
        for name, value in _dice(predictor, cases[number]).items():
            if value is not None:
                found[name].append(value)
        report((number + 1) / len(cases))
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def _dice(predictor: Predictor, case: Case) -> dict[str, float | None]:
    """Dice of each label on one case, None where neither the mask nor the prediction has it."""
    predicted = predictor.predict(case.volume).mask.array
    schema = predictor.schema
    return {label.name: metrics.dice(case.mask.array == label.id, predicted == label.id) for label in schema}


def _seconds_left(config: FitConfig, prepared_s: float) -> float | None:
    """What the preparation leaves of the time budget; None without one.

    Raises:
        TrainingFailed: nothing; weights that never learned would otherwise pass for a model.
    """
    if config.max_minutes is None:
        return None
    left = config.max_minutes * 60 - prepared_s
    if left <= 0:
        raise TrainingFailed(
            f"training.max_minutes of {config.max_minutes:g} ended before the first step: preparing the cases took "
            f"{prepared_s:.0f} s; allow more minutes"
        )
    return left


def _progress(run: Run, budget: Budget) -> FitProgress:
    return FitProgress(
        stage="train",
        share=budget.progress(run.step),
        step=run.step,
        steps=budget.steps,
        loss=float(np.mean(run.losses[-RECENT_STEPS:])),
        dice=run.curve[-1][1] if run.curve else None,
        left_s=budget.left_s(run.step),
    )


def _key(
    network: NetworkConfig, preprocess: PreprocessConfig, config: FitConfig, data: TrainingSet, start: StateDict | None
) -> str:
    """A checksum of everything that a run follows from."""
    digest = hashlib.sha256(repr((network, network.architecture, preprocess, config, data.fingerprint())).encode())
    for name, value in (start or {}).items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
