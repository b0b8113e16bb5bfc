"""Labels that come night by night: the nightly recipe beside MONAI Label's way and training from scratch.

    TRANSUNET_DATA=/data python benchmarks/label_stream.py [--seeds 8] [--steps 600] [--jobs 2]

Heads of the hippocampus set are divided by a hash into four sets: a quarter is the untouched test set, on which every
Dice here is measured and nothing else is done; the rest is pool, calibration and promotion by the shares of the default
settings. Accepted labels of the pool grow as in --stream, in an order that the seed draws. After each growth there is a
night, in three ways that see the same labels:

- recipe: the product's own code with its default settings. It starts from the champion shrunk towards fresh weights,
  draws half new and half old labels, takes fewer steps at a lower peak rate, keeps the last weights (or the best of
  several validations on the calibration set, `recipe.validations`), starts afresh each so many-th time as the
  reference, and serves what the gate lets pass on the promotion set. Calibration and promotion patients are labelled
  from the first night on, so the gate has no newest cases to look at; time a case is not compared, both models being
  one network.
- monailabel: it goes on from its last model at a constant rate, without warm-up and average of weights, on the first
  80 % of the list; the best of --peer-looks validations on the last 20 % serves at its end, whatever it is worth. What
  served at the first validation of each run, as MONAI Label does it, is reported apart. Each night takes about as many
  steps as the recipe's does: those from scratch at first, then a share of them (--peer-steps). Network, loss,
  optimiser, augmentation and sampler are ours in all three ways: what is compared is how a model is renewed, not MONAI
  Label.
- scratch: fresh weights and all steps each time, the last weights serve. It needs no calibration and promotion labels,
  and the recipe is not charged for having them.

The cost is CPU seconds of one thread, compared between cells of one processor: of the whole training, the validations
that choose weights and the reference among them; beside it are those of the gate and of the line, for which the new
model and the head are both measured on the calibration set. (`mean_dice`, which is passed with each model, is its
training's last look; it is asked for only when nothing serves yet.) The area under the curve of served Dice over labels
(trapezoids, divided by the range of labels) and the Dice at the end are compared by pairs of one seed, with 95 %
intervals of Student's t over the seeds. These draw the order of labels and all of training on the same heads: the
intervals say how sure a difference is on this test set, not how it would vary with other patients. A promotion lowers
when the test mean of what serves is lower after it than before; Wilson's interval of their share takes nights for
independent, which those of one seed are not quite. One data set, a small network and a few minutes of training say
nothing of other tasks.

A cell is one way with one seed. A night that is done is a file in the cell's folder, a cell a line of cells.jsonl in
the --work folder: start a run that was killed again. Whoever changes a recipe looks at `--split dev`, where a part of
the heads to learn from is the test set; counts beyond the pool are left out there. `--conf recipe.steps=0.2` tries
other settings. Prints a table and writes benchmarks/results/label_stream.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import cells
from cells import Cell, Made
from heads import add_options, divide, head_of, images_of, ordered, read_case
from lib.cli.files import write_json
from lib.settings import Settings, load_settings
from lib.taskfile import Task, load_task
from lib.training.config import FitConfig
from stream_figures import NAMES, area, compared, row_of, total, verdict
from surroundings import surroundings

TASK = "hippocampus_mr"
RESULTS = Path(__file__).parent / "results" / "label_stream.json"
STREAM = (4, 6, 9, 14, 22, 36, 60, 100)
PEER_STEPS, PEER_RATE, PEER_LOOKS = 0.18, 0.3, 2
"""Steps of MONAI Label's way after its first night, and its constant rate, as shares of the steps and the peak rate
from scratch: a few more steps than the recipe's warm starts (0.17), and about the mean of the rate that the recipe had
before, a falling one of 0.5; that of its rate now is nearly twice as high. A rate that does not fall leaves something
to choose between, so it looks twice."""
KEPT = ("number", "labels", "steps", "train_s", "judge_s", "made", "served", "promoted", "reason", "first", "tags")
"""What the results keep of a night."""


def sets_of(heads: Sequence[int], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Heads of pool, calibration and promotion, by a hash; the pool has what is left."""
    order, found = ordered(heads, "sets"), dict[str, list[int]]()
    for name in ("calibration", "promotion"):
        count = round(shares[name] * len(heads))
        found[name], order = order[:count], order[count:]
    return {**found, "pool": order}


