"""Trainings and measurements on a Ray cluster of two nodes, which the test starts on this machine."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from killed_retrain import services_of
from labelled import TASK, label_patients, register_champion
from lib.core.errors import InvalidMask, ProcessLost
from lib.inference.config import ONE_ANSWER
from lib.inference.model import Manifest, build_network, save_model
from lib.inference.sampled import load_sampled
from lib.taskfile import Task
from lib.training.fit import FitProgress
from lib.workflows.config import ExecutorConfig
from lib.workflows.executor.cluster import RayExecutor
from lib.workflows.executor.local import LocalExecutor
from lib.workflows.looking import Picture, SentLook, looked
from lib.workflows.plan import job_folder
from lib.workflows.reportfiles import reports
from lib.workflows.retrain import request_retrain, run_retrain
from together import SCHEMA, SLICES, fit_job, length, make_case

pytest.importorskip("ray", reason="ray is not installed: uv pip install -e '.[ray]'")
HOST = "127.0.0.1"
TESTS = Path(__file__).resolve().parents[1]
PATHS = os.pathsep.join(map(str, (TESTS, TESTS.parent / "apps" / "radiology_transunet")))
ATTEMPTS = 4
"""Ray gives a node 15 s to start what belongs to it, which a busy machine may need longer for."""
AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]  # warnings of Ray's own


class Stopped(Exception):
    """Stands for whoever ends a training."""


def node() -> dict[str, object]:
    """A node with one core; its ports are named, or it would wait for most of them too."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in AGENTS]
        for one in sockets:
            one.bind((HOST, 0))
        ports = {name: one.getsockname()[1] for name, one in zip(AGENTS, sockets, strict=True)}
    return {"num_cpus": 1, "node_ip_address": HOST, "object_store_memory": 10**8, **ports}


def patiently(start: Callable[[], Any]) -> Any:
    """What `start` starts, where need be after some attempts."""
    for _ in range(ATTEMPTS - 1):
        with suppress(Exception):  # Ray raises no class of its own here
            return start()
    return start()


