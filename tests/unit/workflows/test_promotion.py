import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lib.core.errors import Conflict, ManifestMismatch, NotFound
from lib.inference.model import Manifest, build_network, save_model
from lib.workflows import promotion
from lib.workflows.promotion import keep, promote, reconcile_promotions, rollback
from lib.workflows.services import Services


@pytest.fixture
def add_model(services: Services, tmp_path: Path) -> Callable[..., int]:
    def add(**changes: object) -> int:
        task = replace(services.task(), **changes)
        folder = tmp_path / "model"
        save_model(folder, Manifest.describe(task, 0), build_network(task.network, task.schema).state_dict())
        return services.registry.register(task.name, folder, {})

    return add


def champion(services: Services) -> int | None:
    model = services.registry.champion(services.task().name)
    return None if model is None else model.version


def verdicts(services: Services) -> list[tuple[int, str, str]]:
    """(version, verdict, state), the oldest first."""
    rows = services.ledger.models.list(services.task().name)
    return [(row.version, row.verdict, row.state) for row in reversed(rows)]


def test_promotion_and_rollback_move_the_alias_and_leave_closed_rows(
    services: Services, add_model: Callable[..., int]
) -> None:
    task = services.task()
    for _ in range(2):
        promote(services, task, add_model(), "better")
    keep(services, task, add_model(), "worse", {"mean_dice": 0.1})
    assert champion(services) == 2
    assert rollback(services, task, "by hand").version == 1
    assert champion(services) == 1
    assert verdicts(services) == [
        (1, "promoted", "done"),
        (2, "promoted", "done"),
        (3, "kept", "done"),
        (1, "rollback", "done"),
    ]
    with pytest.raises(Conflict, match="no earlier champion"):
        rollback(services, task, "again")


def test_a_version_that_does_not_fit_the_task_is_refused_and_the_champion_stays(
    services: Services, add_model: Callable[..., int]
) -> None:
    task = services.task()
    promote(services, task, add_model(), "first")
    other = add_model(labels=task.labels[:1], rare=())
    with pytest.raises(ManifestMismatch, match="labels"):
        promote(services, task, other, "by hand")
    with pytest.raises(NotFound):
        promote(services, task, 9, "by hand")
    assert champion(services) == 1
    assert verdicts(services) == [(1, "promoted", "done")]


@pytest.mark.parametrize("verdict", ["promoted", "kept"])
def test_a_verdict_that_was_left_open_before_the_alias_moved_is_carried_out(
    services: Services, add_model: Callable[..., int], verdict: str
) -> None:
    task = services.task()
    promote(services, task, add_model(), "first")
    services.ledger.models.begin(task.name, add_model(), verdict, "decided")
    assert reconcile_promotions(services) == 1
    assert champion(services) == (2 if verdict == "promoted" else 1)
    assert verdicts(services)[-1] == (2, verdict, "done")
    assert reconcile_promotions(services) == 0


def test_a_verdict_that_was_left_open_after_the_alias_moved_is_closed(
    services: Services, add_model: Callable[..., int]
) -> None:
    task = services.task()
    for version in (1, 2):
        add_model()
        services.ledger.models.begin(task.name, version, "promoted", "decided")
        services.registry.promote(task.name, version)
    services.ledger.models.begin(task.name, 1, "rollback", "decided")  # the same open row comes back
    assert reconcile_promotions(services) == 2
    assert {state for _, _, state in verdicts(services)} == {"done"}


@pytest.mark.parametrize("moved", [False, True])
def test_a_rollback_that_was_left_open_goes_back_one_step_and_not_two(
    services: Services, add_model: Callable[..., int], moved: bool
) -> None:
    task = services.task()
    for _ in range(3):
        promote(services, task, add_model(), "better")
    services.ledger.models.begin(task.name, 2, "rollback", "decided")
    if moved:
        services.registry.rollback(task.name, 2)
    assert reconcile_promotions(services) == 1
    assert champion(services) == 2


class Killed(BaseException):
    """Stands for the end of the process."""


