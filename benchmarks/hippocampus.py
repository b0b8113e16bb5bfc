"""TransUNet in slices, slices with neighbours and patches beside nnU-Net's network: same data, budget and augmentation.

    TRANSUNET_DATA=/data python benchmarks/hippocampus.py [--minutes 15] [--seeds 3] [--networks transunet3d dynunet]

A quarter of the heads is held out by a hash of their number and nothing is tuned on it (`--split dev` measures on a
part of the heads to learn from; the recipe was chosen there). Every network gets the same budget: --minutes of two
cores, spent as twice the minutes of one, so that two fits run at once. The budget becomes a number of steps before the
first seed: the CPU seconds of a step are measured, so neither a busy machine nor a kill changes what a network may do.
Seeds are paired: seed n draws cases and changes alike for all networks that see the same kind of picture.

Figures are means over the held-out cases on their own grids; intervals (95 %) are of a bootstrap over heads, of each
head's mean over its cases and the seeds. A label that is in one of both masks alone has no distance: it leaves the mean
of HD95 and is counted beside it. The best TransUNet is named by the same figures, so its mean is a little flattered by
the choice among few. DynUNet is nnU-Net's network, of MONAI, in the same trainer.

Each (network, seed) that is done is a line of cells.jsonl in the --work folder, and a fit that was killed goes on from
its checkpoint: start the command again. On a CUDA machine: `--device cuda --steps 60000 --batch 8` for a full schedule.
The recipe asks for bf16; on a CPU that does not compute in it the fits are in fp32, and the JSON says so.
Prints a table and writes benchmarks/results/hippocampus.json.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cells import Cell, Kitchen, Made, beside, key_of
from heads import add_options, read_split
from lib.cli.files import write_json
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.taskfile import Task, load_task
from lib.training.config import AugmentConfig, FitConfig
from lib.training.data import Case
from surroundings import surroundings

TASK = "hippocampus_mr"
RESULTS = Path(__file__).parent / "results" / "hippocampus.json"
PATCH = (40, 56, 40)
SLICES = PreprocessConfig(spacing_mm=0.75)  # finer than the data: the first step of these networks halves the picture
VOXELS = PreprocessConfig(spacing_mm=(1.0, 1.0, 1.0))
NETWORKS: Mapping[str, tuple[NetworkConfig, PreprocessConfig, int]] = {
    "transunet2d": (NetworkConfig(size="small", context_slices=0, dropout=0.0), SLICES, 8),
    "transunet2.5d": (NetworkConfig(size="small", context_slices=2, dropout=0.0), SLICES, 8),
    "transunet3d": (NetworkConfig(kind="transunet3d", size="medium", patch=PATCH, dropout=0.0), VOXELS, 2),
    "transunet3d-encoder": (
        NetworkConfig(kind="transunet3d", size="medium", patch=PATCH, dropout=0.0, parts="encoder"),
        VOXELS,
        2,
    ),
    "dynunet": (NetworkConfig(kind="dynunet", size="small", patch=PATCH), VOXELS, 2),
}
"""Network, preprocessing and batch of each contestant."""
COMPARED = ("transunet2d", "transunet2.5d", "transunet3d", "dynunet")
PEER = "dynunet"
AUGMENT = AugmentConfig(
    rotate_deg=15,
    scale=0.15,
    translate=0.04,
    gamma=0.3,
    contrast=0.2,
    brightness=0.2,
    noise=0.1,
    elastic=0.0,
    low_resolution=0.0,
    flips=(),
    share=1.0,
    mixup=0.0,
    cutmix=0.0,
)
RECIPE = FitConfig(
    optimiser="adamw",
    learning_rate=3e-3,
    weight_decay=0.01,
    warmup=0.05,
    schedule="cosine",
    foreground=0.5,
    rare_oversampling=1.0,
    loss="dice_ce",
    dice_weight=0.5,
    adaptive_weights=False,
    accumulate=1,
    precision="bf16",
    keep="last",
    ema_decay=0.99,
    grad_clip=1.0,
    augment=AUGMENT,
)
"""Whatever the figures depend on, so that other defaults leave them what they are."""
PACE_STEPS = (2, 4, 24)
"""Short runs: one to warm up, and two whose difference is the pace without what happens once."""
FIGURES = ("dice", "hd95_mm", "nsd")
RESAMPLES = 10_000
GOAL = 0.88
FloatArray = npt.NDArray[np.float64]


def task_of(network: str) -> Task:
    """The hippocampus task with that contestant."""
    config, preprocess, _ = NETWORKS[network]
    return replace(load_task(TASK), network=config, preprocess=preprocess)


def recipe_of(network: str, steps: int, seed: int, batch: int | None) -> FitConfig:
    """How one cell is trained."""
    return replace(RECIPE, steps=steps, seed=seed, batch_size=batch or NETWORKS[network][2])


def run_cell(options: argparse.Namespace) -> Made:
    """Train and measure one cell in this process; or its pace."""
    import torch

    from lib.training.fit import fit

    torch.set_num_threads(options.threads)
    network, *rest = options.cell
    task = task_of(network)
    learn, held_out = read_split(options.data, options.split, task)
    if rest == ["pace"]:
        return {"cpu_s": pace(task, network, learn[:8], options)}
    steps, seed = int(rest[0]), int(rest[1])
    recipe = recipe_of(network, steps, seed, options.batch)
    folder = options.work / key_of(network, steps, seed, options.split, *elsewhere(options))[:16]
    started = time.process_time()
    fitted = fit(learn, held_out, task.network, task.preprocess, recipe, folder, options.device, predict=task.predict)
    return {
        "steps": fitted.steps,
        "cpu_s": round(time.process_time() - started),
        "wall_s": round(fitted.seconds),
        "loss": round(float(np.mean(fitted.losses[-50:])), 4),
        "parameters": sum(value.numel() for value in fitted.state_dict.values()),
        "precision": fitted.usage.precision if fitted.usage else recipe.precision,
        "cases": [{"name": case.name, **labels_of(case.labels)} for case in fitted.cases],
        "heads": {case.name: case.patient for case in held_out},
    }


def elsewhere(options: argparse.Namespace) -> list[object]:
    """Device and threads of a fit, and the precision that it has there, where they are not the usual ones."""
    from lib.inference.devices import choose_device
    from lib.training.precision import precision_name

    place = [options.device, options.threads]
    precision = precision_name(RECIPE, choose_device(options.device))
    return ([] if place == ["cpu", 1] else place) + ([] if precision == RECIPE.precision else [precision])


def labels_of(labels: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Figures of a case by label, in the order of FIGURES; an infinite distance is kept as None."""
    return {
        name: [value if math.isfinite(value := getattr(found, figure)) else None for figure in FIGURES]
        for name, found in labels.items()
        if found is not None
    }


