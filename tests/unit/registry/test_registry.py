import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from lib.core.errors import Conflict, InvalidInput, NotFound, RegistryUnavailable, WeightsUnavailable
from lib.registry.config import RegistryConfig
from lib.registry.folders import publish
from lib.registry.registry import Registry


def test_empty_places_are_filled_from_the_state_folder_and_own_ones_stay() -> None:
    assert RegistryConfig(uri="", models="").located(Path("/srv/var")) == RegistryConfig(
        uri="sqlite:////srv/var/mlflow.db", models="/srv/var/models"
    )
    own = RegistryConfig(uri="postgresql://host/db", models="/big/models")
    assert own.located(Path("/srv/var")) == own


def test_a_registry_without_its_places_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs a uri and a folder"):
        Registry(RegistryConfig(uri="", models=""))


def test_a_task_that_was_never_trained_has_no_champion_and_no_versions(registry: Registry, task: str) -> None:
    assert registry.champion(task) is None
    assert registry.list(task) == ()


def test_a_registered_version_keeps_files_metrics_tags_and_key(registry: Registry, task: str, weights: Path) -> None:
    metrics = {"mean_dice": 0.875, "dice/left kidney": 0.9}
    assert registry.register(task, weights, metrics, {"reason": "first"}, key="job-7") == 1
    shutil.rmtree(weights)
    version = registry.get(task, 1)
    assert dict(version.metrics) == metrics
    assert dict(version.tags) == {"reason": "first"}
    assert version.key == "job-7"
    assert not version.is_champion
    assert version.folder == registry.path(task, 1)
    assert (version.folder / "model.pt").read_bytes() == b"weights"
    assert (version.folder / "deep" / "manifest.json").read_text() == "{}"
    assert abs(version.created_at.timestamp() - time.time()) < 60


def test_a_note_stands_with_its_version_and_none_takes_a_name_of_the_registry(
    registry: Registry, task: str, weights: Path
) -> None:
    version = registry.register(task, weights, {"mean_dice": 0.5}, {"job": "1"})
    registry.note(task, version, "gate", "first")
    registry.note(task, version, "gate", "x" * 20_000)
    assert dict(registry.get(task, version).tags) == {"job": "1", "gate": "x" * 20_000}
    with pytest.raises(InvalidInput, match="must not be called folder, metrics, key, got 'metrics'"):
        registry.note(task, version, "metrics", "{}")
    assert registry.get(task, version).metrics == {"mean_dice": 0.5}


def test_registering_the_same_key_again_returns_the_version_that_exists(
    registry: Registry, task: str, weights: Path
) -> None:
    assert registry.register(task, weights, {}, key="job-1") == 1
    assert registry.register(task, weights, {}, key="job-1") == 1
    assert registry.register(task, weights, {}, key="job-2") == 2
    assert [version.version for version in registry.list(task)] == [2, 1]
    found = registry.find(task, "job-2")
    assert found is not None
    assert found.version == 2
    assert registry.find(task, "job-3") is None


