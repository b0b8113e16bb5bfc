"""Cases to batches of slices or patches; each case is preprocessed once.

Cases may be read from disk whenever they are asked for: they are asked for one after the other, and none is kept.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median_high

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.errors import InvalidMask, TrainingFailed
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.preprocess import ClassPlanes, Placement, Preprocess, Size, Size3
from lib.training.augment_mix import Mixing
from lib.training.losses import IGNORE
from lib.training.sampling import Pick, Sampler

log = logging.getLogger(__name__)

Covered = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What an annotation speaks of; training takes from it no more than that.

    Attributes:
        labels: names of the labels that were annotated; elsewhere background may hide the others. None = all.
        slices: of each slice of the volume, whether it was annotated. None = all.
    """

    labels: tuple[str, ...] | None = None
    slices: tuple[bool, ...] | None = None

    def require_fits(self, mask: Mask, name: str) -> None:
        """Raise InvalidMask unless the mask could have been annotated so.

        Args:
            mask: of the case.
            name: of the case, for the message.
        """
        known = mask.schema.names
        unknown = [label for label in self.labels or () if label not in known]
        if unknown:
            raise InvalidMask(f"the coverage of case {name} must name labels among {list(known)}, got {unknown}")
        slices = mask.geometry.shape[0]
        if self.slices is not None and len(self.slices) != slices:
            raise InvalidMask(f"the coverage of case {name} must tell of {slices} slices, got {len(self.slices)}")
        drawn = [] if self.labels is None else [n for n, voxels in mask.voxels().items() if voxels]
        beyond = [label for label in drawn if label not in (self.labels or ())]
        if beyond:
            raise InvalidMask(
                f"the mask of case {name} must hold no labels but {list(self.labels or ())}, got {beyond}"
            )


EVERYTHING = Coverage()


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An image with its accepted mask.

    Attributes:
        volume: the image.
        mask: on the same grid.
        patient: whoever splits cases does it by this.
        name: for messages.
        coverage: what the mask speaks of.

    Raises:
        GeometryMismatch: the mask lies on another grid.
        InvalidMask: a coverage that is not one of this mask.
    """

    volume: Volume
    mask: Mask
    patient: str = ""
    name: str = ""
    coverage: Coverage = EVERYTHING

    def __post_init__(self) -> None:
        name = self.name or self.patient or "?"
        self.volume.geometry.require_same(self.mask.geometry, f"the mask of case {name}")
        self.coverage.require_fits(self.mask, name)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        planes: (S, H, W) float16 (half the memory; its rounding is far below the noise of an image).
        classes: (S, H, W) uint8, 0 = background, `IGNORE` where the annotation says nothing.
        covered: (classes,) bool, of which classes the annotation speaks; None = of all.
        name: for messages.
    """

    planes: npt.NDArray[np.float16]
    classes: ClassPlanes
    covered: Covered | None = None
    name: str = ""

    def cut(self, corner: Size3, size: Size3, context: int | None) -> tuple[npt.NDArray[np.float16], ClassPlanes]:
        """A patch (1, *size) with its classes (*size), or a slice (1 + 2 context, H, W) with its own (H, W).

        What lies outside of the planes has the lowest intensity of the slices shown, and is background.

        Args:
            corner: (slice, row, column) of the first voxel; may lie outside, as may the last one.
            size: (slices, rows, columns); one slice where `context` is given.
            context: neighbours on each side of a slice; beyond the ends the outermost one repeats. None = a patch.
        """
        given, taken = zip(*map(_overlap, corner, size, self.classes.shape), strict=True)
        outside = self.planes[given[0]].min() if self.classes[given].shape != size else np.float16(0)
        classes = np.zeros(size, dtype=np.uint8)
        classes[taken] = self.classes[given]
        if context is None:
            images = np.full((1, *size), outside, dtype=np.float16)
            images[(0, *taken)] = self.planes[given]
            return images, classes
        numbers = np.clip(np.arange(corner[0] - context, corner[0] + context + 1), 0, len(self.planes) - 1)
        images = np.full((len(numbers), *size[1:]), outside, dtype=np.float16)
        images[(slice(None), *taken[1:])] = self.planes[(numbers, *given[1:])]
        return images, classes[0]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Training pictures.

    Attributes:
        images: (B, 1 + 2 context, H, W) of slices or (B, 1, S, H, W) of patches, float32.
        classes: (B, H, W) or (B, S, H, W) int64, `IGNORE` where nothing is said.
        covered: (B, classes) bool, of which classes each picture's annotation speaks.
        names: of the cases.
        mixing: what each picture took from the one before it, or None.
        seed: of what the network draws while it learns, such as dropout.
        others: classes and coverage of the pictures that these are blended with; None = of the ones before them here.
    """

    images: Tensor
    classes: Tensor
    covered: Tensor
    names: tuple[str, ...]
    mixing: Mixing | None = None
    seed: int = 0
    others: tuple[Tensor, Tensor] | None = None


class TrainingSet:
    """All pictures of all cases.

    Args:
        cases: prepared.
        classes: number of classes with background.
        window: (slices, rows, columns) of a picture; one slice where `context` is given.
        context: neighbour slices on each side, for networks of slices; None = patches.
        weights: how much likelier each case is drawn than others; None = all alike.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        classes: int,
        window: Size3,
        context: int | None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.cases = cases
        self.classes = classes
        self.window = window
        self.context = context
        self.weights = None if weights is None else tuple(weights)
        shown = [case.classes for case in cases]
        self.sampler = Sampler(shown, classes, window, by_slice=context is not None, weights=weights)
        self._covered = [np.ones(classes, np.bool_) if case.covered is None else case.covered for case in cases]

    @property
    def dimensions(self) -> int:
        """Axes of a picture: 2 for slices, 3 for patches."""
        return 3 if self.context is None else 2

    def counts(self) -> tuple[tuple[int, ...], int]:
        """How many samples show each label, and how many there are; a sample is a slice, or a case for patches."""
        shown = [self.sampler.places.get(label, {}).values() for label in range(1, self.classes)]
        if self.context is None:
            return tuple(len(places) for places in shown), len(self.cases)
        slices = (sum(len(np.unique(found[:, 0])) for found in places) for places in shown)
        return tuple(slices), len(self.sampler.slices)

    def batch(self, picks: Sequence[Pick], device: torch.device | str = "cpu") -> Batch:
        """The pictures that were drawn, on a device."""
        cuts = [self.cases[pick.case].cut(pick.corner, self.window, self.context) for pick in picks]
        images, classes = (torch.from_numpy(np.stack(parts)).to(device) for parts in zip(*cuts, strict=True))
        covered = torch.from_numpy(np.stack([self._covered[pick.case] for pick in picks]))
        names = tuple(self.cases[pick.case].name for pick in picks)
        return Batch(images.float(), classes.long(), covered, names)

    def fingerprint(self) -> str:
        """A checksum of every voxel and label that training sees."""
        digest = hashlib.sha256(repr((self.window, self.context, self.weights)).encode())
        for case, covered in zip(self.cases, self._covered, strict=True):
            digest.update(repr((case.planes.shape, covered.tolist())).encode())
            digest.update(case.planes.tobytes())
            digest.update(case.classes.tobytes())
        return digest.hexdigest()


