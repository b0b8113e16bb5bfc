"""Nights of a label stream: accepted labels in, a served model out, in three ways.

A night that is done is a file, written whole beside the models; a stream that was killed goes on with the first night
that has none, from its start: the CPU seconds of a fit that was cut short would not be known.

What decides in the nightly recipe is the product's own code (start, weights, rate and steps, reference, gate). What is
put in place of the installation around it is `Shelf` for the registry, and the place of a label in the stream for the
id of its annotation.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lib.core.atomic import replacing
from lib.inference.model import Manifest, StateDict, load_predictor, read_state, save_model
from lib.inference.predictor import Predictor
from lib.training.config import FitConfig
from lib.training.data import Case
from lib.training.fit import FitResult, fit
from lib.training.measure import CaseMetrics, measure, validate
from lib.training.warmstart import half_new
from lib.workflows.casefigures import common_mean_dice, mean_calibration_error
from lib.workflows.comparison import Comparison
from lib.workflows.gate import Verdict, unopposed, weigh
from lib.workflows.recipe import FRESH, START, adapted, first_weights, hold_line, new_labels, start_of
from stage import Night, Shelf, Stage, champion_of


def by_recipe(stage: Stage, number: int, nights: Sequence[Night]) -> Night:
    """The product's way: `workflows/retrain.py` without its installation."""
    task, shelf = stage.task, Shelf(stage, nights)
    before = time.process_time()
    start, fitted = challenged(stage, number, shelf)
    train_s = time.process_time() - before
    ids, mean = range(stage.counts[number - 1]), common_mean_dice(task, fitted.dice)
    kept(stage, stage.model(number), fitted, stage.fit_seed(number), ids)
    before = time.process_time()
    version = shelf.add(number, mean, {START: FRESH if start is None else f"version {start}"})
    hold_line(shelf.services(), task, version, cast(Any, stage.calibration), lambda share, message: None)
    predictor = opened(stage, stage.model(number))
    exam = examined(stage, predictor)
    verdict = judged(stage, nights, exam, mean)
    judge_s = time.process_time() - before
    made = tested(stage, predictor)
    served = made if verdict.promote else nights[-1].served
    figures = number, len(ids), fitted.steps, train_s, judge_s, made, served, verdict.promote, verdict.reason
    return Night(*figures, mean=mean, tags=dict(shelf.get(task.name, number).tags), exam=exam)


def challenged(stage: Stage, number: int, shelf: Shelf) -> tuple[int | None, FitResult]:
    """The version that a night's training starts from, None for fresh weights, and what it ends with."""
    task, recipe, services = stage.task, stage.settings.recipe, shelf.services()
    ids, seed = range(stage.counts[number - 1]), stage.fit_seed(number)
    start = start_of(services, task)
    new = set(new_labels(services, task, start, ids))
    tuned = len(stage.calibration) > 0
    config = adapted(replace(task.training, seed=seed), recipe, start is not None, tuned, {})
    first = first_weights(services, task, start, seed)
    weights = half_new([place in new for place in ids], recipe.new)
    return start, trained(stage, stage.pool[: len(ids)], stage.calibration, config, first, weights)


