"""A network and its preprocessing, from a volume to a prediction on the volume's own grid.

Concurrency: a predictor may be called from many threads. It keeps no state of a request; the network runs in eval
mode, one batch at a time a device (`devices.device_lock`), so that a short request waits for one batch of a long one
at most. Memory: class maps of all labels exist for one batch of slices, or for as many planes as a patch has, only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations
from math import prod
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.labels import BACKGROUND, LabelSchema
from lib.core.values import Mask, MaskArray, Prediction, Volume
from lib.inference.config import PredictConfig
from lib.inference.devices import device_lock
from lib.inference.preprocess import FloatPlanes, Placement, Prepared, Preprocess
from lib.inference.restore import SliceRestorer
from lib.inference.uncertainty import EntropyMap, as_float16, entropy, label_scores
from lib.inference.windows import Windows, blend

SLICE_PIXELS = 256 * 256
"""Patches go through a network as many at once as have the voxels of a batch of slices of this size."""
AXES = {"slices": -3, "rows": -2, "columns": -1}
"""Of images (B, in, H, W), whose neighbour slices are channels, and of patches (B, 1, S, H, W) alike."""

Report = Callable[[float], None]
OnProbabilities = Callable[[slice, npt.NDArray[np.float32]], None]
"""Takes which slices of the volume, and their probabilities (n, classes, rows, columns), in the volume's own order; the
array is valid during the call."""


class SegmentingNetwork(Protocol):
    """A network of slices, such as TransUNet, or of patches."""

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, in, H, W) or (B, 1, S, H, W) to logits (B, classes, ...) and one embedding each (B, d)."""
        ...


@dataclass(slots=True)
class _Canvas:
    """The result of one volume while it grows slab by slab."""

    mask: MaskArray
    entropies: EntropyMap
    placement: Placement
    largest: npt.NDArray[np.float32]
    images: int
    seen: int = 0
    embeddings: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    latencies_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, placement: Placement, classes: int, images: int) -> "_Canvas":
        """An empty one, for so many images (slices or patches) of the network."""
        shape = placement.geometry.shape
        maps = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.float16)
        return cls(*maps, placement, np.zeros(classes, dtype=np.float32), images)

    def add_time(self, stage: str, since: float) -> float:
        """Count the seconds since `since` for a stage; returns now."""
        now = perf_counter()
        self.latencies_s[stage] = self.latencies_s.get(stage, 0.0) + now - since
        return now

    def remember(self, embeddings: npt.NDArray[np.float32]) -> None:
        """Keep the embeddings (B, d) of the next images.

        In one array: small ones that stay alive between the large maps that come and go would keep malloc from using
        the room of those again.
        """
        if not self.seen:
            self.embeddings = np.empty((self.images, embeddings.shape[1]), dtype=np.float32)
        self.embeddings[self.seen : self.seen + len(embeddings)] = embeddings
        self.seen += len(embeddings)

    def paint(self, rows: slice, probabilities: Tensor, ids: npt.NDArray[np.uint8]) -> None:
        """Put the probabilities (n, classes, rows, columns) of the slices `rows` on, in reading direction."""
        classes = probabilities.max(dim=1).indices.cpu().numpy()  # (n, rows, columns); argmax, three times as fast
        nats = entropy(probabilities).cpu().numpy()
        largest = probabilities.amax(dim=(0, 2, 3)).cpu().numpy()  # (classes,)
        view = self.placement.orientation.view
        view(self.mask)[rows] = ids[classes]
        view(self.entropies)[rows] = as_float16(nats, len(ids))
        np.maximum(self.largest, largest, out=self.largest)


