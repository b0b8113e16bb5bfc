"""Cases on their way to other processes and machines: as paths where the disk is the same, else as bytes."""

import io
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from lib.core.errors import NotFound
from lib.core.labels import LabelSchema
from lib.core.values import Mask
from lib.workflows.casefiles import read_arrays, read_volume

if TYPE_CHECKING:
    from lib.training.data import Case


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A case in files; it can be sent to other processes.

    Attributes:
        volume: file of the image, or its bytes.
        mask: file of the mask, or its bytes; None = an empty mask.
        schema: of the mask.
        patient: whoever splits cases does it by this.
        name: for messages.
    """

    volume: Path | bytes
    mask: Path | bytes | None
    schema: LabelSchema
    patient: str
    name: str

    def read(self) -> "Case":
        """The case.

        Raises:
            NotFound: a file is gone or damaged.
        """
        from lib.training.data import Case

        volume = read_volume(_opened(self.volume))
        values = {} if self.mask is None else read_arrays(_opened(self.mask))
        if volume is None or values is None:
            raise NotFound(f"the files of {self.name} have left the cache; another attempt fetches them again")
        array = values.get("array", np.zeros(volume.geometry.shape, np.uint8))
        return Case(volume, Mask(array, volume.geometry, self.schema), self.patient, self.name)

    def with_bytes(self) -> "CaseFile":
        """The same for a machine that does not have the files.

        Raises:
            NotFound: a file is gone.
        """
        try:
            mask = None if self.mask is None else _bytes(self.mask)
            return CaseFile(_bytes(self.volume), mask, self.schema, self.patient, self.name)
        except FileNotFoundError as error:
            raise NotFound(f"{error.filename} has left the cache; another attempt fetches it again") from error


class Shippable(Sequence["Case"]):
    """Cases that are read when they are asked for, here or elsewhere."""

    @abstractmethod
    def file(self, number: int) -> CaseFile:
        """One case as files."""


class Unpacked(Shippable):
    """Cases where they are needed.

    Args:
        parcels: of each case.
        open_parcel: gets the files out of one.
    """

    def __init__(self, parcels: Sequence[object], open_parcel: Callable[[object], CaseFile]) -> None:
        self._parcels = tuple(parcels)
        self._open = open_parcel

    def __len__(self) -> int:
        return len(self._parcels)

    @overload
    def __getitem__(self, index: int) -> "Case": ...

    @overload
    def __getitem__(self, index: slice) -> "Unpacked": ...

    def __getitem__(self, index: int | slice) -> "Case | Unpacked":
        if isinstance(index, slice):
            return Unpacked(self._parcels[index], self._open)
        return self.file(index).read()

    def file(self, number: int) -> CaseFile:
        """One case as files."""
        return self._open(self._parcels[number])


def _opened(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _bytes(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()
