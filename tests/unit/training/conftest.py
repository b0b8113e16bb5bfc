"""Small cases that a network can learn in seconds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.training.data import Case

MakeCase = Callable[[int], Case]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def schema() -> LabelSchema:
    """A bright and a dark thing; ids are not channels."""
    return LabelSchema(
        (Label("bright", 5, (255, 0, 0), Code("1", "Bright")), Label("dark", 3, (0, 0, 255), Code("2", "Dark")))
    )


@pytest.fixture
def make_case(schema: LabelSchema) -> MakeCase:
    """A case of 6 slices of 32 x 32: a bright and a dark box in noise, somewhere by the seed."""

    def make(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        mask = np.zeros((6, 32, 32), dtype=np.uint8)
        for label, left in ((5, 2), (3, 18)):
            row, column = rng.integers(2, 16), left + rng.integers(0, 4)
            mask[1:5, row : row + 10, column : column + 8] = label
        image = 100 * (mask == 5) - 100 * (mask == 3.0) + rng.normal(0, 20, mask.shape)
        geometry = Geometry.from_spacing(mask.shape, (3.0, 1.0, 1.0))
        return Case(
            Volume(image.astype(np.float32), geometry, "MR"), Mask(mask, geometry, schema), str(seed), f"c{seed}"
        )

    return make
