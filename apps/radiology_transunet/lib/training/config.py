"""What a task file may say about training."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from lib.core.errors import InvalidSettings

Schedule = Literal["cosine", "poly"]
FlipAxis = Literal["slices", "rows", "columns"]


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Ranges from which each training slice draws its changes; 0 turns one off.

    Attributes:
        rotate_deg: largest rotation within the slice, either way.
        scale: largest relative change of size, 0.1 = from 0.9 to 1.1.
        translate: largest shift as a share of the slice's side.
        gamma: largest change of the exponent, 0.2 = from 0.8 to 1.2 (in the logarithm).
        contrast: largest relative change of contrast.
        brightness: largest shift of the normalised intensity.
        noise: largest standard deviation of Gaussian noise on the normalised intensity.
        flips: axes ("slices", "rows", "columns") that may be mirrored; only where a mirrored patient is plausible.
    """

    rotate_deg: float = 10.0
    scale: float = 0.1
    translate: float = 0.05
    gamma: float = 0.2
    contrast: float = 0.15
    brightness: float = 0.1
    noise: float = 0.05
    flips: tuple[FlipAxis, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rotate_deg", "scale", "translate", "gamma", "contrast", "brightness", "noise"):
            if not 0 <= getattr(self, name) < (180 if name == "rotate_deg" else 1):
                raise InvalidSettings(f"training.augment.{name} is out of range, got {getattr(self, name)}")
        unknown = [axis for axis in self.flips if axis not in get_args(FlipAxis)]
        if unknown:
            raise InvalidSettings(f"training.augment.flips may hold {get_args(FlipAxis)}, got {unknown}")
        object.__setattr__(self, "flips", tuple(self.flips))


@dataclass(frozen=True, slots=True)
class FitConfig:
    """The `training` block of a task file.

    Attributes:
        steps: optimiser steps of the whole run.
        max_minutes: time budget of preparation and steps; the schedule shrinks to fit it. None = no limit.
        batch_size: slices of a step.
        crop: (rows, columns) of the pixels that a step sees, or None for the largest slice of the cases; rounded up
            to the network's stride.
        learning_rate: peak rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the run in which the rate rises from zero.
        schedule: how the rate falls to zero afterwards.
        foreground: share of a batch drawn from slices that hold a label, each label as often as any other.
        dice_weight: weight of the Dice loss; cross-entropy has the rest of 1.
        ema_decay: of the averaged weights that are kept; 0 = the last weights.
        grad_clip: largest norm of the gradient.
        seed: of weights, batches and augmentation.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between validations; 0 = only at the end.
        augment: what is drawn for each training slice.
    """

    steps: int = 600
    max_minutes: float | None = None
    batch_size: int = 8
    crop: tuple[int, int] | None = None
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    foreground: float = 0.7
    dice_weight: float = 0.5
    ema_decay: float = 0.99
    grad_clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    validate_every: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("learning_rate", "grad_clip"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("foreground", "dice_weight"):
            _require(0 <= getattr(self, name) <= 1, name, "from 0 to 1", getattr(self, name))
        for name in ("warmup", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        for name in ("validate_every", "seed", "weight_decay"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        _require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", "positive", self.max_minutes)
        _require(self.schedule in get_args(Schedule), "schedule", f"one of {get_args(Schedule)}", self.schedule)
        if self.crop is not None:
            _require(len(self.crop) == 2 and min(self.crop) > 0, "crop", "two positive numbers", self.crop)
            object.__setattr__(self, "crop", tuple(self.crop))


def _require(holds: bool, name: str, wanted: str, got: object) -> None:
    if not holds:
        raise InvalidSettings(f"training.{name} must be {wanted}, got {got!r}")
