"""A network and its preprocessing, from a volume to a prediction on the volume's own grid.

Concurrency: a predictor may be called from many threads. It keeps no state of a request; the network runs in eval
mode, one batch at a time a device (`devices.device_lock`), so that a short request waits for one batch of a long one
at most. Memory: class maps of all labels exist for one batch of slices only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.labels import BACKGROUND, LabelSchema
from lib.core.values import Mask, MaskArray, Prediction, Volume
from lib.inference.devices import device_lock
from lib.inference.preprocess import Prepared, Preprocess
from lib.inference.uncertainty import EntropyMap, as_float16, entropy, label_scores


class SliceNetwork(Protocol):
    """A network for slices, such as TransUNet."""

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, in, H, W) to logits (B, classes, H, W) and one embedding a slice (B, d)."""
        ...


@dataclass(slots=True)
class _Canvas:
    """The result of one volume while it grows slice by slice, in reading direction."""

    mask: MaskArray
    entropies: EntropyMap
    largest: npt.NDArray[np.float32]
    embeddings: list[npt.NDArray[np.float32]] = field(default_factory=list)
    latencies_s: dict[str, float] = field(default_factory=dict)

    def add_time(self, stage: str, since: float) -> float:
        """Count the seconds since `since` for a stage; returns now."""
        now = perf_counter()
        self.latencies_s[stage] = self.latencies_s.get(stage, 0.0) + now - since
        return now


class Predictor:
    """Volumes to predictions.

    Args:
        network: a torch module with `segment`; it is moved to the device and put into eval mode.
        preprocess: of the task.
        schema: labels, in the order of the network's classes after background.
        device: where the network runs.
        batch_size: slices that go through the network at once.
    """

    def __init__(
        self, network: SliceNetwork, preprocess: Preprocess, schema: LabelSchema, device: torch.device, batch_size: int
    ) -> None:
        if isinstance(network, torch.nn.Module):
            network.to(device).eval()
        self.network = network
        self.preprocess = preprocess
        self.schema = schema
        self.device = device
        self.batch_size = batch_size
        self._ids = np.array([BACKGROUND, *schema.ids], dtype=np.uint8)

    def predict(self, volume: Volume, report: Callable[[float], None] | None = None) -> Prediction:
        """Mask, entropy, scores and embedding of a volume.

        Args:
            volume: an image; any size and spacing.
            report: called with the share of slices done, up to 1.
        """
        started = perf_counter()
        prepared = self.preprocess.apply(volume)
        mask = np.zeros(volume.geometry.shape, dtype=np.uint8)
        entropies = np.zeros(volume.geometry.shape, dtype=np.float16)
        view = prepared.placement.orientation.view
        canvas = _Canvas(view(mask), view(entropies), np.zeros(len(self._ids), dtype=np.float32))
        canvas.add_time("preprocess", started)
        slices = prepared.slices
        for first in range(0, len(slices), self.batch_size):
            rows = slice(first, min(first + self.batch_size, len(slices)))
            self._predict_batch(slices[rows], rows, prepared, canvas)
            if report is not None:
                report(rows.stop / len(slices))
        started = perf_counter()
        spacing_mm = volume.geometry.spacing_mm
        scores = label_scores(mask, entropies, spacing_mm, self.schema, canvas.largest[1:].tolist())
        canvas.add_time("scores", started)
        return Prediction(
            mask=Mask(mask, volume.geometry, self.schema),
            entropy=entropies,
            scores=scores,
            embedding=np.concatenate(canvas.embeddings).mean(axis=0),
            latencies_s=canvas.latencies_s,
        )

    def _predict_batch(self, images: npt.NDArray[np.float32], rows: slice, prepared: Prepared, canvas: _Canvas) -> None:
        """Images (B, in, H, W) of the slices `rows` through the network and onto the canvas."""
        started = perf_counter()
        with device_lock(self.device), torch.inference_mode():
            batch = torch.from_numpy(images.copy()).to(self.device)  # the windows are read-only
            logits, embedding = self.network.segment(batch)
            probabilities = logits.float().softmax(dim=1)  # (B, classes, H, W)
            canvas.embeddings.append(embedding.float().cpu().numpy())
            now = canvas.add_time("network", started)
            probabilities = self.preprocess.restore(probabilities, prepared.placement)
            classes = probabilities.argmax(dim=1).cpu().numpy()  # (B, rows, columns)
            nats = entropy(probabilities).cpu().numpy()
            largest = probabilities.amax(dim=(0, 2, 3)).cpu().numpy()  # (classes,)
        canvas.mask[rows] = self._ids[classes]
        canvas.entropies[rows] = as_float16(nats, len(self._ids))
        np.maximum(canvas.largest, largest, out=canvas.largest)
        canvas.add_time("restore", now)
