"""Fit a network to cases: one loop, top to bottom.

Deterministic: the weights follow from the seed; batch, augmentation and dropout of step n from (seed, n). So a run
that was killed and resumed ends with the weights of one that was not (on a CPU, with the same number of threads and a
budget of steps). One that finds no memory goes on from its last checkpoint with half as many pictures at a time, in
steps as large as before.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from lib.core import metrics
from lib.core.errors import NoRoomToMeasure, TrainingFailed
from lib.inference.config import PredictConfig, PreprocessConfig
from lib.inference.devices import memory_needed
from lib.inference.model import StateDict, build_preprocess
from lib.inference.predictor import Predictor
from lib.networks.config import NetworkConfig
from lib.training.batches import draw_batch
from lib.training.checkpoint import Checkpoint
from lib.training.config import FitConfig
from lib.training.data import Case, TrainingSet, prepare, schema_of
from lib.training.distributed import ALONE, Group
from lib.training.keeper import Keeper
from lib.training.measure import CaseMetrics, mean_dice_by_label, measure, validate
from lib.training.memory import memory_explained, twice
from lib.training.precision import other_precision
from lib.training.run import Run
from lib.training.schedule import Budget, rate_factor
from lib.training.usage import Usage, usage_of

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
        notes: what went other than planned until now, in words.
    """

    stage: str
    share: float
    step: int = 0
    steps: int = 0
    loss: float | None = None
    dice: float | None = None
    left_s: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What a run ends with.

    Attributes:
        state_dict: averaged weights, the last or the best ones as the config says, on the CPU.
        dice: by label name, the mean over the validation cases that have a value, or None.
        losses: of each step.
        curve: (step, mean Dice) of each validation.
        steps: steps done.
        seconds: of steps and measurements, not of the preparation; with the earlier parts of a run that was resumed.
        cases: all metrics of each validation case.
        rates: learning rate of each step.
        notes: what went other than planned, in words.
        usage: what it took of the machines that it ran on.
    """

    state_dict: dict[str, Tensor]
    dice: Mapping[str, float | None]
    losses: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    steps: int
    seconds: float
    cases: tuple[CaseMetrics, ...] = ()
    rates: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    usage: Usage | None = None

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that have a value."""
        return metrics.mean_dice(self.dice)


Report = Callable[[FitProgress], None]
Judging = tuple[Predictor, Sequence[Case]]
"""The averaged weights of a run as a model, and the cases that it is measured on."""


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
    predict: PredictConfig = PredictConfig(),  # noqa: B008 (frozen)
    weights: Sequence[float] | None = None,
    group: Group = ALONE,
) -> FitResult:
    """Train a network.

    Args:
        cases: to learn from; asked for one after the other and kept as the network's planes alone.
        validation: to measure on, also one after the other; may be empty.
        network_config: which network.
        preprocess_config: Volume -> network input.
        config: how to train.
        folder: for checkpoints; a run with the same inputs goes on from there. The last one stays until whoever calls
            has put the result where it belongs, and clears it (`Checkpoint.clear`).
        device: "auto", "cpu", "cuda" or "cuda:N".
        report: called about twice a second; an exception that it raises ends the run, whose last checkpoint stays.
        start: weights to start from, of the same network and labels; None = drawn from the seed.
        predict: how the network is asked when it is measured.
        weights: how much likelier each case is drawn than others; None = all alike.
        group: the processes that train together, each of which calls this with the same; the first one alone reports
            and writes checkpoints, all get the result.

    Raises:
        InvalidSettings: a precision that the device does not have, pictures of a step that the group cannot share.
        ProcessLost: another process of the group has ended (the last checkpoint stays).
        TrainingFailed: no cases, no labelled voxel, no memory for half as many pictures at a time either, a loss that
            is not a number (the last checkpoint stays).
        NoRoomToMeasure: no memory for a look at `validation` (the last checkpoint stays, at the end one of all steps).
        DiskFull: a checkpoint has no room (the last one stays).
    """
    import_module("torch._dynamo")  # by the first optimiser anyway; these seconds no run's budget should pay
    started = monotonic()
    group.require_even(config)
    report = report if group.leads else lambda _: None
    schema, where = schema_of(cases), group.device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)  # what names no card means this one, NCCL's own memory too
    preprocess = build_preprocess(preprocess_config, network_config)
    data = prepare(cases, preprocess, config.crop, lambda share: report(FitProgress("prepare", share)), weights)
    judges = validation if config.keep == "best" else ()
    key = _key(network_config, preprocess_config, config, predict, data, start, judges)
    folder.mkdir(parents=True, exist_ok=True)
    group.require_same(f"{key} {len(validation)}")
    keeper = Keeper(folder, key, config.checkpoint_every, config.checkpoint_minutes * 60, group)
    if said := other_precision(config, where):
        keeper.note(said)
    budget = _budget(config, keeper.find(), monotonic() - started)

    def attempt(no_memory: str) -> tuple[Run, Judging]:
        with group.reasons_shared():
            run = Run.start(network_config, schema, config, where, data.counts(), start, group)
            keeper.resume(run, again=no_memory != "")
            if no_memory:
                run.halve(no_memory)
            judging = Predictor(run.average, preprocess, schema, where, VALIDATION_BATCH, predict), validation
            _train(run, data, judging, budget, keeper, report)
            return run, judging

    halves = group.may_meet_again(where)
    with torch.random.fork_rng(devices=[]):
        with memory_explained(network_config, config, data.window, group.size, halves):
            run, judging = twice(attempt, group.meet_again) if halves else attempt("")
        return _result(run, judging, budget, report)


