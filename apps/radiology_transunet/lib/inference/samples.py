"""Several answers of a network to one batch, reduced as they come: means, mutual information and votes.

Mutual information of class and sample, also called BALD (Houlsby et al., arXiv:1112.5745): H(mean of p) - mean of H(p).
It is 0 where all samples say the same, however unsure each is, and large where each is sure of something else.

Samples are compared where the network speaks, at its own resolution and within its own patches; maps of the comparison
go the same linear way back to the volume's grid as the probabilities do. So equal samples have a mutual information of
exactly 0 on the volume's grid too, and no sample's probabilities ever exist for more than a batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lib.core.errors import InvalidSettings
from lib.inference.config import UncertaintyConfig
from lib.inference.dropout import dropouts, thinned
from lib.inference.uncertainty import entropy
from lib.networks.network import Network

Axes = tuple[int, ...]


class SegmentingNetwork(Protocol):
    """A network of slices, such as TransUNet, or of patches."""

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, in, H, W) or (B, 1, S, H, W) to logits (B, classes, ...) and one embedding each (B, d)."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of a batch.

    Attributes:
        probabilities: (B, classes, ...) that the labels are taken from.
        embedding: (B, d).
        information: (B, ...) mutual information in nats; None without samples.
        votes: (T, B, ...) uint8, the class that each sample takes; None without samples.
    """

    probabilities: Tensor
    embedding: Tensor
    information: Tensor | None = None
    votes: Tensor | None = None


