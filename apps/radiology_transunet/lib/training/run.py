"""The moving parts of a training run: weights, their average, the optimiser, what happened so far."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor, nn

from lib.core.errors import OutOfMemory, TrainingFailed
from lib.core.labels import LabelSchema
from lib.inference.model import StateDict, build_network
from lib.networks.config import NetworkConfig
from lib.networks.network import Network
from lib.training.augment_mix import before
from lib.training.checkpoint import Checkpoint
from lib.training.collectives import statistics_held
from lib.training.config import FitConfig
from lib.training.data import Batch
from lib.training.distributed import ALONE, Group
from lib.training.losses import LabelWeights, Loss, Target, segmentation_loss
from lib.training.memory import half, own_at_once
from lib.training.precision import half_type
from lib.training.weights import RunningDice, company, label_weights

log = logging.getLogger(__name__)

SGD_MOMENTUM = 0.99
SMALLEST_SCALE = 1.0
"""Of the loss in fp16: where gradients overflow even below it, the weights have left the numbers."""

Samples = tuple[Sequence[int], int]


@dataclass(slots=True)
class Run:
    """One run of the optimiser.

    Attributes:
        config: how to train.
        network: learns.
        average: exponential moving average of the network's weights; this is what a run ends with.
        optimizer: of the network.
        scaler: of the loss, against underflow of gradients in fp16; passes everything through without.
        half: type of the forward pass, or None for fp32.
        samples: how many samples show each label, and how many there are.
        running: running Dice of each label.
        at_once: pictures that go through the network at a time, batch_size unless memory ran out.
        step: steps done.
        losses: of each step.
        rates: learning rate of each step.
        curve: (step, mean Dice) of each validation.
        best: mean Dice and averaged weights of the best validation, where the config keeps them.
        notes: what went other than planned, in words.
        group: the processes that make each step together.
    """

    config: FitConfig
    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    half: torch.dtype | None
    samples: Samples
    running: RunningDice
    at_once: int
    step: int = 0
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    best: tuple[float, dict[str, Tensor]] | None = None
    notes: list[str] = field(default_factory=list)
    group: Group = ALONE

    @classmethod
    def start(
        cls,
        network: NetworkConfig,
        schema: LabelSchema,
        config: FitConfig,
        device: torch.device,
        samples: Samples,
        weights: StateDict | None = None,
        group: Group = ALONE,
    ) -> "Run":
        """A run at step 0, its weights those given or drawn from the config's seed."""
        half = half_type(config, device)
        torch.manual_seed(config.seed)
        learner = build_network(network, schema)
        if weights is not None:
            learner.load_state_dict(weights)
        learner.to(device=device, memory_format=memory_format(5 if network.of_patches else 4))  # type: ignore[call-overload]
        scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
        average = deepcopy(learner).eval()
        group.synchronise(learner)
        return cls(
            config,
            learner,
            average,
            make_optimizer(config, learner),
            scaler,
            half,
            samples,
            RunningDice.of(len(schema)),
            config.batch_size,
            group=group,
        )

    def learn(self, batch: Batch, rate: float) -> float:
        """One step on a batch at that learning rate; returns the loss.

        Raises:
            TrainingFailed: the loss or its gradient is not a number; the weights are still those before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        self.optimizer.zero_grad()
        loss = self._backward(batch)
        self.group.add_gradients(self.network)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self._require_numbers(value := loss.value.item(), norm.item(), batch)
        self.group.require_whole()
        self.scaler.step(self.optimizer)  # not taken where fp16 overflowed
        self.scaler.update()
        follow(self.average, self.network, min(self.config.ema_decay, (1 + self.step) / (10 + self.step)))
        self.step += 1
        self.losses.append(value)
        self.rates.append(rate)
        if self.config.adaptive_weights and not _blended(batch):
            self.running = self.running.after(loss.overlap.score().tolist(), loss.overlap.shown.tolist())
        return value

    def validated(self, dice: float) -> bool:
        """Note the mean Dice of the averaged weights; whether they are the best so far and are kept."""
        self.curve.append((self.step, dice))
        if self.config.keep == "last" or (self.best is not None and dice <= self.best[0]):
            return False
        self.best = dice, {name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()}
        return True

    def took_back(self, dice: float) -> bool:
        """Note the mean Dice of the last weights; whether better ones of before were put in their place."""
        if not self.curve or self.curve[-1][0] != self.step:
            self.validated(dice)
        if self.best is None or self.best[0] <= self.curve[-1][1]:
            return False
        self.average.load_state_dict(self.best[1])
        return True

    def checkpoint(self, key: str, seconds: float) -> Checkpoint:
        """The state after this step."""
        return Checkpoint(
            key=key,
            step=self.step,
            seconds=seconds,
            network=self.network.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            losses=self.losses,
            rates=self.rates,
            curve=self.curve,
            running=self.running.values,
            best=self.best,
            at_once=self.at_once,
            notes=self.notes,
        )

    def resume(self, last: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(last.network)
        self.average.load_state_dict(last.average)
        self.optimizer.load_state_dict(last.optimizer)
        self.scaler.load_state_dict(last.scaler)
        self.step, self.losses, self.rates, self.curve = last.step, last.losses, last.rates, last.curve
        self.running, self.best = RunningDice(tuple(last.running)), last.best
        self.at_once, self.notes = last.at_once, last.notes

    def halve(self, said: str) -> None:
        """Let half as many pictures through the network at a time; a step stays what it is.

        Args:
            said: why.

        Raises:
            OutOfMemory: that was done before, or there is one picture at a time already.
        """
        tried = own_at_once(self.config, self.group.size)
        if self.at_once < tried or tried == 1:
            raise OutOfMemory(said)
        self.at_once = half(tried)
        each = "" if self.group.size == 1 else f" in each of {self.group.size} processes"
        self.notes.append(
            f"no memory for {tried} pictures at a time{each} ({said}): {self.at_once} at a time from step "
            f"{self.step + 1} on, in steps as large as before"
        )
        if self.group.leads:
            log.warning(self.notes[-1])

    def _backward(self, batch: Batch) -> Loss:
        """The loss of a batch, its gradient being left at the weights.

        Where gradients are accumulated, the batch goes through the network in parts, but its loss is that of the whole:
        a soft Dice over the batch is no mean of its parts' ones. So the parts are passed once for the logits, whose
        gradient is taken, and once more to send it back (Gao et al., arXiv:2101.06983); one pass more than needed, and
        the same step as with one large batch, but for batch norms, which see each part alone.
        """
        parts = torch.split(batch.images, self.at_once)
        seeds = part_seeds(batch.seed, self.group.rank, len(parts))
        if len(parts) == 1:
            loss = self._loss(self._forward(batch.images, seeds[0]), batch)
            self.scaler.scale(loss.value).backward()  # type: ignore[no-untyped-call]
            return loss
        with torch.no_grad(), statistics_held(self.network):  # the second pass counts each picture once
            passed = [self._forward(part, seed) for part, seed in zip(parts, seeds, strict=True)]
        outputs = [torch.cat(level).requires_grad_() for level in zip(*passed, strict=True)]
        loss = self._loss(outputs, batch)
        gradients = torch.autograd.grad(self.scaler.scale(loss.value), outputs)
        shares = zip(*(torch.split(level, self.at_once) for level in gradients), strict=True)
        for part, seed, share in zip(parts, seeds, shares, strict=True):
            torch.autograd.backward(self._forward(part, seed), share)
        return loss

    def _forward(self, images: Tensor, seed: int) -> tuple[Tensor, ...]:
        torch.manual_seed(seed)
        with torch.autocast(images.device.type, self.half or torch.bfloat16, enabled=self.half is not None):
            return self.network.supervised(images)

    def _loss(self, outputs: Sequence[Tensor], batch: Batch) -> Loss:
        weights = self._label_weights(batch.classes.device)
        covered = None if bool(batch.covered.all()) else batch.covered.to(batch.classes.device)
        total = self.group.total
        own = segmentation_loss(outputs, Target(batch.classes, covered), self.config, weights, total)
        if batch.mixing is None or not batch.mixing.blends:
            return own
        classes, theirs = batch.others or (before(batch.classes), before(batch.covered))
        covered = None if bool(theirs.all()) else theirs.to(batch.classes.device)
        other = segmentation_loss(outputs, Target(classes, covered), self.config, weights, total)
        share = batch.mixing.weight
        return Loss(share * own.value + (1 - share) * other.value, own.overlap)

    def _label_weights(self, device: torch.device) -> LabelWeights | None:
        if not self.config.adaptive_weights:
            return None
        parts = label_weights(*self.samples, self.running), company(self.samples[0])
        return LabelWeights(*(torch.tensor(part, dtype=torch.float32, device=device) for part in parts))

    def _require_numbers(self, loss: float, norm: float, batch: Batch) -> None:
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
        if isfinite(loss) and (isfinite(norm) or overflows):
            return
        raise TrainingFailed(
            f"the loss at step {self.step + 1} must be a number, got {loss} (gradient {norm}) on the cases "
            f"{', '.join(sorted(set(batch.names)))}; the last checkpoint is kept; look at these cases, or try a lower "
            f"learning rate than {self.config.learning_rate}"
        )


def part_seeds(seed: int, rank: int, parts: int) -> range:
    """The seeds of the parts that a process sends through its network; each process has so many parts."""
    return range(seed + rank * parts, seed + (rank + 1) * parts)


def make_optimizer(config: FitConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum of 0.99 as nnU-Net uses it."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            config.learning_rate,
            momentum=SGD_MOMENTUM,
            nesterov=True,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)


def memory_format(axes: int) -> torch.memory_format:
    """Channels last for slices, whose convolutions run fastest so on CPUs and CUDA; for patches it gained nothing."""
    return torch.channels_last if axes == 4 else torch.contiguous_format


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average by 1 - decay towards the network; buffers that are no floats are copied."""
    for mine, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)


def _blended(batch: Batch) -> bool:
    return batch.mixing is not None and batch.mixing.blends
