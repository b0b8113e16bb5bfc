import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InvalidSettings, ManifestMismatch, NoChampion, NotFound, RegistryUnavailable
from lib.core.geometry import Geometry
from lib.core.values import Volume
from lib.inference.config import PredictConfig
from lib.inference.model import MANIFEST, Manifest, build_network, read_manifest, save_model
from lib.workflows import models
from lib.workflows.models import ChampionCache, require_champion, served_origin
from lib.workflows.services import Services, open_services

VOLUME = Volume(np.zeros((2, 16, 16), np.float32), Geometry.from_spacing((2, 16, 16), (1, 1, 1)), "CT")


@pytest.fixture
def add_model(services: Services, tmp_path: Path) -> Callable[..., int]:
    """Register a model whose head answers `label` everywhere; its version."""

    def add(label: int = 0, promote: bool = True, **changes: object) -> int:
        task = replace(services.task(), **changes)
        network = build_network(task.network, task.schema)
        state = network.state_dict()
        last = [name for name in state if name.endswith("bias")][-1]
        for values in state.values():
            values.zero_()
        state[last].view(3, -1)[label] = 10  # one row a class
        folder = tmp_path / f"model{label}"
        save_model(folder, Manifest.describe(task, seed=0), state)
        version = services.registry.register(task.name, folder, {"mean_dice": 0.5})
        if promote:
            services.registry.promote(task.name, version)
        return version

    return add


def answer(predictor: object) -> int:
    """The one label id that a model of this file gives everywhere."""
    (label,) = np.unique(predictor.predict(VOLUME).mask.array)  # type: ignore[attr-defined]
    return int(label)


def test_a_task_without_a_champion_says_how_to_train_one(services: Services) -> None:
    name = services.task().name
    with pytest.raises(NoChampion, match=f"transunet-label retrain --task {name}"):
        ChampionCache(services).predictor(name)
    with pytest.raises(NoChampion, match=f"transunet-label retrain --task {name}"):
        require_champion(services, services.task())


def test_an_unknown_task_is_named_with_those_that_are_served(services: Services) -> None:
    with pytest.raises(NotFound, match=services.task().name):
        ChampionCache(services).predictor("kidney")


def test_a_new_champion_serves_without_restart_and_old_requests_keep_theirs(
    services: Services, add_model: Callable[..., int]
) -> None:
    name = services.task().name
    add_model(label=1)
    cache = ChampionCache(services, check_every_s=0)
    old, version = cache.predictor(name)
    assert (version, answer(old)) == (1, 3)
    assert cache.predictor(name)[0] is old
    add_model(label=2)
    new, version = cache.predictor(name)
    assert (version, answer(new)) == (2, 1)
    assert answer(old) == 3
    services.registry.rollback(name, 1)
    assert cache.predictor(name)[1] == 1