def pace(task: Task, network: str, cases: Sequence[Case], options: argparse.Namespace) -> float:
    """CPU seconds of a step."""
    from lib.training.fit import fit

    spent = []
    for steps in PACE_STEPS:
        recipe = recipe_of(network, steps, 0, options.batch)
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            fit(cases, (), task.network, task.preprocess, recipe, Path(folder), options.device)
            spent.append(time.process_time() - started)
    return (spent[2] - spent[1]) / (PACE_STEPS[2] - PACE_STEPS[1])


def cells_of(options: argparse.Namespace) -> dict[Cell, Made]:
    """All cells, the missing ones being made; the pace of each network first, one after the other."""
    shared = [f"--{name}={getattr(options, name)}" for name in ("data", "split", "device", "threads")]
    shared += [f"--batch={options.batch}"] if options.batch else []
    published = beside(options.out, options.split)
    kitchen = Kitchen(__file__, shared, options.work, options.jobs, options.threads, published)

    def key(cell: Cell) -> str:
        network, words = cell[0], [*cell[1:], options.split, options.batch, *elsewhere(options)]
        return key_of(words, asdict(task_of(network)), asdict(recipe_of(network, 1, 0, options.batch)))

    def shown(cell: Cell, made: Made) -> str:
        if cell[1] == "pace":
            return f"{cell[0]}: {made['cpu_s']:.3f} CPU s a step"
        return f"{cell[0]} seed {cell[2]}: Dice {head_means(made, 'dice').mean():.4f}, {made['steps']} steps"

    steps, paced = dict.fromkeys(options.networks, options.steps), dict[Cell, str]()
    if not options.steps:
        paces = [(network, "pace") for network in options.networks]
        paced = {cell: key(cell) for cell in paces}
        found = replace(kitchen, jobs=1).make(paced, shown)
        seconds = 2 * 60 * options.minutes
        steps = {network: max(1, round(seconds / made["cpu_s"])) for (network, _), made in found.items()}
    wanted = [(n, str(steps[n]), str(seed)) for seed in range(options.seeds) for n in options.networks]
    keys = {cell: key(cell) for cell in wanted}
    made = kitchen.make(keys, shown)
    kitchen.publish([*paced.values(), *keys.values()])
    return made


def head_means(made: Made, figure: str, label: str | None = None) -> FloatArray:
    """Mean of a figure over the cases of each head, heads in order; of one label or all; NaN = no value."""
    place = FIGURES.index(figure)
    by_head: dict[str, list[float]] = {}
    for case in made["cases"]:
        found = [case[name][place] for name in case if name != "name" and label in (None, name)]
        values = [value for value in found if value is not None]
        by_head.setdefault(made["heads"][case["name"]], []).extend(values)
    return np.array([np.mean(by_head[head] or np.nan) for head in sorted(by_head, key=int)])


