"""A training with a helper process on this machine."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from lib.core.errors import ProcessLost, TrainingFailed
from lib.training.fit import FitProgress
from lib.training.run import Run
from lib.workflows.executor import local
from lib.workflows.executor.local import LocalExecutor
from together import (
    crowd,
    fit_job,
    help_in_a_crowd,
    help_until_the_next_meeting,
    help_without_memory,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def test_a_training_with_a_helper_ends_like_one_without(tmp_path: Path) -> None:
    seen: list[FitProgress] = []
    alone = LocalExecutor(1).fit(fit_job(tmp_path / "alone"), lambda _: None)
    together = LocalExecutor(2, threads=2).fit(fit_job(tmp_path / "together"), seen.append)
    assert together.losses == pytest.approx(alone.losses, abs=1e-4)
    assert together.curve == tuple((step, pytest.approx(dice, abs=1e-3)) for step, dice in alone.curve)
    for name, value in alone.state_dict.items():
        torch.testing.assert_close(together.state_dict[name], value, atol=1e-4, rtol=0)
    assert [progress.stage for progress in seen][-1] == "validate"


def test_a_helper_that_is_killed_ends_the_training_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    helpers: list[int] = []
    honest = local._await
    monkeypatch.setattr(
        local, "_await", lambda started, place: (helpers.extend(h.pid for h in started), honest(started, place))
    )

    def kill(progress: FitProgress) -> None:
        if progress.step == 4:
            os.kill(helpers[0], signal.SIGKILL)

    work = fit_job(tmp_path, steps=8)
    with pytest.raises(ProcessLost, match="another process of the training has ended"):
        LocalExecutor(2, threads=2).fit(work, kill)
    path = work.folder / "checkpoint.pt"
    left = torch.load(path, weights_only=True)
    assert left["step"] in (2, 4, 6)  # as far as it was when the others noticed
    torch.save({**left, "losses": [99.0, *left["losses"][1:]]}, path)  # a mark, to be seen in what goes on from here
    assert LocalExecutor(1).fit(work, lambda _: None).losses[0] == 99.0


def test_a_helper_without_memory_halves_the_pictures_of_all_from_the_last_checkpoint_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = LocalExecutor(1).fit(fit_job(tmp_path / "alone"), lambda _: None)
    monkeypatch.setattr(local, "help_fit", help_in_a_crowd)
    together = LocalExecutor(2, threads=2).fit(fit_job(tmp_path / "together"), lambda _: None)
    assert together.notes == (
        "no memory for 2 pictures at a time in each of 2 processes (CUDA out of memory. Tried to allocate 20.00 GiB.): "
        "1 at a time from step 3 on, in steps as large as before",
    )
    assert together.losses == pytest.approx(alone.losses, abs=1e-4)
    for name, value in alone.state_dict.items():
        torch.testing.assert_close(together.state_dict[name], value, atol=1e-4, rtol=0)


def test_a_helper_without_any_memory_ends_the_training_with_its_reason_and_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "help_fit", help_without_memory)
    work = fit_job(tmp_path)
    with pytest.raises(
        TrainingFailed,
        match=r"no memory for .*, neither 2 at a time nor 1 in each of 2 processes, .*Tried to allocate 20.00 GiB\..*; "
        r"lower training.batch_size",
    ):
        LocalExecutor(2, threads=2).fit(work, lambda _: None)
    assert torch.load(work.folder / "checkpoint.pt", weights_only=True)["step"] == 2


def test_a_helper_that_is_killed_while_all_meet_again_for_want_of_memory_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_forward", Run._forward)  # to be put back
    crowd(0)
    monkeypatch.setattr(local, "help_fit", help_until_the_next_meeting)
    work = fit_job(tmp_path)
    started = time.monotonic()
    with pytest.raises(ProcessLost, match=r"has ended with status -9 .*goes on from its last checkpoint"):
        LocalExecutor(2, threads=2).fit(work, lambda _: None)
    assert time.monotonic() - started < 90  # of which all but a second is the start of two processes
    assert torch.load(work.folder / "checkpoint.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize(("status", "given_up"), [(3, [True]), (0, [])])
def test_a_wait_is_given_up_once_a_helper_has_failed_and_nothing_else_ends_it(
    status: int, given_up: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "END_S", 0.1)
    monkeypatch.setattr(local, "LOOK_S", 0.05)
    helper = multiprocessing.get_context("spawn").Process(target=os._exit, args=(status,))
    helper.start()
    ended = threading.Event()
    calls: list[bool] = []
    with local._watched([helper], lambda: (calls.append(True), ended.set())):
        helper.join()
        ended.wait(30 if given_up else 1)
    assert calls == given_up
