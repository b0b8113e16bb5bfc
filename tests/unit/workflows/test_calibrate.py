"""Estimates by hand: fitted for a version that has none, and told of the drafts that it made before."""

from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InvalidInput, NoChampion
from lib.core.geometry import Geometry
from lib.core.values import LabelEvidence, Mask, Prediction, Volume
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.rows import NewDraft
from lib.workflows import models
from lib.workflows.calibrate import calibrate
from lib.workflows.drawn import drawn_volumes
from lib.workflows.estimates import has_estimates
from lib.workflows.services import Services

Label = Callable[..., int]
EMBEDDING = np.zeros(2, dtype=np.float32)


class Bright:
    """Takes what is bright for the first label, and says always the same of it."""

    def __init__(self, services: Services) -> None:
        self.schema = services.task().schema

    def predict(self, volume: Volume) -> Prediction:
        found = np.where(volume.array > 100, self.schema.ids[0], 0).astype(np.uint8)
        evidence = dict(zip(self.schema.names, (shown(), LabelEvidence(0.0, 0.1)), strict=True))
        mask, nats = Mask(found, volume.geometry, self.schema), np.zeros(volume.array.shape, np.float16)
        return Prediction(mask, nats, dict.fromkeys(self.schema.names, 0.5), EMBEDDING, evidence=evidence)


def shown() -> LabelEvidence:
    return LabelEvidence(1.0, 0.9, mean_probability=0.8, boundary_entropy=0.2, components=1)


@pytest.fixture
def version(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A champion without estimates."""
    task = services.task()
    save_model(tmp_path / "m", Manifest.describe(task, seed=0), build_network(task.network, task.schema).state_dict())
    number = services.registry.register(task.name, tmp_path / "m", {})
    services.registry.promote(task.name, number)
    monkeypatch.setattr(models, "load_served", lambda *_: Bright(services))
    return number


def drafted(services: Services, uid: str, version: int, samples_dice: float | None = None) -> int:
    """A draft of the first label with the evidence that `Bright` gives."""
    name = services.task().schema.names[0]
    evidence = shown() if samples_dice is None else replace(shown(), samples_dice=samples_dice)
    values = {one: {name: float(getattr(evidence, one))} for one in LabelEvidence.__slots__}
    new = NewDraft(uid, services.task().name, "ours", version, voxels={name: 10})
    return services.ledger.annotations.add_draft(new, embedding=EMBEDDING, values=values)


def test_a_version_by_hand_comes_to_estimates_and_so_do_the_drafts_that_it_made(
    services: Services, version: int, label: Label, add_series: Callable[..., str]
) -> None:
    for seed in range(10):
        label(f"c{seed}", "calibration", seed=seed)
    mine, sampled, others = (add_series(f"p{number}") for number in range(3))
    first = drafted(services, mine, version)
    other_kind, other_version = drafted(services, sampled, version, 0.8), drafted(services, others, version + 1)
    task = services.task()
    assert not has_estimates(services, task, version)
    found = calibrate(services, task, None)
    assert (found.version, found.patients, found.drafts) == (version, 10, 1)
    assert found.needed == 9
    assert has_estimates(services, task, version)
    told = services.ledger.estimates.of([first, other_kind, other_version])
    assert set(told) == {first}
    ball = told[first]["ball"]
    assert 0.8 < ball.value <= 1.0
    assert 0.0 <= ball.low <= ball.value <= ball.high <= 1.0
    assert isnan(told[first]["cube"].value)


def test_it_is_fitted_anew_when_more_patients_are_labelled(services: Services, version: int, label: Label) -> None:
    for seed in range(3):
        label(f"c{seed}", "calibration", seed=seed)
    assert calibrate(services, services.task(), version).patients == 3
    label("c9", "calibration", seed=9)
    assert calibrate(services, services.task(), version).patients == 4


def test_without_calibration_labels_it_says_what_is_missing(services: Services, version: int) -> None:
    with pytest.raises(InvalidInput, match="at least one calibration case with a predicted label, got none in 0 cases"):
        calibrate(services, services.task(), version)


def test_without_a_champion_a_version_has_to_be_named(services: Services) -> None:
    with pytest.raises(NoChampion):
        calibrate(services, services.task(), None)


def test_volumes_are_of_what_people_drew_on_pool_and_calibration_patients(services: Services, label: Label) -> None:
    numbers = [label("p1", seed=1, cube=True), label("c1", "calibration", seed=2), label("x1", "promotion", seed=3)]
    label("p2", seed=4, accept=False)
    grid = Geometry.from_spacing((6, 32, 32), (5.0, 2.0, 1.0))
    rows = [services.ledger.annotations.get(number) for number in numbers]
    for row in rows:
        services.ledger.series.set_ready(row.series_uid, [], "f", {"affine": grid.affine.tolist()})
    balls = [row.voxels["ball"] * 0.01 for row in rows]
    assert drawn_volumes(services, services.task()) == {
        "ball": [("p1", pytest.approx(balls[0])), ("c1", pytest.approx(balls[1]))],
        "cube": [("p1", pytest.approx(0.09)), ("c1", 0.0)],
    }
