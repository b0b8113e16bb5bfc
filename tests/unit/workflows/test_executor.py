"""What each process of a training does first, and how a cluster's checkpoints are kept here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.training.distributed import Group
from lib.workflows.executor import cluster
from lib.workflows.executor.cluster import share_of_process
from together import fit_job


class OnCard(Group):
    """One of two processes, whose device is a card that is not there."""

    def device(self, name: str) -> torch.device:
        assert name == "auto"
        return torch.device("cuda", self.local_rank)


def test_each_process_is_held_to_its_share_of_its_own_card_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    monkeypatch.setattr("lib.inference.devices.limit_memory", lambda *what: events.append(what))
    monkeypatch.setattr("lib.training.fit.fit", lambda *_, group, **__: events.append(("fit", group.rank)))
    job = replace(fit_job(tmp_path), device="auto", gpu_share=0.6)
    for rank in (0, 1):
        job.packed(lambda cases: cases).run(lambda _: None, OnCard(rank, 2, rank))  # type: ignore[arg-type,return-value]
    assert events == [
        (torch.device("cuda", 0), 0.6),
        ("fit", 0),
        (torch.device("cuda", 1), 0.6),
        ("fit", 1),
    ]


@pytest.mark.parametrize(("gpus", "expected"), [(0.5, 0.3), (0.25, 0.15), (1, 0.6), (2, 0.6), (0, 0.6)])
def test_processes_that_share_a_card_share_what_a_training_may_take_of_it(gpus: float, expected: float) -> None:
    assert share_of_process(0.6, gpus) == pytest.approx(expected)


def test_a_checkpoint_that_comes_from_a_cluster_leaves_the_one_before_in_place(tmp_path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        cluster._keep(content, tmp_path / "job" / "checkpoint.pt")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "job").iterdir()}
    assert kept == {"checkpoint.pt": b"third", "checkpoint-before.pt": b"second"}