def scratch_config(task: Task, steps: int) -> FitConfig:
    """Training from fresh weights; the time budget of the task would make it depend on the machine."""
    return replace(task.training, steps=steps, max_minutes=None)


def peer_config(task: Task, steps: int, share: float, rate: float) -> FitConfig:
    """MONAI Label's way: a constant rate, and weights as they are.

    Args:
        task: what is learned.
        steps: from scratch.
        share: of these steps.
        rate: as a share of the peak from scratch.
    """
    config = scratch_config(task, max(1, round(share * steps)))
    rate *= config.learning_rate
    return replace(config, learning_rate=rate, schedule="constant", warmup=0.0, ema_decay=0.0)


def settings_of(options: argparse.Namespace) -> Settings:
    """The default settings with --conf, whatever this installation has."""
    return load_settings([*(tuple(pair.split("=", 1)) for pair in options.conf), ("inference.device", "cpu")], {})


def run_cell(options: argparse.Namespace) -> Made:
    """All nights of one way and seed in this process."""
    import torch

    import nights
    from stage import Stage

    torch.set_num_threads(1)
    import_module("torch._dynamo")  # as the first optimiser of a process does, for seconds that no night owes
    way, seed = options.cell[0], int(options.cell[1])
    task, settings = load_task(TASK), settings_of(options)
    images = images_of(options.data)
    learn, test = divide(sorted({head_of(path) for path in images}), options.split)
    sets = {**sets_of(learn, settings.ledger.splits), "test": test}
    cases = {name: [read_case(path, task) for path in images if head_of(path) in heads] for name, heads in sets.items()}
    turns = ordered(range(len(cases["pool"])), f"stream {seed}")
    counts = tuple(count for count in options.stream if count <= len(turns))
    stage = Stage(
        task=replace(task, training=scratch_config(task, options.steps)),
        settings=settings,
        peer=peer_config(task, options.steps, options.peer_steps, options.peer_rate),
        peer_looks=options.peer_looks,
        counts=counts,
        pool=[cases["pool"][turn] for turn in turns],
        calibration=cases["calibration"],
        promotion=cases["promotion"],
        test=cases["test"],
        seed=seed,
        folder=options.work / key_of(options, way, seed)[:16],
    )
    done = [asdict(night) for night in nights.stream(stage, nights.WAYS[way])]
    there = {name: {"heads": len(sets[name]), "cases": len(cases[name])} for name in sets}
    kept = [{name: night[name] for name in KEPT} for night in done]
    return {"nights": kept, "sets": there, "machine": surroundings()["cpu"]}


def key_of(options: argparse.Namespace, way: str, seed: int) -> str:
    """Names everything that a cell follows from, but the code and the data."""
    task, settings = load_task(TASK), settings_of(options)
    parts = {
        "recipe": [asdict(settings.recipe), asdict(settings.gate)],
        "monailabel": [options.peer_looks, options.peer_steps, options.peer_rate],
        "scratch": [],
    }
    shared = asdict(scratch_config(task, options.steps)), asdict(task.network), asdict(task.preprocess)
    splits = settings.ledger.splits
    return cells.key_of(way, seed, options.split, list(options.stream), *shared, dict(splits), parts[way])


def cells_of(options: argparse.Namespace) -> dict[Cell, Made]:
    """All cells, the missing ones being made."""
    single = ("data", "split", "steps", "peer_steps", "peer_rate", "peer_looks")
    shared = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in single]
    shared += ["--stream", *map(str, options.stream), *(f"--conf={pair}" for pair in options.conf)]
    wanted = [(way, str(seed)) for seed in range(options.seeds) for way in NAMES]

    def shown(cell: Cell, made: Made) -> str:
        nights = made["nights"]
        return (
            f"{cell[0]}, seed {cell[1]}: area {area(nights):.4f}, at the end {nights[-1]['served']:.4f}, "
            f"{total(nights, 'train_s'):.0f} CPU s"
        )

    published = cells.beside(options.out, options.split)
    kitchen = cells.Kitchen(__file__, shared, options.work, options.jobs, 1, published)
    keys = {(way, seed): key_of(options, way, int(seed)) for way, seed in wanted}
    made = kitchen.make(keys, shown)
    kitchen.publish(keys.values())
    return made


