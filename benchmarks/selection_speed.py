"""What ranking a pool costs, by strategy and number of cases.

    OMP_NUM_THREADS=1 python benchmarks/selection_speed.py [--sizes 1000 10000] [--huge 1000000]

Pools are made: 13 labels, embeddings of 512 numbers, 5 sites, two series a patient, 500 labelled cases, the options of
the default file. Seconds are CPU seconds of one thread, the smaller of two runs; memory is the most that one
ranking took besides the pool (tracemalloc, in a third run). At the huge size the strategies that need neither
embeddings nor quotas are measured alone, without memory. The baseline is `random`, which reads nothing of the cases
but their ids. Prints a
table and writes benchmarks/results/selection_speed.json.
"""

import argparse
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lib.cli.files import write_json
from lib.selection.cases import Facts, Labelled
from lib.selection.pool import QUANTITIES, Pool
from lib.selection.strategies import STRATEGIES
from lib.settings import load_settings
from surroundings import surroundings

RESULTS = Path(__file__).parent / "results" / "selection_speed.json"
LABELS, WIDTH, LABELLED, SITES = 13, 512, 500, 5
CHEAP = ("random", "entropy")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--huge", type=int, default=1_000_000, help="cases for random and entropy; 0 = none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, object] = {"surroundings": surroundings()}
    print(f"{'cases':>9}  {'strategy':18} {'CPU s':>7} {'MiB':>6}")
    for size in options.sizes:
        report[str(size)] = measured(made_pool(size, WIDTH), STRATEGIES, memory=True)
    if options.huge:
        report[str(options.huge)] = measured(made_pool(options.huge, 0), CHEAP, memory=False)
    write_json(options.out, report)


def measured(pool: Pool, names: Iterable[str], memory: bool) -> dict[str, dict[str, float]]:
    """CPU seconds and MiB by strategy."""
    options, found = load_settings(environ={}).selection, {}
    for name in names:
        seconds = []
        for _ in range(2):
            start = time.process_time()
            STRATEGIES[name](pool, 0, options)
            seconds.append(time.process_time() - start)
        found[name] = {"cpu_s": round(min(seconds), 2)}
        if memory:
            tracemalloc.start()
            STRATEGIES[name](pool, 0, options)
            found[name]["mib"] = round(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()
        print(f"{len(pool):9}  {name:18} {found[name]['cpu_s']:7.2f} {found[name].get('mib', ''):>6}")
    return found


def made_pool(size: int, width: int) -> Pool:
    """A pool with values drawn at random; a third of the labels is not predicted in a case."""
    chance = np.random.default_rng(0)
    labels = tuple(f"label {i}" for i in range(LABELS))
    shown = chance.random((size, LABELS)) > 1 / 3
    return Pool.of(
        [f"1.2.826.0.1.{i}" for i in chance.permutation(size)],
        labels,
        rare=labels[:1],
        quantities={
            name: np.where(shown, chance.random((size, LABELS)), np.nan)
            for name in (QUANTITIES if width else QUANTITIES[:1])
        },
        volumes_ml=shown * chance.random((size, LABELS)),
        presence=np.where(shown, 1.0, 0.3) * chance.random((size, LABELS)),
        embeddings=chance.normal(size=(size, width)),
        facts=made_facts(size, "pool"),
        labelled=Labelled.of(
            [f"labelled {i}" for i in range(LABELLED)],
            chance.random((LABELLED, LABELS)) > 1 / 3,
            chance.normal(size=(LABELLED, width)),
            facts=made_facts(LABELLED, "labelled"),
        ),
    )


def made_facts(size: int, salt: str) -> Facts:
    """Two series a patient, some sites, three scanners, one protocol."""
    patients = tuple(f"{salt} {i // 2}" for i in range(size))
    sites, scanners = (tuple(f"{what} {i % n}" for i in range(size)) for what, n in (("site", SITES), ("scanner", 3)))
    return Facts(patients, sites, scanners, ("abdomen",) * size)


if __name__ == "__main__":
    main()
