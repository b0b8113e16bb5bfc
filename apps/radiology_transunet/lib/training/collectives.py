"""Sums over the processes of a training, in both directions of a backward pass.

What is said here of errors holds for each of them: `ProcessLost` when another process has ended.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from lib.core.errors import ProcessLost
from lib.inference.devices import is_out_of_memory

BUCKET = 2**24
"""Gradients that are sent at once, in numbers; their copies need room on the device."""


def total(part: Tensor) -> Tensor:
    """The sum over all processes; each one's backward pass is of its own part, so gradients are left as they are."""
    whole: Tensor = _Total.apply(part)
    return whole


def shared(part: Tensor) -> Tensor:
    """The sum over all processes of something that the results of all of them follow from, as do the gradients."""
    whole: Tensor = _Shared.apply(part)
    return whole


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the sum over all processes in place of each gradient; what no process needed stays without one."""
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    _all_reduce(used)
    gradients = [_gradient(p) for p, n in zip(parameters, used.tolist(), strict=True) if n > 0]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        _all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def synchronise(network: nn.Module, rank: int, size: int) -> None:
    """Let batch norms see the pictures of all processes while they learn; each has the same number of them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normalised, module, rank, size)  # type: ignore[method-assign]


@contextmanager
def statistics_held(network: nn.Module) -> Iterator[None]:
    """Let batch norms compute as they do while learning, and remember nothing of it."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def loss_explained() -> Iterator[None]:
    """Say in words what torch says when another process does not answer."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):  # of the connection itself, for which a full card has no room
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProcessLost(
            f"another process of the training has ended or cannot be reached ({said}); what it said stands in its own "
            f"output; start the training again, it goes on from its last checkpoint"
        ) from error


class _Total(torch.autograd.Function):
    """Sum over the processes; each one's backward pass is of its own pictures, so gradients are left as they are."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.detach().clone()
        _all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Shared(_Total):
    """Sum over the processes in both directions."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        _all_reduce(whole)
        return whole


def _normalised(norm: _BatchNorm, rank: int, size: int, features: Tensor) -> Tensor:
    """Batch norm over the features (B, C, *space) of all processes, which have the same number of pictures."""
    if not norm.training:
        plain: Tensor = type(norm).forward(norm, features)
        return plain
    axes = (0, *range(2, features.ndim))
    values = features.float()
    rows = values.new_zeros((size, 2, values.shape[1]))
    var, mean = torch.var_mean(values, dim=axes, correction=0)
    own = torch.arange(size, device=values.device)[:, None, None] == rank
    means, variances = shared(torch.where(own, torch.stack([mean, var]), rows)).unbind(1)
    mean = means.mean(0)  # (C,)
    var = (variances + (means - mean) ** 2).mean(0)
    _follow(norm, mean, var, count=size * values.numel() // values.shape[1])
    shape = (1, -1, *[1] * (features.ndim - 2))
    scale = torch.rsqrt(var + norm.eps) * (1 if norm.weight is None else norm.weight)
    shift = -mean * scale + (0 if norm.bias is None else norm.bias)
    return (values * scale.view(shape) + shift.view(shape)).to(features.dtype)


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics as torch does; the variance is the unbiased one of `count` values."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    if not norm.track_running_stats:
        return
    norm.num_batches_tracked += 1
    momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(var * (count / max(1, count - 1)), momentum)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Its gradient; of a parameter that the own pictures did not need, zero."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _all_reduce(values: Tensor) -> None:
    with loss_explained():
        dist.all_reduce(values)
