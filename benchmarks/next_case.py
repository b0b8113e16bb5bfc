"""How long `next` takes, by number of series in the ledger.

    OMP_NUM_THREADS=1 python benchmarks/next_case.py [--sizes 1000 10000 100000 1000000] [--calls 1000]
        [--postgres | --url postgresql://...] [--work /tmp]

The ledger is filled with that many ready series, two a patient, each with a draft, a tenth of them labelled, with what
a model said of each (scores and evidence of every label, an embedding of 128 numbers), and with the queue of the
strategy that the default settings name, as the worker leaves it; its order is made up, since `next` reads it and never
ranks. Half of the labelled series stand at the head of the queue, so that a search that walks over what is taken would
show. Twenty annotators then take turns: each asks for the next case, which is what is timed, from the call until the
lease is on the disk, and labels it; one of ten gives it back instead. No call is left out, neither the first ones nor
outliers.

Then the same again while another process builds the queue anew without a pause. The worker does so after a change, for
a tenth of the time at most; this is the worst that an annotator can meet.

SQLite lies in the --work folder, which should be on the disk that is to be measured: each call waits for it. --postgres
starts a server of this machine, which waits for the disk as well; --url takes an empty database of another one, one
size at a time. The goal is a 99th percentile of 50 ms at a million series. Prints a table and writes
benchmarks/results/next_case.json, where the figures of the other database stay.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from lib.cli.files import write_json
from lib.core.errors import InvalidInput
from lib.ledger import tables
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewHuman
from lib.ledger.scores import MORE
from lib.settings import load_settings
from lib.taskfile import Task, load_task
from lib.workflows import query
from lib.workflows.services import Services
from surroundings import surroundings

RESULTS = Path(__file__).parent / "results" / "next_case.json"
SIZES = (1000, 10_000, 100_000, 1_000_000)
TASK = "phantom_ct"
SETTINGS = load_settings(environ={})
STRATEGY, VERSION, EMBEDDING = SETTINGS.query.strategy, 1, 128
REASON = "{}, rank {} of {}, seed 0: quota of plain entropy: mean entropy 0.500 nats over 4 labels, highest in liver"
ANNOTATORS, GIVEN_BACK, LABELLED_SHARE = 20, 10, 0.1
GOAL_MS, START_S = 50.0, 120
CHUNK = 10_000


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="series in the ledger")
    parser.add_argument("--calls", type=int, default=1000, help="of `next`, for each size")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="folder of the SQLite files")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server of this machine, started here")
    parser.add_argument("--url", default="", help="of an empty PostgreSQL database")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    database = "PostgreSQL" if options.postgres or options.url else "SQLite"
    found = []
    titles = f"{'series':>9} {'calls':>6} {'median ms':>10} {'99 % ms':>8} {'largest ms':>11} {'queue s':>8}"
    print(f"{database}: {titles}  median, 99 % and largest while it is built anew")
    for size in options.sizes:
        with ledger_url(options) as url:
            row = measured(url, size, options.calls)
        found.append(row)
        print(
            f"{'':{len(database) + 1}} {size:9} {row['calls']:6.0f} {row['median_ms']:10.2f} {row['p99_ms']:8.2f} "
            f"{row['largest_ms']:11.2f} {row['queue_s']:8.1f}  {told(row['while_rebuilding'])}"
        )
    growth = found[-1]["p99_ms"] / found[0]["p99_ms"]
    print(f"the 99th percentile grows by {growth:.2f} from {options.sizes[0]} to {options.sizes[-1]} series")
    report = {"surroundings": surroundings(), "goal_ms": GOAL_MS, "p99_growth": growth, "sizes": found}
    write_json(options.out, {**earlier(options.out), database: report})


def told(row: Mapping[str, float]) -> str:
    """The figures of calls on one line."""
    return f"{row['median_ms']:.2f}, {row['p99_ms']:.2f}, {row['largest_ms']:.2f}"


def earlier(path: Path) -> dict[str, object]:
    """What was measured of the other database."""
    return dict(json.loads(path.read_text())) if path.is_file() else {}


@contextmanager
def ledger_url(options: argparse.Namespace) -> Iterator[str]:
    """URL of an empty database, removed afterwards unless it was given."""
    if options.url:
        yield options.url
    elif options.postgres:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "ledger"))
        from ledger_support import postgres_folder, running_cluster

        programs = postgres_folder()
        if programs is None:
            raise InvalidInput("there is no PostgreSQL server on this machine: Debian's package is postgresql")
        with running_cluster(programs, durable=True) as cluster:
            yield cluster.url(cluster.create())
    else:
        folder = Path(tempfile.mkdtemp(prefix="next-case-", dir=options.work))
        try:
            yield f"sqlite:///{folder}/ledger.db"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def measured(url: str, size: int, calls: int) -> dict[str, Any]:
    """Milliseconds of `next` with so many series."""
    task, ledger = load_task(TASK), Ledger(url)
    ledger.upgrade()
    if ledger.series.list(limit=1):
        raise InvalidInput(f"the database must be empty, but {ledger.series.counts()} series are in it")
    uids = filled(url, size, task)
    places = [(uid, 0.5, REASON.format(STRATEGY, rank, size)) for rank, uid in enumerate(uids, start=1)]
    start = time.perf_counter()
    ledger.queue.rebuild(task.name, STRATEGY, places)
    queue_s = time.perf_counter() - start
    services = Services(SETTINGS, {task.name: task}, None, ledger, None, b"k" * 32)  # type: ignore[arg-type]
    calls = min(calls, size // 4)
    idle = row_of(timed(services, task, calls))
    with rebuilding(url, places):
        busy = row_of(timed(services, task, calls))
    ledger.close()
    return {"series": size, "calls": calls, **idle, "queue_s": queue_s, "while_rebuilding": busy}


def row_of(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds of some calls."""
    median, high, largest = np.quantile(1000 * np.array(seconds), (0.5, 0.99, 1)).tolist()
    return {"median_ms": median, "p99_ms": high, "largest_ms": largest}