def without_distance(made: Made) -> int:
    """Labels of cases that one of both masks alone shows."""
    place = FIGURES.index("hd95_mm")
    return sum(case[name][place] is None for case in made["cases"] for name in case if name != "name")


def interval(heads: FloatArray) -> list[float]:
    """95 % interval of the mean, by a bootstrap over heads."""
    drawn = np.random.default_rng(0).integers(len(heads), size=(RESAMPLES, len(heads)))
    low, high = np.percentile(np.nanmean(heads[drawn], axis=1), [2.5, 97.5])
    return [round(float(low), 4), round(float(high), 4)]


def figures_of(cells: Mapping[Cell, Made], network: str, labels: Sequence[str]) -> dict[str, Any]:
    """Means and intervals of one network."""
    mine = [made for cell, made in cells.items() if cell[0] == network]
    found: dict[str, Any] = {key: mine[0][key] for key in ("steps", "parameters")}
    found["precision"] = sorted(
        {made.get("precision", RECIPE.precision) for made in mine}
    )  # older cells had what they asked
    found["cpu_s"] = [made["cpu_s"] for made in mine]
    found["without_distance"] = sum(map(without_distance, mine))
    found["dice_of_seeds"] = [round(float(head_means(made, "dice").mean()), 4) for made in mine]
    for label in (None, *labels):
        for figure in FIGURES:
            heads = np.mean([head_means(made, figure, label) for made in mine], axis=0)
            name = figure if label is None else f"{figure}/{label}"
            found[name] = {"mean": round(float(np.nanmean(heads)), 4), "interval": interval(heads)}
    return found


def against_peer(cells: Mapping[Cell, Made], network: str) -> dict[str, Any]:
    """Paired difference of the mean Dice to the peer: of each seed, and its interval over heads."""
    mine, theirs = (
        {cell[2]: head_means(made, "dice") for cell, made in cells.items() if cell[0] == name}
        for name in (network, PEER)
    )
    differences = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
    heads = np.mean(differences, axis=0)
    return {
        "mean": round(float(heads.mean()), 4),
        "interval": interval(heads),
        "of_seeds": [round(float(difference.mean()), 4) for difference in differences],
    }


def show(found: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table."""
    print(
        f"\n{'network':<15} {'steps':>6} {'Dice':>7}  {'95 % over heads':<17} {'HD95 mm':>8} {'NSD':>6}  minus {PEER}"
    )
    for network, row in found.items():
        low, high = row["dice"]["interval"]
        text = f"{network:<15} {row['steps']:>6} {row['dice']['mean']:>7.4f}  {low:.4f} to {high:.4f}  "
        text += f"{row['hd95_mm']['mean']:>8.2f} {row['nsd']['mean']:>6.3f}"
        text += f" ({row['without_distance']} without distance)" if row["without_distance"] else ""
        if network in differences:
            change = differences[network]
            text += f"  {change['mean']:+.4f} ({change['interval'][0]:+.4f} to {change['interval'][1]:+.4f})"
        print(text)


def main() -> None:
    """Compare, print and write; or, in a child, do one cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks/hippocampus"), help="what is done so far")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=COMPARED)
    parser.add_argument("--minutes", type=float, default=15, help="of two cores, for each fit")
    parser.add_argument("--steps", type=int, help="of each fit, instead of the minutes")
    parser.add_argument("--batch", type=int, help="pictures of a step; empty = 8 slices or 2 patches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="fits at once")
    parser.add_argument("--threads", type=int, default=1, help="of each fit")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options)))
        return
    cells = cells_of(options)
    labels = load_task(TASK).schema.names
    found = {network: figures_of(cells, network, labels) for network in options.networks}
    others = [name for name in options.networks if name != PEER and PEER in options.networks]
    differences = {network: against_peer(cells, network) for network in others}
    show(found, differences)
    best = max(
        (name for name in options.networks if name != PEER), key=lambda n: found[n]["dice"]["mean"], default=None
    )
    result = {
        "task": TASK,
        "split": options.split,
        "minutes_of_two_cores": None if options.steps else options.minutes,
        "seeds": options.seeds,
        "recipe": asdict(RECIPE),
        "networks": {name: asdict(NETWORKS[name][0]) for name in options.networks},
        "figures": found,
        f"minus_{PEER}": differences,
        "best_transunet": best,
        "reaches_goal": None if best is None else found[best]["dice"]["mean"] >= GOAL,
        "surroundings": surroundings(),
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
