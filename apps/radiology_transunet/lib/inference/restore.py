"""The way back along the slices: planes of a network, as they come, to slices of the volume."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lib.inference.preprocess import Placement, Preprocess

SLAB_PLANES = 8
"""Planes that are brought to the volume's pixels at once; bounds the memory where there are many labels."""


class SliceRestorer:
    """Class maps of consecutive planes to the volume's own slices, which leave as soon as they are known.

    Trilinear interpolation is linear along the slices of what is bilinear within them, so one plane is kept for the
    next ones and the class maps of a whole volume never exist at once. The outermost plane repeats.

    Args:
        preprocess: does the way back within a slice.
        placement: of the volume.
    """

    def __init__(self, preprocess: Preprocess, placement: Placement) -> None:
        self._preprocess = preprocess
        self._placement = placement
        self._come = 0  # planes so far, with those of the padding
        self._done = 0  # slices so far
        self._last: Tensor | None = None  # (1, C, rows, columns)
        given, wanted = placement.resampled[0], placement.native[0]
        self._linear = given != wanted
        positions = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
        self._lower = np.floor(positions).astype(np.intp)
        self._upper = np.ceil(positions).astype(np.intp)
        self._share = (positions - self._lower).astype(np.float32)  # of the upper plane

    def push(self, planes: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The next planes (n, C, H, W), in reading direction; those of the padding too.

        Yields:
            Which slices of the volume, in reading direction, and their maps (m, C, rows, columns).
        """
        for slab in torch.split(planes, SLAB_PLANES):
            inside = self._placement.inside[0]
            first = max(inside.start - self._come, 0)
            last = min(inside.stop - self._come, len(slab))
            start = self._come + first - inside.start  # number of the first plane of the volume in this slab
            self._come += len(slab)
            if first < last:
                restored = self._preprocess.restore(slab[first:last], self._placement)
                yield from self._between(restored, start) if self._linear else self._as_they_are(restored)

    def _as_they_are(self, restored: Tensor) -> Iterator[tuple[slice, Tensor]]:
        slices = slice(self._done, self._done + len(restored))
        self._done = slices.stop
        yield slices, restored

    def _between(self, restored: Tensor, start: int) -> Iterator[tuple[slice, Tensor]]:
        """Slices between planes that are known: `restored` are those from number `start` on."""
        known = restored if self._last is None else torch.cat([self._last, restored])
        start -= len(known) - len(restored)
        ready = int(np.searchsorted(self._upper, start + len(known)))  # the upper planes grow with the slices
        while self._done < ready:
            slices = slice(self._done, min(self._done + SLAB_PLANES, ready))
            lower, upper = (torch.from_numpy(n[slices] - start).to(known.device) for n in (self._lower, self._upper))
            share = torch.from_numpy(self._share[slices]).to(known.device)[:, None, None, None]
            self._done = slices.stop
            yield slices, torch.lerp(known[lower], known[upper], share)
        self._last = known[-1:].clone()
