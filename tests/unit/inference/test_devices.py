"""What a machine's devices can do, and what a process may take of them."""

import pytest
import torch

from lib.core.errors import NoRoomToMeasure, OutOfMemory
from lib.inference import devices
from lib.inference.devices import (
    cpu_abilities,
    cpu_computes_bf16,
    has_bf16,
    limit_memory,
    memory_needed,
    onednn_takes_bf16,
)


@pytest.mark.parametrize(
    ("abilities", "library", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False, False),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, True, False),  # oneDNN imitates it there
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True, True),
        ({"neon": True, "bf16": True}, True, True),
        ({"neon": True, "bf16": False, "sve_max_length": 16}, False, False),
        ({"avx512_bf16": True}, False, False),  # a torch without oneDNN
        ({}, True, True),  # torch does not say what the CPU has
        ({}, False, False),
    ],
)
def test_a_cpu_has_bf16_where_it_multiplies_in_it_and_the_library_lets_it(
    abilities: dict[str, object], library: bool, expected: bool
) -> None:
    assert has_bf16(abilities, library) is expected


def test_this_machine_is_asked_without_an_error_and_is_at_one_with_its_flags() -> None:
    assert isinstance(onednn_takes_bf16(), bool)
    abilities = cpu_abilities()
    assert "avx2" in abilities or "neon" in abilities or abilities == {}
    assert cpu_computes_bf16() is has_bf16(abilities, onednn_takes_bf16())


def test_an_older_torch_is_asked_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(devices.platform, "machine", lambda: "AMD64")
    assert cpu_abilities() == {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(devices.platform, "machine", lambda: "aarch64")
    assert cpu_abilities() == {}


def test_a_torch_without_the_operator_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty:
        @property
        def _is_mkldnn_bf16_supported(self) -> None:
            raise AttributeError("no such operator")

    monkeypatch.setattr(torch.ops, "mkldnn", Empty())
    assert onednn_takes_bf16() is False


def test_a_process_is_held_to_its_share_of_the_device_that_it_uses() -> None:
    told: list[tuple[float, torch.device]] = []
    limit_memory(torch.device("cuda", 1), 0.6, lambda share, device: told.append((share, device)))
    assert told == [(0.6, torch.device("cuda", 1))]


@pytest.mark.parametrize(("device", "share"), [("cpu", 0.6), ("cpu", 1.0), ("cuda:0", 1.0)])
def test_on_a_cpu_and_with_all_of_a_card_nothing_is_limited(device: str, share: float) -> None:
    told: list[float] = []
    limit_memory(torch.device(device), share, lambda share, device: told.append(share))
    assert told == []


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_a_lack_of_memory_gets_words_whatever_library_has_it(said: str) -> None:
    error = RuntimeError(said)
    with pytest.raises(OutOfMemory, match=r"^no memory to look: ") as caught, memory_needed("to look"):
        raise error
    assert said in str(caught.value)
    assert caught.value.__cause__ is error


def test_words_that_a_lack_of_memory_has_stay_and_other_errors_too() -> None:
    said = OutOfMemory("no memory for 8 slices")
    with pytest.raises(OutOfMemory) as caught, memory_needed("to look"):
        raise said
    assert caught.value is said
    with pytest.raises(NoRoomToMeasure, match=r"^no memory for 8 slices$"), memory_needed("to look", NoRoomToMeasure):
        raise said
    with pytest.raises(RuntimeError, match="shapes differ"), memory_needed("to look"):
        raise RuntimeError("shapes differ")
