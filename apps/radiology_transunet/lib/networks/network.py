"""What every network offers to training and inference."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """Images to logits.

    A network of slices takes images (B, in, H, W) and gives logits (B, classes, H, W); one of patches takes
    (B, 1, S, H, W) and gives (B, classes, S, H, W). `forward` gives the logits at full size and nothing else.
    """

    @abstractmethod
    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at full size, and an embedding (B, d) of each image from the encoder's deepest features."""

    def supervised(self, images: Tensor) -> tuple[Tensor, ...]:
        """What training looks at: logits at full size, then coarser or earlier ones, each half as important."""
        return (self(images),)
