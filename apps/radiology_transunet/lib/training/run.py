"""The moving parts of a training run: weights, their average, the optimiser, what happened so far."""

from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor, nn

from lib.core.errors import TrainingFailed
from lib.core.labels import LabelSchema
from lib.inference.model import StateDict, build_network
from lib.networks.config import NetworkConfig
from lib.networks.network import Network
from lib.training.checkpoint import Checkpoint
from lib.training.config import FitConfig
from lib.training.losses import dice_cross_entropy


@dataclass(slots=True)
class Run:
    """One run of the optimiser.

    Attributes:
        config: how to train.
        network: learns.
        average: exponential moving average of the network's weights; this is what a run ends with.
        optimizer: AdamW.
        step: steps done.
        losses: of each step.
        curve: (step, mean Dice) of each validation.
    """

    config: FitConfig
    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        network: NetworkConfig,
        schema: LabelSchema,
        config: FitConfig,
        device: torch.device,
        weights: StateDict | None = None,
    ) -> "Run":
        """A run at step 0, its weights those given or drawn from the config's seed."""
        torch.manual_seed(config.seed)
        learner = build_network(network, schema)
        if weights is not None:
            learner.load_state_dict(weights)
        learner.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(learner.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        return cls(config, learner, deepcopy(learner).eval(), optimizer)

    def learn(self, images: Tensor, classes: Tensor, rate: float) -> float:
        """One step on images (B, in, H, W) and classes (B, H, W) at that learning rate; returns the loss.

        Raises:
            TrainingFailed: the loss or its gradient is not a number; the weights are still those before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        self.optimizer.zero_grad()
        loss = dice_cross_entropy(self.network(images), classes, self.config.dice_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        if not (isfinite(value := loss.item()) and isfinite(norm.item())):
            raise TrainingFailed(
                f"the loss at step {self.step + 1} must be a number, got {value} (gradient {norm.item()}); "
                f"the last checkpoint is kept; try a lower learning rate than {self.config.learning_rate}"
            )
        self.optimizer.step()
        follow(self.average, self.network, min(self.config.ema_decay, (1 + self.step) / (10 + self.step)))
        self.step += 1
        self.losses.append(value)
        return value

    def checkpoint(self, key: str, seconds: float) -> Checkpoint:
        """The state after this step."""
        states = self.network.state_dict(), self.average.state_dict(), self.optimizer.state_dict()
        return Checkpoint(key, self.step, seconds, *states, self.losses, self.curve)

    def resume(self, last: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(last.network)
        self.average.load_state_dict(last.average)
        self.optimizer.load_state_dict(last.optimizer)
        self.step, self.losses, self.curve = last.step, last.losses, last.curve


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average by 1 - decay towards the network; buffers that are no floats are copied."""
    for mine, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)