@contextmanager
def rebuilding(url: str, places: Sequence[tuple[str, float, str]]) -> Iterator[None]:
    """Another process builds the queue again and again, from when it has begun until the end of the block."""
    spawn = multiprocessing.get_context("spawn")
    begun = spawn.Event()
    process = spawn.Process(target=rebuild, args=(url, places, begun), daemon=True)
    process.start()
    try:
        if not begun.wait(START_S):
            raise TimeoutError(f"the process that builds the queue must begin within {START_S} s")
        yield
        if not process.is_alive():
            raise ChildProcessError(f"the process that builds the queue must go on, it ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def rebuild(url: str, places: Sequence[tuple[str, float, str]], begun: Event) -> None:
    """Build the queue until killed."""
    ledger = Ledger(url)
    begun.set()
    while True:
        ledger.queue.rebuild(TASK, STRATEGY, places)


def timed(services: Services, task: Task, calls: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for number in range(calls):
        annotator = f"reader {number % ANNOTATORS}"
        start = time.perf_counter()
        case = query.next_case(services, task, annotator=annotator)
        seconds.append(time.perf_counter() - start)
        assert case is not None  # there are more series than calls
        assert (case.strategy, case.model_version) == (STRATEGY, VERSION)
        if number % GIVEN_BACK == 0:
            query.release(services, task, case.series_uid, annotator)
        else:
            human = NewHuman(case.series_uid, task.name, annotator, nothing_found=True)
            services.ledger.annotations.add_human(human, accept=True)
    return seconds


def filled(url: str, size: int, task: Task) -> Sequence[str]:
    """All rows of the ledger but the queue's; returns the series in the order of the queue, many labelled first."""
    database = Database(url)
    uids = [f"1.2.826.0.1.3680043.{n}" for n in range(size)]
    labelled = frozenset(uids[:: round(1 / LABELLED_SHARE)])
    for start in range(0, size, CHUNK):
        part = list(enumerate(uids[start : start + CHUNK], start))
        with database.write() as connection:
            connection.execute(sa.insert(tables.patients), [patient(n) for n, _ in part if n % 2 == 0])
            connection.execute(sa.insert(tables.series), [series(n, uid) for n, uid in part])
            connection.execute(sa.insert(tables.annotations), [annotation(uid, "draft") for _, uid in part])
            known = [annotation(uid, "accepted") for _, uid in part if uid in labelled]
            connection.execute(sa.insert(tables.annotations), known)
            connection.execute(sa.insert(tables.scorings), [scoring(n, uid) for n, uid in part])
            connection.execute(sa.insert(tables.scores), [row for n, _ in part for row in scores(n, task)])
            connection.execute(sa.insert(tables.embeddings), [embedding(n) for n, _ in part])
    database.close()
    first = dict.fromkeys(sorted(labelled)[: len(labelled) // 2])
    return list(first | dict.fromkeys(uids))


def patient(number: int) -> dict[str, object]:
    """A row of the ledger."""
    return {"patient": f"patient {number // 2}", "split": "pool", "reason": "", "created_at": NOW}


def series(number: int, uid: str) -> dict[str, object]:
    """A row of the ledger."""
    texts = {"study_uid": f"9.{uid}", "patient": f"patient {number // 2}", "frame_of_reference_uid": "9.9"}
    kind = {"status": "ready", "reason": "", "modality": "CT", "description": "phantom", "instances": 100}
    origin = {"institution": "north", "manufacturer": "acme", "date": "20260101", "findings": [], "geometry": None}
    return {"series_uid": uid, **texts, **kind, **origin, "created_at": NOW, "updated_at": NOW}


def annotation(uid: str, status: str) -> dict[str, object]:
    """A row of the ledger: a draft of a model, or the label of a person."""
    by = ("model", "ours", VERSION) if status == "draft" else ("human", "anna", None)
    who = dict(zip(("origin", "author", "model_version"), by, strict=True))
    what = {"voxels": {}, "nothing_found": True, "reason": "", "made_at": NOW, "created_at": NOW}
    return {"series_uid": uid, "task": TASK, "status": status, **who, **what}


def scoring(number: int, uid: str) -> dict[str, object]:
    """A row of the ledger: that the model has looked at a series."""
    return {"id": number + 1, "series_uid": uid, "task": TASK, "version": VERSION, "scored_at": NOW, "error": ""}


def scores(number: int, task: Task) -> list[dict[str, object]]:
    """Rows of the ledger: what it said of each label."""
    values = dict.fromkeys(MORE, 0.25)
    ids = {"scoring_id": number + 1, "annotation_id": None}
    return [{**ids, "label": label, "score": (number % 97) / 100, **values} for label in task.schema.names]


def embedding(number: int) -> dict[str, object]:
    """A row of the ledger: where the series lies among the others."""
    vector = np.full(EMBEDDING, number % 101, dtype="<f4").tobytes()
    return {"scoring_id": number + 1, "annotation_id": None, "vector": vector}


NOW = datetime(2026, 1, 1, tzinfo=UTC)

if __name__ == "__main__":
    main()
