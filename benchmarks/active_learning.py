"""Which case next: strategies against each other, a labelled set playing pool and oracle.

    TRANSUNET_DATA=/data python benchmarks/active_learning.py --preset rare [--seeds 7] [--jobs 2]

Each strategy starts from the same few cases, learns from fresh weights, chooses some more, and so on. The product
chooses: predictions of the pool become the rows of its ledger, and its strategies and its queue rank them with the
default settings, the uncertainty of one answer among them. The truth of a chosen case is then uncovered.

Presets, of the hippocampus set, a quarter of whose heads is held out by a hash of their number:

- rare: a tenth of the heads has a lesion, painted into image and mask as in rare_label.py, but bright and larger, so
  that so short a fit can learn it where it is shown often enough; of the held-out heads every second one, so that its
  Dice can be measured. The one that counts.
- plain: the hippocampi as they are.
- two-sites: a fifth of the heads has the contrast inverted, as of a second site; of the held-out ones every second.
- all: every strategy on the set of `rare`, but those that need samples of a network. Exploratory: nothing is judged.

The unit of work is a series: start and rounds are counted in cases. Patients are whole in pool and held-out set, and
the start set is of different patients. It shows each label at least once, as what a team has drawn when it writes a
task file does; a label that nobody has drawn cannot be looked for by what a model predicts. All strategies of a seed
share set, start set, and the seed and steps of each fit. The random lane of the product's queue is part of the default
alone: its rivals are as published, none of their places is drawn otherwise.

Dice of a label is the mean over the held-out cases that show it. The area under the curve (AUBC) is that of the mean
over the labels, over labelled cases, by trapezoids, divided by their range. Planned: the default against the two random
draws of a preset in AUBC and, at the end, in the Dice of the rare label (or of the second site, the mean over labels);
two-sided paired t tests and 95 % intervals over the seeds, by Holm for the two rivals, each figure by itself. Seeds
draw the patients with a lesion, the start set and all of training on the same held-out heads: intervals say how sure a
difference is on these, not how it would vary with other patients. Corrected voxels are those in which the draft of the
model that chose differs from the truth. "Full data" is one fit of the first seed on the whole pool, with as many steps.

A cell is a strategy with one seed, one thread each. What is done is kept in the --work folder, round by round: start a
run that was killed again. `--split dev` is for whoever tunes a strategy: it plays on a part of the heads to learn from.
On a GPU: `--network base --device cuda`. Prints tables, writes benchmarks/results/active_learning_<preset>.json and a
page with curves, docs/active_learning_<preset>.html (with --split dev, both go to the --work folder).
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

import cells
from cells import Cell, Made
from heads import add_options
from lib.cli.files import write_json
from lib.settings import Settings, load_settings
from lib.taskfile import Task
from selection_figures import compared, row_of, verdict
from selection_presets import OURS, PRESETS, SETS, Preset, task_of
from selection_report import page
from surroundings import surroundings

ROOT = Path(__file__).parents[1]
START, FULL = "start", "full"
"""Cells beside the strategies: what all strategies of a seed begin with, and the fit on the whole pool."""
SIGNS = {"half_interval": " ± {:.4f}", "p_holm": ", p by Holm {:.3f}"}
COUNTS = ("seeds", "start", "rounds", "per_round", "steps")


def preset_of(options: argparse.Namespace) -> Preset:
    """The preset with what the options change."""
    given = {name: value for name in COUNTS if (value := getattr(options, name)) is not None}
    if options.strategies:
        given["strategies"] = tuple(options.strategies)
    return replace(PRESETS[options.preset], **given)


def settings_of(options: argparse.Namespace) -> Settings:
    """The default settings with --conf, whatever this installation has."""
    return load_settings([tuple(pair.split("=", 1)) for pair in options.conf], {})


def task_for(preset: Preset, network: str) -> Task:
    """The preset's task with a network of that size; a time budget would make the steps depend on the machine."""
    task = task_of(preset)
    training = replace(task.training, steps=preset.steps, max_minutes=None)
    return replace(task, network=replace(task.network, size=network), training=training)


