"""Checkpoints that are damaged, that have no room, and when one is written."""

import errno
import io
import logging
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from lib.core.errors import DiskFull
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.training import checkpoint as checkpoint_module
from lib.training.checkpoint import BEFORE, CHECKPOINT, Checkpoint
from lib.training.config import FitConfig
from lib.training.data import Batch, Case
from lib.training.fit import FitProgress, FitResult, fit
from lib.training.run import Run
from lib.workflows.executor.cluster import _keep

MakeCase = Callable[[int], Case]
CONFIG = FitConfig(steps=6, batch_size=2, checkpoint_every=2)
SLICES = NetworkConfig(context_slices=0, dropout=0.1)


class Killed(Exception):
    """Stands for the end of the process."""


def run(
    case: Case, folder: Path, config: FitConfig = CONFIG, report: Callable[[FitProgress], None] = lambda _: None
) -> FitResult:
    return fit([case], [case], SLICES, PreprocessConfig(), config, folder, "cpu", report)


def kill_at_the_end(progress: FitProgress) -> None:
    if progress.stage == "validate":
        raise Killed


@pytest.fixture
def killed_after(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Leaves the checkpoints of a run that was killed after so many steps."""

    def leave(folder: Path, steps: int) -> None:
        def kill(progress: FitProgress) -> None:
            if progress.step == steps:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
            with pytest.raises(Killed):
                run(make_case(1), folder, report=kill)

    return leave


def saved_steps(folder: Path) -> list[int]:
    """Of the last checkpoint and the one before."""
    return [torch.load(folder / name, weights_only=True)["step"] for name in (CHECKPOINT, BEFORE)]


def damage(path: Path, how: str) -> None:
    """Cut a file to half, flip a bit in the middle of its weights, empty it, or put something else in its place."""
    content = bytearray(path.read_bytes())
    flipped = content.copy()
    flipped[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": flipped, "empty": b"", "other": b"hello"}[how])


def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    learn, steps = Run.learn, []

    def watched(run: Run, batch: Batch, rate: float) -> float:
        steps.append(run.step)
        return learn(run, batch, rate)

    monkeypatch.setattr(Run, "learn", watched)
    return steps


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_is_on_record(
    how: str,
    make_case: MakeCase,
    tmp_path: Path,
    killed_after: Callable[[Path, int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed_after(tmp_path / "parts", 5)
    assert saved_steps(tmp_path / "parts") == [4, 2]
    damage(tmp_path / "parts" / CHECKPOINT, how)
    steps = steps_taken(monkeypatch)
    resumed = run(make_case(1), tmp_path / "parts")
    assert steps == [2, 3, 4, 5]
    assert "checkpoint.pt is damaged, the one before it is used: " in resumed.notes[0]
    assert resumed.notes[0] in caplog.messages
    whole = run(make_case(1), tmp_path / "whole")
    assert all(torch.equal(value, whole.state_dict[name]) for name, value in resumed.state_dict.items())
    assert (resumed.losses, resumed.dice) == (whole.losses, whole.dice)


@pytest.mark.parametrize(("fault", "left"), [("cut", [2]), ("missing", [2]), ("none", [4, 2]), ("both", [])])
def test_of_a_folder_that_is_sent_away_the_last_readable_checkpoint_is_the_last_one(
    fault: str, left: list[int], tmp_path: Path, killed_after: Callable[[Path, int], None]
) -> None:
    killed_after(tmp_path, 5)
    if fault == "missing":
        (tmp_path / CHECKPOINT).unlink()
    for name in {"cut": [CHECKPOINT], "both": [CHECKPOINT, BEFORE]}.get(fault, []):
        damage(tmp_path / name, "cut")
    told: list[str] = []
    Checkpoint.drop_damaged(tmp_path, told.append)
    there = [tmp_path / name for name in (CHECKPOINT, BEFORE) if (tmp_path / name).exists()]
    assert [torch.load(path, weights_only=True)["step"] for path in there] == left
    assert len(told) == {"cut": 1, "both": 2}.get(fault, 0)


def test_with_both_checkpoints_damaged_training_starts_over_and_says_so_of_each(
    make_case: MakeCase, tmp_path: Path, killed_after: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(tmp_path, 5)
    for name in (CHECKPOINT, BEFORE):
        damage(tmp_path / name, "flipped")
    steps = steps_taken(monkeypatch)
    notes = run(make_case(1), tmp_path).notes
    assert steps == [0, 1, 2, 3, 4, 5]
    assert [note.partition(": ")[0].rpartition(", ")[2] for note in notes] == [
        "the one before it is used",
        "training starts over",
    ]


class Faulty(io.BytesIO):
    """An open file whose disk fails at that call of `read`, the first one being 0."""

    def __init__(self, content: bytes, at: int, code: int) -> None:
        super().__init__(content)
        self.calls, self._at, self._code = 0, at, code

    def read(self, size: int | None = -1, /) -> bytes:
        self.calls += 1
        if self.calls > self._at:
            raise OSError(self._code, os.strerror(self._code))
        return super().read(size)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_a_disk_that_does_not_answer_ends_the_run_and_keeps_both_checkpoints(
    code: int, tmp_path: Path, make_case: MakeCase, killed_after: Callable[[Path, int], None]
) -> None:
    killed_after(tmp_path, 5)
    honest, told = Path.open, list[str]()
    whole = Faulty((tmp_path / CHECKPOINT).read_bytes(), 10**6, code)
    checkpoint_module._read(whole)
    for at in (-1, *range(0, whole.calls, max(1, whole.calls // 20)), whole.calls - 1):  # -1 = it does not open

        def faulty(path: Path, *mode: str, at: int = at) -> IO[Any]:
            if path.name != CHECKPOINT:
                return honest(path, *mode)
            if at < 0:
                raise OSError(code, os.strerror(code))
            with honest(path, *mode) as content:
                return Faulty(content.read(), at, code)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "open", faulty)
            with pytest.raises((OSError, zipfile.BadZipFile)):
                Checkpoint.load(tmp_path, "any", told.append)
            with pytest.raises((OSError, zipfile.BadZipFile)):
                Checkpoint.drop_damaged(tmp_path, told.append)
        assert saved_steps(tmp_path) == [4, 2]
    assert told == []
    assert run(make_case(1), tmp_path).steps == 6


def test_a_checkpoint_that_finds_no_memory_is_not_a_damaged_one(
    tmp_path: Path, killed_after: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(tmp_path, 5)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "load", full)
        with pytest.raises(RuntimeError, match="tried to allocate 99 bytes"):
            Checkpoint.load(tmp_path, "any")
    assert saved_steps(tmp_path) == [4, 2]


def test_an_archive_whose_directory_points_before_the_file_is_a_damaged_one(
    tmp_path: Path, killed_after: Callable[[Path, int], None]
) -> None:
    killed_after(tmp_path, 5)
    path, told = tmp_path / CHECKPOINT, list[str]()
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\6\6") + 43] ^= 0x80  # size of the directory: 2 GiB more
    path.write_bytes(content)
    Checkpoint.drop_damaged(tmp_path, told.append)
    assert torch.load(path, weights_only=True)["step"] == 2
    assert len(told) == 1


def test_a_disk_that_says_only_when_it_is_synced_that_it_is_full_costs_neither_checkpoint(
    tmp_path: Path, killed_after: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(tmp_path, 5)
    point = Checkpoint(**torch.load(tmp_path / CHECKPOINT, weights_only=True))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("lib.core.atomic.os.fsync", full)
        with pytest.raises(DiskFull, match=f"{CHECKPOINT} has no room"):
            point.save(tmp_path)
        with pytest.raises(DiskFull, match=f"{CHECKPOINT} has no room"):
            _keep(b"what came from a cluster", tmp_path / CHECKPOINT)
    assert saved_steps(tmp_path) == [4, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEFORE, CHECKPOINT]
    _keep((tmp_path / BEFORE).read_bytes(), tmp_path / CHECKPOINT)
    assert saved_steps(tmp_path) == [2, 4]


def test_a_kill_between_both_names_of_a_checkpoint_loses_nothing(
    make_case: MakeCase, tmp_path: Path, killed_after: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = os.replace

    def kill(source: Path, target: Path) -> None:
        replaced(source, target)
        if Path(target).name == BEFORE:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.os, "replace", kill)
        with pytest.raises(Killed):
            run(make_case(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [BEFORE]
    steps = steps_taken(monkeypatch)
    run(make_case(1), tmp_path)
    assert steps == [2, 3, 4, 5]


def test_a_full_disk_ends_the_run_with_the_place_and_keeps_both_checkpoints(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.save, []

    def save(values: object, stream: object) -> None:
        calls.append(1)
        if len(calls) < 3:
            return real(values, stream)  # type: ignore[arg-type]
        with open("/dev/full", "wb") as full:  # a real device without room
            return real(values, full)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "save", save)
        with pytest.raises(DiskFull, match=rf"{CHECKPOINT} has no room: [0-9]+ MiB are free in {tmp_path};") as why:
            run(make_case(1), tmp_path)
    assert isinstance(why.value.__cause__, OSError)
    assert why.value.__cause__.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEFORE, CHECKPOINT]
    assert saved_steps(tmp_path) == [4, 2]
    steps = steps_taken(monkeypatch)
    assert run(make_case(1), tmp_path).steps == 6
    assert steps == [4, 5]


def test_what_is_left_after_the_last_step_does_not_cost_the_steps_again(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, steps=5, keep="best", validate_every=2)
    whole = run(make_case(1), tmp_path / "whole", config)
    with pytest.raises(Killed):
        run(make_case(1), tmp_path / "parts", config, kill_at_the_end)
    steps = steps_taken(monkeypatch)
    resumed = run(make_case(1), tmp_path / "parts", config)
    assert steps == []
    assert all(torch.equal(value, whole.state_dict[name]) for name, value in resumed.state_dict.items())
    assert (resumed.curve, resumed.dice) == (whole.curve, whole.dice)
    Checkpoint.clear(tmp_path / "parts")
    assert not list((tmp_path / "parts").iterdir())


def test_slow_steps_are_kept_after_some_minutes_whatever_their_number(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lib.training.fit.monotonic", lambda: now[0])
    learn, saved = Run.learn, []

    def slow(run: Run, batch: Batch, rate: float) -> float:
        now[0] += 100.0
        return learn(run, batch, rate)

    keep = Checkpoint.save
    monkeypatch.setattr(Run, "learn", slow)
    monkeypatch.setattr(Checkpoint, "save", lambda point, folder: (saved.append(point.step), keep(point, folder)))
    slowly = replace(CONFIG, steps=9, checkpoint_every=100, checkpoint_minutes=5.0)
    kept = run(make_case(1), tmp_path / "slow", slowly)
    assert saved == [3, 6, 9, 9]  # each 300 s, and at the end
    saved.clear()
    never = run(make_case(1), tmp_path / "fast", replace(slowly, checkpoint_minutes=1e6))
    assert saved == [9]
    assert all(torch.equal(value, never.state_dict[name]) for name, value in kept.state_dict.items())


def test_a_run_that_is_kept_more_often_goes_on_from_the_same_checkpoint(
    make_case: MakeCase,
    tmp_path: Path,
    killed_after: Callable[[Path, int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    killed_after(tmp_path, 5)
    steps = steps_taken(monkeypatch)
    run(make_case(1), tmp_path, replace(CONFIG, checkpoint_every=1, checkpoint_minutes=0.1))
    assert steps == [4, 5]
    assert "belongs to other cases" not in caplog.text


def test_a_run_of_other_options_says_that_it_takes_the_place_of_a_checkpoint(
    make_case: MakeCase, tmp_path: Path, killed_after: Callable[[Path, int], None]
) -> None:
    killed_after(tmp_path, 5)
    notes = run(make_case(1), tmp_path, replace(CONFIG, seed=9, steps=1)).notes
    assert notes == (
        f"{tmp_path / CHECKPOINT} belongs to other cases or options: training starts over and writes its own in that "
        f"place",
    )
