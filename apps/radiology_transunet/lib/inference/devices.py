"""Which device runs the network, and who may use it when."""

import os
import platform
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from lib.core.errors import InvalidSettings, OutOfMemory

MEMORY_ERRORS = (RuntimeError, MemoryError, OutOfMemory)
"""Errors that may mean a failed allocation; `is_out_of_memory` says whether one does."""
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""Words of torch's errors when an allocation failed, on CPUs (Linux, others), on CUDA devices, in cuBLAS, in cuDNN."""
NO_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUDA driver", "NVIDIA driver", "HIP error")
"""Words of torch's errors when a device does not do what it is told."""

KIB = 2**10
CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
"""Names in torch's list of what a CPU has, of x86 and Arm, each of which multiplies in bf16."""

Limit = Callable[[float, torch.device], object]

_locks: dict[str, threading.Lock] = {}
_registering = threading.Lock()


def choose_device(name: str) -> torch.device:
    """The device of a setting: "auto" takes CUDA when there is one.

    Raises:
        InvalidSettings: a CUDA device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    index = int(number) if number.isdecimal() else 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind != "cuda" or name not in ("cuda", f"cuda:{index}") or index >= count:
        raise InvalidSettings(f"device must be auto, cpu or one of {count} CUDA devices (cuda:N), got {name!r}")
    return torch.device("cuda", index)


def cuda_devices() -> int:
    """How many this machine has."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cpu_computes_bf16() -> bool:
    """Whether this machine's CPU multiplies in bf16; one that does not imitates it, many times slower than fp32."""
    return has_bf16(cpu_abilities(), onednn_takes_bf16())


def has_bf16(abilities: Mapping[str, object], library: bool) -> bool:
    """Whether a CPU multiplies in bf16 and torch's library lets it.

    Args:
        abilities: what the CPU has, by torch's names; empty = unknown.
        library: whether oneDNN takes bf16 there; it does so on any CPU with AVX-512 and imitates it on older ones.
    """
    return library and (not abilities or any(abilities.get(name) is True for name in CPU_BF16))


def cpu_abilities() -> Mapping[str, object]:
    """What this machine's CPU has, by torch's names; empty where torch does not say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        found: Mapping[str, object] = ask()
        return found
    older = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    asked = {name: getattr(torch.cpu, function, None) for name, function in older.items()}
    known = {name: bool(function()) for name, function in asked.items() if function is not None}
    return known if platform.machine().lower() in ("x86_64", "amd64") else {}


def onednn_takes_bf16() -> bool:
    """Whether torch's oneDNN computes in bf16 on this machine's CPU; False in a torch without it."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # torch says so where it was built without that operator
        return False


def describe_device(name: str) -> dict[str, str | int | float]:
    """What a setting's device is, for records: its name, the CPU threads of torch, and the card when it is one."""
    device = choose_device(name)
    found: dict[str, str | int | float] = {"device": str(device), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found.update(card=card.name, card_memory_gib=round(card.total_memory / 2**30, 1))
    return found


def peak_card_memory(name: str) -> int | None:
    """Most bytes that torch held on a setting's device in this process; None on a CPU."""
    device = choose_device(name)
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else None


def peak_memory() -> int:
    """Most bytes of the machine's memory that this process held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * KIB


def limit_memory(device: torch.device, share: float, limit: Limit = torch.cuda.set_per_process_memory_fraction) -> None:
    """Let this process allocate no more than a share of a CUDA device's memory; on a CPU nothing happens.

    Args:
        device: which one.
        share: of its memory, in (0, 1]; 1 = all.
        limit: what tells the allocator.
    """
    if device.type == "cuda" and share < 1:
        limit(share, device)


def device_lock(device: torch.device) -> threading.Lock:
    """The one lock of a device in this process; whoever runs a network there holds it for a batch."""
    with _registering:
        return _locks.setdefault(str(device), threading.Lock())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


@contextmanager
def memory_needed(what: str, kind: type[OutOfMemory] = OutOfMemory) -> Iterator[None]:
    """Around what needs memory of a device; what the allocator raises gets words.

    Args:
        what: it is needed for, such as "to predict 3 slices".
        kind: of the error.

    Raises:
        OutOfMemory: of that kind; one that has words already keeps them.
    """
    try:
        yield
    except MEMORY_ERRORS as error:
        if isinstance(error, kind) or not is_out_of_memory(error):
            raise
        said = str(error) if isinstance(error, OutOfMemory) else f"no memory {what}: {first_line(error)}"
        raise kind(said) from error


def first_line(error: BaseException) -> str:
    """What an allocator said, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_device_failure(error: BaseException) -> bool:
    """Whether an error says that the device itself does not work, whatever it was asked for."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_DEVICE)


def release_memory() -> None:
    """Give back what torch holds on CUDA devices without using it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def set_threads(threads: int) -> int:
    """Give torch that many CPU threads, 0 = half of the cores; returns how many."""
    chosen = threads if threads > 0 else max(1, (os.cpu_count() or 2) // 2)
    torch.set_num_threads(chosen)
    return chosen