def prepare(
    cases: Sequence[Case],
    preprocess: Preprocess,
    crop: Size | None,
    report: Callable[[float], None],
    weights: Sequence[float] | None = None,
) -> TrainingSet:
    """Preprocess all cases once. A label that no case shows is named in a warning and trained without.

    Args:
        cases: at least one, of one label schema, with at least one labelled voxel among them.
        preprocess: of the task.
        crop: (rows, columns) of a slice, up to the stride; None = the median side of each axis. Not for patches.
        report: called with the share of cases done.
        weights: how much likelier each case is drawn than others; None = all alike.

    Raises:
        TrainingFailed: no cases, different schemas, no labelled voxel at all.
    """
    schema = schema_of(cases)
    prepared = []
    for number in range(len(cases)):  # a loop over the cases would hold the last one while the next is read
        prepared.append(_prepare(cases[number], schema, preprocess))
        report((number + 1) / len(cases))
    context = preprocess.context_slices if preprocess.patch is None else None
    window = preprocess.patch or _crop(prepared, preprocess, crop)
    data = TrainingSet(prepared, len(schema) + 1, window, context, weights)
    if not data.sampler.labels:
        raise TrainingFailed(f"the masks must hold at least one labelled voxel, all {len(cases)} are empty")
    absent = [name for number, name in enumerate(schema.names, start=1) if number not in data.sampler.labels]
    if absent:
        log.warning("none of the %d cases shows %s: the model will not find it", len(cases), ", ".join(absent))
    return data


def schema_of(cases: Sequence[Case]) -> LabelSchema:
    """The label schema of the first case; `prepare` refuses cases with another.

    Raises:
        TrainingFailed: no cases.
    """
    if not cases:
        raise TrainingFailed("training needs at least one labelled case, got none")
    return cases[0].mask.schema


def _crop(cases: Sequence[PreparedCase], preprocess: Preprocess, wanted: Size | None) -> Size3:
    """The window of a network of slices: their usual size, since it predicts slices as they are, without a border."""
    sides = wanted or tuple(median_high(case.classes.shape[axis] for case in cases) for axis in (1, 2))
    rows, columns = (-(-side // preprocess.stride) * preprocess.stride for side in sides)
    return 1, rows, columns


def _prepare(case: Case, schema: LabelSchema, preprocess: Preprocess) -> PreparedCase:
    if case.mask.schema != schema:
        names = schema.names, case.mask.schema.names
        raise TrainingFailed(f"all cases must have the labels {names[0]}, case {case.name} has {names[1]}")
    applied = preprocess.apply(case.volume)
    classes = preprocess.apply_mask(case.mask, applied.placement)
    _ignore_slices(classes, case, preprocess, applied.placement)
    named = case.coverage.labels
    covered = None if named is None else np.array([True, *(name in named for name in schema.names)])
    return PreparedCase(applied.planes.astype(np.float16), classes, covered, case.name)


def _ignore_slices(classes: ClassPlanes, case: Case, preprocess: Preprocess, placement: Placement) -> None:
    """Write `IGNORE` into the planes of slices that the annotation does not cover.

    They are found the way that classes go, as a mask of their own, so that both agree however slices are resampled.
    """
    if case.coverage.slices is None:
        return
    away = np.zeros(case.mask.geometry.shape, dtype=np.uint8)
    away[~np.array(case.coverage.slices)] = case.mask.schema.ids[0]
    planes = preprocess.apply_mask(Mask(away, case.mask.geometry, case.mask.schema), placement)
    classes[planes.any(axis=(1, 2))] = IGNORE


def _overlap(corner: int, size: int, side: int) -> tuple[slice, slice]:
    """Of a window [corner, corner + size) on [0, side): the part in the planes, and the same part in the window."""
    first, last = max(corner, 0), min(corner + size, side)
    return slice(first, last), slice(first - corner, last - corner)
