"""What training minimises."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SMOOTH_PIXELS = 1.0


def dice_cross_entropy(logits: Tensor, classes: Tensor, dice_weight: float) -> Tensor:
    """Weighted sum of soft Dice loss and mean cross-entropy.

    Args:
        logits: (B, C, H, W).
        classes: (B, H, W) int64.
        dice_weight: of the Dice loss, from 0 to 1; cross-entropy has the rest.
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    cross_entropy = F.nll_loss(log_probabilities, classes)
    soft = soft_dice_loss(log_probabilities.exp(), classes)
    return dice_weight * soft + (1 - dice_weight) * cross_entropy


def soft_dice_loss(probabilities: Tensor, classes: Tensor) -> Tensor:
    """1 - mean over the labels in the batch of 2 sum(p t) / (sum p + sum t), sums over the whole batch.

    Milletari et al., arXiv:1606.04797, with plain sums below the line. A label that no slice of the batch shows has no
    overlap to raise and is left to cross-entropy; a batch without labels has loss 0.

    Args:
        probabilities: (B, C, H, W), background first.
        classes: (B, H, W) int64.
    """
    truth = torch.zeros_like(probabilities).scatter_(1, classes[:, None], 1.0)  # (B, C, H, W)
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))[1:]
    pixels = truth.sum(dim=(0, 2, 3))[1:]
    total = probabilities.sum(dim=(0, 2, 3))[1:] + pixels
    dice = (2 * overlap + SMOOTH_PIXELS) / (total + SMOOTH_PIXELS)
    shown = (pixels > 0).float()
    return ((1 - dice) * shown).sum() / shown.sum().clamp_min(1)
