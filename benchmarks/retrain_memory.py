"""Peak memory of a training, with every case held in memory and with one case at a time read from the cache.

    python benchmarks/retrain_memory.py [--cases 12] [--validation 2]

Synthetic CTs are written as a retraining's cache writes them, then the same training runs once in each way, each in a
process of its own. Both must end with the same losses and the same Dice. Prints a table and writes
benchmarks/results/retrain_memory.json. Needs Linux, for the peak of a process.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.cli.files import write_json
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.devices import set_threads
from lib.taskfile import load_task
from lib.training.data import Case
from lib.training.fit import fit
from lib.workflows.casecache import LazyCases
from lib.workflows.casefiles import read_arrays, read_volume, write_arrays, write_volume
from surroundings import surroundings

TASK = "abdomen_ct"
SPACING_MM = (3.0, 0.8, 0.8)
RESULTS = Path(__file__).parent / "results" / "retrain_memory.json"
WAYS = ("imports alone", "all cases held", "one case at a time")
MIB = 2**20


def make_case(folder: Path, number: int, shape: tuple[int, int, int], schema: LabelSchema) -> None:
    """A noisy body with a ball for each of the first four labels, as files."""
    rng = np.random.default_rng(number)
    slices, rows, columns = np.ogrid[tuple(slice(0, n) for n in shape)]
    body = ((rows - shape[1] / 2) / (0.35 * shape[1])) ** 2 + ((columns - shape[2] / 2) / (0.45 * shape[2])) ** 2 < 1
    array = np.where(body, 40.0, -1000.0) + rng.normal(0, 12, shape)
    mask = np.zeros(shape, np.uint8)
    for label_id in schema.ids[:4]:
        centre = rng.uniform(0.35, 0.65, 3) * shape
        reach = ((slices - centre[0]) * 3.75) ** 2 + (rows - centre[1]) ** 2 + (columns - centre[2]) ** 2
        mask[reach < (0.08 * shape[1]) ** 2] = label_id
    array += 60 * (mask > 0)
    geometry = Geometry.from_spacing(shape, SPACING_MM)
    write_volume(folder / f"{number}.volume.npz", Volume(np.round(array).astype(np.float32), geometry, "CT"))
    write_arrays(folder / f"{number}.mask.npz", array=mask)


class FolderCache:
    """Stands in for the cache of an installation."""

    def __init__(self, folder: Path, schema: LabelSchema) -> None:
        self.folder, self.schema = folder, schema

    def case(self, number: int) -> Case:
        """Read a case."""
        volume = read_volume(self.folder / f"{number}.volume.npz")
        values = read_arrays(self.folder / f"{number}.mask.npz")
        assert volume is not None
        assert values is not None
        return Case(volume, Mask(values["array"], volume.geometry, self.schema), str(number), f"case {number}")


def measure(way: str, folder: Path, cases: int, validation: int, steps: int) -> dict[str, object]:
    """Train in one of the ways in this process; peak in MiB, CPU seconds, and what the training ended with."""
    task = load_task(TASK)
    set_threads(0)
    started = time.process_time()
    ended: dict[str, object] = {}
    if way != WAYS[0]:
        cache = FolderCache(folder, task.schema)
        learn, test = (LazyCases(cache, numbers) for numbers in (range(cases), range(cases, cases + validation)))
        held: tuple[Sequence[Case], ...] = (learn, test) if way == WAYS[2] else (list(learn), list(test))
        config = replace(task.training, steps=steps, batch_size=2, max_minutes=None)
        with tempfile.TemporaryDirectory() as run:
            fitted = fit(*held, task.network, task.preprocess, config, Path(run), "cpu")
        ended = {"losses": fitted.losses, "dice": dict(fitted.dice)}
    return {"peak_mib": round(peak_bytes() / MIB), "cpu_s": round(time.process_time() - started, 1), **ended}


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def in_a_process(way: str, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """The same in a process of its own."""
    sizes = [f"--cases={options.cases}", f"--validation={options.validation}", f"--steps={options.steps}"]
    command = [sys.executable, __file__, f"--way={way}", f"--folder={folder}", *sizes]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(answer))


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Write the cases, train in each way, and gather the figures."""
    shape = (options.slices, options.side, options.side)
    count = options.cases + options.validation
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for number in range(count):
            make_case(Path(folder), number, shape, load_task(TASK).schema)
        made_s = time.perf_counter() - started
        stored = sum(path.stat().st_size for path in Path(folder).iterdir())
        found = {way: in_a_process(way, Path(folder), options) for way in WAYS}
    same = [{key: found[way].pop(key) for key in ("losses", "dice")} for way in WAYS[1:]]
    if same[0] != same[1]:
        raise SystemExit(f"both ways must end alike, got {same}")
    data = {"training": options.cases, "validation": options.validation, "shape": shape, "steps": options.steps}
    sizes = {
        "float32_and_masks_mib": round(count * 5 * shape[0] * shape[1] * shape[2] / MIB),
        "cache_mib": round(stored / MIB),
        "making_and_writing_s": round(made_s, 1),
    }
    return {"task": TASK, "cases": data, "cache": sizes, "ways": found, "surroundings": surroundings()}


def main() -> None:
    """Compare, print and write; or, in a child, measure one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=12, help="cases to learn from")
    parser.add_argument("--validation", type=int, default=2, help="cases to measure on")
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument("--steps", type=int, default=2, help="of the optimiser")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        found = measure(options.way, options.folder, options.cases, options.validation, options.steps)
        print(json.dumps(found))
        return
    result = compare(options)
    print(f"{'way':<20} {'peak':>10} {'CPU':>8}")
    for way, figures in result["ways"].items():  # type: ignore[attr-defined]
        print(f"{way:<20} {figures['peak_mib']:>6} MiB {figures['cpu_s']:>6} s")
    print(f"cache: {result['cache']}")
    write_json(options.out, result)


if __name__ == "__main__":
    main()