class Predictor:
    """Volumes to predictions.

    Args:
        network: a torch module with `segment`; it is moved to the device and put into eval mode.
        preprocess: of the task; it says whether the network takes slices or patches.
        schema: labels, in the order of the network's classes after background.
        device: where the network runs.
        batch_size: slices that go through the network at once; of patches as many as have their voxels, at least one.
        options: how far patches overlap, along which axes the image is also predicted mirrored.
    """

    def __init__(
        self,
        network: SegmentingNetwork,
        preprocess: Preprocess,
        schema: LabelSchema,
        device: torch.device,
        batch_size: int,
        options: PredictConfig = PredictConfig(),  # noqa: B008 (frozen)
    ) -> None:
        if isinstance(network, torch.nn.Module):
            network.to(device).eval()
        self.network = network
        self.preprocess = preprocess
        self.schema = schema
        self.device = device
        self.batch_size = batch_size
        self.options = options
        self._mirrors = _mirrors(options, preprocess)
        self._ids = np.array([BACKGROUND, *schema.ids], dtype=np.uint8)

    def predict(
        self, volume: Volume, report: Report | None = None, on_probabilities: OnProbabilities | None = None
    ) -> Prediction:
        """Mask, entropy, scores and embedding of a volume.

        Args:
            volume: an image; any size and spacing.
            report: called with the share of slices or patches done, up to 1.
            on_probabilities: called with each slab of probabilities on the volume's grid; every slice comes once.
        """
        started = perf_counter()
        prepared = self.preprocess.apply(volume)
        windows = self._windows(prepared.placement)
        images = len(prepared.planes) if windows is None else len(windows)
        canvas = _Canvas.of(prepared.placement, len(self._ids), images)
        started = canvas.add_time("preprocess", started)
        self._fill(canvas, prepared, windows, report or (lambda _: None), on_probabilities)
        network_s = canvas.latencies_s["network"]
        started = canvas.add_time("restore", started + network_s)
        spacing_mm = volume.geometry.spacing_mm
        scores = label_scores(canvas.mask, canvas.entropies, spacing_mm, self.schema, canvas.largest[1:].tolist())
        canvas.add_time("scores", started)
        return Prediction(
            mask=Mask(canvas.mask, volume.geometry, self.schema),
            entropy=canvas.entropies,
            scores=scores,
            embedding=canvas.embeddings.mean(axis=0),
            latencies_s=canvas.latencies_s,
        )

    def _windows(self, placement: Placement) -> Windows | None:
        """Where the patches lie; None for a network of slices."""
        patch = self.preprocess.patch
        return None if patch is None else Windows.over(placement.padded, patch, self.options.overlap)

    def _fill(
        self,
        canvas: _Canvas,
        prepared: Prepared,
        windows: Windows | None,
        report: Report,
        on_probabilities: OnProbabilities | None,
    ) -> None:
        placement = prepared.placement
        restorer = SliceRestorer(self.preprocess, placement)
        given = prepared, canvas, report
        for planes in self._of_slices(*given) if windows is None else self._of_patches(*given, windows):
            for rows, probabilities in restorer.push(planes):
                canvas.paint(rows, probabilities, self._ids)
                if on_probabilities is not None:
                    stored = placement.orientation.stored(probabilities.cpu().numpy())
                    on_probabilities(placement.stored_slices(rows), stored)

    def _of_slices(self, prepared: Prepared, canvas: _Canvas, report: Report) -> Iterator[Tensor]:
        """Probabilities (n, classes, H, W), batch by batch."""
        slices = prepared.slices
        for first in range(0, len(slices), self.batch_size):
            yield self._ask(canvas, slices[first : first + self.batch_size])
            report(canvas.seen / len(slices))

    def _of_patches(self, prepared: Prepared, canvas: _Canvas, report: Report, windows: Windows) -> Iterator[Tensor]:
        """Probabilities (n, classes, H, W) of the next planes, as soon as no further patch touches them."""

        def classify(patches: FloatPlanes) -> Tensor:
            probabilities = self._ask(canvas, patches)
            report(canvas.seen / len(windows))
            return probabilities

        at_once = max(1, self.batch_size * SLICE_PIXELS // prod(windows.patch))
        return blend(prepared.planes, windows, at_once, classify)

    def _ask(self, canvas: _Canvas, images: FloatPlanes) -> Tensor:
        """Probabilities (B, classes, ...) of images (B, in, ...), the mean over the mirrored ones."""
        started = perf_counter()
        with device_lock(self.device), torch.inference_mode():
            batch = torch.from_numpy(images.copy()).to(self.device)  # the windows are read-only
            probabilities, embedding = self._ask_mirrored(batch, self._mirrors[0])
            for axes in self._mirrors[1:]:
                further = self._ask_mirrored(batch, axes)
                probabilities, embedding = probabilities + further[0], embedding + further[1]
            if len(self._mirrors) > 1:
                probabilities, embedding = probabilities / len(self._mirrors), embedding / len(self._mirrors)
            canvas.remember(embedding.cpu().numpy())
        canvas.add_time("network", started)
        return probabilities

    def _ask_mirrored(self, batch: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Probabilities in the order of the batch, and embeddings, of the batch mirrored along axes."""
        logits, embedding = self.network.segment(batch.flip(axes) if axes else batch)
        back = tuple(axis for axis in axes if axis > 1 - logits.ndim)  # neighbour slices have no place in the answer
        probabilities = logits.float().softmax(dim=1)
        return probabilities.flip(back) if back else probabilities, embedding.float()


def _mirrors(options: PredictConfig, preprocess: Preprocess) -> tuple[tuple[int, ...], ...]:
    """All combinations of the axes to mirror along, the first one empty."""
    alone = preprocess.patch is None and preprocess.context_slices == 0  # a slice without neighbours has no order
    axes = [AXES[name] for name in options.flips if not (alone and name == "slices")]
    return tuple(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))
