"""What training minimises, for slices (B, C, H, W) and patches (B, C, S, H, W) alike.

Class numbers are 0 for background and then the labels; `IGNORE` marks voxels of which an annotation says nothing: they
have no part in any sum, so their gradient is exactly zero. Letters in shape comments: B pictures, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib.training.config import FitConfig

IGNORE = 255
SMOOTH_VOXELS = 1.0
LEAST_DOUBT = 1e-6
"""Lower end of 1 - p in the focal loss: its power has an infinite slope at 0 for exponents below 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What the annotations of a batch say.

    Attributes:
        classes: (B, *space) int64, `IGNORE` where nothing is said.
        covered: (B, C) bool, of which classes each annotation speaks; background always. None = of all.
    """

    classes: Tensor
    covered: Tensor | None = None

    def at_size(self, size: Sequence[int]) -> "Target":
        """The same for outputs of another size."""
        return Target(nearest_classes(self.classes, size), self.covered)


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """Sums over a whole batch for each label, background left out; each (C - 1,).

    Attributes:
        both: sum p t of probabilities p and truth t.
        predicted: sum p.
        true: sum t.
    """

    both: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def shown(self) -> Tensor:
        """Which labels the batch shows, bool."""
        return self.true > 0

    def score(self, alpha: float = 0.5) -> Tensor:
        """Soft Tversky index TP / (TP + alpha FP + (1 - alpha) FN), smoothed; 0.5 makes it the soft Dice.

        Salehi et al., arXiv:1706.05721, eq. 2, with both weights adding up to 1.
        """
        total = 2 * alpha * self.predicted + 2 * (1 - alpha) * self.true
        return (2 * self.both + SMOOTH_VOXELS) / (total + SMOOTH_VOXELS)


@dataclass(frozen=True, slots=True, eq=False)
class LabelWeights:
    """How the labels share the overlap loss; made by weights.py.

    Attributes:
        lift: (C - 1,) factor of each label.
        company: (C - 1, C - 1) how much the label of the column counts among those that the label of the row shares
            with; 1 on the diagonal.
    """

    lift: Tensor
    company: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What a batch costs.

    Attributes:
        value: scalar, to be minimised.
        overlap: of the output at full size, without gradient.
    """

    value: Tensor
    overlap: Overlap


Total = Callable[[Tensor], Tensor]
"""Sums (n,) over the pictures at hand to sums over all pictures of the step, which other processes may hold."""


def segmentation_loss(
    outputs: Sequence[Tensor],
    target: Target,
    config: FitConfig,
    weights: LabelWeights | None = None,
    total: Total = lambda sums: sums,
) -> Loss:
    """Overlap loss and cross-entropy of all outputs of a network.

    Args:
        outputs: logits (B, C, *space); the first at full size, each further one counts half of the one before it (deep
            supervision, Lee et al., arXiv:1409.5185, with the weights of nnU-Net, Isensee et al., 2021).
        target: at full size.
        config: which losses, and their weights.
        weights: of the labels in the overlap loss alone: in cross-entropy they would shift how likely a label is taken
            to be, and a rare one would be seen everywhere. None = all alike.
        total: adds up the sums that the loss is made of.
    """
    parts = [_loss(logits, target.at_size(logits.shape[2:]), config, weights, total) for logits in outputs]
    shares = supervision_shares(len(outputs))
    value = torch.stack([share * part.value for share, part in zip(shares, parts, strict=True)]).sum()
    return Loss(value, parts[0].overlap)


def supervision_shares(count: int) -> tuple[float, ...]:
    """1, 1/2, 1/4 and so on, divided by their sum."""
    shares = [0.5**level for level in range(count)]
    return tuple(share / sum(shares) for share in shares)


def _loss(logits: Tensor, target: Target, config: FitConfig, weights: LabelWeights | None, total: Total) -> Loss:
    logarithms = log_probabilities(logits, target.covered)
    classes = covered_classes(target)
    gamma = config.focal_gamma if config.loss == "dice_focal" else 0.0
    alpha = config.tversky_alpha if config.loss == "tversky_ce" else 0.5
    overlap, nats = overlap_of(logarithms.exp(), classes), entropy_sums(logarithms, classes, gamma)
    sums = total(torch.cat([overlap.both, overlap.predicted, overlap.true, nats]))
    both, predicted, true, nats = torch.split(sums, [*[len(overlap.true)] * 3, 2])
    soft = overlap_loss(Overlap(both, predicted, true), alpha, weights)
    value = config.dice_weight * soft + (1 - config.dice_weight) * _ratio(nats)
    return Loss(value, Overlap(both.detach(), predicted.detach(), true.detach()))


