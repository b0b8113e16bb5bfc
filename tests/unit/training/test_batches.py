import numpy as np
import pytest
import torch

from lib.training.batches import draw_batch
from lib.training.config import FitConfig
from lib.training.data import PreparedCase, TrainingSet

CPU = torch.device("cpu")


def ten_cases_of_which_one_shows_a_rare_label() -> TrainingSet:
    """Label 2 in the last of ten cases, label 1 in the others."""
    cases = []
    for number in range(10):
        classes = np.full((1, 8, 8), 2 if number == 9 else 1, dtype=np.uint8)
        cases.append(PreparedCase(np.ones((1, 8, 8), dtype=np.float16), classes, name=f"case {number}"))
    return TrainingSet(cases, classes=3, window=(1, 8, 8), context=0)


def share_of_rare(progress: float, rare_oversampling: float) -> float:
    config = FitConfig(batch_size=2000, foreground=1.0, rare_oversampling=rare_oversampling)
    batch = draw_batch(ten_cases_of_which_one_shows_a_rare_label(), config, 0, progress, CPU)
    return float(np.mean([name == "case 9" for name in batch.names]))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.5), (0.5, 0.3), (1.0, 0.1)])
def test_rare_labels_are_drawn_more_often_at_first_and_as_the_cases_show_them_at_the_end(
    progress: float, share: float
) -> None:
    assert share_of_rare(progress, rare_oversampling=1.0) == pytest.approx(share, abs=0.04)


def test_without_oversampling_the_share_of_a_rare_label_stays() -> None:
    assert share_of_rare(0.0, 0.0) == share_of_rare(1.0, 0.0)
