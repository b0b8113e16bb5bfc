"""Several networks of one task that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.core.errors import InvalidSettings
from lib.networks.network import Network


class Ensemble(Network):
    """The mean of what networks of one kind and label set say.

    Args:
        networks: at least one.

    Raises:
        InvalidSettings: none.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        if not networks:
            raise InvalidSettings("an ensemble needs at least one network, got none")
        self.networks = tuple(networks)  # typed; the list below makes them part of the module
        self.members = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Logits at full size: the logarithm of the members' mean probabilities."""
        return self.segment(images)[0]

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the mean probabilities, and the first member's embedding (B, d).

        Encoders that were trained apart have nothing in common, so a mean of their embeddings would mean nothing.
        """
        logits, embedding = self.networks[0].segment(images)
        total = logits.float().softmax(dim=1)
        for network in self.networks[1:]:  # one after the other: maps of one member exist beside the sum
            total = total + network.segment(images)[0].float().softmax(dim=1)
        mean = total / len(self.networks)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), embedding
