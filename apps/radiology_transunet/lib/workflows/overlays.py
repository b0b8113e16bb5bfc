"""A case as a picture: one slice with the outlines of masks, side by side."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume

HEIGHT = 320
"""Pixels of a panel, at least; small slices are shown larger."""
WINDOW_PERCENTILES = (1, 99)
CAPTION = 16
MARGIN = 0.35
"""Around the labels of a picture that is cut to them, as a share of their extent."""

Bytes = npt.NDArray[np.uint8]


def overlay(volume: Volume, reference: Mask, predicted: Mask, title: str) -> bytes:
    """A PNG of the slice with the most labelled voxels: left the reference, right the prediction.

    The slice lies as in the array, rows down; pixels are square in millimetres.

    Args:
        volume: the image.
        reference: the mask that counts as true; when it is empty, the prediction chooses the slice.
        predicted: on the same grid.
        title: written below.

    Raises:
        GeometryMismatch: masks of another grid.
    """
    masks = (reference, predicted)
    number = shown_slice(*masks)
    return side_by_side(volume, masks, number, f"{title}: {slice_words(volume, number)}, reference | prediction")


def side_by_side(
    volume: Volume,
    masks: Sequence[Mask],
    number: int,
    words: str = "",
    zoom: bool = False,
    window_hu: tuple[float, float] | None = None,
    width: int = 1,
) -> bytes:
    """A PNG of one slice, once for each mask with its outlines.

    Args:
        volume: the image.
        masks: on its grid, from left to right.
        number: of the slice, from 0.
        words: written below; empty = none.
        zoom: cut the slice to what any mask labels in it, with a margin.
        window_hu: black and white of a CT; None = percentiles of the slice.
        width: of the outlines in pixels.

    Raises:
        GeometryMismatch: masks of another grid.
    """
    for mask in masks:
        volume.geometry.require_same(mask.geometry, "a mask in a picture")
    grey = _grey(volume, number, window_hu)
    seen = _around([mask.array[number] for mask in masks]) if zoom else (slice(None), slice(None))
    panels = [_panel(grey[seen], mask.array[number][seen], mask.schema, volume, width) for mask in masks]
    across, down = panels[0].size
    picture = Image.new("RGB", (len(panels) * across, down + (CAPTION if words else 0)))
    for place, panel in enumerate(panels):
        picture.paste(panel, (place * across, 0))
    ImageDraw.Draw(picture).text((4, down + 2), words.encode("ascii", "replace").decode(), fill=(255, 255, 255))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def slice_words(volume: Volume, number: int) -> str:
    """Which slice, for people."""
    return f"slice {number + 1} of {len(volume.array)}"


def most_different(first: Mask, second: Mask) -> int:
    """Number of the slice where two masks of one grid differ in the most voxels."""
    return int((first.array != second.array).sum(axis=(1, 2)).argmax())


def shown_slice(reference: Mask, predicted: Mask) -> int:
    """Number of the slice with the most labelled voxels of the first mask that has any; else the middle one."""
    for mask in (reference, predicted):
        if not mask.is_empty:
            return int((mask.array != 0).sum(axis=(1, 2)).argmax())
    return len(reference.array) // 2


def _around(planes: Sequence[Bytes]) -> tuple[slice, slice]:
    """The box of all labels in slices (R, C) of one shape, wider by `MARGIN` on each side; all without labels."""
    there = np.any(planes, axis=0)
    if not there.any():
        return slice(None), slice(None)
    sides = []
    for axis in (1, 0):
        places = np.flatnonzero(there.any(axis=axis))
        margin = max(4, round(MARGIN * (places[-1] - places[0] + 1)))
        sides.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin))
    return sides[0], sides[1]


def _grey(volume: Volume, number: int, window_hu: tuple[float, float] | None) -> Bytes:
    """A slice (R, C) as grey values in the window of a CT, else between its percentiles."""
    plane = volume.array[number]
    low, high = np.percentile(plane, WINDOW_PERCENTILES) if window_hu is None else window_hu
    share = (plane - low) / max(float(high - low), 1e-6)
    return np.asarray((share.clip(0, 1) * 255).astype(np.uint8))


def _panel(grey: Bytes, labels: Bytes, schema: LabelSchema, volume: Volume, width: int) -> Image.Image:
    """A slice (R, C) with the outline of each label in its colour, enlarged."""
    rows, columns = grey.shape
    _, row_mm, column_mm = volume.geometry.spacing_mm
    scale = max(1, -(-HEIGHT // rows))
    size = max(1, round(columns * scale * column_mm / row_mm)), rows * scale
    picture = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    ids = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    edges = outline(ids, width)
    for label in schema:
        picture[edges & (ids == label.id)] = label.color
    return Image.fromarray(picture)


def outline(ids: Bytes, width: int = 1) -> npt.NDArray[np.bool_]:
    """Labelled pixels (R, C) within so many steps of another value, or of the border."""
    near = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), width)
    low, high = (
        extreme(ids, footprint=near, mode="constant", cval=0)
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return np.asarray((low != high) & (ids != 0))
