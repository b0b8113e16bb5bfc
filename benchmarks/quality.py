"""Estimated Dice: how far it is off, whether its intervals hold, and whether it knows what it does not know.

    OMP_NUM_THREADS=1 TRANSUNET_DATA=/data python benchmarks/quality.py [--seeds 3] [--steps 1300] [--jobs 2]

For each seed a network with dropout is trained on three fifths of the heads to learn from. The others of them are the
calibration patients: the model of quality is fitted on their predictions and on those of worse pictures of them, with
noise, ghosts of motion, a bias field, or a part cut off. It is tested on the heads that are held out, clean and with
the same kinds at other strengths: mean absolute error and coverage of the 90 % interval of all predicted labels,
flagged or not, and the area under the risk-coverage curve (mean of 1 - Dice over those that are kept, from the surest
on, at all shares; El-Yaniv and Wiener, JMLR 2010), against that of ordering by the pairwise Dice of the samples alone.
A label that is predicted nowhere has no estimate; how many of them a person drew is told as missed. "Without samples"
fits and tests on the same predictions but for the samples' agreement, as a model is calibrated that is asked once.

Kinds that were never seen have a table of their own, with the share that is flagged as unlike the calibration: an
inverted contrast for another modality, thick slices, and windows of an abdominal CT for another organ. Intervals hold
for new patients of the same hospital; one set of data cannot show more.

Each seed that is done is a line of cells.jsonl in the --work folder, and a fit that was killed goes on from its
checkpoint: start the command again. `--split dev` tests on a part of the heads to learn from; whoever changes the model
looks at that one. Prints tables and writes benchmarks/results/quality.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import cells
from cells import Cell, Made
from heads import add_options, ordered, read_split
from lib.cli.files import write_json
from lib.core.atomic import replacing
from lib.core.geometry import Geometry
from lib.core.values import LabelEvidence, Mask, Volume
from lib.inference.config import UncertaintyConfig
from lib.inference.quality import LEVEL, QualityModel
from lib.inference.quality_degrade import KINDS
from lib.inference.quality_features import Drawn, is_predicted
from lib.inference.quality_fit import KnownCase, fit_quality
from lib.taskfile import Task, load_task
from lib.training.data import Case
from lib.workflows.estimates import COPIES, annotated_volumes, known_case, known_cases, worse
from surroundings import surroundings

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor

TASK = "hippocampus_mr"
RESULTS = Path(__file__).parent / "results" / "quality.json"
LEARN_SHARE = 0.6
STRENGTHS = (0.2, 0.5, 0.8)
TESTED = (0.35, 0.65)
"""Strengths of what the model is tested on; it is fitted on those above."""
DROPOUT = 0.1
UNCERTAINTY = UncertaintyConfig("dropout", 8, 0, "entropy")
ABDOMEN, WINDOWS = "ct_abdomen_dicom", 20
THICK = 3
GOALS = {"mean_absolute_error": 0.05, "coverage": (0.85, 0.95), "pairs": 200}
Floats = npt.NDArray[np.float64]


def task_with_dropout() -> Task:
    """The hippocampus task with a network that can be sampled."""
    task = load_task(TASK)
    return replace(task, network=replace(task.network, dropout=DROPOUT))


def divided(cases: Sequence[Case], seed: int, heads: int) -> tuple[list[Case], list[Case]]:
    """Cases to train the network on, and calibration cases, of at most so many heads."""
    order = ordered(sorted({int(case.patient) for case in cases}), f"quality {seed}")[:heads]
    learn = set(order[: round(LEARN_SHARE * len(order))])
    calibration = set(order) - learn
    return tuple([case for case in cases if int(case.patient) in some] for some in (learn, calibration))  # type: ignore[return-value]


def run_cell(options: argparse.Namespace) -> Made:
    """Train one network and write down what it predicts of everything."""
    import torch

    from lib.training.fit import fit

    torch.set_num_threads(1)
    seed, task, started = int(options.cell[0]), task_with_dropout(), time.process_time()
    known, held_out = read_split(options.data, options.split, task)
    learn, calibration = divided(known, seed, options.heads)
    tested = ordered(sorted({int(case.patient) for case in held_out}), "tested")[: options.heads]
    held_out = [case for case in held_out if int(case.patient) in tested]
    config = replace(task.training, steps=options.steps, max_minutes=None, seed=seed)
    folder = options.work / key_of(options, seed)[:16]
    fitted = fit(learn, [], task.network, task.preprocess, config, folder, "cpu", predict=task.predict)
    predictor = sampled(fitted.state_dict, task, options.batch_size)
    groups = {
        "calibration": lambda: known_cases(predictor, calibration, COPIES, STRENGTHS, lambda *_: None),
        "clean": lambda: predicted(predictor, held_out),
        **{kind: partial(lambda kind: predicted(predictor, worsened(held_out, kind)), kind) for kind in KINDS},
        **{f"unseen {name}": partial(predicted, predictor, some) for name, some in unseen(held_out, options.data)},
    }
    made = {name: kept(folder / f"{name}.json", make) for name, make in groups.items()}
    return {
        "groups": made,
        "heads": {name: len({case["patient"] for case in some}) for name, some in made.items()},
        "training_cases": len(learn),
        "cpu_s": round(time.process_time() - started, 1),
    }


def predicted(predictor: "Predictor", cases: Sequence[Case]) -> list[KnownCase]:
    """What is said of each case."""
    return [known_case(predictor, case) for case in cases]


def kept(path: Path, make: Callable[[], Sequence[KnownCase]]) -> list[dict[str, Any]]:
    """What a part of a cell made, or what it made before it was killed."""
    if not path.exists():
        with replacing(path) as unnamed:
            unnamed.write_text(json.dumps([plain(case) for case in make()]), encoding="utf-8")
    return list(json.loads(path.read_text(encoding="utf-8")))


def sampled(state: Mapping[str, Any], task: Task, batch_size: int) -> "Predictor":
    """The network that was trained, with samples."""
    import torch

    from lib.inference.model import build_network, build_preprocess
    from lib.inference.predictor import Predictor
    from lib.networks.fuse import fuse

    network = build_network(task.network, task.schema)
    network.load_state_dict(state)
    preprocess = build_preprocess(task.preprocess, task.network)
    return Predictor(fuse(network), preprocess, task.schema, torch.device("cpu"), batch_size, task.predict, UNCERTAINTY)


def worsened(cases: Sequence[Case], kind: str) -> list[Case]:
    """Every case with a degradation, its strength in turn; what is drawn differs from the calibration's."""
    return [
        worse(case, kind, TESTED[number % len(TESTED)], np.random.default_rng([number, KINDS.index(kind)]))
        for number, case in enumerate(cases)
    ]


