from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch

from lib.core.errors import TrainingFailed
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PredictConfig, PreprocessConfig
from lib.inference.model import Manifest, build_network, load_predictor, save_model
from lib.networks.config import NetworkConfig
from lib.training.checkpoint import Checkpoint
from lib.training.config import AugmentConfig, FitConfig
from lib.training.data import Case
from lib.training.fit import FitProgress, FitResult, fit
from lib.training.losses import Loss

MakeCase = Callable[[int], Case]
NETWORK = NetworkConfig(context_slices=1, dropout=0.1)
PREPROCESS = PreprocessConfig()
SHORT = FitConfig(steps=12, batch_size=4, learning_rate=2e-3, checkpoint_every=4, ema_decay=0.9, seed=3)


class Killed(Exception):
    """Stands for the end of the process."""


def run(
    cases: list[Case], config: FitConfig, folder: Path, report: Callable[[FitProgress], None] | None = None
) -> FitResult:
    return fit(cases, cases, NETWORK, PREPROCESS, config, folder, "cpu", report or (lambda _: None))


def same_weights(first: FitResult, second: FitResult) -> bool:
    return all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())


def test_two_cases_are_learned_by_heart_within_seconds(make_case: MakeCase, tmp_path: Path) -> None:
    plain = AugmentConfig(0, 0, 0, 0, 0, 0, 0)
    config = FitConfig(steps=90, batch_size=6, learning_rate=4e-3, ema_decay=0.9, augment=plain)
    result = run([make_case(1), make_case(2)], config, tmp_path)
    assert result.mean_dice is not None
    assert result.mean_dice > 0.95
    assert min(value or 0 for value in result.dice.values()) > 0.95
    assert result.steps == 90
    assert np.mean(result.losses[-5:]) < 0.3 * np.mean(result.losses[:5])


def test_the_same_seed_gives_the_same_losses_and_weights_and_another_one_does_not(
    make_case: MakeCase, tmp_path: Path
) -> None:
    cases = [make_case(1), make_case(2)]
    first, second = (run(cases, SHORT, tmp_path / name) for name in ("a", "b"))
    other = run(cases, replace(SHORT, seed=4), tmp_path / "c")
    assert first.losses == second.losses
    assert same_weights(first, second)
    assert other.losses[0] != first.losses[0]


