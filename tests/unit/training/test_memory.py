"""A training that finds no memory goes on with half as many pictures at a time, once, and says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib.core.errors import NoRoomToMeasure, OutOfMemory, TrainingFailed
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.training.config import FitConfig
from lib.training.data import Batch, Case
from lib.training.distributed import Group
from lib.training.fit import FitProgress, FitResult, fit
from lib.training.memory import half, memory_explained, twice
from lib.training.run import Run

MakeCase = Callable[[int], Case]
SLICES = NetworkConfig(context_slices=0, dropout=0.1)
CONFIG = FitConfig(steps=4, batch_size=4, checkpoint_every=2)
WINDOW = (1, 512, 512)


class Killed(Exception):
    """Stands for the end of the process."""


def run(
    case: Case, folder: Path, config: FitConfig = CONFIG, report: Callable[[FitProgress], None] = lambda _: None
) -> FitResult:
    return fit([case], [], SLICES, PreprocessConfig(), config, folder, "cpu", report)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through the network at a time; a device that holds two of them."""
    seen: list[int] = []
    forward = Run._forward

    def small(run: Run, images: Tensor, seed: int) -> tuple[Tensor, ...]:
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")
        return forward(run, images, seed)

    monkeypatch.setattr(Run, "_forward", small)
    return seen


def test_half_of_the_pictures_at_a_time_makes_the_steps_of_twice_as_many_parts(
    make_case: MakeCase, tmp_path: Path, at_once: list[int]
) -> None:
    halved = run(make_case(1), tmp_path / "halved")
    assert at_once[0] == 4
    assert set(at_once[1:]) == {2}
    asked = run(make_case(1), tmp_path / "asked", replace(CONFIG, batch_size=2, accumulate=2))
    assert halved.losses == asked.losses
    assert all(torch.equal(value, asked.state_dict[name]) for name, value in halved.state_dict.items())
    assert asked.notes == ()


