"""Where an image shows tissue, so that a label in the air beside the patient is noticed.

Air is told from tissue by a low threshold on the smoothed image: -900 HU in CT, which leaves lungs on the side of
tissue; elsewhere a tenth of the way between robust minimum and maximum, the rough threshold of BET (Smith, Human Brain
Mapping 17, 2002). What is dark but enclosed within a slice, such as gas in the bowel or the windpipe, belongs to the
body. A value that fills most of the image's border is padding, whatever it is. Where nothing can be told from tissue (a
cut-out from within the body, whose border shows hardly any air; CT without Hounsfield units), all but padding is
tissue.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lib.core.values import Mask, Volume

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
AIR_HU = -900.0
BET_FRACTION = 0.1
BET_PERCENTILES = (2.0, 98.0)
SMOOTHED_VOXELS = 3
PADDING_SHARE = 0.5
"""Of the border's voxels that have one and the same value."""
AIR_AT_BORDER = 0.2
"""Of the border within the slices, where it is not CT: with less air there the image is a cut-out, and what is dark is
tissue. Around a patient it is half and more; a cut-out has about a tenth below a threshold a tenth up its values."""
SAMPLED = 1_000_000
"""Voxels that percentiles are taken from at most."""
CLEAR_SHARE = 0.9
"""Of single voxels above the threshold that noise in the air never reaches."""
LEAST_OF_FULLEST = 0.1
"""Tissue of a slice that holds the body, as a share of the slice that has most of it; a table alone has less."""


@dataclass(frozen=True, slots=True)
class Air:
    """What is none of the body.

    Attributes:
        threshold: the intensity up to which a voxel is air.
        padding: the value of what is no image, None without padding.
    """

    threshold: float
    padding: float | None

    def tissue(self, array: FloatArray) -> BoolArray:
        """Whether each voxel, of any shape, is tissue."""
        return np.asarray((array > self.threshold) & self.no_padding(array))

    def no_padding(self, array: FloatArray) -> BoolArray:
        """Whether each voxel, of any shape, is part of the image."""
        return np.ones(array.shape, np.bool_) if self.padding is None else np.asarray(array != self.padding)


def off_body(volume: Volume, mask: Mask, least: float) -> dict[str, float]:
    """The labels that lie beside the body: by name, the share of their voxels within it, which is below `least`.

    Args:
        volume: the image.
        mask: on its grid.
        least: share of its voxels, in [0, 1], that a label needs within the body.

    Raises:
        GeometryMismatch: the mask lies on another grid.
    """
    volume.geometry.require_same(mask.geometry, "the mask")
    air = air_of(volume)
    boxes = ndimage.find_objects(mask.array)
    shares = {
        label.name: _share(volume.array, mask.array[box] == label.id, box, air, least)
        for label in mask.schema
        if label.id <= len(boxes) and (box := boxes[label.id - 1]) is not None
    }
    return {name: share for name, share in shares.items() if share < least}


def body_slices(volume: Volume) -> BoolArray:
    """Whether each slice (S,) holds the body, in the volume's own order; no slice does where there is no tissue.

    A slice does when it has a tenth of the tissue of the fullest one, and is not of one value throughout. Air is told
    from tissue in means over 3 x 3 voxels, which noise does not lift above the threshold.
    """
    air = air_of(volume)
    shares = np.array([_tissue_share(plane, air) for plane in volume.array])
    return np.asarray((shares > 0) & (shares >= LEAST_OF_FULLEST * shares.max()))


def _tissue_share(plane: FloatArray, air: Air) -> float:
    """Of a slice (R, C); 0 when all of it has one value."""
    if plane.min() == plane.max():
        return 0.0
    side = min(SMOOTHED_VOXELS, *plane.shape)
    rows, columns = (count // side for count in plane.shape)
    whole = plane[: rows * side, : columns * side]
    tissue = _blocks(whole, side) > air.threshold * side * side
    if air.padding is not None:
        tissue &= _blocks(air.no_padding(whole).astype(np.float32), side) > 0
    return float(tissue.mean())


def _blocks(plane: FloatArray, side: int) -> FloatArray:
    """Sums over blocks of side x side of a slice that consists of whole ones; many times as fast as a reduction."""
    tall = plane[::side].copy()
    for offset in range(1, side):
        tall += plane[offset::side]
    sums = tall[:, ::side].copy()
    for offset in range(1, side):
        sums += tall[:, offset::side]
    return sums


def air_of(volume: Volume) -> Air:
    """What is none of the body in an image."""
    padding = padding_value(volume.array)
    air = Air(air_threshold(volume, padding), padding)
    if volume.modality == "CT":
        return air
    at_border = 1 - float(air.tissue(_border(volume.array, (1, 2))).mean())
    return air if at_border >= AIR_AT_BORDER else Air(-inf, padding)


def air_threshold(volume: Volume, padding: float | None = None) -> float:
    """The intensity up to which a smoothed voxel is air: HU for CT, raw values otherwise.

    Args:
        volume: the image.
        padding: the value of what is no image. It may be the darkest value of all, never the brightest: behind white
            padding all tissue would be dark.
    """
    if volume.modality == "CT":
        return AIR_HU
    step = -(-volume.array.size // SAMPLED)
    values = volume.array.reshape(-1)[::step]
    image = values if padding is None else values[values != padding]
    low, high = np.percentile(image if image.size else values, BET_PERCENTILES)
    low = low if padding is None else min(low, padding)
    return float(low + BET_FRACTION * (high - low))


def padding_value(array: FloatArray) -> float | None:
    """The value that fills most of the border of an image (S, R, C), None when none does."""
    border = _border(array, (0, 1, 2))
    values, counts = np.unique(border, return_counts=True)
    return float(values[counts.argmax()]) if counts.max() > PADDING_SHARE * border.size else None


def _border(array: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    """The voxels (n,) of the faces of an image (S, R, C) that end these axes; those of its edges more than once."""
    return np.concatenate([array.take(end, axis).reshape(-1) for axis in axes for end in (0, -1)])


def _share(array: FloatArray, inside: BoolArray, box: tuple[slice, ...], air: Air, least: float) -> float:
    """Share of a label's voxels in the body; as much is computed as it takes to tell whether that is enough.

    Args:
        array: (S, R, C) of the image.
        inside: the label within its bounding box.
        box: that box.
        air: what is none of the body.
        least: share that is enough.
    """
    plain = float(air.tissue(array[box])[inside].mean())
    if plain >= max(least, CLEAR_SHARE):
        return plain
    near = slice(max(0, box[0].start - 1), box[0].stop + 1)
    smooth = ndimage.uniform_filter(array[near], SMOOTHED_VOXELS, mode="nearest")
    start = box[0].start - near.start
    slices = slice(start, start + box[0].stop - box[0].start)
    tissue = (smooth[slices] > air.threshold) & air.no_padding(array[box[0]])  # (s, R, C)
    in_plane = (slice(None), *box[1:])
    share = float(tissue[in_plane][inside].mean())
    if share >= least:
        return share
    body = np.stack([ndimage.binary_fill_holes(ndimage.binary_opening(one)) for one in tissue]) | tissue
    return float(body[in_plane][inside].mean())