class Moments:
    """Running means over samples of class probabilities (B, classes, ...) and of their entropies.

    Each mean moves by its share of the difference: equal samples leave it bit by bit as it is.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)  # (B, classes, ...)
        self._entropy = torch.empty(0)  # (B, ...)
        self._votes: list[Tensor] = []

    def add(self, probabilities: Tensor) -> None:
        """One more sample."""
        self.count += 1
        nats = entropy(probabilities)
        if self.count == 1:
            self.mean, self._entropy = probabilities.clone(), nats
        else:
            self.mean += (probabilities - self.mean) / self.count
            self._entropy += (nats - self._entropy) / self.count
        self._votes.append(probabilities.argmax(dim=1).to(torch.uint8))

    @property
    def information(self) -> Tensor:
        """Mutual information (B, ...) in nats, from 0 to ln C."""
        return (entropy(self.mean) - self._entropy).clamp_min(0.0)

    @property
    def votes(self) -> Tensor:
        """(T, B, ...) uint8: the class that each sample takes."""
        return torch.stack(self._votes)


def moments(samples: Iterable[Tensor]) -> Moments:
    """Of an iterator over samples (B, classes, ...), of which one exists at a time."""
    found = Moments()
    for probabilities in samples:
        found.add(probabilities)
    return found


class Asker(Protocol):
    """Asks networks about a batch; the caller holds the lock of the device."""

    @property
    def samples(self) -> int:
        """How many samples are compared, at least two; 0 = nothing is compared."""
        ...

    def __call__(self, batch: Tensor) -> Answer:
        """The answer to images (B, in, ...)."""
        ...


class Mirrored:
    """The mean of one network's answers to mirrored images; as samples when they are asked for.

    Args:
        network: what is asked.
        mirrors: axes of the images to mirror along, one combination after the other.
        as_samples: whether the answers are compared with each other.
    """

    def __init__(self, network: SegmentingNetwork, mirrors: Sequence[Axes], as_samples: bool) -> None:
        self._network, self._mirrors = network, mirrors
        self.samples = len(mirrors) if as_samples else 0

    def __call__(self, batch: Tensor) -> Answer:
        """Mean probabilities and embeddings."""
        total = Tally()
        compared = Moments() if self.samples else None
        for axes in self._mirrors:
            probabilities, embedding = ask(self._network.segment, batch, axes)
            total.add(probabilities, embedding)
            if compared is not None:
                compared.add(probabilities)
        return total.answer(compared)


class Tally:
    """The sum of answers."""

    def __init__(self) -> None:
        self._count, self._probabilities, self._embedding = 0, torch.empty(0), torch.empty(0)

    def add(self, probabilities: Tensor, embedding: Tensor) -> None:
        """One more answer."""
        self._count += 1
        if self._count == 1:
            self._probabilities, self._embedding = probabilities, embedding
        else:
            self._probabilities, self._embedding = self._probabilities + probabilities, self._embedding + embedding

    def answer(self, compared: Moments | None) -> Answer:
        """Their mean, with what samples have in common."""
        probabilities, embedding = self._probabilities, self._embedding
        if self._count > 1:
            probabilities, embedding = probabilities / self._count, embedding / self._count
        if compared is None:
            return Answer(probabilities, embedding)
        return Answer(probabilities, embedding, compared.information, compared.votes)


class Thinned:
    """A network's own answer, and beside it samples of the network with dropout.

    The labels are those of the whole network, which the gate has judged; samples only tell how far they may be trusted.
    What comes before the first dropout is computed once a batch. Sample t is asked with the images mirrored in the t-th
    way, over and over.

    Args:
        network: what is asked.
        mirrors: of the network's own answer.
        samples: how many.
        seed: of what is left out.

    Raises:
        InvalidSettings: a network without dropout.
    """

    def __init__(self, network: SegmentingNetwork, mirrors: Sequence[Axes], samples: int, seed: int) -> None:
        if not isinstance(network, nn.Module) or not dropouts(network):
            raise InvalidSettings(
                "uncertainty.kind dropout needs a network with dropout, got one without; give the task a "
                "network.dropout above 0 and a network.kind that has it, or set uncertainty.kind to tta, ensemble or "
                "entropy"
            )
        self._network, self._mirrors, self.samples, self._seed = network, mirrors, samples, seed

    def __call__(self, batch: Tensor) -> Answer:
        """Probabilities and embeddings of the whole network, and what its samples have in common."""
        total, compared = Tally(), Moments()
        for number, axes in enumerate(self._mirrors):
            begun, rest = _begin(self._network, batch.flip(axes) if axes else batch)
            total.add(*turned_back(rest(begun), axes))
            for sample in range(number, self.samples, len(self._mirrors)):
                with thinned(self._network, self._seed, sample):
                    compared.add(turned_back(rest(begun), axes)[0])
        return total.answer(compared)


def _begin(network: SegmentingNetwork, images: Tensor) -> tuple[object, Callable[[object], tuple[Tensor, Tensor]]]:
    """What comes before the first dropout, and what does the rest; for other networks nothing comes before."""
    if isinstance(network, Network):
        return network.before_dropout(images), network.after_dropout
    return images, network.segment  # type: ignore[return-value]


class Members:
    """The first network's answer; the others are samples beside it.

    Args:
        networks: at least two, of one task; the first is the champion.
        mirrors: along which each is asked.

    Raises:
        InvalidSettings: fewer than two.
    """

    def __init__(self, networks: Sequence[SegmentingNetwork], mirrors: Sequence[Axes]) -> None:
        if len(networks) < 2:
            raise InvalidSettings(f"an ensemble to compare needs at least two networks, got {len(networks)}")
        self.samples = len(networks)
        self._askers = tuple(Mirrored(network, mirrors, as_samples=False) for network in networks)

    def __call__(self, batch: Tensor) -> Answer:
        """Probabilities and embeddings of the first, and what all of them have in common."""
        first = self._askers[0](batch)
        compared = Moments()
        compared.add(first.probabilities)
        for asker in self._askers[1:]:
            compared.add(asker(batch).probabilities)
        return Answer(first.probabilities, first.embedding, compared.information, compared.votes)


def make_asker(
    network: SegmentingNetwork,
    others: Sequence[SegmentingNetwork],
    mirrors: Sequence[Axes],
    config: UncertaintyConfig,
) -> Asker:
    """What asks as the config says.

    Args:
        network: whose labels count.
        others: earlier champions; with none an ensemble has no samples, and only entropy and margin are told.
        mirrors: axes to mirror along, the first combination empty.
        config: of the uncertainty.

    Raises:
        InvalidSettings: dropout without a network that has it, mirroring without axes.
    """
    if config.kind == "dropout":
        return Thinned(network, mirrors, config.samples, config.seed)
    if config.kind == "ensemble" and others:
        return Members([network, *others], mirrors)
    if config.kind == "tta" and len(mirrors) < 2:
        raise InvalidSettings(
            "uncertainty.kind tta needs axes along which the task mirrors its images, got none; name some in "
            "predict.flips of the task, if its network has learned from mirrored images"
        )
    return Mirrored(network, mirrors, as_samples=config.kind == "tta")


def ask(segment: Callable[[Tensor], tuple[Tensor, Tensor]], batch: Tensor, axes: Axes) -> tuple[Tensor, Tensor]:
    """Probabilities in the order of the batch, and embeddings, of the batch mirrored along axes."""
    return turned_back(segment(batch.flip(axes) if axes else batch), axes)


def turned_back(said: tuple[Tensor, Tensor], axes: Axes) -> tuple[Tensor, Tensor]:
    """Probabilities (B, classes, ...) and embeddings, float, of what a network said of images mirrored along axes."""
    logits, embedding = said
    back = tuple(axis for axis in axes if axis > 1 - logits.ndim)  # neighbour slices have no place in the answer
    probabilities = logits.float().softmax(dim=1)
    return probabilities.flip(back) if back else probabilities, embedding.float()
