"""Estimates of a champion's Dice: fitted once, beside its weights, and only told of its own predictions."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.values import LabelEvidence, Mask, Prediction, Volume
from lib.inference.config import ONE_ANSWER, UncertaintyConfig
from lib.inference.model import Manifest, build_network, save_model
from lib.inference.quality import QUALITY, EstimatedDice, load_quality
from lib.training.data import Case, Coverage
from lib.workflows import models
from lib.workflows.estimates import (
    COPIES,
    Qualities,
    annotated_volumes,
    described,
    known_case,
    origin_of,
    refit_quality,
    worse,
)
from lib.workflows.heartbeat import Stopped
from lib.workflows.models import ChampionCache
from lib.workflows.services import Services
from rooms import ball


class Bright:
    """Stands in for a champion: takes what is bright for the first label, and the brighter the surer."""

    def __init__(self, services: Services) -> None:
        self.schema, self.asked = services.task().schema, 0

    def predict(self, volume: Volume) -> Prediction:
        self.asked += 1
        found = np.where(volume.array > 100, self.schema.ids[0], 0).astype(np.uint8)
        size = float((found > 0).sum())
        shown = LabelEvidence(
            size / 1000, 0.9, mean_probability=0.8, boundary_entropy=0.2, components=1 + int(size) % 3
        )
        names = self.schema.names
        evidence = {names[0]: shown, names[1]: LabelEvidence(0.0, 0.1)}
        embedding = np.array([volume.array.mean(), volume.array.std()], dtype=np.float32)
        nats = np.zeros(volume.array.shape, np.float16)
        mask = Mask(found, volume.geometry, self.schema)
        return Prediction(mask, nats, dict.fromkeys(names, 0.5), embedding, evidence=evidence)


@pytest.fixture
def cases(services: Services) -> list[Case]:
    """Twelve patients with a ball each."""
    made = [(ball(seed), f"p{seed}") for seed in range(12)]
    schema = services.task().schema
    return [Case(volume, Mask(labels, volume.geometry, schema), patient) for (volume, labels), patient in made]


@pytest.fixture
def version(services: Services, tmp_path: Path) -> int:
    """A registered champion."""
    task = services.task()
    folder = tmp_path / "model"
    save_model(folder, Manifest.describe(task, seed=0), build_network(task.network, task.schema).state_dict())
    number = services.registry.register(task.name, folder, {})
    services.registry.promote(task.name, number)
    return number


@pytest.fixture
def bright(services: Services, monkeypatch: pytest.MonkeyPatch) -> Bright:
    """What every version is loaded as."""
    stub = Bright(services)
    monkeypatch.setattr(models, "load_served", lambda *_: stub)
    return stub


def asked(uncertainty: UncertaintyConfig) -> Qualities:
    """Estimates for predictions with these samples."""
    return Qualities(lambda model: origin_of(model.folder, uncertainty))


def test_a_fit_leaves_estimates_beside_the_weights_and_is_not_done_again(
    services: Services, version: int, cases: list[Case], bright: Bright
) -> None:
    task, told = services.task(), list[float]()
    assert refit_quality(services, task, version, cases, lambda share, _: told.append(share))
    assert bright.asked == len(cases) * (1 + COPIES)
    assert told == [number / 12 for number in range(12)]
    model = services.registry.get(task.name, version)
    quality = load_quality(model.folder)
    assert quality.origin == origin_of(model.folder, services.settings.uncertainty)
    assert (quality.patients, quality.seen) == (12, ("ball",))
    assert refit_quality(services, task, version, cases)
    assert bright.asked == len(cases) * (1 + COPIES)


def test_the_champion_tells_estimates_of_its_own_predictions_alone(
    services: Services, version: int, cases: list[Case], bright: Bright
) -> None:
    name, cache = services.task().name, ChampionCache(services)
    cache.predictor(name)
    prediction = bright.predict(cases[0].volume)
    assert cache.estimates(name, version, prediction) == {}
    refit_quality(services, services.task(), version, cases)
    found = cache.estimates(name, version, prediction)
    assert found["ball"].value == pytest.approx(1.0, abs=0.15)
    assert isnan(found["cube"].value)
    assert cache.estimates(name, version + 1, prediction) == {}


def test_estimates_for_other_samples_are_not_used(
    services: Services, version: int, cases: list[Case], bright: Bright, caplog: pytest.LogCaptureFixture
) -> None:
    task = services.task()
    refit_quality(services, task, version, cases)
    model, prediction = services.registry.get(task.name, version), bright.predict(cases[0].volume)
    assert asked(ONE_ANSWER).patients(model) == 12
    others = asked(UncertaintyConfig("dropout", 4, 0, "entropy"))
    with caplog.at_level(logging.WARNING):
        assert [others.estimates(model, prediction) for _ in range(3)] == [{}] * 3
    assert len(caplog.records) == 1
    assert "it serves as" in caplog.text


def test_a_damaged_file_costs_the_estimates_alone(
    services: Services, version: int, cases: list[Case], bright: Bright, caplog: pytest.LogCaptureFixture
) -> None:
    model = services.registry.get(services.task().name, version)
    (model.folder / QUALITY).write_text("{")
    assert asked(ONE_ANSWER).estimates(model, bright.predict(cases[0].volume)) == {}
    assert "no valid JSON" in caplog.text
    assert refit_quality(services, services.task(), version, cases)
    assert asked(ONE_ANSWER).patients(model) == 12


def test_without_calibration_cases_a_version_serves_without_estimates(
    services: Services, version: int, bright: Bright, caplog: pytest.LogCaptureFixture
) -> None:
    assert not refit_quality(services, services.task(), version, [])
    assert "has no estimates of its Dice" in caplog.text


def test_a_fit_that_is_told_to_stop_leaves_nothing(
    services: Services, version: int, cases: list[Case], bright: Bright
) -> None:
    def stop(share: float, message: str) -> None:
        raise Stopped(message)

    with pytest.raises(Stopped):
        refit_quality(services, services.task(), version, cases, stop)
    assert not (services.registry.get(services.task().name, version).folder / QUALITY).exists()


def test_the_dice_of_a_case_is_of_what_its_annotation_speaks_of(services: Services, cases: list[Case]) -> None:
    case, predictor = cases[0], Bright(services)
    assert known_case(predictor, case).dice == {"ball": pytest.approx(1.0, abs=0.02), "cube": None}  # type: ignore[arg-type]
    of_cube = replace(case, mask=replace(case.mask, array=case.mask.array * 0), coverage=Coverage(labels=("cube",)))
    assert known_case(predictor, of_cube).dice == {"cube": None}  # type: ignore[arg-type]
    half = np.array(case.mask.array)
    half[3:] = 0
    slices = tuple(number < 3 for number in range(len(half)))
    partly = replace(case, mask=replace(case.mask, array=half), coverage=Coverage(slices=slices))
    assert known_case(predictor, partly).dice["ball"] == pytest.approx(1.0, abs=0.02)  # type: ignore[arg-type]


def test_a_cropped_case_keeps_its_mask_and_its_coverage_in_step(cases: list[Case]) -> None:
    covered = replace(cases[0], coverage=Coverage(slices=(True,) * 6))
    found = {worse(covered, "crop", 1.0, np.random.default_rng(seed)).volume.array.shape for seed in range(12)}
    assert len(found) > 1
    for seed in range(12):
        cut = worse(covered, "crop", 1.0, np.random.default_rng(seed))
        assert cut.coverage.slices is not None
        assert cut.mask.array.shape == cut.volume.array.shape
        assert len(cut.coverage.slices) == len(cut.mask.array)


def test_volumes_are_of_wholly_annotated_cases(cases: Sequence[Case]) -> None:
    volume = Volume(np.zeros((2, 4, 4), np.float32), Geometry.from_spacing((2, 4, 4), (5.0, 10.0, 10.0)), "CT")
    mask = Mask(np.pad(np.full((1, 2, 2), 3), ((0, 1), (0, 2), (0, 2))), volume.geometry, cases[0].mask.schema)
    whole = Case(volume, mask, "p")
    assert annotated_volumes([whole, replace(whole, coverage=Coverage(slices=(True, False)))]) == {
        "ball": [("p", pytest.approx(2.0))],
        "cube": [("p", 0.0)],
    }


SURE = EstimatedDice(0.912, 0.85, 0.951, True)


@pytest.mark.parametrize(
    ("estimates", "text"),
    [
        ({}, "Draft t v3"),
        ({"a": EstimatedDice(nan, nan, nan, True, "not predicted")}, "Draft t v3"),
        ({"a": SURE, "b": EstimatedDice(0.78, 0.7, 0.852, True)}, "Draft t v3, lowest Dice 0.78 (0.70-0.85)"),
        ({"a": SURE, "b": EstimatedDice(0.78, nan, nan, True, "no interval")}, "Draft t v3, lowest Dice 0.78"),
        ({"a": EstimatedDice(0.2, 0, 1, False), "b": SURE}, "Draft t v3, Dice unknown: unfamiliar"),
    ],
)
def test_a_description_tells_the_least_estimate(estimates: dict[str, EstimatedDice], text: str) -> None:
    assert described("Draft t v3", estimates, 64) == text


@pytest.mark.parametrize(
    ("room", "end"), [(40, ", lowest Dice 0.91 (0.85-0.95)"), (39, ", lowest Dice 0.91"), (27, "")]
)
def test_a_description_loses_what_there_is_no_room_for(room: int, end: str) -> None:
    assert described("Draft t v3", {"a": SURE}, room) == f"Draft t v3{end}"