def by_peer(stage: Stage, number: int, nights: Sequence[Night]) -> Night:
    """MONAI Label's way: from the last model at a constant rate; the best on the tail of the list serves."""
    count = stage.counts[number - 1]
    learned, tail = stage.pool[: count - tail_of(count)], stage.pool[count - tail_of(count) : count]
    config = replace(stage.peer, seed=stage.fit_seed(number))
    config = config if nights else replace(config, steps=stage.task.training.steps)
    config = replace(config, keep="best", validate_every=-(-config.steps // stage.peer_looks))
    before = time.process_time()
    last = read_state(stage.model(number - 1)) if nights else None
    fitted = trained(stage, learned, tail, config, last)
    train_s = time.process_time() - before
    kept(stage, stage.model(number), fitted, config.seed, range(len(learned)))
    at_first = replace(config, steps=min(config.steps, config.validate_every), keep="last")
    at = stage.folder / f"first-{number}"
    dip = trained(stage, learned, (), at_first, last)  # at a constant rate the same steps once more: not counted
    kept(stage, at, dip, config.seed, range(len(learned)))
    made = tested(stage, opened(stage, stage.model(number)))
    first = tested(stage, opened(stage, at))
    return Night(number, count, fitted.steps, train_s, 0.0, made, made, True, "every model serves", first)


def from_scratch(stage: Stage, number: int, nights: Sequence[Night]) -> Night:
    """Fresh weights each time, served always."""
    count, config = stage.counts[number - 1], replace(stage.task.training, seed=stage.fit_seed(number))
    before = time.process_time()
    fitted = trained(stage, stage.pool[:count], (), config)
    train_s = time.process_time() - before
    kept(stage, stage.model(number), fitted, config.seed, range(count))
    made = tested(stage, opened(stage, stage.model(number)))
    return Night(number, count, fitted.steps, train_s, 0.0, made, made, True, "every model serves")


Way = Callable[[Stage, int, Sequence[Night]], Night]
WAYS: Mapping[str, Way] = {"recipe": by_recipe, "monailabel": by_peer, "scratch": from_scratch}


def stream(stage: Stage, way: Way) -> list[Night]:
    """All nights, the missing ones being made."""
    nights: list[Night] = []
    stage.folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, len(stage.counts) + 1):
        path = stage.folder / f"night-{number}.json"
        if not path.exists():
            night = json.dumps(asdict(way(stage, number, nights)))
            with replacing(path) as unnamed:
                unnamed.write_text(night, encoding="utf-8")
        nights.append(Night(**json.loads(path.read_text(encoding="utf-8"))))
    return nights


def tail_of(count: int, share: float = 0.2) -> int:
    """How many of the last labels of a list MONAI Label validates on."""
    return max(1, round(share * count))


def judged(stage: Stage, nights: Sequence[Night], exam: Mapping[str, Any], mean: float | None) -> Verdict:
    """The gate on the promotion cases; the champion's figures are those of its own night."""
    champion = champion_of(nights)
    if champion is None:
        return unopposed(None, mean, len(stage.calibration))
    theirs = next(night.exam for night in nights if night.number == champion) or {}
    names = stage.task.schema.names
    dice = [np.array(one["dice"], dtype=np.float64).reshape(-1, len(names)) for one in (theirs, exam)]
    of = Comparison(
        version=champion,
        labels=names,
        common=stage.task.common_labels,
        patients=tuple(case.patient for case in stage.promotion),
        champion=dice[0],
        challenger=dice[1],
        newest=np.zeros(len(stage.promotion), dtype=np.bool_),
        calibration_error=(theirs["calibration_error"], exam["calibration_error"]),
    )
    return weigh(of, stage.settings.gate)


def examined(stage: Stage, predictor: Predictor) -> dict[str, Any]:
    """What the gate asks of a model, as plain values."""
    found = measure(predictor, stage.promotion)
    dice = [[dice_in(case, name) for name in stage.task.schema.names] for case in found]
    return {"dice": dice, "calibration_error": mean_calibration_error(found)}


def dice_in(case: CaseMetrics, label: str) -> float | None:
    """The Dice of a label in a case; None without one, which numpy reads as NaN."""
    figures = case.labels[label]
    return None if figures is None else figures.dice


def tested(stage: Stage, predictor: Predictor) -> float:
    """Mean over the labels of their mean Dice over the test cases."""
    return common_mean_dice(stage.task, validate(predictor, stage.test)) or 0.0


def trained(
    stage: Stage,
    cases: Sequence[Case],
    validation: Sequence[Case],
    config: FitConfig,
    start: StateDict | None = None,
    weights: Sequence[float] | None = None,
) -> FitResult:
    """A fit of its own, from its first step."""
    task = stage.task
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        blocks = task.network, task.preprocess, config, Path(folder), "cpu"
        return fit(cases, validation, *blocks, start=start, predict=task.predict, weights=weights)


def kept(stage: Stage, folder: Path, fitted: FitResult, seed: int, ids: Sequence[int]) -> None:
    """Write a model with what it learned from."""
    save_model(folder, Manifest.describe(stage.task, seed, {}, tuple(ids)), fitted.state_dict)


def opened(stage: Stage, folder: Path) -> Predictor:
    """The model of a folder."""
    return load_predictor(folder, stage.task, "cpu", stage.settings.inference.batch_size)