def run_cell(options: argparse.Namespace) -> Made:
    """All rounds of one strategy and seed in this process, or what they begin with, or the fit on the whole pool."""
    import torch

    import selection_rounds
    from selection_game import Game

    torch.set_num_threads(options.threads)
    import_module("torch._dynamo")  # as the first optimiser of a process does, for seconds that no round owes
    strategy, seed, preset = options.cell[0], int(options.cell[1]), preset_of(options)
    material = SETS[preset.data](task_for(preset, options.network), options.data, options.split, seed)
    folder = options.work / key_of(options, seed)[:16]
    counts = seed, preset.start, preset.rounds, preset.per_round
    game = Game(material, settings_of(options), *counts, options.device, folder)
    if strategy == FULL:
        return {**selection_rounds.full_data(game), "cpu_s": round(time.process_time(), 1)}
    rounds = [selection_rounds.started(game)] if strategy == START else selection_rounds.stream(game, strategy)
    sizes = {"pool": material.pool, "test": material.test}
    there = {name: {"heads": len({case.patient for case in some}), "cases": len(some)} for name, some in sizes.items()}
    return {"rounds": [slim(asdict(one), strategy) for one in rounds], "sets": there}


def slim(made: Made, strategy: str) -> Made:
    """A round without what other strategies chose in it."""
    return {**made, "choices": {name: one for name, one in made["choices"].items() if name == strategy}}


def key_of(options: argparse.Namespace, seed: int) -> str:
    """Names everything that the rounds of a seed follow from, but the strategy, the code and the data."""
    preset, settings = preset_of(options), settings_of(options)
    counts = preset.start, preset.rounds, preset.per_round
    place = [options.split, options.device, preset.data, seed]
    chosen = asdict(settings.selection), asdict(settings.uncertainty), settings.query.random_share
    return cells.key_of(place, counts, asdict(task_for(preset, options.network)), *chosen)


def cells_of(options: argparse.Namespace) -> dict[Cell, Made]:
    """All cells, the missing ones being made: first what the strategies begin with, then seed by seed."""
    preset = preset_of(options)
    names = ("preset", "data", "split", "network", "device", "threads")
    shared = [f"--{name}={getattr(options, name)}" for name in names]
    shared += [f"--{name.replace('_', '-')}={getattr(preset, name)}" for name in COUNTS]
    shared += [f"--conf={pair}" for pair in options.conf]
    published = cells.beside(options.out, options.split)
    kitchen = cells.Kitchen(__file__, shared, options.work, options.jobs, options.threads, published)
    first = [(FULL, "0"), *((START, str(seed)) for seed in range(preset.seeds))]
    streams = [(name, str(seed)) for seed in range(preset.seeds) for name in preset.strategies]
    keys = {cell: cells.key_of(cell, key_of(options, int(cell[1]))) for cell in (*first, *streams)}
    made: dict[Cell, Made] = {}
    for wanted in (first, streams):
        made |= kitchen.make({cell: keys[cell] for cell in wanted}, shown)
    kitchen.publish(keys.values())
    return made


def shown(cell: Cell, made: Made) -> str:
    """The line printed when a cell is done."""
    last = made if cell[0] == FULL else made["rounds"][-1]
    seconds = made["cpu_s"] if cell[0] == FULL else sum(map(seconds_of, made["rounds"][cell[0] != START :]))
    dice = ", ".join(f"{name} {value:.3f}" for name, value in last["dice"].items())
    return f"{cell[0]}, seed {cell[1]}: Dice {dice} ({seconds:.0f} CPU s)"


def seconds_of(one: Mapping[str, Any]) -> float:
    """CPU seconds of a round."""
    return float(one["train_s"] + one["test_s"] + one["choose_s"])


