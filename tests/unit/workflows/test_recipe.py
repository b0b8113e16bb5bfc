from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from lib.inference.model import Manifest, build_network, read_state, save_model
from lib.training import measure
from lib.training.config import FitConfig
from lib.workflows import recipe
from lib.workflows.casecache import CaseCache
from lib.workflows.collect import CalibrationCases
from lib.workflows.config import RecipeConfig
from lib.workflows.promotion import promote, rollback
from lib.workflows.recipe import AHEAD, FRESH, LINE, START, adapted, first_weights, hold_line, new_labels, start_of
from lib.workflows.retrain import Stopped, request_retrain, run_retrain
from lib.workflows.services import Services

RECIPE = RecipeConfig(keep=0.6, steps=0.3, rate=0.25, schedule="trapezoid", new=0.5, validations=5, reference_every=3)
Register = Callable[..., int]
CASES: Any = ("case",)
"""Stands for calibration cases, which nothing looks into here."""


def looking(monkeypatch: pytest.MonkeyPatch, dice: Mapping[int, float]) -> list[tuple[int, Any]]:
    """Give the versions these mean Dice instead of measuring them; who is measured on what."""
    looks: list[tuple[int, Any]] = []

    def validate(version: int, cases: Any, report: Callable[[float], None]) -> dict[str, float | None]:
        looks.append((version, cases))
        report(1.0)
        return {"ball": dice[version], "cube": None}

    monkeypatch.setattr(recipe, "load_version", lambda services, task, model: model.version)
    monkeypatch.setattr(measure, "validate", validate)
    return looks


@pytest.fixture
def register(services: Services, tmp_path: Path) -> Register:
    """Put a version into the registry that started from another one, or from fresh weights; its number."""
    object.__setattr__(services, "settings", replace(services.settings, recipe=RECIPE))

    def act(start: int | None = None, learned: tuple[int, ...] = (), serves: bool = False, dice: float = 0.8) -> int:
        task = services.task()
        state = build_network(task.network, task.schema).state_dict()
        save_model(tmp_path / "m", Manifest.describe(task, 0, {}, learned), state)
        tags = {START: FRESH if start is None else f"version {start}"}
        version = services.registry.register(task.name, tmp_path / "m", {"mean_dice": dice}, tags)
        if serves:
            services.registry.promote(task.name, version)
        return version

    return act


def test_a_warm_training_is_shorter_and_gentler_and_keeps_its_best_weights() -> None:
    config = FitConfig(steps=100, learning_rate=2e-3)
    warm = adapted(config, RECIPE, is_warm=True, tuned=True, asked={})
    assert (warm.steps, warm.learning_rate, warm.keep, warm.validate_every) == (30, 5e-4, "best", 6)
    assert (config.schedule, warm.schedule) == ("cosine", "trapezoid")
    once = adapted(replace(config, keep="best", validate_every=7), replace(RECIPE, validations=1), True, True, {})
    assert (once.keep, once.validate_every) == ("last", 0)
    asked = adapted(config, RECIPE, is_warm=True, tuned=False, asked={"steps": 100})
    assert (asked.steps, asked.learning_rate, asked.keep) == (100, 5e-4, "last")
    assert adapted(config, RECIPE, is_warm=False, tuned=False, asked={}) == config


def test_the_first_training_starts_fresh_and_the_next_from_the_champion(services: Services, register: Register) -> None:
    assert start_of(services, services.task()) is None
    register(serves=True)
    register(1)
    assert start_of(services, services.task()) == 1


def test_each_third_training_is_a_reference_from_fresh_weights(services: Services, register: Register) -> None:
    task = services.task()
    register(serves=True)
    starts = []
    for _ in range(6):
        starts.append(start_of(services, task))
        register(starts[-1])
    assert starts == [1, 1, None, 1, 1, None]


def test_a_champion_of_other_labels_is_no_start(services: Services, register: Register) -> None:
    register(serves=True)
    task = services.task()
    changed = replace(task, preprocess=replace(task.preprocess, window_hu=(-100.0, 300.0)))
    assert start_of(services, task) == 1
    assert start_of(services, changed) is None


@pytest.mark.parametrize(("champion_dice", "start"), [(0.79, 2), (0.81, 1)])
def test_a_version_that_is_ahead_takes_the_line_over_until_a_later_one_serves(
    services: Services, register: Register, monkeypatch: pytest.MonkeyPatch, champion_dice: float, start: int
) -> None:
    task = services.task()
    register(serves=True)
    register(dice=0.8)
    looks = looking(monkeypatch, {1: champion_dice, 2: 0.8})
    reference = services.registry.get(task.name, 2)
    assert hold_line(services, task, reference, CASES, lambda share, message: None) is (start == 2)
    assert looks == [(1, CASES), (2, CASES)]
    assert (services.registry.get(task.name, 2).tags.get(LINE) == AHEAD) is (start == 2)
    assert start_of(services, task) == start
    register(start, serves=True)
    assert start_of(services, task) == 3


