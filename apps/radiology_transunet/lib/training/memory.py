"""What a training does when its pictures do not fit into the device's memory: half as many at a time, once."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from lib.core.errors import NoRoomToMeasure, TrainingFailed
from lib.inference.devices import MEMORY_ERRORS, first_line, is_out_of_memory, release_memory
from lib.networks.config import NetworkConfig
from lib.training.config import FitConfig

T = TypeVar("T")


def half(count: int) -> int:
    """Half of a number of pictures, rounded up."""
    return -(-count // 2)


def twice(attempt: Callable[[str], T], between: Callable[[], None] = lambda: None) -> T:
    """Do something, and once more when memory ran out, but for measurements, which smaller steps would not help.

    Args:
        attempt: gets "" first; where memory ran out, the allocator's words.
        between: called before the second attempt, when nothing holds the first one's memory any more.
    """
    try:
        return attempt("")
    except MEMORY_ERRORS as error:
        if isinstance(error, NoRoomToMeasure) or not is_out_of_memory(error):
            raise
        said = first_line(error)
    gc.collect()  # only here: the error kept everything alive that its frames hold
    release_memory()
    between()
    return attempt(said)


@contextmanager
def memory_explained(
    network: NetworkConfig, config: FitConfig, window: Sequence[int], processes: int = 1, halved: bool = True
) -> Iterator[None]:
    """Turn a failed allocation inside into a message that says what to lower; that of a measurement stays.

    Args:
        network: which one.
        config: of the run.
        window: (slices, rows, columns) of a picture.
        processes: that share the step.
        halved: whether half as many at a time were tried too.

    Raises:
        TrainingFailed: in place of what torch or numpy raised.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if isinstance(error, NoRoomToMeasure) or not is_out_of_memory(error):
            raise
        tried = _tried(config, processes, halved)
        raise TrainingFailed(
            f"no memory for pictures of {' x '.join(map(str, window))} voxels, {tried}, in the network {network.kind} "
            f"of size {network.size} ({first_line(error)}); lower training.batch_size and raise training.accumulate "
            f"instead, lower network.patch (of a network of patches) or training.crop (of one of slices), choose a "
            f"smaller network.size, end what else uses the device, or raise retrain.gpu_share where that holds a "
            f"retraining to a share of it"
        ) from error


def _tried(config: FitConfig, processes: int, halved: bool) -> str:
    """How many pictures at a time had no memory, in words."""
    count = own_at_once(config, processes)
    both = f"neither {count} at a time nor {half(count)}" if halved else f"not {count} at a time"
    tried = "not even one at a time" if count == 1 else both
    return tried if processes == 1 else f"{tried} in each of {processes} processes"


def own_at_once(config: FitConfig, processes: int) -> int:
    """Pictures that one process sends through its network at a time: a batch, or its smaller share of the step."""
    return min(config.batch_size, config.batch_size * config.accumulate // processes)
