"""What a process of a group does for itself; groups of two really started are in integration/test_torchrun.py."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from lib.core.errors import InvalidSettings, NotFound, OutOfMemory, ProcessLost, TrainingFailed
from lib.inference.config import PreprocessConfig
from lib.inference.model import build_preprocess
from lib.networks.config import NetworkConfig
from lib.training import collectives, distributed, meeting
from lib.training.augment_mix import before
from lib.training.batches import draw_batch
from lib.training.config import AugmentConfig, FitConfig
from lib.training.data import Case, TrainingSet, prepare
from lib.training.distributed import ALONE, Group
from lib.training.meeting import End, file_store
from lib.training.run import part_seeds

MakeCase = Callable[[int], Case]
CPU = torch.device("cpu")
CHANGED = AugmentConfig(flips=("rows",), elastic=0.05, low_resolution=0.5, share=0.6)


@pytest.fixture
def data(make_case: MakeCase) -> TrainingSet:
    preprocess = build_preprocess(PreprocessConfig(), NetworkConfig(context_slices=1))
    return prepare([make_case(1), make_case(2)], preprocess, None, lambda _: None)


@pytest.mark.parametrize("mixing", [{}, {"cutmix": 1.0}, {"mixup": 1.0}])
@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_a_step_are_the_pictures_of_one_process(
    data: TrainingSet, mixing: dict[str, float], size: int
) -> None:
    values = {name: getattr(CHANGED, name) for name in AugmentConfig.__slots__} | mixing
    config = FitConfig(batch_size=3, accumulate=2, augment=AugmentConfig(**values))  # type: ignore[arg-type]
    for step in range(3):
        whole = draw_batch(data, config, step, 0.5, CPU)
        shares = [draw_batch(data, config, step, 0.5, CPU, Group(rank, size)) for rank in range(size)]
        torch.testing.assert_close(torch.cat([share.images for share in shares]), whole.images)
        assert torch.equal(torch.cat([share.classes for share in shares]), whole.classes)
        assert torch.equal(torch.cat([share.covered for share in shares]), whole.covered)
        assert all(share.names == whole.names for share in shares)
        if mixing:
            others = torch.cat([share.others[0] for share in shares if share.others])
            assert "cutmix" in mixing or torch.equal(others, before(whole.classes))


def test_each_process_draws_the_dropout_of_the_accumulated_parts_that_it_stands_for() -> None:
    assert [*part_seeds(7, 0, 2), *part_seeds(7, 1, 2)] == list(part_seeds(7, 0, 4)) == [7, 8, 9, 10]


def test_pictures_that_cannot_be_shared_evenly_are_refused_with_both_numbers() -> None:
    Group(0, 4).require_even(FitConfig(batch_size=2, accumulate=6))
    with pytest.raises(InvalidSettings, match=r"by the 4 processes, got 3 x 2 = 6 pictures a step"):
        Group(0, 4).require_even(FitConfig(batch_size=3, accumulate=2))


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Group(3, 4, local_rank=1).device("auto") == torch.device("cuda", 1)
    with pytest.raises(InvalidSettings, match="there are 2"):
        Group(2, 3, local_rank=2).device("cuda")
    with pytest.raises(InvalidSettings, match="must be auto or cuda, got cuda:1"):
        Group(0, 2).device("cuda:1")


def test_a_process_alone_exchanges_with_itself_and_does_everything() -> None:
    told: list[float] = []
    assert ALONE.each(lambda number: number * number, 4, told.append) == [0, 1, 4, 9]
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert ALONE.exchange("x") == ["x"]
    assert ALONE.from_leader(lambda: 3) == 3


def answering(monkeypatch: pytest.MonkeyPatch, *others: object) -> Group:
    """The first of several processes, of which the others say so."""

    def gather(found: list[object], value: object) -> None:
        found[:] = [value, *others]

    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    return Group(0, 1 + len(others))


def test_cases_are_shared_and_everybody_has_all_results_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    group = answering(monkeypatch, [10, 40], [20, 50])
    assert group.each(lambda number: -number, 6, lambda _: None) == [0, 10, 20, -3, 40, 50]


def test_the_end_of_one_process_ends_the_others_with_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="a file is gone"):
        answering(monkeypatch, End(1, NotFound("a file is gone"))).exchange(None)
    with pytest.raises(ProcessLost, match="process 1 of the training ended: KeyboardInterrupt"):
        answering(monkeypatch, End(1, "KeyboardInterrupt")).exchange(None)


def test_processes_with_other_cases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "abc").require_same("abc")
    with pytest.raises(TrainingFailed, match="all 2 processes must have the same cases"):
        answering(monkeypatch, "abd").require_same("abc")


def test_who_hears_of_a_closed_connection_fails_for_the_reason_that_was_left(tmp_path: Path) -> None:
    mine, theirs = (Group(rank, 2, store=file_store(tmp_path / "store", 2)) for rank in (0, 1))
    for error, heard, words in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried 20 GiB.\nGPU 0"), OutOfMemory, r"memory. Tried 20 GiB\.$"),
        (MemoryError(), OutOfMemory, "MemoryError"),
        (NotFound("a file is gone"), NotFound, "a file is gone"),
        (ZeroDivisionError("by chance"), ProcessLost, "process 1 of the training ended: ZeroDivisionError: by chance"),
    ):
        with pytest.raises(type(error)), theirs.reasons_shared():
            raise error
        with pytest.raises(heard, match=words), mine.reasons_shared():
            raise ProcessLost("connection closed")


def test_without_a_reason_a_process_is_just_lost(tmp_path: Path) -> None:
    for group in (Group(0, 2, store=file_store(tmp_path / "store", 2)), Group(0, 2)):
        with pytest.raises(ProcessLost, match=r"^closed$"), group.reasons_shared():
            raise ProcessLost("closed")


def test_nobody_is_told_of_an_end_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(distributed.dist, "all_gather_object", lambda found, value: said.append(value))
    group = Group(1, 2)
    with pytest.raises(ValueError, match="inside"), group.step():
        raise ValueError("inside")
    group.tell_end(ValueError("inside"))
    assert said == []
    Group(1, 2).tell_end(ValueError("outside"))
    assert said == [End(1, "ValueError: outside")]


def test_nobody_is_told_of_an_end_once_one_was_heard_of_or_a_process_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def gather(found: list[object], value: object) -> None:
        calls.append(value)
        found[:] = [value, End(1, "KeyboardInterrupt")]

    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    group = Group(0, 2)
    with pytest.raises(ProcessLost, match="KeyboardInterrupt") as heard:
        group.exchange(7)
    group.tell_end(heard.value)
    assert calls == [7]

    def broken(found: list[object], value: object) -> None:
        calls.append(value)
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed.dist, "all_gather_object", broken)
    group = Group(0, 2)
    with pytest.raises(ProcessLost, match="cannot be reached") as lost:
        group.exchange(8)
    group.tell_end(lost.value)
    assert calls == [7, 8]


def test_a_connection_that_closes_is_a_lost_process() -> None:
    words = r"has ended or cannot be reached \(Connection closed by peer\)"
    with pytest.raises(ProcessLost, match=words), collectives.loss_explained():
        raise RuntimeError("Connection closed by peer\n and much more")


def test_who_met_once_is_waited_for_briefly_and_not_at_all_once_it_is_known_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(meeting.dist, "init_process_group", lambda *_, **__: opened.append(1))
    monkeypatch.setattr(meeting, "AGAIN", timedelta(seconds=0.2))
    group = Group(0, 2, store=file_store(tmp_path / "store", 2))
    group.meet()  # the first time all may take long to come
    assert opened == [1]
    with pytest.raises(ProcessLost, match=r"all 2 processes of the training must meet again within 0 s"):
        group.meet_again()
    assert opened == [1]

    def gone() -> None:
        raise ProcessLost("it was killed")

    monkeypatch.setattr(meeting, "AGAIN", timedelta(hours=1))
    group = Group(0, 2, store=file_store(tmp_path / "other", 2), watch=gone)
    group.meet()
    with pytest.raises(ProcessLost, match="it was killed"):
        group.meet_again()


def test_processes_meet_again_once_all_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(meeting.dist, "init_process_group", lambda *_, rank, **__: opened.append(rank))
    groups = [Group(rank, 2, store=file_store(tmp_path / "store", 2)) for rank in (0, 1)]
    for group in groups:
        group.meet()
    opened.clear()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Group.meet_again, groups))
    assert sorted(opened) == [0, 1]


def test_processes_on_graphics_cards_do_not_meet_again() -> None:
    card = torch.device("cuda", 0)
    assert [Group(0, 2).may_meet_again(device) for device in (CPU, card)] == [True, False]
    assert ALONE.may_meet_again(card)


def test_a_full_card_that_has_no_room_for_a_connection_is_a_lack_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"), collectives.loss_explained():
        raise torch.OutOfMemoryError("NCCL error: CUDA out of memory.")


@pytest.mark.parametrize(("backend", "parts"), [("gloo", 1), ("cpu:gloo,cuda:nccl", 0)])
def test_who_fails_with_nccl_does_not_part_for_that_waits_for_the_others(
    backend: str, parts: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parted: list[int] = []
    monkeypatch.setattr(Group, "meet", lambda group: None)
    monkeypatch.setattr(Group, "part", staticmethod(lambda: parted.append(1)))
    monkeypatch.setattr(Group, "tell_end", lambda group, error: None)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: backend)
    store = file_store(tmp_path / "store", 2)
    with pytest.raises(ValueError, match="within a step"), distributed.joined(1, 2, store=store):
        raise ValueError("within a step")
    assert len(parted) == parts
    with distributed.joined(1, 2, store=store):
        pass
    assert len(parted) == parts + 1