def test_nothing_is_registered_from_a_folder_without_files(registry: Registry, task: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(InvalidInput, match="weights and manifest"):
            registry.register(task, folder, {})
    assert registry.list(task) == ()


def test_promote_switches_the_champion_and_names_the_one_before(registry: Registry, task: str, weights: Path) -> None:
    for _ in range(2):
        registry.register(task, weights, {})
    assert registry.promote(task, 1) is None
    assert registry.promote(task, 2) == 1
    champion = registry.champion(task)
    assert champion is not None
    assert champion.version == 2
    assert champion.is_champion
    assert [version.is_champion for version in registry.list(task)] == [True, False]


def back(registry: Registry, task: str) -> int:
    """Go back by one champion; the version that serves then."""
    target = registry.previous(task)
    assert target is not None
    return registry.rollback(task, target).version


def test_rollback_goes_back_through_the_champions_one_by_one(registry: Registry, task: str, weights: Path) -> None:
    for _ in range(4):
        registry.register(task, weights, {})
    for version in (1, 3, 3, 4):
        registry.promote(task, version)
    assert back(registry, task) == 3
    assert back(registry, task) == 1
    assert registry.previous(task) is None
    with pytest.raises(Conflict, match=r"version 4 of task .* must be one that served before, got \[\]"):
        registry.rollback(task, 4)
    champion = registry.champion(task)
    assert champion is not None
    assert champion.version == 1


def test_who_rolls_back_to_the_same_version_twice_goes_back_once(registry: Registry, task: str, weights: Path) -> None:
    for version in (1, 2, 3):
        registry.register(task, weights, {})
        registry.promote(task, version)
    assert [registry.rollback(task, 2).version for _ in range(2)] == [2, 2]
    assert registry.served(task) == (1, 2)


def test_a_rollback_to_the_version_that_serves_again_forgets_nobody(
    registry: Registry, task: str, weights: Path
) -> None:
    for _ in range(2):
        registry.register(task, weights, {})
    for version in (1, 2, 1):
        registry.promote(task, version)
    assert registry.rollback(task, 1).version == 1
    assert registry.served(task) == (2, 1)


@pytest.mark.parametrize("call", ["_remember", "set_registered_model_alias"])
def test_an_interrupted_rollback_leaves_what_it_leaves_behind_out_of_the_way_back(
    registry: Registry, task: str, weights: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for version in (1, 2, 3):
        registry.register(task, weights, {})
        registry.promote(task, version)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry if call == "_remember" else registry._client, call, die)
        with pytest.raises(KeyboardInterrupt):
            registry.rollback(task, 1)
    assert registry.served(task)[-1] == 3  # the alias comes last
    assert registry.rollback(task, 1).version == 1
    assert registry.served(task) == (1,)
    assert registry.previous(task) is None


def test_a_promotion_after_a_rollback_names_who_served_before_once(
    registry: Registry, task: str, weights: Path
) -> None:
    for version in (1, 2, 3):
        registry.register(task, weights, {})
        registry.promote(task, version)
    registry.rollback(task, 1)
    assert registry.served(task) == (1,)
    assert registry.promote(task, 3) == 1
    assert registry.served(task) == (1, 3)


def test_one_process_at_a_time_decides_what_serves_and_a_stuck_one_is_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.registry.registry.SWITCH_WAIT_S", 0.2)
    with registry.switching(), pytest.raises(RegistryUnavailable, match=r"free within 0.2 s.*stopped or stuck"):
        registry.switching().__enter__()
    with registry.switching():
        pass


def test_what_serves_is_switched_while_another_version_is_being_copied(
    registry: Registry, located: RegistryConfig, task: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        registry.register(task, weights, {})
    copying, go_on, made = threading.Event(), threading.Event(), []

    def slow(source: Path, target: Path) -> None:
        copying.set()
        assert go_on.wait(60)
        publish(source, target)

    monkeypatch.setattr("lib.registry.registry.publish", slow)
    register = threading.Thread(target=lambda: made.append(registry.register(task, weights, {}, key="slow")))
    register.start()
    assert copying.wait(60)
    decided = threading.Thread(
        target=lambda: [registry.promote(task, n) for n in (1, 2)] + [registry.rollback(task, 1)]
    )
    decided.start()
    decided.join(30)
    was_copying = not made and register.is_alive()
    go_on.set()
    register.join(60)
    assert was_copying
    assert not decided.is_alive()
    assert registry.served(task) == (1,)
    assert made == [3]
    assert registry.register(task, weights, {}, key="slow") == 3


def test_rollback_passes_over_a_former_champion_without_weights(registry: Registry, task: str, weights: Path) -> None:
    for version in (1, 2, 3):
        registry.register(task, weights, {})
        registry.promote(task, version)
    shutil.rmtree(registry.path(task, 2))
    assert back(registry, task) == 1


def test_an_interrupted_promotion_leaves_no_trace_in_the_way_back(
    registry: Registry, task: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        registry.register(task, weights, {})
    registry.promote(task, 1)
    registry.promote(task, 2)
    remember = registry._remember

    def remember_and_die(*arguments: object) -> None:
        remember(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "_remember", remember_and_die)
    with pytest.raises(KeyboardInterrupt):
        registry.promote(task, 3)
    monkeypatch.undo()
    champion = registry.champion(task)
    assert champion is not None
    assert champion.version == 2
    assert back(registry, task) == 1


def test_a_version_that_does_not_exist_is_not_promoted(registry: Registry, task: str, weights: Path) -> None:
    registry.register(task, weights, {})
    with pytest.raises(NotFound):
        registry.promote(task, 7)
    with pytest.raises(NotFound):
        registry.promote("no_such_task", 1)
    assert registry.champion(task) is None


def test_a_version_without_its_folder_is_never_listed(registry: Registry, task: str, weights: Path) -> None:
    for _ in range(2):
        registry.register(task, weights, {})
    registry.promote(task, 2)
    shutil.rmtree(registry.path(task, 2))
    assert [version.version for version in registry.list(task)] == [1]
    with pytest.raises(NotFound, match="lost its weights"):
        registry.champion(task)


def test_a_fresh_process_knows_weights_that_are_away_from_a_task_without_any(
    registry: Registry, located: RegistryConfig, task: str, weights: Path
) -> None:
    Registry(located).require_weights(task)  # nothing was ever trained: nothing can be away
    registry.register(task, weights, {})
    folder = registry.path(task, 1).parent
    Registry(located).require_weights(task)
    shutil.rmtree(folder)
    with pytest.raises(WeightsUnavailable, match=f"{folder} must hold the weights of task {task}'s versions"):
        Registry(located).require_weights(task)
    folder.mkdir()
    Registry(located).require_weights(task)


def test_many_versions_are_all_listed_beyond_one_page(registry: Registry, task: str, weights: Path) -> None:
    rows = [registry.register(task, weights, {}) for _ in range(12)]
    assert rows == list(range(1, 13))
    assert [version.version for version in registry.list(task)] == rows[::-1]


def test_the_champion_is_read_in_milliseconds(registry: Registry, task: str, weights: Path) -> None:
    registry.promote(task, registry.register(task, weights, {}))
    before = time.perf_counter()
    for _ in range(20):
        registry.champion(task)
    assert (time.perf_counter() - before) / 20 < 0.1


def test_a_file_that_is_no_database_is_reported_with_its_address(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db"):
        Registry(RegistryConfig(uri="", models="").located(tmp_path)).open()


def test_building_a_registry_imports_nothing_heavy(tmp_path: Path) -> None:
    source = f"""
        import sys
        from pathlib import Path
        from lib.registry.config import RegistryConfig
        from lib.registry.registry import Registry
        Registry(RegistryConfig("", "").located(Path({str(tmp_path)!r})))
        assert not {{"mlflow", "sqlalchemy", "torch", "numpy"}} & set(sys.modules)
    """
    assert run(source) == (0, "")


def start(source: str) -> "subprocess.Popen[str]":
    """A fresh process that runs the source."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(source: str) -> tuple[int, str]:
    """Status and error output of a fresh process that runs the source."""
    with start(source) as process:
        _, error = process.communicate(timeout=120)
    return process.returncode, error


@pytest.mark.slow
def test_processes_that_register_at_once_get_versions_of_their_own(
    located: RegistryConfig, registry: Registry, task: str, weights: Path
) -> None:
    source = f"""
        import os, socket
        from pathlib import Path
        from lib.registry.config import RegistryConfig
        from lib.registry.registry import Registry
        socket.socket.connect = lambda *arguments: os._exit(9)  # telemetry would connect
        registry = Registry(RegistryConfig({located.uri!r}, {located.models!r}))
        for _ in range(4):
            registry.promote({task!r}, registry.register({task!r}, Path({str(weights)!r}), {{"pid": os.getpid()}}))
    """
    seen = set()
    with start(source) as first, start(source) as second:
        while first.poll() is None or second.poll() is None:
            champion = registry.champion(task)
            if champion is not None:
                seen.add(champion.version)
                assert (champion.folder / "model.pt").read_bytes() == b"weights"
            time.sleep(0.02)
        assert (first.returncode, second.returncode) == (0, 0), first.communicate()[1] + second.communicate()[1]
    versions = registry.list(task)
    assert [version.version for version in versions] == list(range(8, 0, -1))
    assert len({version.folder for version in versions}) == 8
    assert len({version.metrics["pid"] for version in versions}) == 2
    assert len(seen) > 1


KILLED_AT = {
    "before the folder is published": "os.replace",
    "between folder and row": "lib.registry.registry.Registry._add_row",
    "between the memory of former champions and the alias": "mlflow.tracking.MlflowClient.set_registered_model_alias",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_kill_leaves_no_half_registered_version(
    registry: Registry, located: RegistryConfig, weights: Path, moment: str
) -> None:
    task = f"killed_{list(KILLED_AT).index(moment)}"
    registry.promote(task, registry.register(task, weights, {}))
    status, error = run(f"""
        import importlib, os, signal
        from pathlib import Path
        from lib.registry.config import RegistryConfig
        from lib.registry.registry import Registry
        registry = Registry(RegistryConfig({located.uri!r}, {located.models!r}))
        registry.open()
        module, name = {KILLED_AT[moment].rpartition(".")[::2]!r}
        try:
            owner = importlib.import_module(module)
        except ImportError:
            owner = getattr(importlib.import_module(module.rpartition(".")[0]), module.rpartition(".")[2])
        setattr(owner, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
        registry.promote({task!r}, registry.register({task!r}, Path({str(weights)!r}), {{}}))
    """)
    assert status == -signal.SIGKILL, error
    champion = registry.champion(task)
    assert champion is not None
    assert champion.version == 1
    for version in registry.list(task):
        assert (version.folder / "model.pt").read_bytes() == b"weights"
    newest = registry.list(task)[0].version
    assert registry.register(task, weights, {}) == newest + 1
    folders = {path.name for path in (Path(located.models) / task).iterdir()}
    assert folders == {version.folder.name for version in registry.list(task)}
    registry.promote(task, newest + 1)
    assert back(registry, task) == 1


def test_a_copy_that_was_cut_off_is_swept_by_the_next_registration(
    registry: Registry, located: RegistryConfig, task: str, weights: Path
) -> None:
    left = Path(located.models) / task / ".incoming-dead"
    left.mkdir(parents=True)
    (left / "model.pt").write_bytes(b"half")
    registry.register(task, weights, {})
    assert not left.exists()
    assert json.loads((registry.path(task, 1) / "deep" / "manifest.json").read_text()) == {}
