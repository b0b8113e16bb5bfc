"""Fold what is constant in inference: the same results with fewer passes over the features.

Standardised kernels are computed once instead of at each use, and a batch norm in eval mode is a scale and an offset of
each channel, which the kernels and a bias of the convolution before it can carry (Jacob et al., arXiv:1712.05877,
section 3.2). Group norm depends on the image and stays.
"""

from typing import TypeVar

import torch
from torch import nn

from lib.networks.resnet import StandardisedConv2d, standardise

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def fuse(network: Module) -> Module:
    """Change a network in place for inference, and return it; its outputs stay the same up to rounding.

    It is left in eval mode, with channels last, which is the order that convolutions on CPUs work in. It cannot learn
    any more, and its state dict no longer is the one of its size: fuse a copy of what is to be saved or trained.
    """
    network.eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, StandardisedConv2d):
                setattr(module, name, _with_kernels(child, standardise(child.weight), None))
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    network.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
    return network


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """Fold each batch norm that follows a convolution; an identity takes its place."""
    for place in range(len(layers) - 1):
        convolution, norm = layers[place], layers[place + 1]
        if type(convolution) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            assert norm.running_mean is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (out,)
            offset = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
            kernels = convolution.weight * scale[:, None, None, None]
            layers[place] = _with_kernels(convolution, kernels, offset * scale + norm.bias)
            layers[place + 1] = nn.Identity()


def _with_kernels(like: nn.Conv2d, kernels: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    """A plain convolution that differs from another one in its numbers alone."""
    plain = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        bias=False,
        padding_mode=like.padding_mode,
        device="meta",  # nothing is drawn: the kernels come next
    )
    plain.weight = nn.Parameter(kernels)
    plain.bias = None if bias is None else nn.Parameter(bias)
    return plain