def test_the_alias_is_read_at_most_once_in_the_given_time(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(label=1)
    reads = []
    champion = services.registry.champion
    monkeypatch.setattr(type(services.registry), "champion", lambda self, task: reads.append(task) or champion(task))
    cache = ChampionCache(services, check_every_s=0.3)
    cache.predictor(services.task().name)
    end, calls = time.monotonic() + 0.8, 0
    while time.monotonic() < end:
        cache.predictor(services.task().name)
        calls += 1
    assert len(reads) <= 4 < calls


def test_a_champion_that_does_not_fit_is_refused_and_the_one_in_memory_stays(
    services: Services, add_model: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    task = services.task()
    add_model(label=1)
    cache = ChampionCache(services, check_every_s=0)
    kept, _ = cache.predictor(task.name)
    add_model(label=2, preprocess=replace(task.preprocess, window_hu=(-1000.0, 0.0)))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert cache.predictor(task.name) == (kept, 1)
    (record,) = caplog.records
    assert "goes on with version 1" in record.message
    assert "preprocess.window_hu" in record.message
    with pytest.raises(ManifestMismatch, match=r"preprocess\.window_hu = \[-200"):
        ChampionCache(services).predictor(task.name)
    add_model(label=0)
    assert cache.predictor(task.name)[1] == 3


def test_a_registry_that_is_away_does_not_end_service(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise RegistryUnavailable("the registry is away")

    name = services.task().name
    add_model(label=1)
    cache = ChampionCache(services, check_every_s=0)
    kept = cache.predictor(name)
    with monkeypatch.context() as patch:
        patch.setattr(type(services.registry), "champion", away)
        assert cache.predictor(name) == kept
        with pytest.raises(RegistryUnavailable):
            ChampionCache(services).predictor(name)
    assert cache.predictor(name) == kept


def test_warming_loads_every_champion_and_logs_what_is_missing(
    services: Services, add_model: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    cache = ChampionCache(services, check_every_s=0)
    with caplog.at_level(logging.WARNING):
        cache.warm()
    assert "serves no model yet" in caplog.text
    add_model(label=1)
    cache.warm()
    assert cache._slots[services.task().name].serving is not None


class Askers:
    """Threads that ask for predictions without pause, and write down what they got."""

    def __init__(self, cache: ChampionCache, name: str, count: int = 4) -> None:
        self.answers: set[tuple[int, int]] = set()  # (version, the label id that it gave)
        self.count = 0
        self._cache, self._name, self._done = cache, name, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> "Askers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: int) -> None:
        end = time.monotonic() + 30
        while all(seen != version for seen, _ in tuple(self.answers)) and time.monotonic() < end:
            time.sleep(0.02)

    def _ask(self) -> None:
        while not self._done.is_set():
            predictor, version = self._cache.predictor(self._name)
            self.answers.add((version, answer(predictor)))
            self.count += 1


def test_no_request_of_many_threads_sees_half_a_model_or_waits_for_the_next_one(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = services.task().name
    for label in (1, 2, 0, 1):
        add_model(label=label, promote=False)
    services.registry.promote(name, 1)
    cache = ChampionCache(services, check_every_s=0)
    cache.predictor(name)
    load, meanwhile = models.load_served, []
    with Askers(cache, name) as askers:

        def slow_load(*arguments: object, **options: object) -> object:
            before = askers.count
            time.sleep(0.3)
            meanwhile.append(askers.count - before)
            return load(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(models, "load_served", slow_load)
        for version in (1, 2, 3, 4):
            services.registry.promote(name, version)
            askers.wait_for(version)
    assert askers.answers == {(1, 3), (2, 1), (3, 0), (4, 3)}
    assert len(meanwhile) == 3  # each new champion was loaded once
    assert min(meanwhile) > 0  # while the others were served


def test_requests_before_the_first_champion_is_loaded_wait_for_one_load(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(label=1)
    load, loads = models.load_served, []
    monkeypatch.setattr(models, "load_served", lambda *a, **k: loads.append(1) or time.sleep(0.2) or load(*a, **k))
    cache, got = ChampionCache(services), []
    threads = [threading.Thread(target=lambda: got.append(cache.predictor(services.task().name)[1])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [1] * 6
    assert len(loads) == 1


def test_an_ensemble_compares_the_champion_with_the_newest_ones_before_it(
    services: Services, add_model: Callable[..., int]
) -> None:
    name = services.task().name
    for label in (0, 1, 2, 1):
        add_model(label=label)
    add_model(label=2, promote=False)
    kind = replace(services.settings.uncertainty, kind="ensemble", samples=3, map="bald")
    sampled = replace(services, settings=replace(services.settings, uncertainty=kind))
    predictor, version = ChampionCache(sampled).predictor(name)
    found = predictor.predict(VOLUME)
    assert version == 4
    assert set(np.unique(found.mask.array)) == {3}  # the champion's label, though one of three says another
    assert found.information is not None
    sure = np.array([1, 2, 0]) / 3  # versions 4 and 2 say label 1, version 3 says label 2
    sure = sure[sure > 0]
    assert float(found.information.mean()) == pytest.approx(-(sure * np.log(sure)).sum(), abs=2e-3)
    alone, _ = ChampionCache(services).predictor(name)
    assert alone.predict(VOLUME).information is None


def test_the_origin_of_estimates_names_all_that_the_answers_follow_from(
    services: Services, add_model: Callable[..., int]
) -> None:
    task = services.task()
    for label in (0, 1, 2):
        add_model(label=label)
    champion = require_champion(services, task)

    def origin(kind: str, samples: int, **changes: object) -> str:
        uncertainty = replace(services.settings.uncertainty, kind=kind, samples=samples)
        sampled = replace(services, settings=replace(services.settings, uncertainty=uncertainty))
        return served_origin(sampled, replace(task, **changes), champion)

    alone = origin("entropy", 2)
    assert alone == f"{read_manifest(champion.folder).sha256} entropy"
    mirrored = origin("entropy", 2, predict=PredictConfig(flips=("rows",)))
    assert mirrored == f"{alone}, mirrored along rows"
    assert origin("entropy", 2, predict=PredictConfig(overlap=0.25)) == f"{alone}, overlap 0.25"
    second, first = (read_manifest(services.registry.path(task.name, version)).sha256 for version in (2, 1))
    assert origin("ensemble", 2).endswith(f", beside {second}")
    assert origin("ensemble", 3).endswith(f", beside {second}, beside {first}")
    (services.registry.path(task.name, 2) / MANIFEST).write_text("{")
    assert origin("ensemble", 2).endswith(f" seed 0, beside {first}")  # as the ensemble is loaded without it


def test_damaged_weights_of_an_earlier_champion_leave_the_ensemble_to_an_older_one(
    services: Services, add_model: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    name = services.task().name
    for label in (0, 1, 2):
        add_model(label=label)
    for weights in services.registry.path(name, 2).glob("weights-*.pt"):
        weights.write_bytes(weights.read_bytes()[:-1])
    kind = replace(services.settings.uncertainty, kind="ensemble", samples=2, map="bald")
    sampled = replace(services, settings=replace(services.settings, uncertainty=kind))
    predictor, version = ChampionCache(sampled).predictor(name)
    assert version == 3
    information = predictor.predict(VOLUME).information
    assert information is not None
    assert float(information.mean()) == pytest.approx(np.log(2), abs=2e-3)  # versions 3 and 1 contradict each other
    assert "is not compared with" in caplog.text


def test_settings_that_a_task_cannot_fulfil_are_refused_at_start(services: Services) -> None:
    kind = replace(services.settings.uncertainty, kind="tta")
    with pytest.raises(InvalidSettings, match=services.task().name):
        open_services(replace(services.settings, uncertainty=kind))
