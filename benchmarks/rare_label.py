"""A rare label: adaptive weighting and oversampling against plain Dice + cross-entropy.

    OMP_NUM_THREADS=1 TRANSUNET_DATA=/data python benchmarks/rare_label.py [--seeds 5] [--steps 4000] [--jobs 2]

The label is made, since no label of the data is rare: a cyst as the hippocampal sulcus leaves it, painted into the
image and into the mask of a tenth of the heads to learn from. It is an ellipsoid with half axes of 2 to 3.5 mm, centred
in the hippocampus, with a soft border and nearly as dark as the fluid beside the hippocampus, which is no cyst: neither
the intensity nor the place alone gives it away, and a mask says nothing that the image does not show. (Renaming a label
in a tenth of the masks would teach that equal images have different labels.)

A quarter of the heads is held out, by a hash of their number. Every second one of them has a cyst too, so that there
are cases enough to measure the label on, and cases without it to count false alarms. Which heads to learn from have it,
and where, follows from the seed; what is held out is the same for all seeds. Both ways see the same cases, steps, first
weights and rates, and differ in `adaptive_weights` and `rare_oversampling` alone. Intervals are of Student's t over the
seeds, which also choose the heads with a cyst: they say how sure a difference is on the heads that are held out, not
how it would vary with other held-out heads.

Each (seed, way) that is done is a line of cells.jsonl in the --work folder, and a fit that was killed goes on from its
checkpoint: start the command again. One thread a fit, so --jobs fits run at once. `--split dev` measures on a part of
the heads to learn from; whoever changes the recipe looks at that one. Prints a table and writes
benchmarks/results/rare_label.json.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import ndimage, stats

import cells
from cells import Cell, Made
from heads import add_options, ordered, read_split
from lib.cli.files import write_json
from lib.core.labels import Code, Label
from lib.core.values import Mask, Volume
from lib.taskfile import Task, load_task
from lib.training.config import FitConfig
from lib.training.data import Case
from surroundings import surroundings

TASK = "hippocampus_mr"
RESULTS = Path(__file__).parent / "results" / "rare_label.json"
WAYS: Mapping[str, Mapping[str, object]] = {
    "plain": {"adaptive_weights": False, "rare_oversampling": 0.0},
    "adaptive": {"adaptive_weights": True, "rare_oversampling": 0.35},
}
RARE_SHARE, HELD_OUT_RARE_SHARE = 0.1, 0.5
SOFTNESS = 0.12
"""Of the border, as a share of the half axes."""
ALLOWED_LOSS = 0.005
COUNTS = {"missed": "share of cysts missed", "false_alarms": "share of false alarms"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A label that is painted into images and masks: an ellipsoid centred in the hippocampus.

    Attributes:
        label: of its voxels.
        half_axes_mm: least and largest length of a half axis.
        share: least and largest share of the way from the tissue to the finding's own intensity.
        percentile: of the image, which is that intensity.
    """

    label: Label
    half_axes_mm: tuple[float, float]
    share: tuple[float, float]
    percentile: float


CYST = Finding(Label("cyst", 3, (220, 60, 60), Code("12494005", "Cyst")), (2.0, 3.5), (0.6, 0.9), 2.0)
"""Dark, as fluid is."""


def task_with(finding: Finding) -> Task:
    """The hippocampus task with one label more."""
    task = load_task(TASK)
    return replace(task, labels=(*task.labels, finding.label), rare=(finding.label.name,))


