from math import log

import numpy as np
import pytest
import torch

from lib.core.labels import LabelSchema
from lib.inference.uncertainty import as_float16, band, coin_entropy, entropy, label_scores

SPACING_MM = (5.0, 1.0, 1.5)


def test_entropy_is_zero_when_sure_and_ln_c_when_all_classes_are_alike() -> None:
    probabilities = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]).T.reshape(1, 3, 1, 3)
    np.testing.assert_allclose(entropy(probabilities)[0, 0], [0, log(3), log(2)], atol=1e-6)


@pytest.mark.parametrize("classes", range(2, 40))
def test_entropy_never_leaves_zero_to_ln_c_even_as_float16(classes: int) -> None:
    logits = torch.cat([torch.zeros(1, classes, 4, 4), 30 * torch.randn(1, classes, 4, 4)])
    nats = as_float16(entropy(logits.softmax(dim=1)).numpy(), classes)
    assert nats.dtype == np.float16
    assert float(nats.min()) >= 0.0
    assert float(nats.max()) <= log(classes)
    assert float(nats[0].min()) == pytest.approx(log(classes), rel=1e-3)


def test_a_band_grows_within_the_slice_alone() -> None:
    region = np.zeros((3, 7, 7), dtype=bool)
    region[1, 3, 3] = True
    grown = band(region, (1, 2))
    assert np.argwhere(grown).tolist() == [[1, r, c] for r in (2, 3, 4) for c in (1, 2, 3, 4, 5)]


def one_label(schema: LabelSchema, empty_slices: int = 0) -> dict[str, float]:
    """Scores of a volume with 20 voxels of spleen (id 2) in one slice, sure but for a spot at its side."""
    mask = np.zeros((3, 20, 30), dtype=np.uint8)
    mask[1, 8:10, 10:20] = 2
    entropies = np.zeros(mask.shape, dtype=np.float16)
    entropies[1, 10, 10:20] = 0.5  # beyond the region, in its band of 3 rows and 2 columns
    entropies[1, 15, :] = 1.0  # far away
    entropies[0] = 1.0  # another slice
    shape = ((empty_slices, empty_slices), (0, 0), (0, 0))
    padded = np.pad(mask, shape), np.pad(entropies, shape)
    return label_scores(*padded, SPACING_MM, schema, [0.0, 0.9, 0.5])


def test_the_score_is_the_mean_of_the_top_tenth_of_the_band(schema: LabelSchema) -> None:
    band_voxels = (2 + 2 * 3) * (10 + 2 * 2)
    top = round(0.1 * band_voxels)  # 11 of 112 voxels, 10 of which have 0.5
    assert one_label(schema)["spleen"] == pytest.approx(10 * 0.5 / top, abs=1e-3)


def test_empty_slices_change_no_score(schema: LabelSchema) -> None:
    assert one_label(schema, empty_slices=50) == one_label(schema)


def test_a_label_predicted_nowhere_scores_by_its_largest_probability(schema: LabelSchema) -> None:
    scores = one_label(schema)
    assert scores["liver"] == 0.0
    assert scores["aorta"] == pytest.approx(log(2))
    assert coin_entropy(0.1) == pytest.approx(-0.1 * log(0.1) - 0.9 * log(0.9))
    assert list(scores) == ["liver", "spleen", "aorta"]