def die_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, done: bool) -> None:
    """Let the process end in a call, before or after it has done what it does."""
    act = getattr(owner, name)

    def last(*arguments: object, **named: object) -> None:
        if done:
            act(*arguments, **named)
        raise Killed

    monkeypatch.setattr(owner, name, last)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", ["memory", "alias"])
def test_after_a_kill_at_any_step_of_a_rollback_the_next_one_does_not_go_to_what_was_left(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch, step: str, done: bool
) -> None:
    task, registry = services.task(), services.registry
    for _ in range(3):
        promote(services, task, add_model(), "better")
    steps = {"memory": (registry, "_remember"), "alias": (registry._client, "set_registered_model_alias")}
    with monkeypatch.context() as patch:
        die_at(patch, *steps[step], done)
        with pytest.raises(Killed):
            rollback(services, task, "by hand", 1)
    assert reconcile_promotions(services) == 1
    assert registry.served(task.name) == (1,)
    with pytest.raises(Conflict, match="no earlier champion"):
        rollback(services, task, "again")
    promote(services, task, add_model(), "better")
    assert registry.served(task.name) == (1, 4)


@pytest.mark.parametrize("done", [False, True])
def test_a_rollback_that_was_killed_at_its_end_is_not_done_twice(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    task, registry = services.task(), services.registry
    for version in (1, 2, 1, 3):
        promote(services, task, version if version <= len(registry.list(task.name)) else add_model(), "better")
    with monkeypatch.context() as patch:
        die_at(patch, registry, "rollback", done)
        with pytest.raises(Killed):
            rollback(services, task, "by hand", 1)
    assert reconcile_promotions(services) == 1
    assert champion(services) == 1
    assert rollback(services, task, "further back").version == 2


FIGURES = {"promote": True, "labels": [{"name": "ball", "lower": 0.01}]}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", ["begin", "note", "add", "promote", "finish"])
@pytest.mark.parametrize("decide", [promote, keep])
def test_a_kill_at_any_step_of_a_decision_leaves_it_once_in_the_audit_trail_or_not_at_all(
    services: Services,
    add_model: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    decide: Callable[..., None],
    step: str,
    done: bool,
) -> None:
    task, ledger = services.task(), services.ledger
    version = add_model()
    owners = {"note": services.registry, "promote": services.registry, "add": type(ledger.audit)}
    with monkeypatch.context() as patch:
        die_at(patch, owners.get(step, type(ledger.models)), step, done)
        with suppress(Killed):
            decide(services, task, version, "decided", {"gate": FIGURES})
    is_decided = (step, done) != ("begin", False)
    reconcile_promotions(services)
    reconcile_promotions(services)
    assert len(verdicts(services)) == is_decided
    assert services.registry.get(task.name, version).is_champion == (is_decided and decide is promote)
    trail = [row for row in ledger.audit.list(subject=f"{task.name} {version}") if row.action == "model.gate"]
    assert [(row.actor, row.details) for row in trail] == [("gate", FIGURES)] * is_decided
    assert ("gate" in services.registry.get(task.name, version).tags) == is_decided


def test_a_decision_by_hand_has_no_figures_of_the_gate(services: Services, add_model: Callable[..., int]) -> None:
    promote(services, services.task(), add_model(), "by hand")
    assert "gate" not in services.registry.get(services.task().name, 1).tags
    assert [row for row in services.ledger.audit.list() if row.action == "model.gate"] == []


def test_an_open_verdict_is_carried_out_before_a_newer_one(services: Services, add_model: Callable[..., int]) -> None:
    task = services.task()
    for _ in range(3):
        add_model()
    services.ledger.models.begin(task.name, 1, "promoted", "an old decision")
    promote(services, task, 3, "a newer one")
    assert champion(services) == 3
    assert services.registry.previous(task.name) == 1
    reconcile_promotions(services)
    assert champion(services) == 3


def test_a_start_of_another_process_in_the_middle_of_a_rollback_does_not_go_back_twice(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    for _ in range(3):
        promote(services, task, add_model(), "better")
    other = threading.Thread(target=reconcile_promotions, args=(services,))
    begin = type(services.ledger.models).begin

    def begin_while_another_starts(*given: object) -> int:
        row_id = begin(*given)  # type: ignore[arg-type]
        other.start()
        other.join(0.5)
        return row_id

    monkeypatch.setattr(type(services.ledger.models), "begin", begin_while_another_starts)
    assert rollback(services, task, "by hand").version == 2
    other.join()
    assert champion(services) == 2
    assert verdicts(services)[-1] == (2, "rollback", "done")


def test_a_promotion_that_stalls_before_the_switch_does_not_come_after_a_later_decision(
    services: Services, add_model: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    promote(services, task, add_model(), "first")
    add_model()
    reached, go_on = threading.Event(), threading.Event()
    switch = type(services.registry).promote

    def stall(registry: object, name: str, version: int) -> int | None:
        if version == 2:
            reached.set()
            assert go_on.wait(20)
        return switch(registry, name, version)  # type: ignore[arg-type]

    monkeypatch.setattr(type(services.registry), "promote", stall)
    stalled = threading.Thread(target=promote, args=(services, task, 2, "the gate"))
    by_hand = threading.Thread(target=promote, args=(services, task, 1, "by hand"))
    stalled.start()
    assert reached.wait(20)
    by_hand.start()
    by_hand.join(0.5)
    go_on.set()
    stalled.join()
    by_hand.join()
    assert champion(services) == 1
    assert verdicts(services)[1:] == [(2, "promoted", "done"), (1, "promoted", "done")]


@pytest.mark.parametrize("decide", [promote, keep])
def test_a_decision_that_does_not_hold_any_more_leaves_no_trace(
    services: Services, add_model: Callable[..., int], decide: Callable[..., None]
) -> None:
    def refuse() -> None:
        raise Conflict("the job is somebody else's by now")

    with pytest.raises(Conflict, match="somebody else's"):
        decide(services, services.task(), add_model(), "better", {}, refuse)
    assert (champion(services), verdicts(services)) == (None, [])


def test_an_open_verdict_on_a_version_without_weights_is_closed_and_logged(
    services: Services, add_model: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    task = services.task()
    services.ledger.models.begin(task.name, add_model(), "promoted", "decided")
    shutil.rmtree(services.registry.path(task.name, 1))
    assert reconcile_promotions(services) == 1
    assert champion(services) is None
    assert "cannot be completed" in caplog.text


MOMENTS = {
    "before the alias": "registry.promote",
    "after the alias": "ledger.models.finish",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_in_a_promotion_ledger_and_registry_agree(
    services: Services, add_model: Callable[..., int], moment: str
) -> None:
    task = services.task()
    promote(services, task, add_model(), "first")
    add_model()
    source = f"""
        import os, signal
        from lib.ledger.ledger import Ledger
        from lib.registry.config import RegistryConfig
        from lib.registry.registry import Registry
        from lib.settings import load_settings
        from lib.taskfile import load_task
        from lib.workflows import promotion
        from lib.workflows.services import Services

        settings = load_settings([("var", {str(services.settings.var)!r}), ("tasks", {services.settings.tasks[0]!r})])
        task = load_task(settings.tasks[0])
        registry = Registry(RegistryConfig({services.registry._uri!r}, {str(services.registry._models)!r}))
        ledger = Ledger("sqlite:///" + str(settings.var / "ledger.db"))
        services = Services(settings, {{task.name: task}}, None, ledger, registry, b"k" * 32)
        promotion.reconcile_promotions(services)
        *path, last = {MOMENTS[moment]!r}.split(".")
        owner = services
        for part in path:
            owner = getattr(owner, part)
        setattr(type(owner), last, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        promotion.promote(services, task, 2, "better")
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], env=environ, capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert verdicts(services)[-1] == (2, "promoted", "open")
    assert champion(services) == (2 if moment == "after the alias" else 1)
    assert reconcile_promotions(services) == 1
    assert verdicts(services)[-1] == (2, "promoted", "done")
    assert champion(services) == 2
    assert promotion.rollback(services, task, "by hand").version == 1
