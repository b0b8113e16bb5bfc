"""What tests of the use cases share: an archive of files, and small series with a ball to find."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite

from lib.core.errors import ArchiveUnavailable, NotFound
from lib.core.geometry import Geometry
from lib.core.values import Volume

SHAPE = (6, 32, 32)


class FileArchive:
    """Stands in for Orthanc: a folder a series, a DICOM file an instance; `away` makes it unreachable.

    It goes away by itself before it is asked for a series once more than `goes_after` says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.away = False
        self.goes_after: int | None = None
        self.fetched: list[str] = []

    def fetch(self, series_uid: str) -> list[Dataset]:
        self.away = self.away or self.goes_after == len(self.fetched)
        self._require()
        self.fetched.append(series_uid)
        files = sorted((self.folder / series_uid).glob("*.dcm"))
        if not files:
            raise NotFound(f"no series {series_uid}")
        return [dcmread(path) for path in files]

    def store(self, instances: Sequence[Dataset | bytes]) -> None:
        self._require()
        for instance in instances:
            dataset = dcmread(io.BytesIO(instance)) if isinstance(instance, bytes) else instance
            folder = self.folder / dataset.SeriesInstanceUID
            folder.mkdir(parents=True, exist_ok=True)
            dcmwrite(folder / f"{dataset.SOPInstanceUID}.dcm", dataset, enforce_file_format=True)

    def delete_series(self, series_uid: str) -> None:
        self._require()
        for path in (self.folder / series_uid).glob("*.dcm"):
            path.unlink()

    def _require(self) -> None:
        if self.away:
            raise ArchiveUnavailable("the archive is away")


def ball(seed: int, cube: bool = False) -> tuple[Volume, np.ndarray]:
    """A CT of noise with a bright ball, and its label array; with `cube`, a second, small label."""
    rng = np.random.default_rng(seed)
    slices, rows, columns = np.indices(SHAPE)
    centre = rng.uniform(12, 20, 2)
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 + 4 * (slices - 3) ** 2 < 60
    array = np.round(rng.normal(0, 20, SHAPE) + 200 * inside).astype(np.float32)
    labels = np.where(inside, 3, 0)
    if cube:
        labels[2, 1:4, 1:4] = 1
    return Volume(array, Geometry.from_spacing(SHAPE, (3.0, 1.0, 1.0)), "CT"), labels
