"""Which weights a run ends with, also after a kill."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib.core.errors import InvalidSettings
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.training import fit as fit_module
from lib.training.config import FitConfig
from lib.training.data import Case
from lib.training.fit import FitProgress, FitResult, fit

MakeCase = Callable[[int], Case]
NETWORK = NetworkConfig(context_slices=0)
CONFIG = FitConfig(steps=8, batch_size=2, keep="best", validate_every=2, checkpoint_every=100, adaptive_weights=True)


class Killed(Exception):
    """Stands for the end of the process."""


def run(
    cases: Sequence[Case], config: FitConfig, folder: Path, report: Callable[[FitProgress], None] = lambda _: None
) -> FitResult:
    return fit(cases, cases, NETWORK, PreprocessConfig(), config, folder, "cpu", report)


@pytest.fixture
def dice_by_validation(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next validations find, that of the last weights among them; the weights that they see are unchanged."""
    values: list[float] = []
    for name in ("_mean_dice", "_mean_of"):
        monkeypatch.setattr(fit_module, name, lambda *_: values.pop(0))
    return values


def same_weights(first: FitResult, second: FitResult) -> bool:
    return all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())


def test_the_weights_of_the_best_validation_are_kept(
    make_case: MakeCase, tmp_path: Path, dice_by_validation: list[float]
) -> None:
    dice_by_validation += [0.1, 0.5, 0.4, 0.3]
    best = run([make_case(1)], CONFIG, tmp_path / "best")
    assert best.curve == ((2, 0.1), (4, 0.5), (6, 0.4), (8, 0.3))
    assert best.steps == 8
    dice_by_validation += [0.1, 0.5, 0.6, 0.7]
    last = run([make_case(1)], CONFIG, tmp_path / "last")
    assert not same_weights(best, last)
    dice_by_validation += [0.1, 0.5, 0.4, 0.3]
    assert same_weights(run([make_case(1)], replace(CONFIG, keep="last"), tmp_path / "plain"), last)


def test_the_last_weights_are_measured_too_before_the_best_are_chosen(
    make_case: MakeCase, tmp_path: Path, dice_by_validation: list[float]
) -> None:
    dice_by_validation += [0.1, 0.2, 0.9]
    result = run([make_case(1)], replace(CONFIG, validate_every=3), tmp_path)
    assert result.curve == ((3, 0.1), (6, 0.2), (8, 0.9))
    assert dice_by_validation == []


@pytest.mark.parametrize(("last", "measured"), [(0.9, 1), (0.2, 1), (0.19, 2)])
def test_the_last_weights_are_measured_once_and_the_best_in_their_place_once_more(
    make_case: MakeCase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dice_by_validation: list[float],
    last: float,
    measured: int,
) -> None:
    calls: list[object] = []
    real = fit_module.measure
    monkeypatch.setattr(fit_module, "measure", lambda *given: calls.append(given) or real(*given))
    dice_by_validation += [0.1, 0.2, last]
    run([make_case(1)], replace(CONFIG, validate_every=3), tmp_path)
    assert len(calls) == measured


def test_a_kill_after_the_best_validation_loses_nothing_and_ends_the_same(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dice_by_validation: list[float]
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    dice_by_validation += [0.1, 0.5, 0.4, 0.3]
    whole = run([make_case(1)], CONFIG, tmp_path / "whole")

    def kill(progress: FitProgress) -> None:
        if progress.step == 7:
            raise Killed

    dice_by_validation += [0.1, 0.5, 0.4]
    with pytest.raises(Killed):
        run([make_case(1)], CONFIG, tmp_path / "parts", kill)
    saved = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4  # written with the best weights, long before the next regular one
    assert saved["best"][0] == 0.5
    assert all(torch.equal(value, whole.state_dict[name]) for name, value in saved["best"][1].items())
    dice_by_validation += [0.4, 0.3]
    resumed = run([make_case(1)], CONFIG, tmp_path / "parts")
    assert same_weights(resumed, whole)
    assert (resumed.losses, resumed.rates, resumed.curve) == (whole.losses, whole.rates, whole.curve)


def test_a_run_whose_best_weights_other_cases_chose_is_not_continued(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)

    def kill(progress: FitProgress) -> None:
        if progress.step == 5:
            raise Killed

    def begin(judge: Case, config: FitConfig, name: str) -> list[int]:
        steps: list[int] = []
        arguments = [make_case(1)], [judge], NETWORK, PreprocessConfig(), config, tmp_path / name, "cpu"
        with pytest.raises(Killed):
            fit(*arguments, kill)
        other = (arguments[0], [make_case(2)], *arguments[2:])
        fit(*other, lambda progress: steps.append(progress.step) if progress.stage == "train" else None)
        return steps

    often = replace(CONFIG, checkpoint_every=2)
    assert begin(make_case(2), often, "same")[0] == 5
    assert begin(make_case(3), often, "changed")[0] == 1
    assert begin(make_case(3), replace(often, keep="last"), "last")[0] == 5


def test_without_validation_cases_the_last_weights_are_kept(make_case: MakeCase, tmp_path: Path) -> None:
    arguments = NETWORK, PreprocessConfig()
    best = fit([make_case(1)], [], *arguments, CONFIG, tmp_path / "best", "cpu")
    last = fit([make_case(1)], [], *arguments, replace(CONFIG, keep="last"), tmp_path / "last", "cpu")
    assert same_weights(best, last)
    assert best.cases == best.curve == ()


def test_best_weights_without_validations_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="validate_every must be 1 or more with keep: best, got 0"):
        FitConfig(keep="best")


def test_at_a_constant_rate_a_shorter_run_has_the_weights_that_a_longer_one_had_there(
    make_case: MakeCase, tmp_path: Path, dice_by_validation: list[float]
) -> None:
    constant = replace(CONFIG, schedule="constant", warmup=0.0, ema_decay=0.0)
    dice_by_validation += [0.5, 0.1, 0.1, 0.1]
    longer = run([make_case(1)], constant, tmp_path / "longer")
    config = replace(constant, steps=2, keep="last")
    shorter = fit([make_case(1)], (), NETWORK, PreprocessConfig(), config, tmp_path / "shorter", "cpu")
    assert same_weights(longer, shorter)