def show(rows: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the tables."""
    print("\n" + f"{'served Dice at labels':<22}" + "".join(f"{n:>8}" for n in rows["recipe"]["labels"]) + "    area")
    for name, row in rows.items():
        print(f"{name:<22}" + "".join(f"{value:>8.4f}" for value in row["served"]) + f"{row['area']:>8.4f}")
    print(f"\n{'way':<12} {'steps':>6} {'CPU s':>7} {'gate s':>7}  promotions that lowered; rejected (better ones)")
    for name, row in rows.items():
        done, kept, text = row["promotions"], row["rejected"], ""
        if done["interval"]:
            text = f" ({done['interval'][0]:.0%} to {done['interval'][1]:.0%}), the worst {done['worst']:+.4f}"
        print(
            f"{name:<12} {row['steps']:>6.0f} {row['train_s']:>7.0f} {row['judge_s']:>7.0f}  "
            f"{done['lowered']} of {done['of']}{text}; {kept['count']} ({kept['better']})"
        )
    if rows["recipe"]["rejected"]["count"]:
        line = rows["recipe"]
        print(f"recipe, if each model served: area {line['made_area']:.4f}, at the end {line['made_end']:.4f}")
    for name, one in differences.items():
        print(
            f"recipe minus {name}: area {signed(one['area'])} (if each model served {signed(one['made_area'])}), "
            f"at the end {signed(one['end'])}, "
            f"{'?' if one['cost'] is None else format(one['cost'], '.1%')} of its CPU time ({one['cost_of']} seeds), "
            f"{one['steps']:.0%} of its steps"
        )
    dips = rows["monailabel"]["at_first_validation"]
    if dips["of"]:
        print(
            f"monailabel at the first validation of a run: {dips['lowered']} of {dips['of']} below what served before, "
            f"mean {dips['mean']:+.4f}, the worst {dips['worst']:+.4f}"
        )


def signed(difference: Mapping[str, float | None]) -> str:
    """A mean difference with its interval."""
    half = difference["half_interval"]
    return f"{difference['mean']:+.4f}" + ("" if half is None else f" ± {half:.4f}")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks/label_stream"), help="what is done so far")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600, help="of a fit from scratch")
    parser.add_argument("--stream", type=int, nargs="+", default=STREAM, help="accepted labels at each night, rising")
    parser.add_argument(
        "--peer-steps", type=float, default=PEER_STEPS, help="of MONAI Label's later nights, as a share of scratch's"
    )
    parser.add_argument("--peer-rate", type=float, default=PEER_RATE, help="its rate, as a share of scratch's peak")
    parser.add_argument("--peer-looks", type=int, default=PEER_LOOKS, help="its validations in a night")
    parser.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="a setting to try")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once, each on one thread")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.stream) < 2 or any(a >= b for a, b in pairwise(options.stream)):
        parser.error(f"--stream must rise from 2 or more, got {options.stream}")
    if options.peer_looks < 1:
        parser.error(f"--peer-looks must be 1 or more, got {options.peer_looks}")
    return options


def main() -> None:
    """Compare, print and write; or, in a child, do one cell."""
    options = parsed()
    if options.cell:
        print(json.dumps(run_cell(options)))
        return
    made, settings = cells_of(options), settings_of(options)
    streams = {way: [made[way, str(seed)]["nights"] for seed in range(options.seeds)] for way in NAMES}
    machines = {way: [made[way, str(seed)].get("machine") for seed in range(options.seeds)] for way in NAMES}
    rows, differences = {way: row_of(found) for way, found in streams.items()}, compared(streams, machines)
    show(rows, differences)
    judged = verdict(differences)
    print(f"{judged}")
    result = {
        "task": TASK,
        "split": options.split,
        "steps": options.steps,
        "peer": {"steps": options.peer_steps, "rate": options.peer_rate, "looks": options.peer_looks},
        "recipe": asdict(settings.recipe),
        "gate": asdict(settings.gate),
        "sets": made["recipe", "0"]["sets"],
        "figures": rows,
        "recipe_minus": differences,
        "verdict": judged,
        "cells": [
            {"way": way, "seed": int(seed), "machine": machines[way][int(seed)], "nights": one["nights"]}
            for (way, seed), one in made.items()
        ],
        "surroundings": surroundings(),
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
