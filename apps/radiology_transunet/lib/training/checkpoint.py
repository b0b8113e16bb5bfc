"""What a killed run leaves behind, and how the next one goes on.

The last two checkpoints are kept: one that turns out to be damaged costs the steps since the one before it.
"""

import errno
import logging
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lib.core.atomic import replacing, sync
from lib.inference.devices import is_out_of_memory

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
BEFORE = "checkpoint-before.pt"
NEW_LINE = "\n"
UNREADABLE: tuple[type[Exception], ...] = (OSError, EOFError, RuntimeError, TypeError, ValueError, LookupError)
UNREADABLE += (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error)
"""What a file raises that is cut, damaged, of another kind, more than tensors and plain values, or out of reach."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        key: of the inputs; another run's checkpoint is not continued.
        step: steps done.
        seconds: spent so far.
        network: state dict.
        average: state dict of the averaged weights.
        optimizer: state dict.
        scaler: state dict of the loss scaling of fp16; empty without.
        losses: of each step.
        rates: learning rate of each step.
        curve: (step, mean Dice) of each validation.
        running: running Dice of each label, None before a batch showed it.
        best: mean Dice and state dict of the best averaged weights so far, where a run keeps them.
        at_once: pictures that go through the network at a time.
        notes: what went other than planned, in words.
    """

    key: str
    step: int
    seconds: float
    network: dict[str, Any]
    average: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    losses: list[float]
    rates: list[float]
    curve: list[tuple[int, float]]
    running: tuple[float | None, ...]
    best: tuple[float, dict[str, Any]] | None
    at_once: int
    notes: list[str]

    def save(self, folder: Path) -> None:
        """Put it into the folder; the last one there stays as the one before.

        Raises:
            DiskFull: no room; both that were there are.
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        with next_checkpoint(folder) as unnamed, unnamed.open("wb") as stream:
            torch.save(values, stream)  # torch's own file would hide why it cannot be written

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove the folder's checkpoints, and what kills left of others that were being written."""
        for path in (folder / CHECKPOINT, folder / BEFORE, *folder.glob(f".{CHECKPOINT}.*")):
            path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, key: str, tell: Tell = log.warning) -> "Checkpoint | None":
        """The folder's last readable checkpoint, or None when there is none for these inputs.

        Args:
            folder: where `save` put it.
            key: of the inputs.
            tell: hears of each one that is damaged, and of one of other inputs whose place the run will take.

        Raises:
            OSError, BadZipFile, MemoryError: one cannot be read now; it stays, and another attempt may find it.
        """
        others = []
        for path in (folder / CHECKPOINT, folder / BEFORE):
            found = cls._sound(path, tell)
            if found is not None and found.key == key:
                return found
            if found is not None:
                others.append(path)
        if others:
            tell(
                f"{others[0]} belongs to other cases or options: training starts over and writes its own in that place"
            )
        return None

    @classmethod
    def drop_damaged(cls, folder: Path, tell: Tell = log.warning) -> None:
        """Let the folder's last readable checkpoint be its last one, whatever it belongs to.

        Args:
            folder: where `save` put it.
            tell: hears of each one that is damaged.

        Raises:
            OSError, BadZipFile, MemoryError: one cannot be read now; it stays.
        """
        last, before = folder / CHECKPOINT, folder / BEFORE
        if cls._sound(last, tell) is None and cls._sound(before, tell) is not None:
            os.replace(before, last)

    @classmethod
    def _sound(cls, path: Path, tell: Tell) -> "Checkpoint | None":
        """What a file holds, or None where there is none; a damaged one goes."""
        try:
            content = path.open("rb")
        except FileNotFoundError:
            return None
        with content:
            try:
                return cls(**_read(content))
            except UNREADABLE as error:
                if _is_of_the_machine(error):
                    raise
                said = str(error).partition(NEW_LINE)[0]
        is_last = path.name == CHECKPOINT and path.with_name(BEFORE).exists()
        tell(f"{path} is damaged, {'the one before it is used' if is_last else 'training starts over'}: {said}")
        path.unlink(missing_ok=True)  # it must not take the place of a sound one
        return None


@contextmanager
def next_checkpoint(folder: Path) -> Iterator[Path]:
    """A path to write a folder's next checkpoint to; the last one there stays as the one before.

    Raises:
        DiskFull: no room; both that were there are.
    """
    last = folder / CHECKPOINT
    with replacing(last) as unnamed:
        yield unnamed
        sync(unnamed)  # a disk may only now say that it is full, and so far nothing has gone
        if last.exists():
            os.replace(last, folder / BEFORE)


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Whether an error of reading, or one that led to it, says nothing of the content: of disk, network or memory.

    An archive whose directory is damaged lets zipfile seek before the file's beginning, which is EINVAL.
    """
    while error is not None:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            return True
        error = error.__context__
    return False


def _read(content: BinaryIO) -> dict[str, Any]:
    """The values of a file whose checksums agree; torch itself would load flipped bits.

    It reads from the open file: of one that it opens itself, torch tells errors of the disk as those of the content.
    """
    with zipfile.ZipFile(content) as parts:
        if (broken := parts.testzip()) is not None:
            raise ValueError(f"the checksum of {broken} does not agree")
    content.seek(0)
    values: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
    return values
