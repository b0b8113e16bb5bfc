"""Where the processes of a training meet, and what one that ends leaves there to the others."""

import base64
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep

import torch
from torch import distributed as dist
from torch.distributed import FileStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from lib.core.errors import LabelError, OutOfMemory, ProcessLost
from lib.inference.devices import is_out_of_memory
from lib.training import collectives

PATIENCE = timedelta(hours=2)
"""How long the others wait for one that lives and does not come: the slowest one's preparation or validation."""

MEETING = timedelta(minutes=5)
"""How long processes of several machines look for the leader."""

AGAIN = timedelta(minutes=2)
"""How long processes that have met wait for each other to meet anew; one may have died of what made them part."""

LOOK_S = 0.1
"""Between two looks whether the others are there."""

IMPORTED_BEFORE = "torch._dynamo"
"""Imported by the first optimiser. Functions of modules that it imports have the group of that moment as a default
argument, which would keep its connections open for ever: nobody would hear that a process has left."""

END = "end"
"""Under this name a process leaves the reason of its end."""


@dataclass(frozen=True, slots=True)
class End:
    """What a process says instead of a value when it has to end."""

    rank: int
    error: LabelError | str

    def raised(self) -> LabelError:
        """What the others raise."""
        if isinstance(self.error, LabelError):
            return self.error
        return ProcessLost(f"process {self.rank} of the training ended: {self.error}")

    @classmethod
    def by(cls, error: BaseException, rank: int) -> "End":
        """What that error is to the others."""
        if isinstance(error, LabelError):
            return cls(rank, error)
        said = (str(error).splitlines() or [""])[0]
        if is_out_of_memory(error):
            return cls(rank, OutOfMemory(said or type(error).__name__))
        return cls(rank, f"{type(error).__name__}: {said}" if said else type(error).__name__)


class Place:
    """Where a group meets, once or more.

    Args:
        store: of all of them.
        rank: of this process.
        size: processes in all.
        watch: called while the others are waited for; raises where one cannot come any more.
    """

    def __init__(self, store: Store, rank: int, size: int, watch: Callable[[], None]) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._watch = watch
        self._meetings = 0

    def meet(self) -> None:
        """Meet the others, where earlier meetings have not been.

        Raises:
            ProcessLost: the others do not come.
        """
        import_module(IMPORTED_BEFORE)
        self._meetings += 1
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with collectives.loss_explained():
            if self._meetings > 1:
                self._await_others()  # what connects them would wait with all of PATIENCE for one that has died
            place = self._now()
            dist.init_process_group(backend, store=place, rank=self._rank, world_size=self._size, timeout=PATIENCE)

    def leave(self, error: BaseException) -> None:
        """Leave the reason of this process's end to the others."""
        with suppress(Exception):  # the place may be gone with its process
            words = base64.b64encode(pickle.dumps(End.by(error, self._rank)))
            self._now().set(END, words.decode("ascii"))

    def reason(self) -> End | None:
        """What a process has left as the reason of its end, or None."""
        with suppress(Exception):  # as above
            if (place := self._now()).check([END]):
                found: End = pickle.loads(base64.b64decode(place.get(END)))
                return found
        return None

    def _now(self) -> Store:
        return PrefixStore(f"meeting {self._meetings}", self._store)

    def _await_others(self) -> None:
        place, end = self._now(), monotonic() + AGAIN.total_seconds()
        place.set(f"here {self._rank}", "")
        while not place.check([f"here {rank}" for rank in range(self._size)]):
            self._watch()
            if monotonic() > end:
                raise ProcessLost(
                    f"all {self._size} processes of the training must meet again within {AGAIN.total_seconds():.0f} s "
                    f"of a failure, not all did; start the training again, it goes on from its last checkpoint"
                )
            sleep(LOOK_S)


def store_of_environment(rank: int, size: int) -> Store:
    """Where torchrun lets its processes meet."""
    with collectives.loss_explained():
        store: Store = next(rendezvous("env://", rank, size))[0]
    return store


def file_store(path: Path, size: int) -> Store:
    """Where processes of one machine meet: a file that does not exist yet."""
    return FileStore(str(path), size)


def tcp_store(host: str, port: int, size: int, leads: bool) -> TCPStore:
    """Where processes of several machines meet; the leader's has `port`, 0 = a free one.

    Raises:
        ProcessLost: the leader cannot be reached.
    """
    with collectives.loss_explained():
        return TCPStore(host, port, size, leads, timeout=MEETING, wait_for_workers=False)
