import pytest

from lib.workflows.gate import Champion, judge


@pytest.mark.parametrize(
    ("challenger", "champion", "promotes"),
    [
        (0.90, 0.80, True),
        (0.80, 0.80, True),
        (0.795, 0.80, True),  # lower by the tolerance, not by more
        (0.7949, 0.80, False),
        (0.0, 0.80, False),
        (0.0, 0.0, True),
    ],
)
def test_a_challenger_passes_unless_it_is_lower_by_more_than_the_tolerance(
    challenger: float, champion: float, promotes: bool
) -> None:
    verdict = judge(challenger, Champion(7, champion), tolerance=0.005, cases=4)
    assert verdict.promote is promotes
    expected = f"mean Dice {challenger:.4f} against {champion:.4f} of version 7 on 4 calibration cases, tolerance 0.005"
    assert verdict.reason == ("not worse: " if promotes else "worse: ") + expected


def test_the_first_model_of_a_task_passes_with_or_without_figures() -> None:
    assert judge(None, None, 0.005, 0).promote
    assert judge(0.1, None, 0.005, 2).reason == "the first model of this task; mean Dice 0.1000 on 2 cases"


def test_nothing_is_promoted_over_a_champion_without_figures() -> None:
    for challenger, champion in ((None, None), (0.9, None), (None, 0.1)):
        assert not judge(challenger, Champion(1, champion), 0.005, 0).promote


def test_a_champion_that_cannot_serve_any_more_is_replaced() -> None:
    verdict = judge(0.1, Champion(3, None, misfit="labels = ball, this one has cube"), 0.005, 2)
    assert verdict.promote
    assert "cannot serve any more: labels = ball" in verdict.reason
