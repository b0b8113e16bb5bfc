"""A challenger's first weights from the champion's: shrunk towards fresh ones.

Networks that go on from trained weights fit new data as well as fresh ones and generalise worse; weights that are
shrunk and disturbed first do not (Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020,
arXiv:1910.08475, section 4: lambda times the old weights plus noise; here the noise is what a fresh network is drawn
with).
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lib.core.errors import InvalidInput
from lib.core.labels import LabelSchema
from lib.inference.model import StateDict, build_network
from lib.networks.config import NetworkConfig


def warm_start(champion: StateDict, network: NetworkConfig, schema: LabelSchema, seed: int, keep: float) -> StateDict:
    """Weights to start from, the same ones for the same seed.

    Args:
        champion: weights of such a network.
        network: which network.
        schema: of its labels.
        seed: of the fresh weights.
        keep: share of the champion, in [0, 1]; 1 = its weights as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_network(network, schema)
    learned = [name for name, _ in fresh.named_parameters()]
    return shrink_and_perturb(champion, fresh.state_dict(), learned, keep)


def shrink_and_perturb(
    champion: StateDict, fresh: StateDict, learned: Collection[str], keep: float
) -> dict[str, Tensor]:
    """Mix to keep x champion + (1 - keep) x fresh, in new tensors.

    What is learned is mixed, scales and offsets of norms and biases too: fresh ones are 1 and 0, so that a norm moves
    towards leaving things as they are. Running statistics and counters of batch norms are no weights and stay the
    champion's; training replaces them within some dozens of steps.

    Args:
        champion: state by name.
        fresh: state of the same network as it is drawn.
        learned: names of the parameters.
        keep: share of the champion, in [0, 1].

    Raises:
        InvalidInput: states of two networks, or a share out of range.
    """
    if not 0 <= keep <= 1:
        raise InvalidInput(f"the share of the champion must be from 0 to 1, got {keep}")
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (champion, fresh)]
    if shapes[0] != shapes[1]:
        other = sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
        raise InvalidInput(f"champion and fresh network must have the same weights, they differ in {other[:3]}")
    names = set(learned)
    return {
        name: torch.lerp(fresh[name], value, keep) if name in names else value.clone()
        for name, value in champion.items()
    }


def half_new(is_new: Sequence[bool], share: float) -> tuple[float, ...] | None:
    """How often each case is drawn, so that new cases make up a share of the pictures and replayed ones the rest.

    Args:
        is_new: of each case.
        share: of the new ones, in (0, 1).

    Returns:
        Weights that sum to 1; None where all cases are of one kind and are drawn alike.
    """
    new = sum(is_new)
    if not 0 < new < len(is_new):
        return None
    return tuple(share / new if one else (1 - share) / (len(is_new) - new) for one in is_new)
