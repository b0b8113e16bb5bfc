"""How far samples agree on where each label is."""

from itertools import combinations

import torch
from torch import Tensor


class Agreement:
    """Mean pairwise Dice among samples, counted batch by batch.

    Args:
        classes: labels and background.
        samples: how many, at least two.
    """

    def __init__(self, classes: int, samples: int) -> None:
        self._classes = classes
        self._pairs = tuple(combinations(range(samples), 2))
        self._sizes = torch.zeros(samples, classes, dtype=torch.float64)
        self._overlaps = torch.zeros(len(self._pairs), classes, dtype=torch.float64)

    def add(self, votes: Tensor, weights: Tensor | None = None) -> None:
        """Count voxels.

        Args:
            votes: (T, ...) uint8, the class that each sample takes.
            weights: (...) of the voxels: of overlapping patches they sum to 1 at each place; None = 1.
        """
        flat = votes.flatten(1)  # (T, n)
        shown = (flat > 0).any(dim=0)
        flat = flat[:, shown].long()  # background is most of an image, and stays at a byte a vote
        weighing = torch.ones(flat.shape[1], device=flat.device) if weights is None else weights.flatten()[shown]
        weighing = weighing.double()
        for sample, found in enumerate(flat):
            self._sizes[sample] += torch.bincount(found, weighing, self._classes).cpu()
        for number, (one, other) in enumerate(self._pairs):
            same = flat[one] == flat[other]
            self._overlaps[number] += torch.bincount(flat[one][same], weighing[same], self._classes).cpu()

    def dice(self) -> list[float]:
        """Mean pairwise Dice of each label in class order, without background.

        Two samples that both do not show a label agree (1); NaN for a label that no sample shows.
        """
        sizes = self._sizes[torch.tensor(self._pairs)].sum(dim=1)  # (pairs, classes)
        each = torch.where(sizes > 0, 2 * self._overlaps / sizes.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        mean = each.clamp_max(1.0).mean(dim=0)
        mean[self._sizes.sum(dim=0) == 0] = torch.nan
        return [float(value) for value in mean[1:]]

    def shown(self) -> list[float]:
        """Share of the samples that show each label, in class order, without background."""
        return [float(share) for share in (self._sizes > 0).double().mean(dim=0)[1:]]