def test_the_lack_of_memory_is_told_while_it_trains_and_stands_in_the_result(
    make_case: MakeCase, tmp_path: Path, at_once: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    heard: list[FitProgress] = []
    result = run(make_case(1), tmp_path, report=heard.append)
    said = "CUDA out of memory. Tried to allocate 20.00 GiB."
    wanted = f"no memory for 4 pictures at a time ({said}): 2 at a time from step 1 on, in steps as large as before"
    assert result.notes == (wanted,)
    assert [p.notes for p in heard if p.stage == "train"] == [(wanted,)] * 4


def test_an_odd_number_of_pictures_is_halved_upwards(make_case: MakeCase, tmp_path: Path, at_once: list[int]) -> None:
    run(make_case(1), tmp_path, replace(CONFIG, batch_size=3, steps=1))
    assert at_once == [3, 2, 1, 2, 1]  # one try; both parts for their logits, and again for their gradients
    assert [half(count) for count in (2, 3, 8)] == [1, 2, 4]


def test_what_ran_out_of_memory_goes_on_from_its_last_checkpoint(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, steps = Run.learn, []

    def once(run: Run, batch: Batch, rate: float) -> float:
        steps.append(run.step)
        if len(steps) == 4:
            torch.empty(2**60)  # what torch's own allocator says
        return learn(run, batch, rate)

    monkeypatch.setattr(Run, "learn", once)
    result = run(make_case(1), tmp_path)
    assert steps == [0, 1, 2, 3, 2, 3]
    assert "2 at a time from step 3 on" in result.notes[0]
    assert len(result.losses) == 4


def test_a_killed_run_goes_on_with_as_many_pictures_as_it_found_memory_for(
    make_case: MakeCase, tmp_path: Path, at_once: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)

    def kill(progress: FitProgress) -> None:
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        run(make_case(1), tmp_path, report=kill)
    at_once.clear()
    resumed = run(make_case(1), tmp_path)
    assert set(at_once) == {2}
    assert len(resumed.notes) == 1
    whole = run(make_case(1), tmp_path / "whole", replace(CONFIG, batch_size=2, accumulate=2))
    assert all(torch.equal(value, whole.state_dict[name]) for name, value in resumed.state_dict.items())


def test_no_memory_for_half_as_many_ends_the_run_with_what_to_do_and_keeps_the_last_checkpoint(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Run.learn

    def full(run: Run, batch: Batch, rate: float) -> float:
        if run.step == 3:
            torch.empty(2**60)
        return learn(run, batch, rate)

    monkeypatch.setattr(Run, "learn", full)
    with pytest.raises(
        TrainingFailed,
        match=r"no memory for pictures of 1 x 32 x 32 voxels, neither 4 at a time nor 2, in the network transunet",
    ):
        run(make_case(1), tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nGPU 0"), r"after its last step: CUDA out of memory\.$"),
        (OutOfMemory("no memory to predict 16 slices"), "^no memory to predict 16 slices$"),
    ],
)
def test_a_last_look_that_finds_no_memory_blames_no_step_and_leaves_them_all_in_the_checkpoint(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    asked: list[object] = []

    def full(*arguments: object) -> None:
        asked.append(arguments)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("lib.training.fit.measure", full)
        with pytest.raises(OutOfMemory, match=words):
            run(make_case(1), tmp_path)
    assert len(asked) == 1
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    monkeypatch.setattr(Run, "learn", full)
    resumed = run(make_case(1), tmp_path)
    assert (resumed.steps, resumed.notes) == (4, ())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory("no memory to predict")])
def test_a_look_on_the_way_that_finds_no_memory_halves_nothing_and_goes_on_from_the_checkpoint(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config, asked = replace(CONFIG, validate_every=3), list[object]()

    def full(*arguments: object) -> None:
        asked.append(arguments)
        raise error

    def look(folder: Path) -> FitResult:
        return fit([make_case(1)], [make_case(2)], SLICES, PreprocessConfig(), config, folder, "cpu")

    with monkeypatch.context() as patched:
        patched.setattr("lib.training.fit.validate", full)
        with pytest.raises(NoRoomToMeasure, match="no memory to"):
            look(tmp_path / "short")
    assert len(asked) == 1
    assert torch.load(tmp_path / "short" / "checkpoint.pt", weights_only=True)["step"] == 2
    resumed, whole = look(tmp_path / "short"), look(tmp_path / "whole")
    assert (resumed.steps, resumed.notes, resumed.losses) == (4, (), whole.losses)


def test_a_last_look_that_fails_otherwise_is_not_taken_for_a_lack_of_memory(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("lib.training.fit.measure", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(make_case(1), tmp_path)


def test_one_picture_at_a_time_cannot_be_halved(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_forward", lambda *_: torch.empty(2**60))
    with pytest.raises(TrainingFailed, match="not even one at a time"):
        run(make_case(1), tmp_path, replace(CONFIG, batch_size=1))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to allocate 8"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        OutOfMemory("no memory to predict 8 slices"),
    ],
)
def test_a_failed_allocation_names_network_and_pictures_and_what_to_lower(error: Exception) -> None:
    with (
        pytest.raises(
            TrainingFailed,
            match=r"no memory for pictures of 1 x 512 x 512 voxels, neither 24 at a time nor 12, in the network "
            r"transunet of size tiny \(.+\); ",
        ) as caught,
        memory_explained(SLICES, FitConfig(batch_size=24), WINDOW),
    ):
        raise error
    for option in ("training.batch_size", "training.accumulate", "network.patch", "training.crop", "network.size"):
        assert option in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("batch", "accumulate", "processes", "words"),
    [
        (24, 1, 2, "neither 12 at a time nor 6 in each of 2 processes"),
        (6, 4, 2, "neither 6 at a time nor 3 in each of 2 processes"),
        (4, 1, 4, "not even one at a time in each of 4 processes"),
    ],
)
def test_several_processes_halve_what_each_has_of_the_step(
    batch: int, accumulate: int, processes: int, words: str
) -> None:
    config = FitConfig(batch_size=batch, accumulate=accumulate)
    with (
        pytest.raises(TrainingFailed, match=f"512 voxels, {words}, in the network"),
        memory_explained(SLICES, config, WINDOW, processes),
    ):
        raise MemoryError


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    calls: list[str] = []

    def attempt(said: str) -> None:
        calls.append(said)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"), memory_explained(SLICES, CONFIG, WINDOW):
        twice(attempt)
    assert calls == [""]


class Cards(Group):
    """Processes that cannot tell each other of a lack of memory."""

    def may_meet_again(self, device: torch.device) -> bool:
        return False


def test_processes_that_cannot_meet_again_fail_at_once_with_what_to_lower(
    make_case: MakeCase, tmp_path: Path, at_once: list[int]
) -> None:
    with pytest.raises(
        TrainingFailed, match=r"no memory for .* voxels, not 4 at a time, .*; lower training.batch_size"
    ):
        fit([make_case(1)], [], SLICES, PreprocessConfig(), CONFIG, tmp_path, "cpu", group=Cards())
    assert at_once == [4]
