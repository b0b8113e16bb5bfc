"""What a prediction shows of each label, counted slab by slab: scores by quantity, and evidence of quality.

Nothing is kept of a slab but counts. The score of a label is a mean over the most uncertain voxels of its band, so a
histogram is kept of the band's values: maps are float16, which has some 18,000 values between 0 and ln 256, so the
histogram knows each value exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, log, nan, prod

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lib.core.labels import LabelSchema
from lib.core.values import LabelEvidence, MaskArray
from lib.inference.agreement import Agreement
from lib.inference.uncertainty import EntropyMap, band, band_radius, boundary, coin_entropy

TOP_SHARE = 0.1
"""Share of a band's voxels, the most uncertain ones, whose mean is the score."""
SIGN = np.uint16(0x7FFF)
"""All bits of a float16 but its sign: -0 counts as 0."""
BINS = int(np.float16(log(256)).view(np.uint16)) + 2
"""Values of float16 from 0 to the entropy of 256 classes, one more for rounding up."""

Counts = npt.NDArray[np.int64]


def histogram(values: EntropyMap) -> Counts:
    """How often each float16 occurs among values (n,) from 0 to ln 256: (BINS,), in the order of the values."""
    return np.bincount(np.ascontiguousarray(values).view(np.uint16) & SIGN, minlength=BINS)


def top_mean(counts: Counts) -> float:
    """Mean of the highest `TOP_SHARE` of the values in a histogram, of at least one."""
    values = np.arange(BINS, dtype=np.uint16).view(np.float16).astype(np.float64)[::-1]
    descending = counts[::-1]
    wanted = max(1, round(TOP_SHARE * int(counts.sum())))
    before = np.cumsum(descending) - descending
    taken = np.clip(wanted - before, 0, descending)
    return float(taken @ values / wanted)


@dataclass(slots=True)
class _Found:
    """Counts of one label."""

    histograms: dict[str, Counts]
    box: tuple[slice, ...] | None = None  # slices, rows, columns of the volume
    voxels: int = 0
    probability: float = 0.0  # summed over its voxels
    shell_voxels: int = 0
    shell_entropy: float = 0.0  # summed
    slices: int = 0
    edge_slices: int = 0


