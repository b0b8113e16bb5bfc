"""Trainings and functions of many items on a Ray cluster, whose machines need not share a disk.

Each process of a training is an actor. The first one leads: this process asks it now and then how far it is, brings
its checkpoints here, and tells it to stop. So a training whose machine is gone goes on, anywhere, from the last
checkpoint that came here. Cases are sent as the compressed files of the cache, once each.
"""

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lib.core.errors import ClusterUnavailable, InvalidSettings, LabelError, ProcessLost
from lib.workflows.config import ExecutorConfig
from lib.workflows.executor.engine import FitJob
from lib.workflows.executor.node import FitProcess, News, apply, fetched
from lib.workflows.shipping import Shippable, Unpacked

if TYPE_CHECKING:
    from lib.training.fit import FitProgress, FitResult

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")
POLL_S = 0.5
END_S = 15.0
START_S = 120.0
CALLS_AT_ONCE = 4
"""Of an actor: it trains in one thread and answers in others."""


class RayExecutor:
    """Trains and measures on a cluster.

    Args:
        config: which cluster, and what each process needs there.
    """

    is_here = False

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self._put: tuple[object, Any] = (None, None)  # the function that was sent last, and where it lies

    def fit(self, job: FitJob, report: "Callable[[FitProgress], None]") -> "FitResult":
        """See `Executor.fit`."""
        from lib.training.checkpoint import CHECKPOINT, Checkpoint

        ray, size = _connected(self._config.address), self._config.processes
        last, damaged = job.folder / CHECKPOINT, list[str]()
        Checkpoint.drop_damaged(job.folder, damaged.append)  # the machine that it is sent to has no other one
        if damaged:
            report(_told(damaged))
        job = replace(job, gpu_share=share_of_process(job.gpu_share, self._config.gpus))
        with _translated(ray), self._processes(ray, size) as processes:
            meeting = ray.get(processes[0].meet.remote(size)) if size > 1 else None
            parcel = ray.put(job.packed(lambda cases: _sent(ray, cases)))
            checkpoint = last.read_bytes() if last.exists() else None
            runs = [
                process.run.remote(parcel, rank, size, meeting, None if rank else checkpoint)
                for rank, process in enumerate(processes)
            ]
            try:
                return self._follow(ray, processes[0], runs, last, report)
            except BaseException:
                self._end(ray, processes, runs, last)
                raise

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Generator[tuple[int, B]]:
        """See `Executor.each`."""
        ray = _connected(self._config.address)
        task = ray.remote(num_cpus=self._config.cpus, num_gpus=self._config.gpus, max_retries=2)(apply)
        with _translated(ray):
            if self._put[0] is not function:
                self._put = (function, ray.put(function))  # a network with its weights, sent once for many calls
            what = self._put[1]
            at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / self._config.cpus))
            open_calls: dict[Any, int] = {}
            try:
                for number in range(len(items)):
                    open_calls[task.remote(what, items[number])] = number
                    while len(open_calls) >= (1 if number == len(items) - 1 else at_once):
                        for call in ray.wait(list(open_calls), num_returns=1, timeout=POLL_S)[0]:
                            yield open_calls.pop(call), ray.get(call)
            finally:
                for call in open_calls:
                    ray.cancel(call, force=True)

    @contextmanager
    def _processes(self, ray: Any, size: int) -> Iterator[list[Any]]:
        """The actors of a training, placed together or not at all; they end with the block."""
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        need = {"CPU": self._config.cpus, **({"GPU": self._config.gpus} if self._config.gpus else {})}
        place = placement_group([need] * size, strategy="PACK")
        processes: list[Any] = []
        try:
            if not place.wait(START_S):
                raise ClusterUnavailable(
                    f"the Ray cluster must have room for {size} processes with {need} each, it had none for "
                    f"{START_S:.0f} s; it has {ray.cluster_resources()}"
                )
            where = PlacementGroupSchedulingStrategy(place)
            remote = ray.remote(FitProcess).options(
                num_cpus=self._config.cpus,
                num_gpus=self._config.gpus,
                max_concurrency=CALLS_AT_ONCE,
                scheduling_strategy=where,
            )
            processes.extend(remote.remote() for _ in range(size))
            yield processes
        finally:
            for process in processes:
                ray.kill(process)
            remove_placement_group(place)

    def _follow(
        self,
        ray: Any,
        leader: Any,
        runs: list[Any],
        last: Path,
        report: "Callable[[FitProgress], None]",
    ) -> "FitResult":
        """Wait for the end; report and bring checkpoints here meanwhile."""
        while True:
            done, _ = ray.wait(runs, num_returns=1, timeout=POLL_S)
            for run in done:
                ray.get(run)  # one that failed ends all
            ended = bool(done) and runs[0] in ray.wait(runs, num_returns=len(runs), timeout=0)[0]
            if (progress := self._bring(ray, leader, last)) is not None:
                report(progress)  # the last one too, of a training shorter than the time between two looks
            if ended:
                result: FitResult = ray.get(runs[0])
                return result

    @staticmethod
    def _bring(ray: Any, leader: Any, last: Path) -> "FitProgress | None":
        """Put a new checkpoint into its place here; where the training is."""
        news: News = ray.get(leader.news.remote())
        if news.checkpoint is not None:
            _keep(news.checkpoint, last)
        return news.progress

    def _end(self, ray: Any, processes: list[Any], runs: list[Any], last: Path) -> None:
        """Let the training end in order where it still can, and keep its last checkpoint."""
        with suppress(Exception):
            self._bring(ray, processes[0], last)
            for process in processes:
                process.stop.remote()
            ray.wait(runs, num_returns=len(runs), timeout=END_S)


def _sent(ray: Any, cases: Shippable) -> Unpacked:
    """Cases in the cluster's object store, of which each is here for a moment."""
    return Unpacked([ray.put(cases.file(number).with_bytes()) for number in range(len(cases))], fetched)


def share_of_process(share: float, gpus: float) -> float:
    """Of a device's memory what one process may take, if all that Ray lets onto the device may take `share` of it.

    Args:
        share: of all of them, in (0, 1].
        gpus: of each process, as Ray counts; below 1 it shares one with others.
    """
    return share * min(1.0, gpus) if gpus else share


def _keep(content: bytes, last: Path) -> None:
    """Put a checkpoint into its place; the last one there stays as the one before, as in a training here."""
    from lib.training.checkpoint import next_checkpoint

    last.parent.mkdir(parents=True, exist_ok=True)
    with next_checkpoint(last.parent) as unnamed:
        unnamed.write_bytes(content)


def _told(notes: Sequence[str]) -> "FitProgress":
    from lib.training.fit import FitProgress

    return FitProgress("prepare", 0.0, notes=tuple(notes))


def _connected(address: str) -> Any:
    """Ray, connected to the cluster.

    Raises:
        InvalidSettings: ray is not installed.
        ClusterUnavailable: no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray
    except ImportError as error:
        raise InvalidSettings(
            f"executor.kind ray needs the package ray ({error}); install the extra: uv pip install -e '.[ray]'"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterUnavailable(
                f"a Ray cluster must answer at {address or 'this machine'} (executor.address): {error}"
            ) from error
    return ray


@contextmanager
def _translated(ray: Any) -> Iterator[None]:
    """Turn what Ray raises into what was raised there, or into the loss of a machine."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LabelError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProcessLost(
            f"a machine or process of the Ray cluster is gone ({type(error).__name__}: {said}); another attempt "
            f"goes on from the last checkpoint"
        ) from error
