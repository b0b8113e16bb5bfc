from math import isnan, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.core.labels import LabelSchema
from lib.inference.agreement import Agreement
from lib.inference.evidence import LabelTally, histogram, top_mean
from lib.inference.quality_features import FEATURES, features
from lib.inference.uncertainty import as_float16, band, boundary, coin_entropy, entropy, margin

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


def test_margin_is_one_minus_the_lead_of_the_most_probable_class() -> None:
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.4, 0.2, 0.4], [0.3, 0.1, 0.6]])
    np.testing.assert_allclose(margin(probabilities.T.reshape(1, 3, 1, 4))[0, 0], [0.8, 0.0, 1.0, 0.7], atol=1e-6)


def test_a_boundary_lies_on_both_sides_of_a_label_and_not_at_the_edge_of_the_image() -> None:
    region = np.zeros((1, 9, 1), dtype=bool)
    region[0, :5] = True
    shell = boundary(region, band(region, (2, 1)), (2, 1))
    assert np.flatnonzero(shell).tolist() == [3, 4, 5, 6]


@given(st.lists(st.floats(0, 5.5, width=16), min_size=1, max_size=300))
def test_a_histogram_gives_the_very_mean_of_the_top_tenth(values: list[float]) -> None:
    array = np.array(values, dtype=np.float16)
    top = np.sort(array.astype(np.float64))[::-1][: max(1, round(0.1 * len(values)))]
    assert top_mean(histogram(array)) == pytest.approx(top.mean(), abs=1e-12)


def test_a_negative_zero_counts_as_zero() -> None:
    assert top_mean(histogram(np.array([-0.0, 0.0], dtype=np.float16))) == 0.0


def tallied(schema: LabelSchema, empty_slices: int = 0, slab: int = 2) -> LabelTally:
    """Of a volume with 20 voxels of spleen (class 2) in one slice, sure but for a spot at its side, slab by slab."""
    classes = np.zeros((5, 20, 30), dtype=np.uint8)
    classes[2, 8:10, 10:20] = 2
    entropies = np.zeros(classes.shape, dtype=np.float16)
    entropies[2, 10, 10:20] = 0.5  # beyond the region, in its band of 3 rows and 2 columns
    entropies[2, 15, :] = 1.0  # far away
    entropies[1] = 1.0  # another slice
    shape = ((empty_slices, empty_slices), (0, 0), (0, 0))
    classes, entropies = np.pad(classes, shape), np.pad(entropies, shape)
    tally = LabelTally(schema, ("entropy", "margin"), classes.shape, SPACING_MM)
    for first in range(0, len(classes), slab):
        part = slice(first, first + slab)
        certainty = np.full(classes[part].shape, 0.75, dtype=np.float32)
        maps = {"entropy": entropies[part], "margin": entropies[part] / np.float16(2)}
        tally.add(first, classes[part], certainty, np.array([0.0, 0.9, 0.5], dtype=np.float32), maps)
    return tally


def test_the_score_is_the_mean_of_the_top_tenth_of_the_band(schema: LabelSchema) -> None:
    band_voxels = (2 + 2 * 3) * (10 + 2 * 2)
    top = round(0.1 * band_voxels)  # 11 of 112 voxels, 10 of which have 0.5
    scores = tallied(schema).scores()
    assert scores["entropy"]["spleen"] == pytest.approx(10 * 0.5 / top, abs=1e-12)
    assert scores["margin"]["spleen"] == pytest.approx(10 * 0.25 / top, abs=1e-12)


@pytest.mark.parametrize("slab", [1, 3, 100])
def test_empty_slices_and_the_size_of_slabs_change_no_score(schema: LabelSchema, slab: int) -> None:
    assert tallied(schema, 50, slab).scores() == tallied(schema).scores()
    mask = np.zeros((105, 20, 30), dtype=np.uint8)
    mask[52, 8:10, 10:20] = 2
    assert tallied(schema, 50, slab).evidence(mask)["spleen"] == tallied(schema).evidence(mask[50:55])["spleen"]


def test_a_label_predicted_nowhere_scores_by_its_largest_probability(schema: LabelSchema) -> None:
    scores = tallied(schema).scores()
    assert scores["entropy"]["liver"] == 0.0
    assert scores["entropy"]["aorta"] == pytest.approx(log(2))
    assert scores["margin"] == {"liver": 0.0, "spleen": scores["margin"]["spleen"], "aorta": 1.0}
    assert coin_entropy(0.1) == pytest.approx(-0.1 * log(0.1) - 0.9 * log(0.9))
    assert list(scores["entropy"]) == ["liver", "spleen", "aorta"]


