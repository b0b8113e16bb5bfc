"""A network and its preprocessing, from a volume to a prediction on the volume's own grid.

Concurrency: a predictor may be called from many threads. It keeps no state of a request; the network runs in eval
mode, one batch at a time a device (`devices.device_lock`), so that a short request waits for one batch of a long one
at most. Memory: class maps of all labels exist for one batch of slices, or for as many planes as a patch has, only.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from math import prod
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.errors import OutOfMemory, PredictionFailed
from lib.core.labels import BACKGROUND, LabelSchema
from lib.core.values import Mask, Prediction, Volume
from lib.inference.canvas import Canvas
from lib.inference.config import ONE_ANSWER, PredictConfig, UncertaintyConfig, mirrored_axes
from lib.inference.devices import MEMORY_ERRORS, device_lock, is_out_of_memory, memory_needed, release_memory
from lib.inference.embedding import image_weights, weighted_mean
from lib.inference.preprocess import FloatPlanes, Placement, Prepared, Preprocess
from lib.inference.restore import SliceRestorer
from lib.inference.samples import Answer, SegmentingNetwork, make_asker
from lib.inference.windows import Windows, blend

logger = logging.getLogger(__name__)

SLICE_PIXELS = 256 * 256
"""Patches go through a network as many at once as have the voxels of a batch of slices of this size."""
AXES = {"slices": -3, "rows": -2, "columns": -1}
"""Of images (B, in, H, W), whose neighbour slices are channels, and of patches (B, 1, S, H, W) alike."""

Report = Callable[[float], None]
OnProbabilities = Callable[[slice, npt.NDArray[np.float32]], None]
"""Takes which slices of the volume, and their probabilities (n, classes, rows, columns), in the volume's own order; the
array is valid during the call."""


class Predictor:
    """Volumes to predictions.

    Args:
        network: a torch module with `segment`; it is moved to the device and put into eval mode.
        preprocess: of the task; it says whether the network takes slices or patches.
        schema: labels, in the order of the network's classes after background.
        device: where the network runs.
        batch_size: slices that go through the network at once; of patches as many as have their voxels, at least one.
        options: how far patches overlap, along which axes the image is also predicted mirrored.
        uncertainty: what it is read from.
        others: networks of the same task to compare the answers with, for an ensemble.

    Raises:
        InvalidSettings: samples that the network or the options do not give.

    Attributes:
        name: what errors call the network; whoever loads a version names it.
    """

    def __init__(
        self,
        network: SegmentingNetwork,
        preprocess: Preprocess,
        schema: LabelSchema,
        device: torch.device,
        batch_size: int,
        options: PredictConfig = PredictConfig(),  # noqa: B008 (frozen)
        uncertainty: UncertaintyConfig = ONE_ANSWER,
        others: Sequence[SegmentingNetwork] = (),
    ) -> None:
        for one in (network, *others):
            if isinstance(one, torch.nn.Module):
                one.to(device).eval()
        self.network = network
        self.preprocess = preprocess
        self.schema = schema
        self.device = device
        self.batch_size = batch_size
        self.options = options
        self.uncertainty = uncertainty
        self.name = "the network"
        self._asker = make_asker(network, others, _mirrors(options, preprocess), uncertainty)
        self._ids = np.array([BACKGROUND, *schema.ids], dtype=np.uint8)

    def predict(
        self, volume: Volume, report: Report | None = None, on_probabilities: OnProbabilities | None = None
    ) -> Prediction:
        """Mask, maps of uncertainty, scores, evidence and embedding of a volume.

        Args:
            volume: an image; any size and spacing.
            report: called with the share of slices or patches done, up to 1.
            on_probabilities: called with each slab of probabilities on the volume's grid; every slice comes once.

        Raises:
            PredictionFailed: the network answers with what is no number; names network and slice.
            OutOfMemory: half of the batch is too much as well, or one patch, or the maps.
        """
        started = perf_counter()
        prepared = self.preprocess.apply(volume)
        windows = self._windows(prepared.placement)
        images = len(prepared.planes) if windows is None else len(windows)
        canvas = Canvas.of(prepared.placement, self.schema, images, self._asker.samples)
        started = canvas.add_time("preprocess", started)
        with memory_needed(
            f"on {self.device} to predict an image of {volume.geometry.shape} voxels, end what else uses it"
        ):
            self._fill(canvas, prepared, windows, report or (lambda _: None), on_probabilities)
        embedding = weighted_mean(canvas.embeddings, image_weights(volume, prepared.placement, windows))
        apart = canvas.latencies_s["network"] + canvas.latencies_s["scores"]
        started = canvas.add_time("restore", started + apart)
        quantities = canvas.tally.scores(canvas.agreement)
        evidence = canvas.tally.evidence(canvas.placement.orientation.view(canvas.mask), canvas.agreement)
        canvas.add_time("scores", started)
        return Prediction(
            mask=Mask(canvas.mask, volume.geometry, self.schema),
            entropy=canvas.entropies,
            scores=quantities["entropy"],
            embedding=embedding,
            latencies_s=canvas.latencies_s,
            quantities=quantities,
            evidence=evidence,
            information=canvas.information,
        )

    def _windows(self, placement: Placement) -> Windows | None:
        """Where the patches lie; None for a network of slices."""
        patch = self.preprocess.patch
        return None if patch is None else Windows.over(placement.padded, patch, self.options.overlap)

    def _fill(
        self,
        canvas: Canvas,
        prepared: Prepared,
        windows: Windows | None,
        report: Report,
        on_probabilities: OnProbabilities | None,
    ) -> None:
        placement = prepared.placement
        restorer = SliceRestorer(self.preprocess, placement)
        given = prepared, canvas, report
        for planes in self._of_slices(*given) if windows is None else self._of_patches(*given, windows):
            for rows, maps in restorer.push(planes):
                probabilities = maps[:, : len(self._ids)]
                information = None if canvas.information is None else maps[:, len(self._ids)]
                self._paint(canvas, rows, probabilities, information)
                if on_probabilities is not None:
                    stored = placement.orientation.stored(probabilities.cpu().numpy())
                    on_probabilities(placement.stored_slices(rows), stored)

    def _paint(self, canvas: Canvas, rows: slice, probabilities: Tensor, information: Tensor | None) -> None:
        try:
            canvas.paint(rows, probabilities, information, self._ids)
        except PredictionFailed as error:
            raise PredictionFailed(f"{self.name}: {error}") from error

    def _of_slices(self, prepared: Prepared, canvas: Canvas, report: Report) -> Iterator[Tensor]:
        """Maps (n, classes and more, H, W), batch by batch."""
        slices, inside, at_once = prepared.slices, prepared.placement.inside[1:], self.batch_size
        while canvas.seen < len(slices):
            answer = self._ask_or_halve(canvas, slices[canvas.seen : canvas.seen + at_once], at_once)
            if answer is None:
                at_once = -(-at_once // 2)
                continue
            if canvas.agreement is not None and answer.votes is not None:
                canvas.agreement.add(answer.votes[(..., *inside)])
            yield _maps(answer)
            report(canvas.seen / len(slices))

    def _of_patches(self, prepared: Prepared, canvas: Canvas, report: Report, windows: Windows) -> Iterator[Tensor]:
        """Maps (n, classes and more, H, W) of the next planes, as soon as no further patch touches them."""

        def classify(patches: FloatPlanes, weights: Tensor) -> Tensor:
            answer = self._ask(canvas, patches)
            if canvas.agreement is not None and answer.votes is not None:
                canvas.agreement.add(answer.votes, weights.to(answer.votes.device))
            report(canvas.seen / len(windows))
            return _maps(answer)

        at_once = max(1, self.batch_size * SLICE_PIXELS // prod(windows.patch))
        return blend(prepared.planes, windows, at_once, classify)

    def _ask_or_halve(self, canvas: Canvas, slices: FloatPlanes, at_once: int) -> Answer | None:
        """What is said of slices (B, in, H, W); None where half as many are to be asked about, for want of memory.

        Raises:
            OutOfMemory: half as many were asked about, or there is one.
        """
        try:
            return self._ask(canvas, slices)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            if at_once < self.batch_size or at_once == 1:
                raise OutOfMemory(
                    f"no memory on {self.device} to predict {len(slices)} slices of {slices.shape[-2]} x "
                    f"{slices.shape[-1]} at a time; lower inference.batch_size, or end what else uses the device"
                ) from error
            logger.warning(
                "no memory on %s for %d slices at a time, trying half as many: %s", self.device, at_once, error
            )
        release_memory()  # only here: the error kept everything alive that its frames hold
        return None

    def _ask(self, canvas: Canvas, images: FloatPlanes) -> Answer:
        """What is said of images (B, in, ...)."""
        started = perf_counter()
        with device_lock(self.device), torch.inference_mode():
            answer = self._asker(torch.from_numpy(images.copy()).to(self.device))  # the windows are read-only
            canvas.remember(answer.embedding.cpu().numpy())
        canvas.add_time("network", started)
        return answer


def _maps(answer: Answer) -> Tensor:
    """Probabilities (B, classes, ...), and behind them the mutual information where there is one."""
    if answer.information is None:
        return answer.probabilities
    return torch.cat([answer.probabilities, answer.information[:, None]], dim=1)


def _mirrors(options: PredictConfig, preprocess: Preprocess) -> tuple[tuple[int, ...], ...]:
    """All combinations of the axes to mirror along, the first one empty."""
    axes = [AXES[name] for name in mirrored_axes(options, preprocess.patch is None and preprocess.context_slices == 0)]
    return tuple(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))
