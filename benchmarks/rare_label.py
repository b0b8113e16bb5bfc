"""A rare label: adaptive weighting and oversampling against plain Dice + cross-entropy.

    OMP_NUM_THREADS=1 TRANSUNET_DATA=/data python benchmarks/rare_label.py [--seeds 5] [--steps 600] [--jobs 2]

The label is made, since no label of the data is rare: a cyst as the hippocampal sulcus leaves it, painted into the
image and into the mask of a tenth of the heads to learn from. It is an ellipsoid with half axes of 2 to 3.5 mm, centred
in the hippocampus, with a soft border and nearly as dark as the fluid beside the hippocampus, which is no cyst: neither
the intensity nor the place alone gives it away, and a mask says nothing that the image does not show. (Renaming a label
in a tenth of the masks would teach that equal images have different labels.)

A quarter of the heads is held out, by a hash of their number. Every second one of them has a cyst too, so that there
are cases enough to measure the label on, and cases without it to count false alarms. Which heads to learn from have it,
and where, follows from the seed; what is held out is the same for all seeds. Both ways see the same cases, steps, first
weights and rates, and differ in `adaptive_weights` and `rare_oversampling` alone.

Each (seed, way) that is done is a line of cells.jsonl in the --work folder, and a fit that was killed goes on from its
checkpoint: start the command again. One thread a fit, so --jobs fits run at once. `--split dev` measures on a part of
the heads to learn from; whoever changes the recipe looks at that one. Prints a table and writes
benchmarks/results/rare_label.json.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from scipy import ndimage, stats

from lib.core.labels import Code, Label
from lib.core.values import Mask, Volume
from lib.dicom.nifti import read_mask, read_volume
from lib.taskfile import Task, load_task
from lib.training.config import FitConfig
from lib.training.data import Case
from surroundings import surroundings

TASK = "hippocampus_mr"
CYST = Label("cyst", 3, (220, 60, 60), Code("12494005", "Cyst"))
RESULTS = Path(__file__).parent / "results" / "rare_label.json"
WAYS: Mapping[str, Mapping[str, object]] = {
    "plain": {"adaptive_weights": False, "rare_oversampling": 0.0},
    "adaptive": {"adaptive_weights": True, "rare_oversampling": 1.0},
}
HELD_OUT_SHARE, RARE_SHARE, HELD_OUT_RARE_SHARE = 0.25, 0.1, 0.5
HALF_AXES_MM = (2.0, 3.5)
DARKNESS = (0.6, 0.9)
"""Share of the way from the tissue to the fluid."""
SOFTNESS = 0.12
"""Of the border, as a share of the half axes."""
FLUID_PERCENTILE = 2.0
ALLOWED_LOSS = 0.005
Figures = dict[str, float | None]


def task_with_cyst() -> Task:
    """The hippocampus task with one label more."""
    task = load_task(TASK)
    return replace(task, labels=(*task.labels, CYST), rare=(CYST.name,))


def patient_of(path: Path) -> int:
    """Cases 2m - 1 and 2m are the two hippocampi of head m."""
    return (int("".join(filter(str.isdigit, path.name.partition(".")[0]))) + 1) // 2


def ordered(patients: Sequence[int], salt: str) -> list[int]:
    """The patients in an order that follows from the salt."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{salt} {patient}".encode()).digest())


def divide(patients: Sequence[int], split: str) -> tuple[list[int], list[int]]:
    """Patients to learn from and held out; those of the split "dev" are what the split "test" learns from."""
    learn, held_out = list(patients), list[int]()
    for name in ("test", "dev")[: 1 if split == "test" else 2]:
        order = ordered(learn, name)
        count = round(HELD_OUT_SHARE * len(order))
        learn, held_out = order[count:], order[:count]
    return learn, held_out


