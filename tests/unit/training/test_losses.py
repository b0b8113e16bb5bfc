from math import exp, log

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lib.training.config import FitConfig
from lib.training.losses import (
    IGNORE,
    LabelWeights,
    Overlap,
    Target,
    covered_classes,
    cross_entropy,
    log_probabilities,
    nearest_classes,
    overlap_loss,
    overlap_of,
    segmentation_loss,
    supervision_shares,
)

SPACES = [(5, 6), (3, 5, 6)]
LOSSES = ["dice_ce", "dice_focal", "tversky_ce"]


def of_one(logits: torch.Tensor, classes: torch.Tensor, **options: object) -> torch.Tensor:
    return segmentation_loss([logits], Target(classes), FitConfig(**options)).value  # type: ignore[arg-type]


def example(space: tuple[int, ...], classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, classes, *space, generator=generator).requires_grad_()
    return logits, torch.randint(0, classes, (2, *space), generator=generator)


def test_soft_dice_equals_the_hand_computed_value() -> None:
    probabilities = torch.tensor([[[0.2, 0.9]], [[0.8, 0.1]]]).reshape(1, 2, 1, 2)
    classes = torch.tensor([[[1, 0]]])  # overlap 0.8, sums 0.9 and 1
    expected = 1 - (2 * 0.8 + 1) / (0.9 + 1 + 1)
    assert float(overlap_loss(overlap_of(probabilities, classes))) == pytest.approx(expected)


def test_a_label_that_the_batch_does_not_show_leaves_the_dice_loss() -> None:
    probabilities = torch.full((1, 3, 1, 2), 1 / 3)
    classes = torch.tensor([[[1, 1]]])
    overlap, total = 2 / 3, 2 / 3 + 2
    loss = overlap_loss(overlap_of(probabilities, classes))
    assert float(loss) == pytest.approx(1 - (2 * overlap + 1) / (total + 1))
    assert float(overlap_loss(overlap_of(probabilities, torch.zeros_like(classes)))) == 0.0


def test_the_loss_is_the_weighted_sum_of_both_parts() -> None:
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    classes = torch.tensor([[[1, 0]]])
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert of_one(logits, classes, dice_weight=0.25).item() == pytest.approx(0.25 * dice + 0.75 * log(2))
    assert of_one(logits, classes, dice_weight=0.0).item() == pytest.approx(log(2))