def judged(preset: Preset, made: Mapping[Cell, Made]) -> dict[str, Any]:
    """All figures: of each strategy, the planned comparisons and their verdict."""
    full = made[FULL, "0"]
    streams = {name: [made[name, str(seed)]["rounds"] for seed in range(preset.seeds)] for name in preset.strategies}
    rows = {name: row_of(found, preset.focus, fmean(full["dice"].values())) for name, found in streams.items()}
    others = [name for name in preset.others if name in rows]
    planned = preset.is_planned and OURS in rows
    comparisons = compared(rows, OURS, others, preset.figures) if planned else {}
    return {
        "full_data": {name: full[name] for name in ("dice", "sites")},
        "figures": rows,
        "default_minus": comparisons,
        "verdict": verdict(comparisons, preset.error),
    }


def show(found: Mapping[str, Any], focus: str | None) -> None:
    """Print the tables."""
    rows = found["figures"]
    labels = next(iter(rows.values()))["labels"]
    print("\n" + f"{'mean Dice at cases':<20}" + "".join(f"{n:>8}" for n in labels) + "    AUBC   worst  corrected")
    for name, row in rows.items():
        curve = "".join(f"{value:>8.4f}" for value in row["curve"])
        print(f"{name:<20}{curve}{row['aubc']:>8.4f}{row['worst_label']:>8.4f}{row['corrected_voxels']:>11.0f}")
    if focus is not None:
        print("\n" + f"{f'Dice, {focus}':<20}" + "".join(f"{n:>8}" for n in labels) + "    area")
        for name, row in rows.items():
            curve = "".join(f"{value:>8.4f}" for value in row["focus_curve"])
            print(f"{name:<20}{curve}{row['focus_aubc']:>8.4f}")
    for figure, by in found["default_minus"].items():
        for name, one in by.items():
            half, p = (("" if one[key] is None else form.format(one[key])) for key, form in SIGNS.items())
            print(f"default minus {name}, {figure}: {one['mean']:+.4f}{half}{p}")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="rare")
    parser.add_argument("--seeds", type=int, help="instead of the preset's, as are those below")
    parser.add_argument("--start", type=int, help="cases labelled at first")
    parser.add_argument("--rounds", type=int, help="of choosing")
    parser.add_argument("--per-round", type=int, help="cases chosen in each")
    parser.add_argument("--steps", type=int, help="of each fit")
    parser.add_argument("--strategies", nargs="+", choices=PRESETS["all"].strategies, metavar="NAME")
    parser.add_argument("--network", default="tiny", help="size of the network: tiny, small, base, ...")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="a setting to try")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once")
    parser.add_argument("--threads", type=int, default=1, help="of each cell")
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks/active_learning"), help="what is done so far")
    parser.add_argument("--out", type=Path, help="the figures")
    parser.add_argument("--report", type=Path, help="the page")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    is_real = options.split == "test"
    name = f"active_learning_{options.preset.replace('-', '_')}"
    options.out = options.out or (ROOT / "benchmarks/results" if is_real else options.work) / f"{name}.json"
    options.report = options.report or (ROOT / "docs" if is_real else options.work) / f"{name}.html"
    return options


def main() -> None:
    """Play, print and write; or, in a child, do one cell."""
    options = parsed()
    if options.cell:
        print(json.dumps(run_cell(options)))
        return
    preset, made = preset_of(options), cells_of(options)
    found = judged(preset, made)
    show(found, preset.focus)
    print(f"{found['verdict']}")
    streams = [{"strategy": name, "seed": int(seed), **one} for (name, seed), one in made.items() if name != FULL]
    result = {
        "preset": {"name": options.preset, **asdict(preset)},
        "split": options.split,
        "network": options.network,
        "device": options.device,
        "sets": made[START, "0"]["sets"],
        **found,
        "selection": asdict(settings_of(options).selection),
        "random_lane_of_default": settings_of(options).query.random_share,
        "cpu_s": round(spent(made)),
        "cells": streams,
        "surroundings": surroundings(),
    }
    write_json(options.out, result)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(page(result), encoding="utf-8")


def spent(made: Mapping[Cell, Made]) -> float:
    """CPU seconds of all rounds, those of the start sets counted once, and of the fit on the whole pool."""
    rounds = [one for (name, _), cell in made.items() if name != FULL for one in cell["rounds"][name != START :]]
    return sum(map(seconds_of, rounds)) + float(made[FULL, "0"]["cpu_s"])


if __name__ == "__main__":
    main()