class Cluster:
    """Two nodes with one core each, on the loopback address, without dashboard and statistics of use."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        head = {"initialize_head": True, "head_node_args": {**node(), "include_dashboard": False}}
        self.cluster = patiently(lambda: RayCluster(**head))
        self.second = self.add()

    def add(self) -> Any:
        """One more node."""
        return patiently(lambda: self.cluster.add_node(**node()))

    def lose(self) -> None:
        """Kill the second node, once."""
        if self.second is not None:
            self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def executor(self, processes: int) -> RayExecutor:
        """An executor on this cluster."""
        return RayExecutor(ExecutorConfig("ray", processes, self.cluster.address, 0, 1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    patch = pytest.MonkeyPatch()
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}.items():
        patch.setenv(name, value)
    import ray
    from ray._private import services

    # Ray would put the machine's other address in place of the loopback one, where this cluster does not listen.
    patch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
    started = Cluster()
    yield started
    ray.shutdown()
    started.cluster.shutdown()
    patch.undo()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def marked(folder: Path) -> int:
    """Mark the checkpoint, to be seen in what goes on from it; the step that it was written after."""
    left = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**left, "losses": [99.0, *left["losses"][1:]]}, folder / "checkpoint.pt")
    return int(left["step"])


def test_a_training_on_two_nodes_ends_like_one_here(cluster: Cluster, tmp_path: Path) -> None:
    here = LocalExecutor().fit(fit_job(tmp_path / "here"), lambda _: None)
    there = cluster.executor(2).fit(fit_job(tmp_path / "there"), lambda _: None)
    assert there.losses == pytest.approx(here.losses, abs=1e-4)
    assert list(there.curve) == [(step, pytest.approx(dice, abs=1e-3)) for step, dice in here.curve]
    for name, value in here.state_dict.items():
        torch.testing.assert_close(there.state_dict[name], value, atol=1e-4, rtol=0)


def test_a_training_that_is_stopped_leaves_its_checkpoint_here_and_goes_on_from_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    def stop(progress: FitProgress) -> None:
        if (tmp_path / "job" / "checkpoint.pt").exists():
            raise Stopped

    work = fit_job(tmp_path, steps=60, validate_every=60, checkpoint_every=1)
    with pytest.raises(Stopped):
        cluster.executor(1).fit(work, stop)
    assert marked(work.folder) >= 1
    assert cluster.executor(1).fit(work, lambda _: None).losses[0] == 99.0


def test_every_item_has_its_value_and_what_one_raises_is_raised_here(cluster: Cluster) -> None:
    assert dict(cluster.executor(1).each(length, ["a", "bcd", "ef", ""])) == {0: 1, 1: 3, 2: 2, 3: 0}
    with pytest.raises(InvalidMask, match="bad is refused"):
        list(cluster.executor(1).each(length, ["a", "bad"]))


def test_scores_from_the_cluster_are_those_from_here(cluster: Cluster, tmp_path: Path) -> None:
    task = Task("small", "Boxes", ("MR",), SCHEMA.labels, network=SLICES)
    torch.manual_seed(0)
    network = build_network(task.network, task.schema)
    save_model(tmp_path, Manifest.describe(task, 0, {}, ()), network.state_dict())
    files = [{path.name: path.read_bytes() for path in tmp_path.iterdir()}]
    look = SentLook(7, "one", task, files, "cpu", 4, ONE_ANSWER)
    pictures = [Picture(str(seed), make_case(seed).volume) for seed in range(3)] + [Picture("3", None, "no pixels")]
    executor = cluster.executor(1)
    there = dict(executor.each(look, pictures[:2]))
    sent = executor._put[1]
    there |= {number + 2: answer for number, answer in executor.each(look, pictures[2:])}
    assert executor._put[1] is sent  # the weights went there once
    predictor = load_sampled(tmp_path, [], task, "cpu", 4, ONE_ANSWER)
    here = {number: looked(predictor, 7, picture) for number, picture in enumerate(pictures)}
    assert sorted(there) == sorted(here)
    for number, answer in here.items():
        found = there[number]
        assert (found.series_uid, found.version, found.cause) == (answer.series_uid, 7, answer.cause)
        assert found.said.error == answer.said.error
        assert found.said.scores == pytest.approx(answer.said.scores, abs=1e-3)  # maps are float16
        assert found.said.values.keys() == answer.said.values.keys()
        for name, by_label in answer.said.values.items():
            assert found.said.values[name] == pytest.approx(by_label, abs=1e-3, nan_ok=True)
    assert all(there[number].said.scores.keys() == {"bright", "dark"} for number in range(3))
    for number in range(3):
        torch.testing.assert_close(
            torch.tensor(there[number].said.embedding), torch.tensor(here[number].said.embedding), atol=1e-4, rtol=1e-4
        )
    assert there[3].said.error == "no pixels"


def test_a_whole_retraining_learns_on_the_cluster_and_judges_here(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(*_: object, **__: object) -> None:
        raise AssertionError("the fit was to be on the cluster")

    (tmp_path / "task.yaml").write_text(TASK)
    rooms = services_of(tmp_path / "var", tmp_path / "task.yaml")
    there = replace(rooms.settings, executor=ExecutorConfig("ray", 2, cluster.cluster.address, 0, 1))
    services = replace(rooms, settings=there)
    services.ledger.upgrade()
    ids = label_patients(services)
    register_champion(services, tmp_path / "champion", tuple(ids[:2]))
    request_retrain(services, services.task(), {"steps": 4}, "test")
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    monkeypatch.setattr("lib.training.fit.fit", here)
    told: list[str] = []
    outcome = run_retrain(services, job, lambda share, message: told.append(message), Event())
    assert (outcome.version, outcome.training, outcome.calibration, outcome.start) == (2, 4, 2, 1)
    assert outcome.notes == ()
    assert any(message.startswith("training: step ") for message in told)
    (report,) = reports(services.settings.var)
    assert report["costs"]["device"] == "cpu, fp32"
    assert report["costs"]["peak memory"].endswith(" GiB in each of 2 processes")
    assert len(report["curves"]["loss"]) == 4
    folder = job_folder(services, job.id)
    assert {path.name for path in folder.glob("checkpoint*.pt")} >= {"checkpoint.pt"}


def test_a_lost_node_ends_the_training_which_goes_on_elsewhere_from_the_checkpoint(
    cluster: Cluster, tmp_path: Path
) -> None:
    def lose(progress: FitProgress) -> None:
        if (tmp_path / "job" / "checkpoint.pt").exists():
            cluster.lose()

    work = fit_job(tmp_path, steps=400, validate_every=400, checkpoint_every=1)
    with pytest.raises(ProcessLost):
        cluster.executor(2).fit(work, lose)
    left = marked(work.folder)
    assert left >= 1

    def stop(progress: FitProgress) -> None:
        if progress.step:
            raise Stopped

    with pytest.raises(Stopped):
        cluster.executor(1).fit(work, stop)  # on the node that is left
    last = torch.load(work.folder / "checkpoint.pt", weights_only=True)
    assert last["step"] > left
    assert last["losses"][0] == 99.0
