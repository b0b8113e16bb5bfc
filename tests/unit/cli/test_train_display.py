from dataclasses import replace
from io import StringIO
from math import inf

import pytest
from rich.console import Console
from rich.progress import Progress

from lib.cli.train_display import FitBars, bars, budget_note, calibration_line, clock, figures_table, fit_words
from lib.training.config import FitConfig
from lib.training.fit import FitProgress
from lib.training.measure import CaseMetrics, LabelFigures

NOW = FitProgress("train", 0.5, step=300, steps=600, loss=0.4125, dice=0.81, left_s=83.4)


def test_a_training_says_phase_step_loss_dice_and_time_left() -> None:
    assert fit_words(NOW, FitConfig(), best=0.81) == "learning, step 300 of 600, loss 0.412, Dice 0.810, 1:23 left"
    early = FitProgress("train", 0.01, step=6, steps=600)
    assert fit_words(early, FitConfig(warmup=0.05), best=None) == "warming up, step 6 of 600"


def test_a_training_whose_time_ended_long_before_its_steps_is_told_of() -> None:
    config = FitConfig(steps=1500, max_minutes=1.5)
    note = budget_note(90, config)
    assert note is not None
    assert note.startswith("90 of 1500 steps: 1.5 minutes allowed no more here; allow more with --max-minutes")
    assert budget_note(750, config) is None
    assert budget_note(90, FitConfig(steps=1500)) is None


def test_a_dice_below_the_best_one_names_the_best_one() -> None:
    with Progress(disable=True) as progress:
        show = FitBars(progress, FitConfig())
        for dice in (0.5, 0.85, 0.81):
            show(replace(NOW, dice=dice))
        (bar,) = [task for task in progress.tasks if task.visible]
        assert "Dice 0.810 (best 0.850)" in bar.fields["words"]
        assert bar.completed == 0.5
        show(FitProgress("validate", 0.25))
        assert [task.description for task in progress.tasks if task.visible] == ["training", "measuring"]
        assert [task.stop_time is not None for task in progress.tasks if task.visible] == [True, False]
        assert [task.started for task in progress.tasks] == [False, True, True]


def test_the_display_has_a_bar_for_what_it_is_told() -> None:
    with bars() as progress:
        FitBars(progress, FitConfig())(NOW)
        text = "".join(segment.text for segment in Console(width=200).render(progress.get_renderable()))
    assert "training" in text
    assert "loss 0.412" in text


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (83.4, "1:23"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_time_is_shown_as_on_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_table_has_means_by_label_and_over_the_common_ones() -> None:
    cases = [
        CaseMetrics("a", {"liver": LabelFigures(0.9, 2.0, 0.8, 5.0, -0.1), "cyst": None, "spleen": None}, None),
        CaseMetrics(
            "b",
            {
                "liver": LabelFigures(0.7, 4.0, 0.6, 5.0, 0.3),
                "cyst": LabelFigures(0.0, inf, 0.0, 5.0, None),
                "spleen": LabelFigures(0.5, 1.0, 0.9, 0.0, 0.0),
            },
            0.1,
        ),
    ]
    console = Console(width=120, record=True, file=StringIO())
    console.print(figures_table(cases, ("liver", "cyst", "spleen"), ("liver", "spleen")))
    text = console.export_text()
    assert "NSD at 1 mm" in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    found = {row[0]: row[1:] for row in rows if row}
    assert found["liver"] == ["2", "0.800", "3.00", "0.700", "20.0 %"]
    assert found["cyst"] == ["1", "0.000", "- (1 without)", "0.000", "-"]
    assert found["mean"] == ["", "0.650", "2.00", "0.800", "10.0 %"]
    assert calibration_line(cases).startswith("calibration error 0.100 ")
