"""Cases to batches of slices; each case is preprocessed once.

Cases may be read from disk whenever they are asked for: they are asked for one after the other, and none is kept.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.errors import TrainingFailed
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.preprocess import ClassPlanes, Preprocess

Size = tuple[int, int]
Slices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An image with its accepted mask.

    Attributes:
        volume: the image.
        mask: on the same grid.
        patient: whoever splits cases does it by this.
        name: for messages.

    Raises:
        GeometryMismatch: the mask lies on another grid.
    """

    volume: Volume
    mask: Mask
    patient: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        self.volume.geometry.require_same(self.mask.geometry, f"the mask of case {self.name or self.patient or '?'}")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        planes: (S, H, W) float16 (half the memory; its rounding is far below the noise of an image).
        classes: (S, H, W) uint8, 0 = background.
    """

    planes: npt.NDArray[np.float16]
    classes: ClassPlanes

    def cut(self, number: int, corner: Size, size: Size, context: int) -> tuple[npt.NDArray[np.float16], ClassPlanes]:
        """Slice `number` with its neighbours (1 + 2 context, *size) and its classes (*size).

        Args:
            number: of the slice.
            corner: (row, column) of the first pixel; may lie outside, as may the last one.
            size: (rows, columns).
            context: neighbours on each side; beyond the ends the outermost slice repeats.
        """
        numbers = np.clip(np.arange(number - context, number + context + 1), 0, len(self.planes) - 1)
        images = np.full((len(numbers), *size), self.planes[number].min(), dtype=np.float16)
        classes = np.zeros(size, dtype=np.uint8)
        given, taken = zip(*map(_overlap, corner, size, self.classes.shape[1:]), strict=True)
        images[(slice(None), *taken)] = self.planes[(numbers, *given)]
        classes[taken] = self.classes[(number, *given)]
        return images, classes


@dataclass(frozen=True, slots=True)
class Pick:
    """One training slice, drawn: which case, which slice, where its crop begins."""

    case: int
    number: int
    corner: Size


class TrainingSet:
    """All slices of all cases, and where each class lies.

    Args:
        cases: prepared.
        classes: number of classes with background.
        crop: (rows, columns) of every batch.
        context: neighbour slices on each side.
    """

    def __init__(self, cases: Sequence[PreparedCase], classes: int, crop: Size, context: int) -> None:
        self.cases = cases
        self.crop = crop
        self.context = context
        self.slices: Slices = np.array([(c, s) for c, case in enumerate(cases) for s in range(len(case.planes))])
        self.of_class: dict[int, dict[int, Slices]] = {}
        for number, case in enumerate(cases):
            for label in range(1, classes):
                found = np.flatnonzero((case.classes == label).any(axis=(1, 2)))
                if found.size:
                    self.of_class.setdefault(label, {})[number] = found

    def draw(self, rng: np.random.Generator, count: int, foreground: float) -> list[Pick]:
        """Slices of a batch.

        Args:
            rng: the source of chance.
            count: how many.
            foreground: probability that a slice is drawn for a label: first a label, each as likely as the others
                however rare it is, then a case that shows it, then a slice, with the crop around one of its pixels.
                The rest are drawn from all slices alike.
        """
        return [
            self._pick_label(rng) if self.of_class and rng.random() < foreground else self._pick_any(rng)
            for _ in range(count)
        ]

    def batch(self, picks: Sequence[Pick]) -> tuple[Tensor, Tensor]:
        """Images (B, 1 + 2 context, H, W) float32 and classes (B, H, W) int64 of drawn slices."""
        cuts = [self.cases[p.case].cut(p.number, p.corner, self.crop, self.context) for p in picks]
        images = torch.from_numpy(np.stack([image for image, _ in cuts])).float()
        return images, torch.from_numpy(np.stack([classes for _, classes in cuts])).long()

    def fingerprint(self) -> str:
        """A checksum of every voxel and label that training sees."""
        digest = hashlib.sha256(repr((self.crop, self.context)).encode())
        for case in self.cases:
            digest.update(repr(case.planes.shape).encode())
            digest.update(case.planes.tobytes())
            digest.update(case.classes.tobytes())
        return digest.hexdigest()

    def _pick_any(self, rng: np.random.Generator) -> Pick:
        case, number = (int(n) for n in self.slices[rng.integers(len(self.slices))])
        sides = self.cases[case].classes.shape[1:]
        corner = [_free_corner(rng, side, crop) for side, crop in zip(sides, self.crop, strict=True)]
        return Pick(case, number, (corner[0], corner[1]))

    def _pick_label(self, rng: np.random.Generator) -> Pick:
        label = int(rng.choice(list(self.of_class)))
        case = int(rng.choice(list(self.of_class[label])))
        number = int(rng.choice(self.of_class[label][case]))
        pixels = np.argwhere(self.cases[case].classes[number] == label)
        pixel = pixels[rng.integers(len(pixels))]
        sides = self.cases[case].classes.shape[1:]
        corner = [_corner_around(rng, *sizes) for sizes in zip(pixel.tolist(), sides, self.crop, strict=True)]
        return Pick(case, number, (corner[0], corner[1]))


def prepare(
    cases: Sequence[Case],
    preprocess: Preprocess,
    crop: Size | None,
    report: Callable[[float], None],
) -> TrainingSet:
    """Preprocess all cases once.

    Args:
        cases: at least one, of one label schema, with at least one labelled voxel among them.
        preprocess: of the task.
        crop: (rows, columns) of a batch, rounded up to the stride; None = the largest slice.
        report: called with the share of cases done.

    Raises:
        TrainingFailed: no cases, different schemas, no labelled voxel at all.
    """
    schema = schema_of(cases)
    prepared = []
    for number in range(len(cases)):  # a loop over the cases would hold the last one while the next is read
        prepared.append(_prepare(cases[number], schema, preprocess))
        report((number + 1) / len(cases))
    if not any(case.classes.any() for case in prepared):
        raise TrainingFailed(f"the masks must hold at least one labelled voxel, all {len(cases)} are empty")
    wanted = crop or tuple(max(case.classes.shape[axis] for case in prepared) for axis in (1, 2))
    rounded = [-(-side // preprocess.stride) * preprocess.stride for side in wanted]
    return TrainingSet(prepared, len(schema) + 1, (rounded[0], rounded[1]), preprocess.context_slices)


def schema_of(cases: Sequence[Case]) -> LabelSchema:
    """The label schema of the first case; `prepare` refuses cases with another.

    Raises:
        TrainingFailed: no cases.
    """
    if not cases:
        raise TrainingFailed("training needs at least one labelled case, got none")
    return cases[0].mask.schema


def _prepare(case: Case, schema: LabelSchema, preprocess: Preprocess) -> PreparedCase:
    if case.mask.schema != schema:
        names = schema.names, case.mask.schema.names
        raise TrainingFailed(f"all cases must have the labels {names[0]}, case {case.name} has {names[1]}")
    applied = preprocess.apply(case.volume)
    classes = preprocess.apply_mask(case.mask, applied.placement)
    return PreparedCase(applied.planes.astype(np.float16), classes)


def _overlap(corner: int, size: int, side: int) -> tuple[slice, slice]:
    """Of a window [corner, corner + size) on [0, side): the part in the plane, and the same part in the window."""
    first, last = max(corner, 0), min(corner + size, side)
    return slice(first, last), slice(first - corner, last - corner)


def _free_corner(rng: np.random.Generator, side: int, crop: int) -> int:
    """Where a crop begins: anywhere inside; centred when the plane is smaller."""
    return int(rng.integers(side - crop + 1)) if side > crop else (side - crop) // 2


def _corner_around(rng: np.random.Generator, pixel: int, side: int, crop: int) -> int:
    """Where a crop that holds the pixel begins; centred when the plane is smaller."""
    if side <= crop:
        return (side - crop) // 2
    return int(rng.integers(max(0, pixel - crop + 1), min(pixel, side - crop) + 1))