def unseen(cases: Sequence[Case], data: Path) -> list[tuple[str, list[Case]]]:
    """Kinds of pictures that no calibration has: what they are called, and some."""
    kinds = [
        ("inverted contrast", [inverted(case) for case in cases]),
        ("thick slices", [thick(case) for case in cases]),
    ]
    folder = data.parent / ABDOMEN
    return [*kinds, ("abdominal CT", windows_of(folder, cases[0].mask))] if folder.is_dir() else kinds


def inverted(case: Case) -> Case:
    """Bright for dark, as in another modality."""
    array = case.volume.array
    return replace(case, volume=replace(case.volume, array=array.max() + array.min() - array))


def thick(case: Case) -> Case:
    """Each three slices averaged, on the same grid."""
    first = np.arange(len(case.volume.array)) // THICK
    means = np.stack([case.volume.array[first == number].mean(axis=0) for number in range(int(first.max()) + 1)])
    return replace(case, volume=replace(case.volume, array=means[first].astype(np.float32)))


def windows_of(folder: Path, like: Mask) -> list[Case]:
    """Windows of a CT, of the size of a mask and without any of its labels."""
    from pydicom import dcmread

    from lib.dicom.series import assemble

    ct = assemble([dcmread(path) for path in sorted(folder.rglob("*.dcm"))]).volume
    rng = np.random.default_rng(0)
    shape = tuple(min(sides) for sides in zip(like.geometry.shape, ct.array.shape, strict=True))
    found = []
    for number in range(WINDOWS):
        first = [
            int(rng.integers(size // 4, max(size // 4, 3 * size // 4 - side) + 1))
            for size, side in zip(ct.array.shape, shape, strict=True)
        ]
        array = ct.array[tuple(slice(begin, begin + side) for begin, side in zip(first, shape, strict=True))]
        grid = Geometry.from_spacing(array.shape, ct.geometry.spacing_mm)  # type: ignore[arg-type]
        nothing = Mask(np.zeros(array.shape, dtype=np.uint8), grid, like.schema)
        found.append(Case(Volume(array, grid, "MR"), nothing, "ct", f"window {number}"))
    return found


def plain(case: KnownCase) -> dict[str, Any]:
    """A known case as JSON."""
    evidence = {name: asdict(found) for name, found in case.evidence.items()}
    embedding = [round(float(value), 5) for value in case.embedding]
    return {"patient": case.patient, "evidence": evidence, "dice": dict(case.dice), "embedding": embedding}


def known(values: Mapping[str, Any]) -> KnownCase:
    """A known case of JSON."""
    evidence = {name: LabelEvidence(**found) for name, found in values["evidence"].items()}
    return KnownCase(values["patient"], evidence, values["dice"], np.array(values["embedding"], dtype=np.float32))


def key_of(options: argparse.Namespace, seed: int) -> str:
    """Names everything that a cell follows from, but the code."""
    task = task_with_dropout()
    config = asdict(replace(task.training, steps=options.steps, max_minutes=None, seed=seed))
    parts = asdict(task.network), asdict(task.preprocess), asdict(UNCERTAINTY), STRENGTHS, TESTED
    return cells.key_of(config, *parts, options.split, options.heads)


def rows_of(model: QualityModel, cases: Sequence[KnownCase]) -> list[dict[str, Any]]:
    """One row a label that is predicted and has a Dice."""
    rows = []
    for case in cases:
        found = model.estimate(case.evidence, case.embedding, model.origin)
        for name, estimate in found.items():
            dice, evidence = case.dice.get(name), case.evidence[name]
            if dice is not None and is_predicted(evidence):
                agreement = evidence.samples_dice
                rows.append({"dice": dice, "agreement": agreement, **asdict(estimate), "patient": case.patient})
    return rows


def figures(rows: Sequence[Mapping[str, Any]], missed: int) -> dict[str, Any]:
    """Error, coverage, risk and flags of rows."""
    if not rows:
        return {"pairs": 0, "missed": missed}
    names = ("dice", "value", "low", "high", "agreement", "is_familiar")
    dice, value, low, high, agreement, familiar = (np.array([row[name] for row in rows], dtype=float) for name in names)
    inside = (low <= dice) & (dice <= high)
    return {
        "pairs": len(rows),
        "missed": missed,
        "mean_dice": float(dice.mean()),
        "mean_absolute_error": float(np.abs(value - dice).mean()),
        "coverage": float(inside.mean()) if np.isfinite(low).all() else None,
        "width": float((high - low).mean()) if np.isfinite(low).all() else None,
        "risk_coverage": risk_coverage(dice, value),
        "risk_coverage_of_agreement": None if np.isnan(agreement).all() else risk_coverage(dice, agreement),
        "risk_coverage_at_best": risk_coverage(dice, dice),
        "flagged": float((familiar == 0).mean()),
    }


def risk_coverage(dice: Floats, confidence: Floats) -> float:
    """Area under the curve of the mean of 1 - Dice over the surest share; what is not known is the least sure."""
    order = np.argsort(-np.nan_to_num(confidence, nan=-1.0), kind="stable")
    return float((np.cumsum(1 - dice[order]) / np.arange(1, len(dice) + 1)).mean())


def one_answer(case: KnownCase) -> KnownCase:
    """The same without what samples tell, as where a model is asked once: the default of the settings."""
    return replace(case, evidence={name: replace(one, samples_dice=nan) for name, one in case.evidence.items()})


def missed(cases: Sequence[KnownCase]) -> int:
    """Labels that a person drew and the network did not."""
    return sum(
        dice is not None and not is_predicted(case.evidence[name]) for case in cases for name, dice in case.dice.items()
    )


def drawn_of(options: argparse.Namespace, seeds: Sequence[int]) -> list[dict[str, list[Drawn]]]:
    """By seed, what was drawn on the cases to learn from and on those to calibrate on, as the product has it."""
    known, _ = read_split(options.data, options.split, task_with_dropout())
    return [
        annotated_volumes([case for some in divided(known, seed, options.heads) for case in some]) for seed in seeds
    ]


def judged(made: Made, drawn: Mapping[str, Sequence[Drawn]]) -> dict[str, dict[str, Any]]:
    """Figures of one seed by group; "known" is the clean pictures and all known kinds."""
    groups = {name: [known(case) for case in some] for name, some in made["groups"].items()}
    labels = task_with_dropout().schema.names
    calibration = groups.pop("calibration")
    model = fit_quality(calibration, labels, drawn, "benchmark")
    tested = {"known": [case for name in ("clean", *KINDS) for case in groups[name]], **groups}
    found = {name: figures(rows_of(model, some), missed(some)) for name, some in tested.items()}
    alone = fit_quality(list(map(one_answer, calibration)), labels, drawn, "benchmark")
    answers = list(map(one_answer, tested["known"]))
    return {**found, "known, without samples": figures(rows_of(alone, answers), missed(answers))}


def means(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """Means over the seeds; None where a seed has no value."""
    rows: dict[str, dict[str, float | None]] = {}
    for group in found[0]:
        names = list(dict.fromkeys(name for seed in found for name in seed[group]))
        each = {name: [seed[group].get(name) for seed in found] for name in names}
        rows[group] = {name: None if None in some else fmean(some) for name, some in each.items()}  # type: ignore[type-var]
    return rows


def verdict(rows: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether the goals are met on clean pictures and known kinds."""
    lowest, highest = GOALS["coverage"]  # type: ignore[misc]
    return {
        "error_small_enough": rows["mean_absolute_error"] <= GOALS["mean_absolute_error"],
        "coverage_as_told": None if rows["coverage"] is None else lowest <= rows["coverage"] <= highest,
        "better_than_agreement": rows["risk_coverage"] < rows["risk_coverage_of_agreement"],
        "pairs_enough": rows["pairs"] >= GOALS["pairs"],
    }


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table."""
    columns = (
        "pairs",
        "mean_dice",
        "mean_absolute_error",
        "coverage",
        "width",
        "risk_coverage",
        "risk_coverage_of_agreement",
        "flagged",
        "missed",
    )
    titles = ("pairs", "Dice", "MAE", f"in {LEVEL:.0%}", "width", "AURC", "pairwise", "flagged", "missed")
    print(f"\n{'':<26}" + "".join(f"{title:>9}" for title in titles))
    for group, row in rows.items():
        numbers = ("-" if row.get(name) is None else f"{row[name]:.3g}" for name in columns)
        print(f"{group:<26}" + "".join(f"{number:>9}" for number in numbers))


def main() -> None:
    """Measure, print and write; or, in a child, do one cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks/quality"), help="what is done so far")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1300, help="of each fit")
    parser.add_argument("--heads", type=int, default=1000, help="to train and calibrate on, and to test on, at most")
    parser.add_argument("--batch-size", type=int, default=16, help="slices at once")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once, each on one thread")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options)))
        return
    names = ("data", "split", "steps", "heads", "batch_size")
    shared = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    kitchen = cells.Kitchen(__file__, shared, options.work, options.jobs, threads=1)
    wanted: dict[Cell, str] = {(str(seed),): key_of(options, seed) for seed in range(options.seeds)}
    made = kitchen.make(wanted, lambda cell, done: f"seed {cell[0]}: {done['cpu_s']} CPU s")
    drawn = drawn_of(options, [int(cell[0]) for cell in made])
    seeds = [judged(*both) for both in zip(made.values(), drawn, strict=True)]
    rows = means(seeds)
    show(rows)
    print(verdict(rows["known"]))
    result = {
        "task": TASK,
        "steps": options.steps,
        "split": options.split,
        "strengths": {"fitted": STRENGTHS, "tested": TESTED},
        "heads": next(iter(made.values()))["heads"],
        "figures": rows,
        "verdict": verdict(rows["known"]),
        "seeds": seeds,
        "cpu_s": [one["cpu_s"] for one in made.values()],
        "surroundings": surroundings(),
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