def _train(run: Run, data: TrainingSet, judging: Judging, budget: Budget, keeper: Keeper, report: Report) -> None:
    """Take the steps that are left."""
    config, device, validation, reported = run.config, judging[0].device, judging[1], 0.0

    def tell() -> None:
        report(_progress(run, budget))

    while (progress := run.group.exchange(budget.progress(run.step))[0]) < 1:
        rate = config.learning_rate * rate_factor(progress, config.warmup, config.schedule)
        with run.group.step():
            run.learn(draw_batch(data, config, run.step, progress, device, run.group), rate)
        due = len(validation) > 0 and config.validate_every > 0 and run.step % config.validate_every == 0
        due = due and run.step < budget.steps  # the last weights are measured in any case
        kept = due and run.validated(_mean_dice(run, judging, tell))
        keeper.keep(run, budget.clock(), now=kept)
        if monotonic() - reported >= REPORT_EVERY_S:
            reported = monotonic()
            tell()
    keeper.keep(run, budget.clock(), now=True)  # what is left to do is short, but must not cost the whole run


def _result(run: Run, judging: Judging, budget: Budget, report: Report) -> FitResult:
    """The weights that the config keeps of a run that is over, measured."""
    predictor, validation = judging
    tell = lambda share: report(FitProgress("validate", share, run.step, run.step))  # noqa: E731
    found = _measured(run, judging, tell)
    if validation and run.took_back(_mean_of(found, predictor)):
        found = _measured(run, judging, tell)
    state = {name: value.cpu().contiguous() for name, value in run.average.state_dict().items()}
    dice = mean_dice_by_label(found, predictor.schema.names)
    curves, rest = (tuple(run.losses), tuple(run.curve)), (tuple(run.rates), tuple(run.notes))
    usage = usage_of(run.config, predictor.device, run.group)
    return FitResult(state, dice, *curves, run.step, budget.clock(), found, *rest, usage)


def _measured(run: Run, judging: Judging, report: Callable[[float], None]) -> tuple[CaseMetrics, ...]:
    """All metrics of each case."""
    with memory_needed("to measure the network after its last step", NoRoomToMeasure):
        return measure(*judging, report, run.group)


def _mean_of(found: Sequence[CaseMetrics], predictor: Predictor) -> float:
    """Mean Dice over the labels that have a value, 0 without any."""
    return metrics.mean_dice(mean_dice_by_label(found, predictor.schema.names)) or 0.0


def _mean_dice(run: Run, judging: Judging, tell: Callable[[], None]) -> float:
    """Mean Dice over the labels that have a value, 0 without any; `tell` is called after each case."""
    with memory_needed(f"to measure the network after step {run.step}", NoRoomToMeasure):
        return metrics.mean_dice(validate(*judging, lambda _: tell(), run.group)) or 0.0


def _budget(config: FitConfig, last: Checkpoint | None, prepared_s: float) -> Budget:
    """What there is for the rest of a run.

    Args:
        config: of the run.
        last: checkpoint that it goes on from, or None.
        prepared_s: spent before the first step.
    """
    seconds, started = _seconds_left(config, prepared_s), monotonic()
    if last is not None:
        started -= last.seconds
    return Budget(config.steps, seconds, lambda: monotonic() - started)


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
        loss=float(np.mean(run.losses[-RECENT_STEPS:])) if run.losses else None,
        dice=run.curve[-1][1] if run.curve else None,
        left_s=budget.left_s(run.step),
        notes=tuple(run.notes),
    )


def _key(
    network: NetworkConfig,
    preprocess: PreprocessConfig,
    config: FitConfig,
    predict: PredictConfig,
    data: TrainingSet,
    start: StateDict | None,
    judges: Sequence[Case],
) -> str:
    """A checksum of everything that a run follows from; `judges` are the cases that choose its weights, if any do."""
    config = replace(config, checkpoint_every=1, checkpoint_minutes=1.0)  # of which nothing follows
    digest = hashlib.sha256(repr((network, network.numbers, preprocess, config, predict, data.fingerprint())).encode())
    for name, value in (start or {}).items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    for number in range(len(judges)):  # one after the other, as everywhere
        case = judges[number]
        digest.update(case.volume.array.tobytes())
        digest.update(case.mask.array.tobytes())
    return digest.hexdigest()
