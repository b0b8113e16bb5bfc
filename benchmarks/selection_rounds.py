"""Rounds of simulated selection: a labelled set plays pool and oracle, the product's own code chooses.

A round learns from fresh weights, is measured on the held-out cases, and chooses the cases of the next round. A round
that is done is a file, written whole; a stream that was killed goes on with the first round that has none, from its
start: the CPU seconds of a fit that was cut short would not be known.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from heads import ordered
from lib.core import metrics
from lib.core.atomic import replacing
from lib.inference.devices import choose_device
from lib.inference.model import build_network, build_preprocess
from lib.inference.predictor import Predictor
from lib.networks.fuse import fuse
from lib.selection.strategies import STRATEGIES
from lib.training.data import Case
from lib.training.fit import fit
from selection_choice import choose
from selection_game import Game, Round

SEEDS_APART = 1000
FULL = SEEDS_APART - 1
"""The round whose seed the fit on the whole pool has."""
BATCH = 48
"""Slices through the network at once when it predicts."""


def started(game: Game) -> Round:
    """The round of the start set, which all strategies of a seed share: each has chosen in it."""
    path = game.folder / "start.json"
    if not path.exists():
        _write(path, play(game, 0, start_set(game), 0, tuple(STRATEGIES)))
    return Round.read(path)


def stream(game: Game, strategy: str) -> list[Round]:
    """All rounds of a strategy, the missing ones being made; the first one is the shared one."""
    rounds = [started(game)]
    for number in range(1, game.rounds + 1):
        path = game.folder / f"{strategy}-{number}.json"
        if not path.exists():
            before = rounds[-1]
            chosen = before.choices[strategy]
            corrected = before.corrected_voxels + chosen.corrected_voxels
            choosing = (strategy,) if number < game.rounds else ()
            _write(path, play(game, number, (*before.cases, *chosen.cases), corrected, choosing))
        rounds.append(Round.read(path))
    return rounds


def full_data(game: Game) -> dict[str, dict[str, float]]:
    """Dice with all of the pool labelled, after as many steps."""
    return tested(game, trained(game, FULL, [case.name for case in game.material.pool]))


def start_set(game: Game) -> tuple[str, ...]:
    """The cases labelled at first: of different patients, drawn at random, each label shown by one if by any.

    Where a label is missing, the last one drawn makes room for the first one that shows it.
    """
    by_patient: dict[int, list[Case]] = {}
    for case in sorted(game.material.pool, key=lambda case: case.name):
        by_patient.setdefault(int(case.patient), []).append(case)
    turns = ordered(sorted(by_patient), f"start {game.seed}")
    order = [by_patient[patient][(game.seed + turn) % len(by_patient[patient])] for turn, patient in enumerate(turns)]
    picked = order[: game.start]
    for label in game.task.schema:
        showing = [case for case in order if (case.mask.array == label.id).any()]
        if showing and not any(case is other for case in showing for other in picked):
            picked = [showing[0], *picked[:-1]]
    return tuple(case.name for case in picked)


def play(game: Game, number: int, names: Sequence[str], corrected: int, strategies: Sequence[str]) -> Round:
    """One round: learn, measure, and let strategies choose."""
    times = [time.process_time()]
    predictor = trained(game, number, names)
    times.append(time.process_time())
    found = tested(game, predictor)
    times.append(time.process_time())
    choices = choose(game, predictor, number, names, strategies)
    times.append(time.process_time())
    train_s, test_s, choose_s = (round(b - a, 2) for a, b in pairwise(times))
    cases = game.find(names)
    showing = {label.name: sum(bool((c.mask.array == label.id).any()) for c in cases) for label in game.task.schema}
    return Round(
        number=number,
        labels=len(names),
        cases=tuple(names),
        **found,
        showing=showing,
        foreground_voxels=sum(int((case.mask.array != 0).sum()) for case in cases),
        corrected_voxels=corrected,
        choices=choices,
        train_s=train_s,
        test_s=test_s,
        choose_s=choose_s,
    )


def trained(game: Game, number: int, names: Sequence[str]) -> Predictor:
    """A network that has learned from these cases alone, from fresh weights."""
    task = game.task
    config = replace(task.training, seed=SEEDS_APART * game.seed + number)
    game.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=game.folder) as folder:
        blocks = task.network, task.preprocess, config, Path(folder), game.device
        fitted = fit(game.find(names), (), *blocks, predict=task.predict)
    network = build_network(task.network, task.schema)
    network.load_state_dict(fitted.state_dict)
    preprocess, device = build_preprocess(task.preprocess, task.network), choose_device(game.device)
    blocks_of = preprocess, task.schema, device, BATCH, task.predict, game.settings.uncertainty
    return Predictor(fuse(network), *blocks_of)


def tested(game: Game, predictor: Predictor) -> dict[str, dict[str, float]]:
    """Dice by label and by site, and false alarms, on the held-out cases; see `Round`."""
    hits: dict[tuple[str, str], list[float]] = {}
    alarms: dict[str, list[bool]] = {}
    for case in game.material.test:
        predicted, site = predictor.predict(case.volume).mask.array, game.material.sites[case.name]
        for label in game.task.schema:
            regions = case.mask.array == label.id, predicted == label.id
            if regions[0].any():
                hits.setdefault((label.name, site), []).append(metrics.dice(*regions) or 0.0)
            else:
                alarms.setdefault(label.name, []).append(bool(regions[1].any()))
    labels, sites = (list(dict.fromkeys(key[place] for key in hits)) for place in (0, 1))
    by_label = {name: [dice for key, some in hits.items() if key[0] == name for dice in some] for name in labels}
    return {
        "dice": {name: fmean(some) for name, some in by_label.items()},
        "sites": {site: fmean(fmean(some) for key, some in hits.items() if key[1] == site) for site in sites},
        "false_alarms": {name: fmean(some) for name, some in alarms.items()},
    }


def _write(path: Path, made: Round) -> None:
    """The file of a round, there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unnamed:
        unnamed.write_text(json.dumps(asdict(made)), encoding="utf-8")
