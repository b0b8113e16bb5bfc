"""Dropout in inference: each sample is one thinned network, the same for every slice, batch and thread.

Gal and Ghahramani, "Dropout as a Bayesian Approximation", arXiv:1506.02142: leaving out features at random in inference
samples from an approximate posterior over networks. Here a sample leaves out the same features for all images of a
volume: what is sampled is a network that segments the whole volume, so that samples can be compared as segmentations. A
mask depends on the seed, the number of the sample and the layer alone, never on how images are batched.

Masks are drawn on the CPU and are the same on every device with one version of torch; what the network makes of them
differs by the rounding of its device. Only dropout is active: norms stay in eval mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

ELEMENTWISE = (nn.Dropout,)
CHANNELWISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def dropouts(network: nn.Module) -> tuple[nn.Module, ...]:
    """The layers of a network that leave something out, in a fixed order."""
    found = (module for module in network.modules() if isinstance(module, ELEMENTWISE + CHANNELWISE))
    return tuple(module for module in found if module.p > 0)


@contextmanager
def thinned(network: nn.Module, seed: int, sample: int) -> Iterator[None]:
    """Within it the network, in eval mode, leaves out what the seed says for that sample.

    The hooks hang on the network itself: whoever uses it holds the lock of its device meanwhile, as for every batch.
    """
    hooks = [
        module.register_forward_hook(partial(_leave_out, seed=(seed, sample, number)))
        for number, module in enumerate(dropouts(network))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _leave_out(module: nn.Module, given: tuple[Tensor, ...], _: Tensor, seed: tuple[int, int, int]) -> Tensor:
    """What dropout gives in training, with one mask for all images of the batch."""
    features = given[0]  # (B, ...)
    assert isinstance(module, ELEMENTWISE + CHANNELWISE)
    shape = list(features.shape)
    shape[0] = 1
    if isinstance(module, CHANNELWISE):
        shape[2:] = [1] * len(shape[2:])
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))  # 63 bits: it takes no more
    kept = torch.rand(shape, generator=generator) >= module.p
    return features * (kept.to(features) / (1 - module.p))