class LabelTally:
    """Counts of every label while the slabs of a volume come; all in the reading direction of the slabs.

    Args:
        schema: labels in class order.
        quantities: names of the maps that come with each slab, "entropy" among them.
        shape: (slices, rows, columns) of the volume.
        spacing_mm: of (slices, rows, columns).
    """

    def __init__(
        self,
        schema: LabelSchema,
        quantities: Sequence[str],
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
    ) -> None:
        self._schema, self._shape = schema, shape
        self._ml = prod(spacing_mm) / 1000
        self._radius = band_radius(spacing_mm)
        self._largest = np.zeros(len(schema), dtype=np.float32)
        self._found = [_Found({name: np.zeros(BINS, dtype=np.int64) for name in quantities}) for _ in schema]

    def add(
        self,
        first: int,
        classes: MaskArray,
        certainty: npt.NDArray[np.float32],
        largest: npt.NDArray[np.float32],
        maps: Mapping[str, EntropyMap],
    ) -> None:
        """Count a slab.

        Args:
            first: number of its first slice.
            classes: (n, R, C) numbers, 0 background, then the schema's order.
            certainty: (n, R, C) probability of that class.
            largest: (labels,) largest probability of each label.
            maps: (n, R, C) by quantity.
        """
        np.maximum(self._largest, largest, out=self._largest)
        for number, box in enumerate(ndimage.find_objects(classes, max_label=len(self._schema)), start=1):
            if box is not None:
                found = self._found[number - 1]
                grown = (box[0], *(_grown(side, by) for side, by in zip(box[1:], self._radius, strict=True)))
                region = classes[grown] == number
                self._count(found, region, certainty[grown], {name: values[grown] for name, values in maps.items()})
                self._count_slices(found, classes[box] == number, _moved(box, first))

    def _count(
        self,
        found: _Found,
        region: npt.NDArray[np.bool_],
        certainty: npt.NDArray[np.float32],
        maps: Mapping[str, EntropyMap],
    ) -> None:
        """Count values in a region with room for its band."""
        wide = band(region, self._radius)
        for name, values in maps.items():
            found.histograms[name] += histogram(values[wide])
        shell = boundary(region, wide, self._radius)
        found.shell_voxels += int(shell.sum())
        found.shell_entropy += float(maps["entropy"][shell].sum(dtype=np.float64))
        found.voxels += int(region.sum())
        found.probability += float(certainty[region].sum(dtype=np.float64))

    def _count_slices(self, found: _Found, region: npt.NDArray[np.bool_], box: tuple[slice, ...]) -> None:
        """Count slices that show the label, and those in which it reaches the edge; the region fills its box."""
        count, rows, columns = self._shape
        at_edge = np.isin(np.arange(box[0].start, box[0].stop), (0, count - 1))
        sides = (
            (box[1].start == 0, region[:, 0]),
            (box[1].stop == rows, region[:, -1]),
            (box[2].start == 0, region[:, :, 0]),
            (box[2].stop == columns, region[:, :, -1]),
        )
        for is_outermost, line in sides:
            if is_outermost:
                at_edge |= line.any(axis=1)
        shown = region.any(axis=(1, 2))
        found.slices += int(shown.sum())
        found.edge_slices += int((shown & at_edge).sum())
        found.box = box if found.box is None else tuple(map(_around, found.box, box))

    def scores(self, agreement: Agreement | None = None) -> dict[str, dict[str, float]]:
        """How much a human label would help, by quantity and label; larger = label first.

        Of a map ("entropy" and mutual information, "bald", in nats; "margin", in [0, 1]) the score is the mean of the
        highest tenth in a band: the voxels predicted as the label and those within `BAND_MM` of them in the same slice.
        Only slices that show the label count, so empty slices above and below change nothing (means over a whole volume
        would fall with them). "disagreement" is 1 - the mean Dice of each two samples, in [0, 1]; 1 of a label that is
        drawn and that no sample shows, 0 of one that neither shows.

        A label that is predicted nowhere has no band. Its entropy is that of a coin with the largest probability that
        any voxel gave it: near 0 when the model is sure that it is absent, ln 2 when it almost appeared; its margin is
        that of the same coin; its mutual information is that of the sample and the question whether the label occurs at
        all: 0 when the samples answer alike, ln 2 when half of them show it.

        Args:
            agreement: of the samples; None without any.
        """
        shares = None if agreement is None else agreement.shown()
        found: dict[str, dict[str, float]] = {}
        for quantity in self._found[0].histograms:
            found[quantity] = {
                label.name: self._score(quantity, number, 0.0 if shares is None else shares[number])
                for number, label in enumerate(self._schema)
            }
        if agreement is not None:
            dice = zip(self._schema, self._dice(agreement), strict=True)
            found["disagreement"] = {label.name: 0.0 if isnan(value) else 1.0 - value for label, value in dice}
        return found

    def _dice(self, agreement: Agreement) -> list[float]:
        """How far samples agree on each label; NaN of one that nothing shows, 0 of one that is drawn nevertheless."""
        each = zip(self._found, agreement.dice(), strict=True)
        return [0.0 if found.voxels and isnan(dice) else dice for found, dice in each]

    def _score(self, quantity: str, number: int, shown: float) -> float:
        """Of one label, which a share `shown` of the samples shows."""
        if self._found[number].voxels:
            return top_mean(self._found[number].histograms[quantity])
        coin = float(self._largest[number])
        absent = {"entropy": coin_entropy(coin), "margin": 1 - abs(1 - 2 * coin), "bald": coin_entropy(shown)}
        return absent[quantity]

    def evidence(self, mask: MaskArray, agreement: Agreement | None = None) -> dict[str, LabelEvidence]:
        """By label name.

        Args:
            mask: (S, R, C) label ids of the volume.
            agreement: of the samples; None without any.
        """
        dice = [nan] * len(self._schema) if agreement is None else self._dice(agreement)
        known = zip(self._schema, self._found, self._largest, dice, strict=True)
        return {label.name: self._of(mask, label.id, found, float(most), value) for label, found, most, value in known}

    def _of(self, mask: MaskArray, label: int, found: _Found, largest: float, dice: float) -> LabelEvidence:
        if found.box is None:
            return LabelEvidence(volume_ml=0.0, largest_probability=largest, samples_dice=dice)
        return LabelEvidence(
            volume_ml=found.voxels * self._ml,
            largest_probability=largest,
            mean_probability=found.probability / found.voxels,
            boundary_entropy=found.shell_entropy / found.shell_voxels if found.shell_voxels else nan,
            components=int(ndimage.label(mask[found.box] == label, np.ones((3, 3, 3)))[1]),
            edge_share=found.edge_slices / found.slices,
            samples_dice=dice,
        )


def _grown(side: slice, pixels: int) -> slice:
    return slice(max(0, side.start - pixels), side.stop + pixels)


def _moved(box: tuple[slice, ...], slices: int) -> tuple[slice, ...]:
    """A box of a slab in the volume."""
    return slice(box[0].start + slices, box[0].stop + slices), *box[1:]


def _around(side: slice, other: slice) -> slice:
    return slice(min(side.start, other.start), max(side.stop, other.stop))