def test_evidence_of_a_label_counts_its_volume_parts_boundary_and_certainty(schema: LabelSchema) -> None:
    classes = np.zeros((3, 12, 12), dtype=np.uint8)
    classes[0, :4, 4:8] = 1  # at the first row of the first slice
    classes[1, 4:8, 4:8] = 1  # shares a corner's row with the one above: one part
    classes[2, 0, 0] = 1  # far from both
    tally = LabelTally(schema, ("entropy",), classes.shape, (2.0, 1.0, 1.0))
    certainty = np.where(classes == 1, 0.5, 1.0).astype(np.float32)
    largest = np.array([0.75, 0.25, 0.0], dtype=np.float32)
    tally.add(0, classes, certainty, largest, {"entropy": np.full(classes.shape, 0.25, np.float16)})
    ids = np.where(classes == 1, schema.ids[0], 0).astype(np.uint8)
    liver, spleen, _ = tally.evidence(ids).values()
    assert liver.volume_ml == pytest.approx(33 * 2 / 1000)
    assert (liver.components, liver.edge_share) == (2, pytest.approx(2 / 3))
    assert (liver.largest_probability, liver.mean_probability, liver.boundary_entropy) == (0.75, 0.5, 0.25)
    assert isnan(liver.samples_dice)
    assert (spleen.volume_ml, spleen.largest_probability, spleen.components, spleen.edge_share) == (0.0, 0.25, 0, 0.0)
    assert isnan(spleen.mean_probability)
    assert isnan(spleen.boundary_entropy)


def test_agreement_is_the_mean_dice_of_each_two_samples() -> None:
    votes = torch.tensor([[1, 1, 0, 0, 2], [1, 0, 0, 0, 2], [0, 0, 0, 0, 2]], dtype=torch.uint8)
    agreement = Agreement(classes=4, samples=3)
    agreement.add(votes[:, :2])
    agreement.add(votes[:, 2:])
    one, two, three = agreement.dice()
    assert one == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert two == 1.0
    assert isnan(three)
    assert agreement.shown() == [pytest.approx(2 / 3), 1.0, 0.0]


def test_patches_that_overlap_count_each_place_once() -> None:
    votes = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]], dtype=torch.uint8)
    whole, weighed = Agreement(2, 2), Agreement(2, 2)
    whole.add(votes)
    for share in (0.25, 0.75):
        weighed.add(votes, torch.full((4,), share))
    assert weighed.dice() == whole.dice() == [0.5]


def test_samples_that_differ_on_whether_a_label_occurs_make_it_worth_a_look(schema: LabelSchema) -> None:
    tally = LabelTally(schema, ("entropy", "bald"), (1, 2, 2), SPACING_MM)
    nothing = np.zeros((1, 2, 2), dtype=np.float16)
    background = np.zeros((1, 2, 2), dtype=np.uint8), np.ones((1, 2, 2), dtype=np.float32)
    tally.add(0, *background, np.array([0.4, 0.4, 0.0], np.float32), {"entropy": nothing, "bald": nothing})
    agreement = Agreement(classes=4, samples=2)
    agreement.add(torch.tensor([[1, 0], [0, 0]], dtype=torch.uint8))
    scores = tally.scores(agreement)
    assert scores["bald"] == {"liver": pytest.approx(log(2)), "spleen": 0.0, "aorta": 0.0}
    assert scores["disagreement"] == {"liver": 1.0, "spleen": 0.0, "aorta": 0.0}


def test_samples_that_all_miss_a_label_that_is_drawn_disagree_with_it_wholly(schema: LabelSchema) -> None:
    """Two samples, each torn between another label and the drawn one: their mean draws what neither of them shows."""
    tally = LabelTally(schema, ("entropy",), (1, 2, 2), SPACING_MM)
    drawn = np.array([[[1, 1], [0, 0]]], dtype=np.uint8)
    entropies = {"entropy": np.ones((1, 2, 2), dtype=np.float16)}
    tally.add(0, drawn, np.full((1, 2, 2), 0.4, np.float32), np.array([0.4, 0.3, 0.0], np.float32), entropies)
    agreement = Agreement(classes=4, samples=2)
    agreement.add(torch.tensor([[0, 0, 0, 0], [2, 2, 0, 0]], dtype=torch.uint8))
    assert isnan(agreement.dice()[0])
    assert tally.scores(agreement)["disagreement"] == {"liver": 1.0, "spleen": 1.0, "aorta": 0.0}
    ids = np.where(drawn == 1, schema.ids[0], 0).astype(np.uint8)
    evidence = tally.evidence(ids, agreement)
    assert evidence["liver"].samples_dice == 0.0
    assert isnan(evidence["aorta"].samples_dice)
    assert features(evidence["liver"], None)[FEATURES.index("agreement")] < -6
    assert isnan(tally.evidence(ids)["liver"].samples_dice)  # without samples nothing is known