@pytest.mark.parametrize("space", SPACES)
def test_the_default_loss_is_mean_cross_entropy_and_batch_dice_in_any_number_of_axes(space: tuple[int, ...]) -> None:
    logits, classes = example(space)
    probabilities, truth = logits.softmax(1), F.one_hot(classes, 4).movedim(-1, 1)
    axes = (0, *range(2, 2 + len(space)))
    both, total = (probabilities * truth).sum(axes)[1:], (probabilities + truth).sum(axes)[1:]
    expected = 0.5 * (1 - (2 * both + 1) / (total + 1)).mean() + 0.5 * F.cross_entropy(logits, classes)
    torch.testing.assert_close(of_one(logits, classes), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_sure_and_right_answer_is_nearly_zero_and_of_a_wrong_one_large(loss: str) -> None:
    classes = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    right = 50 * F.one_hot(classes, 3).movedim(-1, 1).float()
    assert of_one(right, classes, loss=loss).item() == pytest.approx(0, abs=1e-4)
    assert of_one(-right, classes, loss=loss).item() > 10


def test_focal_cross_entropy_equals_the_hand_computed_value() -> None:
    logarithms = torch.tensor([[[0.2, 0.9]], [[0.8, 0.1]]]).log().reshape(1, 2, 1, 2)
    classes = torch.tensor([[[1, 0]]])
    expected = (0.2**2 * -log(0.8) + 0.1**2 * -log(0.9)) / 2
    assert float(cross_entropy(logarithms, classes, 2.0)) == pytest.approx(expected)
    assert float(cross_entropy(logarithms, classes, 0.0)) == pytest.approx(-(log(0.8) + log(0.9)) / 2)


def test_the_focal_loss_of_a_certain_answer_has_a_gradient_that_is_a_number() -> None:
    logits = torch.tensor([[[200.0]], [[-200.0]]]).reshape(1, 2, 1, 1).requires_grad_()
    of_one(logits, torch.zeros(1, 1, 1, dtype=torch.int64), loss="dice_focal", focal_gamma=0.5).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_tversky_loss_weighs_false_positives_and_negatives_apart() -> None:
    probabilities = torch.tensor([[[0.2, 0.9]], [[0.8, 0.1]]]).reshape(1, 2, 1, 2)
    overlap = overlap_of(probabilities, torch.tensor([[[1, 0]]]))  # TP 0.8, FP 0.1, FN 0.2
    expected = 1 - (0.8 + 0.5) / (0.8 + 0.3 * 0.1 + 0.7 * 0.2 + 0.5)
    assert float(overlap_loss(overlap, alpha=0.3)) == pytest.approx(expected)
    logits = probabilities.log()
    classes = torch.tensor([[[1, 0]]])
    options = {"loss": "tversky_ce", "dice_weight": 1.0}
    assert of_one(logits, classes, tversky_alpha=0.3, **options).item() == pytest.approx(expected)
    assert (
        of_one(logits, classes, tversky_alpha=0.5, **options).item() == of_one(logits, classes, dice_weight=1.0).item()
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_voxels_get_exactly_no_gradient_and_the_others_the_one_they_have_alone(
    loss: str, space: tuple[int, ...]
) -> None:
    logits, classes = example(space)
    classes[:, :2] = IGNORE
    weights = LabelWeights(torch.tensor([0.5, 2.0, 0.7]), torch.ones(3, 3))
    segmentation_loss([logits], Target(classes), FitConfig(loss=loss), weights).value.backward()  # type: ignore[arg-type]
    assert logits.grad is not None
    assert not logits.grad[:, :, :2].any()
    alone = logits.detach()[:, :, 2:].clone().requires_grad_()
    segmentation_loss([alone], Target(classes[:, 2:]), FitConfig(loss=loss), weights).value.backward()  # type: ignore[arg-type]
    torch.testing.assert_close(alone.grad, logits.grad[:, :, 2:])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_that_is_ignored_altogether_has_loss_zero(loss: str) -> None:
    logits, classes = example((5, 6))
    for weights in (None, LabelWeights(torch.tensor([0.5, 2.0, 0.7]), torch.ones(3, 3))):
        value = segmentation_loss([logits], Target(classes.fill_(IGNORE)), FitConfig(loss=loss), weights).value  # type: ignore[arg-type]
        assert value.item() == 0.0
        (gradient,) = torch.autograd.grad(value, logits)
        assert not gradient.any()


def test_the_probability_of_uncovered_labels_is_added_to_background() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().reshape(1, 4, 1, 1)
    covered = torch.tensor([[True, False, True, False]])
    assert log_probabilities(logits, covered).exp().flatten().tolist() == pytest.approx([0.7, 0.0, 0.3, 0.0])
    assert log_probabilities(logits, torch.ones_like(covered)).exp().flatten().tolist() == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )


def test_classes_of_uncovered_labels_are_background_and_ignored_ones_stay() -> None:
    classes = torch.tensor([[[0, 1, 2, IGNORE]], [[0, 1, 2, IGNORE]]])
    covered = torch.tensor([[True, False, True], [True, True, True]])
    assert covered_classes(Target(classes, covered)).tolist() == [[[0, 0, 2, IGNORE]], [[0, 1, 2, IGNORE]]]


@pytest.mark.parametrize("loss", LOSSES)
def test_background_and_uncovered_labels_are_not_pushed_apart(loss: str) -> None:
    logits, classes = example((5, 6))
    classes = torch.where(classes == 3, 0, classes)
    covered = torch.tensor([[True, True, True, False], [True, True, True, True]])
    segmentation_loss([logits], Target(classes, covered), FitConfig(loss=loss)).value.backward()  # type: ignore[arg-type]
    assert logits.grad is not None
    # the loss knows their sum alone: in ratio of their probabilities, the gradient of both is the same
    share = logits.grad[0] / logits.detach()[0].softmax(0)
    torch.testing.assert_close(share[3], share[0], atol=1e-6, rtol=1e-4)
    whole = logits.grad[1] / logits.detach()[1].softmax(0)
    assert not torch.allclose(whole[3], whole[0], atol=1e-3)


def test_an_uncovered_label_costs_nothing_wherever_it_is_found() -> None:
    classes = torch.zeros(1, 2, 2, dtype=torch.int64)
    covered = torch.tensor([[True, False, True]])
    for found in (0, 1):
        sure = torch.zeros(1, 3, 2, 2).index_fill_(1, torch.tensor([found]), 40.0)
        assert segmentation_loss([sure], Target(classes, covered), FitConfig()).value.item() == pytest.approx(
            0, abs=1e-6
        )
    wrong = torch.zeros(1, 3, 2, 2).index_fill_(1, torch.tensor([2]), 40.0)
    assert segmentation_loss([wrong], Target(classes, covered), FitConfig()).value.item() > 10


def test_label_weights_enter_the_overlap_loss_alone() -> None:
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]]).T.reshape(1, 3, 1, 2)
    classes = torch.tensor([[[1, 2]]])
    weights = LabelWeights(torch.tensor([3.0, 1.0]), torch.tensor([[1.0, 1.0], [0.5, 1.0]]))
    dice = [(2 * 0.3 + 1) / (0.9 + 1 + 1), (2 * 0.3 + 1) / (0.8 + 1 + 1)]
    soft = 3 * (1 - dice[0]) / 2 + (1 - dice[1]) / 1.5
    entropy = -log(0.3)
    found = segmentation_loss([probabilities.log()], Target(classes), FitConfig(dice_weight=0.25), weights)
    assert found.value.item() == pytest.approx(0.25 * soft + 0.75 * entropy)
    assert found.overlap.score().tolist() == pytest.approx(dice)
    assert found.overlap.shown.tolist() == [True, True]


