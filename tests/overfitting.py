"""Two small cases, and the training that a sound network learns them by heart with."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib.networks.network import Network


def two_cases(*sides: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Images (2, channels, *sides) and classes (2, *sides): bright and dark ellipsoids at different places."""
    generator = torch.Generator().manual_seed(7)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in sides), indexing="ij")
    classes = torch.zeros(2, *sides, dtype=torch.long)
    for case, centres in enumerate(((-0.4, 0.4), (0.45, -0.35))):
        for label, (centre, radius) in enumerate(zip(centres, (0.5, 0.35), strict=True), start=1):
            distance = sum((axis - centre) ** 2 for axis in axes)
            classes[case][distance < radius**2] = label
    intensities = torch.tensor([0.0, 1.0, -1.0])[classes] + 0.3 * torch.randn(classes.shape, generator=generator)
    return intensities[:, None].repeat(1, channels, *[1] * len(sides)), classes


def soft_dice(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean over the labels, background left out, of 2 sum(p t) / (sum(p) + sum(t)) over both cases."""
    shares = logits.softmax(dim=1).transpose(0, 1).flatten(1)  # (classes, voxels)
    truth = F.one_hot(classes, logits.shape[1]).movedim(-1, 0).flatten(1).float()
    return (2 * (shares * truth).sum(1) / (shares.sum(1) + truth.sum(1)))[1:].mean()


def overfit(network: Network, images: Tensor, classes: Tensor, steps: int, rate: float = 1e-2) -> float:
    """Soft Dice of the trained network's answer to what it was trained on."""
    optimiser = torch.optim.Adam(network.train().parameters(), lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
        optimiser.zero_grad()
        losses = []
        for logits in network.supervised(images):
            truth = F.interpolate(classes[:, None].float(), size=logits.shape[2:], mode="nearest")[:, 0].long()
            losses.append(F.cross_entropy(logits, truth) + 1 - soft_dice(logits, truth))
        loss = sum(value / 2**depth for depth, value in enumerate(losses))
        assert isinstance(loss, Tensor)
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        return float(soft_dice(network.eval()(images), classes))
