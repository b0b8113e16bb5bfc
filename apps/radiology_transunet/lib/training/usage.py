"""What a training took of the machine that it ran on, for whoever tells of it elsewhere."""

from dataclasses import dataclass

import torch

from lib.inference.devices import describe_device, peak_card_memory, peak_memory
from lib.training.config import FitConfig
from lib.training.distributed import Group
from lib.training.precision import precision_name

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """What a training took.

    Attributes:
        device: name of the card of the first process, or "cpu".
        precision: of the forward passes there: fp32, bf16 or fp16.
        processes: that trained together.
        threads: CPU threads of the first of them.
        peak_mib: MiB of the machine's memory that the largest process held at most, with its interpreter.
        card_mib: MiB of a card that torch held at most in one process; None on CPUs.
    """

    device: str
    precision: str
    processes: int
    threads: int
    peak_mib: float
    card_mib: float | None = None


def usage_of(config: FitConfig, device: torch.device, group: Group) -> Usage:
    """What this process and the others of its group took until now; to be called by all of them."""
    found = describe_device(str(device))
    card = peak_card_memory(str(device))
    mine = peak_memory() / MIB, None if card is None else card / MIB
    peaks, cards = zip(*group.exchange(mine), strict=True)
    return Usage(
        device=str(found.get("card", device.type)),
        precision=precision_name(config, device),
        processes=group.size,
        threads=int(found["threads"]),
        peak_mib=round(max(peaks), 1),
        card_mib=max((round(value, 1) for value in cards if value is not None), default=None),
    )
