"""The result of one volume while it grows slab by slab."""

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.core.errors import PredictionFailed
from lib.core.labels import LabelSchema
from lib.core.values import MaskArray
from lib.inference.agreement import Agreement
from lib.inference.evidence import LabelTally
from lib.inference.preprocess import Placement
from lib.inference.uncertainty import EntropyMap, as_float16, entropy, margin

STAGES = ("preprocess", "network", "restore", "scores")


@dataclass(slots=True)
class Canvas:
    """The result of one volume while it grows slab by slab."""

    mask: MaskArray
    entropies: EntropyMap
    information: EntropyMap | None
    placement: Placement
    tally: LabelTally
    agreement: Agreement | None
    images: int
    seen: int = 0
    embeddings: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    latencies_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @classmethod
    def of(cls, placement: Placement, schema: LabelSchema, images: int, samples: int) -> "Canvas":
        """An empty one, for so many images (slices or patches) of the network, each answered by so many samples."""
        shape = placement.geometry.shape
        quantities = ("entropy", "margin", "bald") if samples else ("entropy", "margin")
        return cls(
            mask=np.zeros(shape, dtype=np.uint8),
            entropies=np.zeros(shape, dtype=np.float16),
            information=np.zeros(shape, dtype=np.float16) if samples else None,
            placement=placement,
            tally=LabelTally(schema, quantities, placement.native, placement.spacing_mm),
            agreement=Agreement(len(schema) + 1, samples) if samples else None,
            images=images,
        )

    def add_time(self, stage: str, since: float) -> float:
        """Count the seconds since `since` for a stage; returns now."""
        now = perf_counter()
        self.latencies_s[stage] += now - since
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

    def paint(self, rows: slice, probabilities: Tensor, information: Tensor | None, ids: MaskArray) -> None:
        """Put on the slices `rows`, in reading direction.

        Args:
            rows: which slices.
            probabilities: (n, classes, rows, columns).
            information: (n, rows, columns) mutual information; None without samples.
            ids: label id of each class.

        Raises:
            PredictionFailed: something is not a number.
        """
        best = probabilities.max(dim=1)  # each (n, rows, columns); three times as fast as argmax
        self._require_numbers(rows, best.values, information)
        classes = best.indices.to(torch.uint8).cpu().numpy()
        maps = {"entropy": as_float16(entropy(probabilities).cpu().numpy(), len(ids))}
        maps["margin"] = margin(probabilities).cpu().numpy().astype(np.float16)
        view = self.placement.orientation.view
        view(self.mask)[rows] = ids[classes]
        view(self.entropies)[rows] = maps["entropy"]
        if information is not None and self.information is not None:
            maps["bald"] = as_float16(information.clamp_min(0.0).cpu().numpy(), len(ids))
            view(self.information)[rows] = maps["bald"]
        started = perf_counter()
        largest = probabilities.amax(dim=(0, 2, 3)).cpu().numpy()[1:]  # (labels,)
        self.tally.add(rows.start, classes, best.values.cpu().numpy(), largest, maps)
        self.add_time("scores", started)

    def _require_numbers(self, rows: slice, most: Tensor, information: Tensor | None) -> None:
        """Raise PredictionFailed unless the largest probabilities (n, rows, columns) and the information are numbers.

        One NaN among the classes makes the largest probability of a voxel NaN.
        """
        told = [most] if information is None else [most, information]
        wrong = torch.stack([~maps.isfinite() for maps in told]).any(dim=0).sum(dim=(1, 2)).cpu().numpy()  # (n,)
        if not wrong.any():
            return
        first = rows.start + int(np.flatnonzero(wrong)[0])
        number = self.placement.stored_slices(slice(first, first + 1)).start
        raise PredictionFailed(
            f"probabilities must be numbers, got {int(wrong.sum())} voxels that are none, the first in slice {number} "
            f"of {self.placement.geometry.shape[0]} (from 0); if other series fare the same the weights are damaged or "
            "overflow: go back with transunet-label models rollback, or train again"
        )