def read_cases(data: Path, split: str, seed: int, task: Task) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and held out."""
    images = sorted((data / "images").glob("*.nii*"))
    learn, held_out = divide(sorted({patient_of(path) for path in images}), split)
    rare = set(ordered(learn, f"rare {seed}")[: round(RARE_SHARE * len(learn))])
    rare |= set(ordered(held_out, "rare")[: round(HELD_OUT_RARE_SHARE * len(held_out))])
    sets: dict[bool, list[Case]] = {True: [], False: []}
    for image in images:
        patient = patient_of(image)
        volume, mask = read_volume(image, "MR"), read_mask(data / "labels" / image.name, task.schema)
        if patient in rare:
            salt = f"{image.name} {'held out' if patient in held_out else seed}"
            volume, mask = with_cyst(volume, mask, np.random.default_rng(list(salt.encode())))
        sets[patient in held_out].append(Case(volume, mask, str(patient), image.name))
    return sets[False], sets[True]


def with_cyst(volume: Volume, mask: Mask, rng: np.random.Generator) -> tuple[Volume, Mask]:
    """The same image and mask with a cyst."""
    inside = ndimage.binary_erosion(mask.array != 0)
    centres = np.argwhere(inside if inside.any() else mask.array != 0)
    centre = centres[rng.integers(len(centres))] + rng.uniform(-0.5, 0.5, 3)
    half_axes = rng.uniform(*HALF_AXES_MM, 3) / volume.geometry.spacing_mm
    offsets = (np.indices(mask.array.shape) - centre[:, None, None, None]) / half_axes[:, None, None, None]
    radius = np.sqrt((offsets**2).sum(axis=0))  # (S, R, C), 1 at the border
    share = rng.uniform(*DARKNESS) / (1 + np.exp(np.minimum((radius - 1) / SOFTNESS, 50)))
    fluid = np.percentile(volume.array, FLUID_PERCENTILE)
    image = volume.array * (1 - share) + fluid * share
    labels = np.where(radius <= 1, CYST.id, mask.array)
    return Volume(image.astype(np.float32), volume.geometry, "MR"), Mask(labels, mask.geometry, mask.schema)


def config_of(task: Task, way: str, seed: int, steps: int) -> FitConfig:
    """How one cell is trained."""
    return replace(task.training, steps=steps, max_minutes=None, seed=seed, **WAYS[way])  # type: ignore[arg-type]


def run_cell(options: argparse.Namespace) -> dict[str, object]:
    """Train and measure one cell in this process."""
    import torch

    from lib.training.fit import fit

    torch.set_num_threads(1)
    seed, way = int(options.cell[0]), options.cell[1]
    task = task_with_cyst()
    learn, held_out = read_cases(options.data, options.split, seed, task)
    started = time.process_time()
    config = config_of(task, way, seed, options.steps)
    folder = options.work / f"{cell_key(options, seed, way)[:16]}"
    fitted = fit(learn, held_out, task.network, task.preprocess, config, folder, "cpu", predict=task.predict)
    there = {case.name for case in held_out if (case.mask.array == CYST.id).any()}
    cysts = {case.name: case.labels[CYST.name] for case in fitted.cases}
    figures: Figures = {label.name: fitted.dice[label.name] for label in task.schema}
    figures[CYST.name] = fmean(found.dice for name in there if (found := cysts[name]) is not None)
    return {
        "seed": seed,
        "way": way,
        "dice": figures,
        "missed": fmean(found.dice == 0 for name in there if (found := cysts[name]) is not None),
        "false_alarms": fmean(found is not None for name, found in cysts.items() if name not in there),
        "cases": {
            "training": len(learn),
            "training_with_cyst": sum(bool((case.mask.array == CYST.id).any()) for case in learn),
            "held_out": len(held_out),
            "held_out_with_cyst": len(there),
        },
        "cpu_s": round(time.process_time() - started, 1),
    }


def cell_key(options: argparse.Namespace, seed: int, way: str) -> str:
    """Names everything that a cell follows from, but the code."""
    task = task_with_cyst()
    config = asdict(config_of(task, way, seed, options.steps))
    parts = [config, asdict(task.network), asdict(task.preprocess), options.split]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def finished(work: Path) -> dict[str, dict[str, object]]:
    """Cells in the work folder, by key; a line that a kill cut short is passed over."""
    found = {}
    path = work / "cells.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            cell = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[cell["key"]] = cell
    return found


def in_a_process(options: argparse.Namespace, seed: int, way: str) -> dict[str, object]:
    """Train and measure one cell in a process of its own, with one thread, and keep it."""
    shared = [f"--{name}={getattr(options, name)}" for name in ("data", "work", "steps", "split")]
    command = [sys.executable, __file__, *shared, "--cell", str(seed), way]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    cell = {"key": cell_key(options, seed, way), **json.loads(answer)}
    with (options.work / "cells.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(cell) + "\n")
    dice = ", ".join(f"{name} {value:.3f}" for name, value in cell["dice"].items())
    print(f"seed {seed} {way}: {dice} ({cell['cpu_s']} s)", flush=True)
    return cell


def cells_of(options: argparse.Namespace) -> dict[tuple[int, str], dict[str, object]]:
    """All cells, the missing ones being made."""
    options.work.mkdir(parents=True, exist_ok=True)
    known = finished(options.work)
    wanted = [(seed, way) for seed in range(options.seeds) for way in WAYS]
    keys = {cell: cell_key(options, *cell) for cell in wanted}
    missing = [cell for cell in wanted if keys[cell] not in known]
    with ThreadPoolExecutor(options.jobs) as pool:
        made = dict(zip(missing, pool.map(lambda cell: in_a_process(options, *cell), missing), strict=True))
    return {cell: made.get(cell) or known[keys[cell]] for cell in wanted}


def paired(differences: Sequence[float]) -> dict[str, float | None]:
    """Mean of paired differences, and half of its 95 % interval (Student's t); None for one pair."""
    count = len(differences)
    half = None if count < 2 else float(stats.t.ppf(0.975, count - 1)) * stdev(differences) / math.sqrt(count)
    return {"mean": fmean(differences), "half_interval": half}


def compared(cells: Mapping[tuple[int, str], Mapping[str, object]], seeds: int) -> dict[str, dict[str, object]]:
    """Means of both ways and the paired difference, by figure."""

    def figures(seed: int, way: str) -> Iterator[tuple[str, float]]:
        cell = cells[seed, way]
        yield from cell["dice"].items()  # type: ignore[attr-defined]
        yield from ((name, cell[name]) for name in ("missed", "false_alarms"))  # type: ignore[misc]

    found = {cell: dict(figures(*cell)) for cell in cells}
    return {
        name: {
            **{way: fmean(found[seed, way][name] for seed in range(seeds)) for way in WAYS},
            "difference": paired([found[seed, "adaptive"][name] - found[seed, "plain"][name] for seed in range(seeds)]),
        }
        for name in found[0, "plain"]
    }


def show(rows: Mapping[str, Mapping[str, object]], seeds: int) -> None:
    """Print the table and whether the claim holds."""
    print(f"\n{'held-out mean of ' + str(seeds) + ' seeds':<28} {'plain':>8} {'adaptive':>9}   paired difference")
    for name, row in rows.items():
        mean, half = row["difference"]["mean"], row["difference"]["half_interval"]  # type: ignore[index]
        interval = "" if half is None else f" ± {half:.3f}"
        title = name if name in ("missed", "false_alarms") else f"Dice {name}"
        print(f"{title:<28} {row['plain']:>8.3f} {row['adaptive']:>9.3f}   {mean:+.3f}{interval}")


def verdict(rows: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Whether the rare label gains beyond its interval and no other label loses more than is allowed."""
    changes = {name: row["difference"] for name, row in rows.items() if name not in ("missed", "false_alarms")}
    gain = changes.pop(CYST.name)
    worst = min(change["mean"] for change in changes.values())  # type: ignore[index]
    half = gain["half_interval"]  # type: ignore[index]
    gains = None if half is None else gain["mean"] > half  # type: ignore[index]
    return {"rare_label_gains": gains, "worst_other_change": worst, "others_keep": worst >= -ALLOWED_LOSS}


def main() -> None:
    """Compare, print and write; or, in a child, do one cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("TRANSUNET_DATA", "../shared/data")) / "hippocampus"
    parser.add_argument("--data", type=Path, default=data, help="folder with images/ and labels/")
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks/rare_label"), help="what is done so far")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600, help="of each fit")
    parser.add_argument("--jobs", type=int, default=1, help="fits at once, each on one thread")
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options)))
        return
    cells = cells_of(options)
    rows = compared(cells, options.seeds)
    show(rows, options.seeds)
    judged = verdict(rows)
    print(f"{judged}")
    result = {
        "task": TASK,
        "steps": options.steps,
        "split": options.split,
        "cases": cells[0, "plain"]["cases"],
        "ways": WAYS,
        "figures": rows,
        "verdict": judged,
        "cells": [{name: value for name, value in cell.items() if name != "key"} for cell in cells.values()],
        "surroundings": surroundings(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
