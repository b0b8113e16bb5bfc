"""What every network offers to training and inference."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lib.core.errors import InvalidVolume


class Network(nn.Module, ABC):
    """Images to logits.

    A network of slices takes images (B, in, H, W) and gives logits (B, classes, H, W); one of patches takes
    (B, 1, S, H, W) and gives (B, classes, S, H, W). `forward` gives the logits at full size and nothing else.
    """

    @abstractmethod
    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at full size, and an embedding (B, d) of each image from the encoder's deepest features."""

    def before_dropout(self, images: Tensor) -> Any:
        """What `segment` finds before its first dropout, for `after_dropout`; here nothing: the images themselves.

        Dropout that is active in inference changes only what comes after it, so this need not be done again.
        """
        return images

    def after_dropout(self, begun: Any) -> tuple[Tensor, Tensor]:
        """The rest of `segment`; it may be asked several times and leaves what was begun as it is."""
        return self.segment(begun)

    def supervised(self, images: Tensor) -> tuple[Tensor, ...]:
        """What training looks at: logits at full size, then coarser or earlier ones, each half as important."""
        return (self(images),)


def require_sides(images: Tensor, multiples: Sequence[int]) -> None:
    """Raise InvalidVolume unless the sides of images (B, C, ...) are multiples, and not each of them the first one.

    With a single position at the deepest stage there is nothing to normalise over.
    """
    sides = tuple(images.shape[2:])
    wrong = len(sides) != len(multiples) or any(side % m for side, m in zip(sides, multiples, strict=True))
    if wrong or (sides == tuple(multiples) and max(multiples) > 1):
        raise InvalidVolume(f"sides of an image must be multiples of {tuple(multiples)} and larger, got {sides}")
