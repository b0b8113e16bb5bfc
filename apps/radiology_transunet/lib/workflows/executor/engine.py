"""What an executor is: one training, done together by some processes, and a function of many items.

The same use case runs on any of them; which one, the settings say.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from lib.inference.config import PredictConfig, PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.settings import Settings
from lib.training.config import FitConfig
from lib.workflows.shipping import Shippable, Unpacked

if TYPE_CHECKING:
    from lib.inference.model import StateDict
    from lib.training.distributed import Group
    from lib.training.fit import FitProgress, FitResult

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True, eq=False)
class FitJob:
    """A training with all that it follows from; its cases are read by whoever trains.

    Attributes:
        cases: to learn from.
        validation: to measure on.
        network: which network.
        preprocess: Volume -> network input.
        config: how to train.
        folder: of its checkpoints, here; executors elsewhere bring them here.
        device: "auto", "cpu", "cuda" or "cuda:N".
        start: weights to start from, or None.
        predict: how the network is asked when it is measured.
        weights: how much likelier each case is drawn than others, or None.
        gpu_share: of its device's memory that each process may take, in (0, 1].
    """

    cases: Shippable
    validation: Shippable
    network: NetworkConfig
    preprocess: PreprocessConfig
    config: FitConfig
    folder: Path
    device: str
    start: "StateDict | None" = None
    predict: PredictConfig = PredictConfig()  # noqa: RUF009 (frozen)
    weights: Sequence[float] | None = None
    gpu_share: float = 1.0

    def run(self, report: "Callable[[FitProgress], None]", group: "Group | None" = None) -> "FitResult":
        """Train here, alone or as one process of a group."""
        from lib.inference.devices import limit_memory
        from lib.training.distributed import ALONE
        from lib.training.fit import fit

        group = group or ALONE
        limit_memory(group.device(self.device), self.gpu_share)
        return fit(
            self.cases,
            self.validation,
            self.network,
            self.preprocess,
            self.config,
            self.folder,
            self.device,
            report,
            start=self.start,
            predict=self.predict,
            weights=self.weights,
            group=group,
        )

    def packed(self, pack: "Callable[[Shippable], Unpacked]") -> "FitJob":
        """The same for another process, with cases that can be sent there."""
        return replace(self, cases=pack(self.cases), validation=pack(self.validation))


class Executor(Protocol):
    """Runs what takes long.

    Attributes:
        is_here: whether `each` runs in this process, so that nothing needs to be sent.
    """

    is_here: bool

    def fit(self, job: FitJob, report: "Callable[[FitProgress], None]") -> "FitResult":
        """Do a training; it goes on from the checkpoint in the job's folder.

        Args:
            job: what to train.
            report: called about twice a second; an exception that it raises ends the training, whose last checkpoint
                stays in the job's folder.

        Raises:
            ProcessLost: a process or a machine is gone; the same call goes on from the checkpoint.
            LabelError: what a training raises.
        """
        ...

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Generator[tuple[int, B]]:
        """The function's value of each item with the item's number, as they come.

        Who closes the iterator ends what is not done yet.

        Args:
            function: of a module, or an instance of a class of one; it and the items are sent where they are needed.
            items: asked for one after the other.

        Raises:
            ProcessLost: a machine is gone.
        """
        ...


def open_executor(settings: Settings) -> Executor:
    """The executor of the settings; it connects when it is first used."""
    from lib.workflows.executor.cluster import RayExecutor
    from lib.workflows.executor.local import LocalExecutor

    if settings.executor.kind == "ray":
        return RayExecutor(settings.executor)
    return LocalExecutor(settings.executor.processes, settings.retrain.threads)
