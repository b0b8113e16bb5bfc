"""Trainings on a Ray cluster of two nodes, which the test starts on this machine."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.training.fit import FitProgress
from lib.workflows.config import ExecutorConfig
from lib.workflows.executor.cluster import RayExecutor
from lib.workflows.executor.local import LocalExecutor
from together import fit_job

pytest.importorskip("ray", reason="ray is not installed: uv pip install -e '.[ray]'")
HOST = "127.0.0.1"
TESTS = Path(__file__).resolve().parents[1]
PATHS = os.pathsep.join(map(str, (TESTS, TESTS.parent / "apps" / "radiology_transunet")))
PATIENT = {"RAY_raylet_start_wait_time_s": "240", "RAY_agent_register_timeout_ms": "240000"}
"""A busy machine starts a node slowly."""
AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]  # warnings of Ray's own


class Stopped(Exception):
    """Stands for whoever ends a training."""


def node() -> dict[str, object]:
    """A node with one core; its ports are named, or it would wait for those of its agents and give up when busy."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in AGENTS]
        for one in sockets:
            one.bind((HOST, 0))
        ports = {name: one.getsockname()[1] for name, one in zip(AGENTS, sockets, strict=True)}
    return {"num_cpus": 1, "node_ip_address": HOST, "object_store_memory": 10**8, **ports}


class Cluster:
    """Two nodes with one core each, on the loopback address, without dashboard and statistics of use."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.cluster = RayCluster(initialize_head=True, head_node_args={**node(), "include_dashboard": False})
        self.add()

    def add(self) -> Any:
        """One more node."""
        return self.cluster.add_node(**node())

    def executor(self, processes: int) -> RayExecutor:
        """An executor on this cluster."""
        return RayExecutor(ExecutorConfig("ray", processes, self.cluster.address, 0, 1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    patch = pytest.MonkeyPatch()
    for name, value in {**PATIENT, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}.items():
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