def read_cases(data: Path, split: str, seed: int, task: Task, finding: Finding = CYST) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and held out, some of each with the finding."""
    learn, held_out = read_split(data, split, task)
    salts = f"rare {seed}", "rare held out"
    return painted(learn, RARE_SHARE, salts[0], finding), painted(held_out, HELD_OUT_RARE_SHARE, salts[1], finding)


def painted(cases: Sequence[Case], share: float, salt: str, finding: Finding) -> list[Case]:
    """The same cases, those of a share of the heads with the finding; which heads, and where, follows from the salt."""
    heads = ordered(sorted({int(case.patient) for case in cases}), salt)
    rare = set(heads[: round(share * len(heads))])
    return [
        with_finding(case, np.random.default_rng(list(f"{salt} {case.name}".encode())), finding)
        if int(case.patient) in rare
        else case
        for case in cases
    ]


def with_finding(case: Case, rng: np.random.Generator, finding: Finding) -> Case:
    """The same case with the finding in image and mask."""
    volume, mask = case.volume, case.mask
    inside = ndimage.binary_erosion(mask.array != 0)
    centres = np.argwhere(inside if inside.any() else mask.array != 0)
    centre = centres[rng.integers(len(centres))] + rng.uniform(-0.5, 0.5, 3)
    half_axes = rng.uniform(*finding.half_axes_mm, 3) / volume.geometry.spacing_mm
    offsets = (np.indices(mask.array.shape) - centre[:, None, None, None]) / half_axes[:, None, None, None]
    radius = np.sqrt((offsets**2).sum(axis=0))  # (S, R, C), 1 at the border
    share = rng.uniform(*finding.share) / (1 + np.exp(np.minimum((radius - 1) / SOFTNESS, 50)))
    intensity = np.percentile(volume.array, finding.percentile)
    image = volume.array * (1 - share) + intensity * share
    labels = np.where(radius <= 1, finding.label.id, mask.array)
    return replace(
        case,
        volume=Volume(image.astype(np.float32), volume.geometry, volume.modality),
        mask=Mask(labels, mask.geometry, mask.schema),
    )


def config_of(task: Task, way: str, seed: int, steps: int) -> FitConfig:
    """How one cell is trained."""
    return replace(task.training, steps=steps, max_minutes=None, seed=seed, **WAYS[way])  # type: ignore[arg-type]


def run_cell(options: argparse.Namespace) -> Made:
    """Train and measure one cell in this process."""
    import torch

    from lib.training.fit import fit

    torch.set_num_threads(1)
    way, seed = options.cell[0], int(options.cell[1])
    task = task_with(CYST)
    learn, held_out = read_cases(options.data, options.split, seed, task)
    started = time.process_time()
    config, folder = config_of(task, way, seed, options.steps), options.work / key_of(options, way, seed)[:16]
    fitted = fit(learn, held_out, task.network, task.preprocess, config, folder, "cpu", predict=task.predict)
    there = {case.name for case in held_out if shows_cyst(case)}
    found = {case.name: case.labels[CYST.label.name] for case in fitted.cases}
    cysts = [figures.dice for name, figures in found.items() if name in there and figures is not None]
    return {
        "dice": {**fitted.dice, CYST.label.name: fmean(cysts)},
        "missed": fmean(dice == 0 for dice in cysts),
        "false_alarms": fmean(figures is not None for name, figures in found.items() if name not in there),
        "cases": {
            "training": len(learn),
            "training_with_cyst": sum(map(shows_cyst, learn)),
            "held_out": len(held_out),
            "held_out_with_cyst": len(there),
        },
        "cpu_s": round(time.process_time() - started, 1),
    }


def shows_cyst(case: Case) -> bool:
    """Whether the mask has a cyst."""
    return bool((case.mask.array == CYST.label.id).any())


def key_of(options: argparse.Namespace, way: str, seed: int) -> str:
    """Names everything that a cell follows from, but the code."""
    task = task_with(CYST)
    config = asdict(config_of(task, way, seed, options.steps))
    return cells.key_of(config, asdict(task.network), asdict(task.preprocess), options.split)


def cells_of(options: argparse.Namespace) -> dict[Cell, Made]:
    """All cells, the missing ones being made."""
    shared = [f"--{name}={getattr(options, name)}" for name in ("data", "split", "steps")]
    wanted = [(way, str(seed)) for seed in range(options.seeds) for way in WAYS]

    def shown(cell: Cell, made: Made) -> str:
        dice = ", ".join(f"{name} {value:.3f}" for name, value in made["dice"].items())
        return f"{cell[0]}, seed {cell[1]}: Dice {dice} ({made['cpu_s']} CPU s)"

    published = cells.beside(options.out, options.split)
    kitchen = cells.Kitchen(__file__, shared, options.work, options.jobs, 1, published)
    keys = {(way, seed): key_of(options, way, int(seed)) for way, seed in wanted}
    made = kitchen.make(keys, shown)
    kitchen.publish(keys.values())
    return made


def paired(differences: Sequence[float]) -> dict[str, float | None]:
    """Mean of paired differences, and half of its 95 % interval (Student's t over the seeds); None for one pair."""
    count = len(differences)
    half = None if count < 2 else float(stats.t.ppf(0.975, count - 1)) * stdev(differences) / math.sqrt(count)
    return {"mean": fmean(differences), "half_interval": half}


def compared(made: Mapping[Cell, Made], seeds: int) -> dict[str, dict[str, Any]]:
    """Means of both ways and the paired difference, by figure: the Dice of each label, and what is in `COUNTS`."""
    found = {cell: {**values["dice"], **{name: values[name] for name in COUNTS}} for cell, values in made.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name in found["plain", "0"]:
        plain, adaptive = ([found[way, str(seed)][name] for seed in range(seeds)] for way in ("plain", "adaptive"))
        differences = [theirs - ours for ours, theirs in zip(plain, adaptive, strict=True)]
        rows[name] = {"plain": fmean(plain), "adaptive": fmean(adaptive), "difference": paired(differences)}
    return rows


def show(rows: Mapping[str, Mapping[str, Any]], seeds: int) -> None:
    """Print the table."""
    print(f"\n{f'held-out mean of {seeds} seeds':<28} {'plain':>8} {'adaptive':>9}   paired difference")
    for name, row in rows.items():
        mean, half = row["difference"]["mean"], row["difference"]["half_interval"]
        interval = "" if half is None else f" ± {half:.3f}"
        title = COUNTS.get(name, f"Dice {name}")
        print(f"{title:<28} {row['plain']:>8.3f} {row['adaptive']:>9.3f}   {mean:+.3f}{interval}")


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the rare label gains beyond its interval (None for one seed) and no other label loses too much."""
    changes = {name: row["difference"] for name, row in rows.items() if name not in COUNTS}
    gain, half = (changes[CYST.label.name][what] for what in ("mean", "half_interval"))
    worst = min(change["mean"] for name, change in changes.items() if name != CYST.label.name)
    return {
        "rare_label_gains": None if half is None else gain > half,
        "worst_other_change": worst,
        "others_keep": worst >= -ALLOWED_LOSS,
    }


def main() -> None:
    """Compare, print and write; or, in a child, do one cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks/rare_label"), help="what is done so far")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000, help="of each fit")
    parser.add_argument("--jobs", type=int, default=1, help="fits at once, each on one thread")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options)))
        return
    made = cells_of(options)
    rows = compared(made, options.seeds)
    show(rows, options.seeds)
    judged = verdict(rows)
    print(f"{judged}")
    result = {
        "task": TASK,
        "steps": options.steps,
        "split": options.split,
        "cases": made["plain", "0"]["cases"],
        "ways": WAYS,
        "figures": rows,
        "verdict": judged,
        "cells": [{"way": way, "seed": int(seed), **values} for (way, seed), values in made.items()],
        "surroundings": surroundings(),
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
