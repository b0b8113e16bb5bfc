"""Trainings on this machine: in this process, or with helpers beside it, one for each further GPU."""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from lib.core.errors import ProcessLost
from lib.workflows.executor.engine import FitJob
from lib.workflows.shipping import CaseFile, Shippable, Unpacked

if TYPE_CHECKING:
    from lib.training.fit import FitProgress, FitResult

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")
START_S = 120.0
END_S = 5.0
LOOK_S = 0.2


class LocalExecutor:
    """Trains in this process; with helpers where the settings ask for more than one process.

    Args:
        processes: of a training; 0 = one for each CUDA device, one without any.
        threads: CPU threads of a training in all; 0 = half of the cores.
    """

    is_here = True

    def __init__(self, processes: int = 1, threads: int = 0) -> None:
        self._processes = processes
        self._threads = threads

    def fit(self, job: FitJob, report: "Callable[[FitProgress], None]") -> "FitResult":
        """See `Executor.fit`; this process leads."""
        from lib.inference.devices import cuda_devices, set_threads
        from lib.training.distributed import joined
        from lib.training.meeting import file_store

        size = self._processes or max(1, cuda_devices())
        if size == 1:
            return job.run(report)
        threads = max(1, set_threads(self._threads) // size)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else shall reach them
        with TemporaryDirectory(prefix="training-") as place, _helpers(job, size, Path(place), threads) as helpers:
            set_threads(threads)
            _await(helpers, Path(place))
            store, watch = file_store(Path(place) / "store", size), partial(_require_alive, helpers)
            with joined(0, size, store=store, watch=watch) as group, _watched(helpers, group.abort):
                return job.run(report, group)

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Generator[tuple[int, B]]:
        """See `Executor.each`."""
        for number in range(len(items)):  # a loop over the items would hold the last one while the next is read
            yield number, function(items[number])


def as_files(cases: Shippable) -> Unpacked:
    """Cases as paths, for processes of the same machine."""
    return Unpacked([cases.file(number) for number in range(len(cases))], _same)


def _same(parcel: object) -> CaseFile:
    assert isinstance(parcel, CaseFile)
    return parcel


@contextmanager
def _helpers(job: FitJob, size: int, place: Path, threads: int) -> Iterator[list[SpawnProcess]]:
    """Start the processes of the ranks above 0; they end with this one, whatever happens to it."""
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    parcel = job.packed(as_files)
    helpers = [
        context.Process(target=help_fit, args=(parcel, rank, size, place, threads, os.getpid()), daemon=True)
        for rank in range(1, size)
    ]
    for helper in helpers:
        helper.start()
    try:
        yield helpers
        for helper in helpers:
            helper.join(END_S)
    finally:
        for helper in helpers:
            helper.kill()
            helper.join()
            helper.close()


def _await(helpers: Sequence[SpawnProcess], place: Path) -> None:
    """Wait until every helper is ready to meet the others.

    Raises:
        ProcessLost: one has ended, or is not there in time.
    """
    end = time.monotonic() + START_S
    while len(list(place.glob("ready-*"))) < len(helpers):
        dead = [helper.exitcode for helper in helpers if helper.exitcode is not None]
        if dead or time.monotonic() > end:
            said = f"status {dead[0]}" if dead else f"no sign of life in {START_S:.0f} s"
            raise ProcessLost(f"{len(helpers)} further processes of the training must start, one did not: {said}")
        time.sleep(LOOK_S)


def _require_alive(helpers: Sequence[SpawnProcess]) -> None:
    """Raise ProcessLost where one has ended, which nobody should wait for."""
    ended = [helper.exitcode for helper in helpers if helper.exitcode is not None]
    if ended:
        raise ProcessLost(
            f"a further process of the training has ended with status {ended[0]} (-9 = killed, perhaps for want of "
            f"memory); start the training again, it goes on from its last checkpoint"
        )


@contextmanager
def _watched(helpers: Sequence[SpawnProcess], give_up: Callable[[], None]) -> Iterator[None]:
    """Give up what this process waits for inside the block once a helper has failed and its connections do not tell."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            if any(helper.exitcode not in (None, 0) for helper in helpers):
                if not over.wait(END_S):
                    give_up()
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def help_fit(job: FitJob, rank: int, size: int, place: Path, threads: int, parent: int) -> None:
    """What a helper does: train as one of the group, and end quietly when the others have."""
    from lib.inference.devices import set_threads
    from lib.training.distributed import joined
    from lib.training.meeting import file_store

    logging.basicConfig(level=logging.ERROR)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    set_threads(threads)
    (place / f"ready-{rank}").touch()
    try:
        with joined(rank, size, rank, file_store(place / "store", size)) as group:
            job.run(lambda _: None, group)
    except BaseException:
        logging.exception("process %d of the training ends", rank)
        os._exit(1)  # an orderly end waits for what the others never send, with NCCL
    os._exit(0)  # threads inside torch may crash an orderly end


def _end_with(parent: int) -> None:
    """End this process once the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