def test_weights_of_labels_alike_change_nothing_and_one_that_no_picture_shows_is_no_company() -> None:
    overlap = Overlap(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([4.0, 2.0, 3.0]), torch.tensor([3.0, 1.0, 0.0]))
    alike = LabelWeights(torch.ones(3), torch.ones(3, 3))
    assert float(overlap_loss(overlap, weights=alike)) == pytest.approx(float(overlap_loss(overlap)))
    assert float(overlap_loss(overlap)) == pytest.approx((3 / 8 + 1 / 4) / 2)


def test_coarser_outputs_count_half_of_the_finer_one_and_see_the_nearest_classes() -> None:
    assert supervision_shares(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    logits, classes = example((4, 6))
    coarse = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(2))
    both = segmentation_loss([logits, coarse], Target(classes), FitConfig()).value
    expected = 2 / 3 * of_one(logits, classes) + 1 / 3 * of_one(coarse, classes[:, 1::2, 1::2])
    torch.testing.assert_close(both, expected)


def test_classes_are_sampled_at_the_centres_of_coarser_voxels_and_stay_whole() -> None:
    classes = torch.tensor([[[0, 1, 2, 3, IGNORE, 5]]])
    assert nearest_classes(classes, (1, 3)).tolist() == [[[1, 3, 5]]]
    assert nearest_classes(classes, (1, 2)).tolist() == [[[1, IGNORE]]]
    assert nearest_classes(classes, (1, 6)).tolist() == classes.tolist()
    assert nearest_classes(torch.zeros(2, 4, 6, 8, dtype=torch.int64), (2, 6, 4)).shape == (2, 2, 6, 4)


def test_half_precision_logits_cost_what_full_ones_do() -> None:
    logits, classes = example((5, 6))
    rounded = logits.detach().bfloat16()
    torch.testing.assert_close(of_one(rounded, classes), of_one(rounded.float(), classes))
    assert np.isfinite(exp(-of_one(1e4 * rounded, classes).item()))
