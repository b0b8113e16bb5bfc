"""In which type of numbers a network's forward pass computes; weights and sums are fp32 everywhere."""

import torch

from lib.core.errors import InvalidSettings
from lib.inference.devices import cpu_computes_bf16
from lib.training.config import FitConfig

AMPERE = 8
NAMES = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def half_type(config: FitConfig, device: torch.device) -> torch.dtype | None:
    """The 16-bit type of a precision on a device, None for fp32; that is also what one without bf16 gets for it.

    Raises:
        InvalidSettings: fp16 without CUDA.
    """
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and computes_bf16(device) else None
    if config.precision == "fp16" and device.type != "cuda":
        raise InvalidSettings(f"training.precision fp16 needs a CUDA device, got {device}; bf16 and fp32 run here")
    if config.precision == "bf16" and not computes_bf16(device):
        return None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


def computes_bf16(device: torch.device) -> bool:
    """Whether that device multiplies in bf16 by itself; of CUDA devices those of compute capability 8 (Ampere) on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    return cpu_computes_bf16()


def precision_name(config: FitConfig, device: torch.device) -> str:
    """The precision that a training really has on a device: fp32, bf16 or fp16.

    Raises:
        InvalidSettings: fp16 without CUDA.
    """
    return NAMES[half_type(config, device)]


def other_precision(config: FitConfig, device: torch.device) -> str:
    """What to tell where the task file asks for another precision than the training has; "" otherwise.

    Raises:
        InvalidSettings: fp16 without CUDA.
    """
    used = precision_name(config, device)
    if config.precision in ("auto", used):
        return ""
    return (
        f"training.precision {config.precision} was asked for, and {device} does not compute in it (a CPU needs "
        f"AVX-512 BF16, AMX or Arm's BF16, a CUDA device Ampere or newer; imitated, a step takes many times as long): "
        f"computed in {used}"
    )