def test_a_version_is_held_against_the_head_of_the_line_not_against_the_champion(
    services: Services, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    register(serves=True)
    services.registry.note(task.name, register(1), LINE, AHEAD)  # kept back by the gate
    register(2)
    looks = looking(monkeypatch, {1: 0.7, 2: 0.85, 3: 0.8})
    made = services.registry.get(task.name, 3)
    assert not hold_line(services, task, made, CASES, lambda share, message: None)
    assert [version for version, _ in looks] == [2, 3]
    head = recipe.head_of(services, task, services.registry.list(task.name))
    assert head is not None
    assert head.version == 2  # what it has learned is not lost, and version 3 is not gone on from


def test_a_version_is_measured_again_whatever_its_training_said_of_it(
    services: Services, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, said = services.task(), []
    register(serves=True, dice=0.7)
    made = services.registry.get(task.name, register(1, dice=0.99))
    looking(monkeypatch, {1: 0.8, 2: 0.8})
    assert not hold_line(services, task, made, CASES, lambda share, message: said.append((share, message)))
    assert said == [
        (0.5, "measuring version 1 on the calibration patients"),
        (1.0, "measuring version 2 on the calibration patients"),
    ]
    looks = looking(monkeypatch, {1: 0.8, 2: 0.9})
    nothing = CalibrationCases(CaseCache(services, task), ())
    assert not hold_line(services, task, made, nothing, lambda share, message: None)
    assert looks == []


def test_a_version_that_went_on_from_one_that_was_rolled_back_heads_no_line(
    services: Services, register: Register
) -> None:
    task = services.task()
    promote(services, task, register(), "the first")
    promote(services, task, register(1), "better")
    on_top = register(2)  # kept by the gate, with the weights of version 2
    services.registry.note(task.name, on_top, LINE, AHEAD)
    second = register(on_top)
    services.registry.note(task.name, second, LINE, AHEAD)
    assert start_of(services, task) is None  # a reference is due
    every_tenth = replace(services.settings, recipe=replace(RECIPE, reference_every=10))
    object.__setattr__(services, "settings", every_tenth)
    assert start_of(services, task) == second
    rollback(services, task, "worse in the field")
    assert start_of(services, task) == 1
    beside = register(1)
    services.registry.note(task.name, beside, LINE, AHEAD)
    later = register(beside)
    services.registry.note(task.name, later, LINE, AHEAD)
    assert start_of(services, task) == later


def test_nothing_older_than_a_champion_that_does_not_fit_heads_the_line(
    services: Services, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    register()
    services.registry.note(task.name, register(), LINE, AHEAD)
    assert start_of(services, task) == 2
    register(serves=True)
    monkeypatch.setattr(recipe, "_fits", lambda version, task: version.version != 3)
    assert start_of(services, task) is None
    services.registry.note(task.name, register(), LINE, AHEAD)
    assert start_of(services, task) == 4


def test_a_reference_that_served_and_was_rolled_back_is_no_start(services: Services, register: Register) -> None:
    task = services.task()
    promote(services, task, register(), "the first")
    reference = register()
    services.registry.note(task.name, reference, LINE, AHEAD)
    assert start_of(services, task) == reference
    promote(services, task, reference, "better")
    assert start_of(services, task) == reference
    rollback(services, task, "worse in the field")
    assert start_of(services, task) == 1
    newer = register()
    services.registry.note(task.name, newer, LINE, AHEAD)
    assert start_of(services, task) == newer


def test_labels_that_the_start_has_not_learned_from_are_new(services: Services, register: Register) -> None:
    register(learned=(1, 2), serves=True)
    assert new_labels(services, services.task(), 1, (1, 2, 5, 7)) == (5, 7)
    assert new_labels(services, services.task(), None, (1, 2)) == (1, 2)


def test_first_weights_are_the_champions_moved_towards_fresh_ones(services: Services, register: Register) -> None:
    task = services.task()
    register(serves=True)
    champion = read_state(services.registry.path(task.name, 1))
    first, again = (first_weights(services, task, 1, 4) for _ in range(2))
    assert first_weights(services, task, None, 4) is None
    assert all(torch.equal(first[name], again[name]) for name in champion)
    torch.manual_seed(4)
    fresh = build_network(task.network, task.schema).state_dict()
    name = max(champion, key=lambda one: champion[one].numel())
    assert torch.allclose(first[name], 0.6 * champion[name] + 0.4 * fresh[name], atol=1e-6)


def test_a_retraining_hands_the_recipe_to_the_fit(
    services: Services, register: Register, label: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [label(f"p{number}", empty=True) for number in range(3)]
    register(learned=tuple(old), serves=True)
    label("p7", empty=True)
    label("c1", "calibration", empty=True)
    label("x1", "promotion", empty=True)
    seen: dict[str, object] = {}

    def stub(cases, validation, network, preprocess, config, folder, *rest, start, predict, weights, group):
        seen.update(patients={case.patient for case in cases}, tuned={case.patient for case in validation})
        seen.update(config=config, weights=weights, start=start)
        raise Stopped("seen enough")

    monkeypatch.setattr("lib.training.fit.fit", stub)
    request_retrain(services, services.task(), {}, "tester")
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    with pytest.raises(Stopped, match="seen enough"):
        run_retrain(services, job, lambda share, message: None, Event())
    task = services.task()
    assert (seen["patients"], seen["tuned"]) == ({"p0", "p1", "p2", "p7"}, {"c1"})
    assert seen["weights"] == pytest.approx((1 / 6, 1 / 6, 1 / 6, 0.5))
    config = seen["config"]
    assert isinstance(config, FitConfig)
    assert config.learning_rate == pytest.approx(task.training.learning_rate * 0.25)
    assert (config.steps, config.keep, config.validate_every) == (1, "best", 1)
    assert seen["start"] is not None