def test_a_fit_leaves_the_random_state_of_the_process_alone(make_case: MakeCase, tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run([make_case(1)], replace(SHORT, steps=2), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_like_one_that_was_not(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    cases = [make_case(1), make_case(2)]
    config = replace(SHORT, validate_every=5)
    whole = run(cases, config, tmp_path / "whole")
    steps: list[int] = []

    def kill_at_ten(progress: FitProgress) -> None:
        if progress.step == 10:
            raise Killed

    with pytest.raises(Killed):
        run(cases, config, tmp_path / "parts", kill_at_ten)
    resumed = run(cases, config, tmp_path / "parts", lambda p: steps.append(p.step) if p.stage == "train" else None)
    assert steps[0] == 9  # the checkpoint of step 8 was found
    assert resumed.losses == whole.losses
    assert resumed.curve == whole.curve
    assert [step for step, _ in resumed.curve] == [5, 10, 12]  # the last weights are always measured
    assert same_weights(resumed, whole)


def test_a_checkpoint_that_a_kill_left_half_written_is_passed_over_and_cleared_with_the_others(
    make_case: MakeCase, tmp_path: Path
) -> None:
    (tmp_path / ".checkpoint.pt.4711").write_bytes(b"half a file")
    assert run([make_case(1)], replace(SHORT, steps=2), tmp_path).steps == 2
    Checkpoint.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_whoever_hears_reports_can_end_a_run_within_a_validation(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 1e9)  # no report between steps
    seen: list[FitProgress] = []

    def kill(progress: FitProgress) -> None:
        seen.append(progress)
        if progress.step == 4:
            raise Killed

    with pytest.raises(Killed):
        run([make_case(1), make_case(2)], replace(SHORT, validate_every=4), tmp_path, kill)
    assert [(p.stage, p.step) for p in seen[2:]] == [("train", 4)]


def test_a_checkpoint_of_other_options_or_cases_is_not_continued(make_case: MakeCase, tmp_path: Path) -> None:
    def kill(progress: FitProgress) -> None:
        if progress.stage == "validate":
            raise Killed

    for cases, config in (([make_case(1)], SHORT), ([make_case(2)], replace(SHORT, seed=9))):
        with pytest.raises(Killed):
            run(cases, config, tmp_path / "shared", kill)
        assert (tmp_path / "shared" / "checkpoint.pt").exists()
    fresh = run([make_case(1)], SHORT, tmp_path / "fresh")
    assert run([make_case(1)], SHORT, tmp_path / "shared").losses == fresh.losses


def test_a_loss_that_is_not_a_number_ends_the_run_with_the_step_and_keeps_the_last_checkpoint(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib.training import run as run_module

    honest, calls = run_module.segmentation_loss, []

    def poisoned(*args: Any) -> Loss:
        calls.append(1)
        loss = honest(*args)
        return replace(loss, value=loss.value * (float("nan") if len(calls) == 7 else 1.0))

    monkeypatch.setattr(run_module, "segmentation_loss", poisoned)
    with pytest.raises(TrainingFailed, match=r"the loss at step 7 must be a number, got nan .* on the cases c1; "):
        run([make_case(1)], SHORT, tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4
    assert all(value.isfinite().all() for value in saved["network"].values())


def test_a_time_budget_ends_the_run_early_and_brings_the_learning_rate_to_zero(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr("lib.training.fit.monotonic", clock)
    seen: list[FitProgress] = []
    result = run([make_case(1)], replace(SHORT, steps=10_000, max_minutes=1 / 60), tmp_path, seen.append)
    assert 5 < result.steps < 100
    assert 1.0 <= result.seconds < 1.2
    trained = [p for p in seen if p.stage == "train"]
    assert [p.share for p in trained] == sorted(p.share for p in trained)
    assert trained[-1].left_s == pytest.approx(0, abs=0.1)
    assert trained[0].left_s is not None
    assert trained[0].left_s > 0.5


def test_progress_names_the_stages_in_order_with_loss_dice_and_time_left(make_case: MakeCase, tmp_path: Path) -> None:
    seen: list[FitProgress] = []
    result = run([make_case(1), make_case(2)], replace(SHORT, validate_every=1), tmp_path, seen.append)
    assert list(dict.fromkeys(p.stage for p in seen)) == ["prepare", "train", "validate"]
    assert [p.share for p in seen if p.stage == "prepare"] == [0.5, 1.0]
    first = next(p for p in seen if p.stage == "train" and p.dice is not None)
    assert (first.step, first.steps, first.loss) == (1, 12, pytest.approx(result.losses[0]))
    assert first.dice == result.curve[0][1]


def test_given_weights_are_where_a_run_starts(make_case: MakeCase, schema: LabelSchema, tmp_path: Path) -> None:
    torch.manual_seed(99)
    start = build_network(NETWORK, schema).state_dict()
    frozen = replace(SHORT, steps=1, learning_rate=1e-12, weight_decay=0)
    result = fit([make_case(1)], [], NETWORK, PREPROCESS, frozen, tmp_path, "cpu", start=start)
    for name, value in result.state_dict.items():
        torch.testing.assert_close(value, start[name], atol=1e-6, rtol=0)
    assert result.dice == {"bright": None, "dark": None}
    assert result.mean_dice is None


def test_the_result_is_what_the_saved_model_predicts(make_case: MakeCase, schema: LabelSchema, tmp_path: Path) -> None:
    class Parts:
        name, preprocess, network, predict = "boxes", PREPROCESS, NETWORK, PredictConfig()

        def __init__(self, schema: LabelSchema) -> None:
            self.schema = schema

    task = Parts(schema)
    result = run([make_case(1)], replace(SHORT, steps=40, learning_rate=4e-3), tmp_path / "work")
    save_model(tmp_path / "model", Manifest.describe(task, seed=3), result.state_dict)
    predicted = load_predictor(tmp_path / "model", task, "cpu", 4).predict(make_case(1).volume).mask
    truth = make_case(1).mask
    for label in schema:
        both = int(((truth.array == label.id) & (predicted.array == label.id)).sum())
        either = int((truth.array == label.id).sum() + (predicted.array == label.id).sum())
        assert 2 * both / either == pytest.approx(result.dice[label.name])


def test_nothing_to_learn_from_is_said(make_case: MakeCase, schema: LabelSchema, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="at least one labelled case, got none"):
        run([], SHORT, tmp_path)
    case = make_case(1)
    empty = Case(case.volume, Mask(np.zeros((6, 32, 32), dtype=np.uint8), case.volume.geometry, schema))
    with pytest.raises(TrainingFailed, match="all 2 are empty"):
        run([empty, empty], SHORT, tmp_path)
    other = LabelSchema(schema.labels[:1])
    odd = Case(case.volume, Mask(np.zeros((6, 32, 32), dtype=np.uint8), case.volume.geometry, other), name="odd")
    with pytest.raises(TrainingFailed, match="case odd has"):
        run([case, odd], SHORT, tmp_path)


def test_a_case_without_labels_beside_labelled_ones_is_trained_on(
    make_case: MakeCase, schema: LabelSchema, tmp_path: Path
) -> None:
    case = make_case(1)
    noise = np.random.default_rng(0).normal(0, 20, (3, 32, 32)).astype(np.float32)
    geometry = replace(case.volume.geometry, shape=(3, 32, 32))
    empty = Case(Volume(noise, geometry, "MR"), Mask(np.zeros((3, 32, 32)), geometry, schema))
    assert run([case, empty], replace(SHORT, foreground=0.0, steps=3), tmp_path).steps == 3


def test_what_the_first_optimiser_of_a_process_imports_is_no_part_of_the_budget(make_case, tmp_path, monkeypatch):
    imported_s = [0.0]
    monkeypatch.setattr("lib.training.fit.monotonic", lambda: monotonic() + imported_s[0])

    def load(name: str) -> None:
        assert name == "torch._dynamo"
        imported_s[0] += 3600.0

    monkeypatch.setattr("lib.training.fit.import_module", load)
    assert run([make_case(1)], replace(SHORT, steps=2, max_minutes=30.0), tmp_path).steps == 2
    assert imported_s == [3600.0]


def test_a_budget_that_preparation_used_up_is_an_error_and_no_model(make_case, tmp_path):
    with pytest.raises(TrainingFailed, match="ended before the first step"):
        run([make_case(1)], replace(SHORT, max_minutes=1e-6), tmp_path)
