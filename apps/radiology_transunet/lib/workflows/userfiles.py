"""Image and label files of a user, as values.

Images and labels are NIfTI files of one name in two folders; an image may also be a folder of DICOM files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from lib.core.errors import GeometryMismatch, InvalidInput
from lib.core.values import Volume
from lib.taskfile import Task

if TYPE_CHECKING:
    from lib.dicom.series import SourceSeries
    from lib.training.data import Case

NIFTI = (".nii.gz", ".nii")


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and its label file."""

    name: str
    image: Path
    label: Path


def pairs_of(images: Path, labels: Path) -> tuple[Pair, ...]:
    """The image and label files of one name, sorted.

    Raises:
        InvalidInput: a folder that does not exist, no image, an image without label or a name that occurs twice.
    """
    found = {what: _nifti_files(folder) for what, folder in (("images", images), ("labels", labels))}
    if not found["images"]:
        raise InvalidInput(f"{images} must hold NIfTI files ({' or '.join(NIFTI)}), got none")
    missing = sorted(set(found["images"]) - set(found["labels"]))
    if missing:
        raise InvalidInput(f"each image needs a label of the same name in {labels}, missing: {', '.join(missing[:5])}")
    return tuple(Pair(name, path, found["labels"][name]) for name, path in sorted(found["images"].items()))


def read_case(pair: Pair, task: Task, patient: str = "") -> "Case":
    """A pair as a case of that patient.

    Raises:
        InvalidInput: a file that cannot be read, two grids.
    """
    from lib.dicom.nifti import read_mask
    from lib.training.data import Case

    volume, mask = read_image(pair.image, task), read_mask(pair.label, task.schema)
    try:
        return Case(volume, mask, patient, pair.name)
    except GeometryMismatch as error:
        raise InvalidInput(f"{pair.label}: {error}") from error


class FileCases(Sequence["Case"]):
    """Pairs as cases that are read each time they are asked for, so that no more are in memory than whoever asks holds.

    Args:
        pairs: the files.
        task: what they show.
        patient_of: the patient of a pair's name.
    """

    def __init__(self, pairs: Sequence[Pair], task: Task, patient_of: Callable[[str], str]) -> None:
        self._pairs = tuple(pairs)
        self._task = task
        self._patient_of = patient_of

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> "Case": ...

    @overload
    def __getitem__(self, index: slice) -> "FileCases": ...

    def __getitem__(self, index: int | slice) -> "Case | FileCases":
        if isinstance(index, slice):
            return FileCases(self._pairs[index], self._task, self._patient_of)
        return read_case(self._pairs[index], self._task, self._patient_of(self._pairs[index].name))

    def require_readable(self) -> None:
        """Read every case once.

        Raises:
            InvalidInput: a file that cannot be read, two grids.
        """
        for pair in self._pairs:
            read_case(pair, self._task)


def read_image(path: Path, task: Task) -> Volume:
    """A NIfTI file as an image of the task's first modality."""
    from lib.dicom.nifti import read_volume

    return read_volume(path, task.modalities[0])


def read_series(folder: Path, task: Task) -> "SourceSeries":
    """The one DICOM series of a folder and the folders in it; files that are no DICOM images are passed over.

    Raises:
        InvalidInput: no image, several series, a series that makes no volume, another modality than the task's.
    """
    from lib.dicom.files import decode
    from lib.dicom.series import assemble

    datasets, passed_over = [], 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            dataset = decode(path.read_bytes())
        except InvalidInput:
            passed_over += 1
            continue
        if "Rows" in dataset:
            datasets.append(dataset)
    if not datasets:
        raise InvalidInput(f"{folder} must hold the DICOM files of one series, got {passed_over} other files")
    series = assemble(datasets)
    if series.volume.modality not in task.modalities:
        wanted = ", ".join(task.modalities)
        raise InvalidInput(f"task {task.name} takes {wanted}, the series in {folder} is {series.volume.modality}")
    return series


def _nifti_files(folder: Path) -> dict[str, Path]:
    """NIfTI files of a folder by name without suffix."""
    if not folder.is_dir():
        raise InvalidInput(f"a folder of NIfTI files is needed, but there is no {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((suffix for suffix in NIFTI if path.name.endswith(suffix)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name.removesuffix(suffix)
        if name in found:
            raise InvalidInput(f"{folder} must hold each name once, got {found[name].name} and {path.name}")
        found[name] = path
    return found
