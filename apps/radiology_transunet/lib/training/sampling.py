"""Where a training picture is taken from: around a voxel of a label, rare ones as often as the task says, or anywhere.

A picture is a window of (slices, rows, columns): a patch, or the crop of one slice. Where labels lie is looked up once,
in a bounded sample of voxels of each label and case, so that a draw costs microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lib.core.errors import InvalidInput
from lib.inference.preprocess import ClassPlanes, Size3
from lib.training.losses import IGNORE

VOXELS_OF_LABEL = 10_000
"""Largest sample of a label in a case, for patches."""
PIXELS_OF_SLICE = 64
"""Sample of a label in each slice that shows it, for slices."""

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Pick:
    """One training picture, drawn.

    Attributes:
        case: number of the case.
        corner: (slice, row, column) of the window's first voxel; may lie outside of the planes.
    """

    case: int
    corner: Size3


class Sampler:
    """Draws windows.

    Args:
        cases: class numbers (S, H, W) of each case.
        classes: number of classes with background.
        window: (slices, rows, columns) of a picture.
        by_slice: whether a label's slices are alike however much of it they show (for networks of slices), and not its
            voxels.
        weights: how much likelier each case is drawn than others, above 0; None = all alike. Labels are chosen first,
            so that their shares stay what they are.
    """

    def __init__(
        self,
        cases: Sequence[ClassPlanes],
        classes: int,
        window: Size3,
        by_slice: bool,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.shapes = [case.shape for case in cases]
        self.window = window
        covered = [(case != IGNORE).any(axis=(1, 2)) for case in cases]
        self.slices = np.array(
            [(c, s) for c, there in enumerate(covered) for s in np.flatnonzero(there)], dtype=np.intp
        )
        self.places: dict[int, dict[int, Places]] = {}  # by label, then by case
        for number, case in enumerate(cases):
            for label, box in enumerate(ndimage.find_objects(case, max_label=classes - 1), start=1):
                if box is not None:
                    rng = np.random.default_rng((number, label))
                    self.places.setdefault(label, {})[number] = _sample(case[box] == label, by_slice, rng) + [
                        side.start for side in box
                    ]
        self.labels = sorted(self.places)
        self._weights = None if weights is None else _checked(weights, len(cases))

    def draw(self, rng: np.random.Generator, count: int, foreground: float, rare_oversampling: float) -> list[Pick]:
        """Windows of a batch.

        Args:
            rng: the source of chance.
            count: how many.
            foreground: probability that a window is drawn for a label: first the label, then a case that shows it, each
                as likely as the others, then one of its voxels, somewhere in the window. The rest are drawn around any
                slice of which the annotations say something, each as likely as the others.
            rare_oversampling: how the label is chosen, see `label_probabilities`.
        """
        chances = label_probabilities([len(self.places[label]) for label in self.labels], rare_oversampling)
        return [
            self._around_label(rng, chances) if self.labels and rng.random() < foreground else self._anywhere(rng)
            for _ in range(count)
        ]

    def _around_label(self, rng: np.random.Generator, chances: npt.NDArray[np.float64]) -> Pick:
        of_case = self.places[self.labels[int(rng.choice(len(chances), p=chances))]]
        case = self._one_of(rng, list(of_case))
        voxel = of_case[case][int(rng.integers(len(of_case[case])))]
        first, row, column = (
            _corner_around(rng, int(at), side, size)
            for at, side, size in zip(voxel, self.shapes[case], self.window, strict=True)
        )
        return Pick(case, (first, row, column))

    def _anywhere(self, rng: np.random.Generator) -> Pick:
        case, number = (int(n) for n in self.slices[self._any_slice(rng)])
        slices, *sides = self.shapes[case]
        row, column = (_free_corner(rng, side, size) for side, size in zip(sides, self.window[1:], strict=True))
        return Pick(case, (_corner_around(rng, number, slices, self.window[0]), row, column))

    def _one_of(self, rng: np.random.Generator, cases: Sequence[int]) -> int:
        """One of some cases."""
        if self._weights is None:
            return cases[int(rng.integers(len(cases)))]
        chances = self._weights[list(cases)]
        return int(rng.choice(cases, p=chances / chances.sum()))

    def _any_slice(self, rng: np.random.Generator) -> int:
        """A number of `slices`; a case's weight is shared by its slices."""
        if self._weights is None:
            return int(rng.integers(len(self.slices)))
        case = self._one_of(rng, np.unique(self.slices[:, 0]).tolist())
        return int(rng.choice(np.flatnonzero(self.slices[:, 0] == case)))


def label_probabilities(cases: Sequence[int], rare_oversampling: float) -> npt.NDArray[np.float64]:
    """How likely each label is when a picture is drawn for one.

    Args:
        cases: how many cases show each label; each at least 1.
        rare_oversampling: 1 = each label alike, 0 = in proportion to the cases that show it, between them the mixture.
    """
    frequency = np.asarray(cases, dtype=np.float64) / max(1, sum(cases))
    return rare_oversampling / max(1, len(cases)) + (1 - rare_oversampling) * frequency


def _checked(weights: Sequence[float], cases: int) -> npt.NDArray[np.float64]:
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (cases,) or not (np.isfinite(found) & (found > 0)).all():
        raise InvalidInput(f"{cases} cases need as many weights above 0, got {list(weights)[:8]}")
    return found


def _sample(region: npt.NDArray[np.bool_], by_slice: bool, rng: np.random.Generator) -> Places:
    """Positions (n, 3) of voxels of a region that is not empty.

    At most `VOXELS_OF_LABEL`, each voxel as likely as the others; or, by slice, `PIXELS_OF_SLICE` of every slice that
    shows the region, so that each of these is as likely as the others.
    """
    voxels = np.flatnonzero(region)
    if by_slice:
        edges = np.searchsorted(voxels, np.arange(len(region) + 1) * region[0].size)
        counts = np.diff(edges)
        shown = np.flatnonzero(counts)
        within = (rng.random((len(shown), PIXELS_OF_SLICE)) * counts[shown, None]).astype(np.intp)
        voxels = voxels[(edges[shown, None] + within).reshape(-1)]
    elif len(voxels) > VOXELS_OF_LABEL:
        voxels = voxels[rng.integers(len(voxels), size=VOXELS_OF_LABEL)]
    return np.stack(np.unravel_index(voxels, region.shape), axis=1)


def _free_corner(rng: np.random.Generator, side: int, size: int) -> int:
    """Where a window begins: anywhere inside; centred when the planes are smaller."""
    return int(rng.integers(side - size + 1)) if side > size else (side - size) // 2


def _corner_around(rng: np.random.Generator, at: int, side: int, size: int) -> int:
    """Where a window that holds the voxel begins; centred when the planes are smaller."""
    if side <= size:
        return (side - size) // 2
    return int(rng.integers(max(0, at - size + 1), min(at, side - size) + 1))
