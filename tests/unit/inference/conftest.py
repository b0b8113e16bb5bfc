"""A network that says what it is shown, so that whatever changes on the way there and back is found."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig

CLASSES = 4
SURE = 40.0


class IdentityNetwork(nn.Module):
    """Answers with the class whose number stands in the middle slice, or in the patch, for a window of (0, 3)."""

    def __init__(self, logit: float = SURE) -> None:
        super().__init__()
        self.logit = logit
        self.batches: list[int] = []

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(images))
        middle = images[:, images.shape[1] // 2]
        numbers = ((middle + 1) * (CLASSES - 1) / 2).round().long()
        return self.logit * F.one_hot(numbers, CLASSES).movedim(-1, 1).float(), images.flatten(2).mean(dim=2)


@pytest.fixture
def schema() -> LabelSchema:
    """Three labels whose ids are not their channels."""
    names = (("liver", 7), ("spleen", 2), ("aorta", 200))
    return LabelSchema(tuple(Label(name, number, (9, 9, 9), Code("1", name)) for name, number in names))


@pytest.fixture
def identity() -> IdentityNetwork:
    return IdentityNetwork()


@pytest.fixture
def window() -> PreprocessConfig:
    """Class numbers 0 to 3 to [-1, 1]."""
    return PreprocessConfig(window_hu=(0, CLASSES - 1))


@pytest.fixture
def labelled(schema: LabelSchema) -> Callable[[Geometry, int], tuple[Volume, Mask]]:
    """Random class numbers on a grid as an image, and the mask that they mean."""

    def make(geometry: Geometry, seed: int) -> tuple[Volume, Mask]:
        numbers = np.random.default_rng(seed).integers(0, CLASSES, geometry.shape)
        ids = np.array([0, *schema.ids], dtype=np.uint8)
        return Volume(numbers.astype(np.float32), geometry, "CT"), Mask(ids[numbers], geometry, schema)

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
