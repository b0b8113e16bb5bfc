"""What a killed run leaves behind, and how the next one goes on."""

import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
UNREADABLE = (RuntimeError, TypeError, ValueError, LookupError, EOFError, pickle.UnpicklingError)
"""What torch raises on a file that is cut, of another kind, or holds more than tensors and plain values."""


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

    def save(self, folder: Path) -> None:
        """Put it into the folder in place of the last one."""
        values = {name: getattr(self, name) for name in self.__slots__}
        unnamed = folder / f".{CHECKPOINT}.{os.getpid()}"
        torch.save(values, unnamed)
        os.replace(unnamed, folder / CHECKPOINT)

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove the folder's checkpoint, and what kills left of others that were being written."""
        for path in (folder / CHECKPOINT, *folder.glob(f".{CHECKPOINT}.*")):
            path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, key: str) -> "Checkpoint | None":
        """The folder's checkpoint, or None when there is none for these inputs."""
        path = folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            found = cls(**torch.load(path, map_location="cpu", weights_only=True))
        except UNREADABLE as error:
            log.warning("%s cannot be read, training starts over: %s", path, error)
            return None
        if found.key != key:
            log.info("%s belongs to other cases or options, training starts over", path)
            return None
        return found