def log_probabilities(logits: Tensor, covered: Tensor | None = None) -> Tensor:
    """Logarithms of class probabilities (B, C, *space); those of uncovered classes are added to background's.

    The marginal loss of Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation", Medical Image Analysis 2021 (arXiv:2007.03868): where an annotation does not speak of a label, what
    it calls background is background or that label. An uncovered class itself has probability 0 afterwards.

    Args:
        logits: (B, C, *space).
        covered: (B, C) bool; None = every class of every picture.
    """
    logarithms = F.log_softmax(logits.float(), dim=1)
    if covered is None or bool(covered.all()):
        return logarithms
    away = ~covered.reshape(*covered.shape, *[1] * (logits.ndim - 2))  # (B, C, 1, ...)
    merged = torch.logsumexp(
        torch.cat([logarithms[:, :1], logarithms[:, 1:].masked_fill(~away[:, 1:], -torch.inf)], dim=1),
        dim=1,
        keepdim=True,
    )  # (B, 1, *space)
    return torch.cat([merged, logarithms[:, 1:].masked_fill(away[:, 1:], -torch.inf)], dim=1)


def covered_classes(target: Target) -> Tensor:
    """Classes (B, *space) with uncovered ones as background, which holds their probability."""
    if target.covered is None:
        return target.classes
    ignored = target.classes == IGNORE
    known = target.covered.gather(1, target.classes.masked_fill(ignored, 0).flatten(1))  # (B, voxels)
    return target.classes.masked_fill(~(known.reshape(target.classes.shape) | ignored), 0)


def cross_entropy(logarithms: Tensor, classes: Tensor, gamma: float = 0.0) -> Tensor:
    """Mean over the voxels of -(1 - p)^gamma ln p, p the probability of the true class; 0 without voxels.

    Lin et al., arXiv:1708.02002, eq. 4; gamma = 0 is plain cross-entropy.

    Args:
        logarithms: of probabilities, (B, C, *space).
        classes: (B, *space) int64, `IGNORE` left out.
        gamma: exponent.
    """
    return _ratio(entropy_sums(logarithms, classes, gamma))


def entropy_sums(logarithms: Tensor, classes: Tensor, gamma: float = 0.0) -> Tensor:
    """The sum that `cross_entropy` is the mean of, and the number of its voxels, (2,)."""
    nats = F.nll_loss(logarithms, classes, ignore_index=IGNORE, reduction="none")  # (B, *space)
    if gamma > 0:
        nats = (1 - torch.exp(-nats)).clamp_min(LEAST_DOUBT) ** gamma * nats
    return torch.stack([nats.sum(), (classes != IGNORE).sum().to(nats.dtype)])


def _ratio(sums: Tensor) -> Tensor:
    """Sum (0) over number (1), 0 without any."""
    return sums[0] / sums[1].clamp_min(1)


def overlap_of(probabilities: Tensor, classes: Tensor) -> Overlap:
    """Sums of probabilities (B, C, *space) and classes (B, *space) over the batch, without ignored voxels."""
    valid = classes != IGNORE
    truth = torch.zeros_like(probabilities).scatter_(1, classes.masked_fill(~valid, 0)[:, None], 1.0)  # (B, C, *space)
    if not bool(valid.all()):
        truth, probabilities = truth * valid[:, None], probabilities * valid[:, None]
    axes = (0, *range(2, probabilities.ndim))
    both, predicted, true = (part.sum(dim=axes)[1:] for part in (probabilities * truth, probabilities, truth))
    return Overlap(both, predicted, true)


def overlap_loss(overlap: Overlap, alpha: float = 0.5, weights: LabelWeights | None = None) -> Tensor:
    """Mean over the labels of 1 - score; with alpha 0.5 the soft Dice loss.

    With weights each label has its lift, over the company that it shares with instead of the number of labels.

    Milletari et al., arXiv:1606.04797, with plain sums below the line, over the whole batch. A label that no picture of
    the batch shows has no overlap to raise and is left to cross-entropy; a batch without labels has loss 0.

    Args:
        overlap: of the batch.
        alpha: weight of false positives; false negatives have the rest of 1.
        weights: of the labels; None = all alike.
    """
    missing = (1 - overlap.score(alpha)) * overlap.shown
    if weights is None:
        return missing.sum() / overlap.shown.sum().clamp_min(1)
    company = weights.company @ overlap.shown.to(weights.company.dtype)
    return (missing * weights.lift / company.clamp_min(1)).sum()


def nearest_classes(classes: Tensor, size: Sequence[int]) -> Tensor:
    """Classes (B, *space) sampled at the centres of coarser voxels, (B, *size)."""
    for axis, (given, wanted) in enumerate(zip(classes.shape[1:], size, strict=True), start=1):
        if given != wanted:
            centres = (torch.arange(wanted, device=classes.device) + 0.5) * (given / wanted)
            classes = classes.index_select(axis, centres.long().clamp_max(given - 1))
    return classes
