"""What a task file may say about training."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, get_args

from lib.core.errors import InvalidSettings
from lib.inference.config import FlipAxis

Schedule = Literal["cosine", "poly", "trapezoid", "constant"]
Loss = Literal["dice_ce", "dice_focal", "tversky_ce"]
Optimiser = Literal["adamw", "sgd"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


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
        elastic: largest displacement of a smooth random deformation, as a share of the shortest side that it bends.
        low_resolution: largest factor by which a picture is sampled more coarsely and back, minus 1; 1 = up to half.
        flips: axes ("slices", "rows", "columns") that may be mirrored; only where a mirrored patient is plausible.
        share: of the training pictures that each change but the flips is drawn for; 1 = every picture.
        mixup: share of the steps whose pictures are blended in pairs (Zhang et al., arXiv:1710.09412).
        cutmix: share of the steps whose pictures get a box of another one (Yun et al., arXiv:1905.04899).
    """

    rotate_deg: float = 10.0
    scale: float = 0.1
    translate: float = 0.05
    gamma: float = 0.2
    contrast: float = 0.15
    brightness: float = 0.1
    noise: float = 0.05
    elastic: float = 0.0
    low_resolution: float = 0.0
    flips: tuple[FlipAxis, ...] = ()
    share: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotate_deg", "scale", "translate", "gamma", "contrast", "brightness", "noise", "elastic"):
            if not 0 <= getattr(self, name) < (180 if name == "rotate_deg" else 1):
                raise InvalidSettings(f"training.augment.{name} is out of range, got {getattr(self, name)}")
        if not 0 <= self.low_resolution < inf:
            raise InvalidSettings(f"training.augment.low_resolution must be 0 or more, got {self.low_resolution}")
        for name in ("share", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidSettings(f"training.augment.{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.mixup + self.cutmix > 1:
            steps = f"{self.mixup} and {self.cutmix}"
            raise InvalidSettings(f"training.augment.mixup and cutmix must share the steps (at most 1), got {steps}")
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
        batch_size: slices or patches that go through the network at once.
        crop: (rows, columns) of the slices that a step sees, or None for the median of the cases; rounded up to
            the network's stride. Patches have the network's own size.
        optimiser: "adamw", or "sgd" with Nesterov momentum of 0.99 as nnU-Net uses it.
        learning_rate: peak rate.
        weight_decay: of the optimiser.
        warmup: share of the run in which the rate rises from zero.
        schedule: how the rate falls to zero afterwards, with "trapezoid" at the end alone; or "constant": it stays.
        foreground: share of a batch drawn around a voxel of a label.
        rare_oversampling: how the label of such a draw is chosen at first: 1 = each label as often as any other however
            rare it is, 0 = as often as the cases show it, between them a mixture. It fades to 0 by the end of the run:
            what was learned of the rare labels stays, and the common ones end with the data as they are.
        loss: what joins the Dice loss: cross-entropy, focal cross-entropy, or cross-entropy with Tversky for Dice.
        dice_weight: weight of the Dice (or Tversky) loss; the other loss has the rest of 1.
        focal_gamma: exponent of the focal loss (Lin et al., arXiv:1708.02002).
        tversky_alpha: weight of false positives in the Tversky loss (Salehi et al., arXiv:1706.05721); false negatives
            have the rest of 1.
        adaptive_weights: whether labels that are rare, and labels whose Dice lags, weigh more; see weights.py.
        accumulate: batches that make one step, which is that of one batch as large as all of them; for networks and
            pictures of which the device holds few. Costs one more forward pass than a large batch. Batch norms, where
            a network has them, see each batch alone.
        precision: of the forward pass; "auto" = bf16 on CUDA devices that have it, else fp32. bf16 is fp32 on CPUs
            that do not compute in it.
        keep: "last" weights, or the "best" of the validations by mean Dice; without validation cases the last ones.
        ema_decay: of the averaged weights that are kept; 0 = the last weights.
        grad_clip: largest norm of the gradient.
        seed: of weights, batches and augmentation.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes after which one is due in any case; steps of large patches may take long.
        validate_every: steps between validations; 0 = only at the end.
        augment: what is drawn for each training slice.
    """

    steps: int = 600
    max_minutes: float | None = None
    batch_size: int = 8
    crop: tuple[int, int] | None = None
    optimiser: Optimiser = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    foreground: float = 0.7
    rare_oversampling: float = 0.35
    loss: Loss = "dice_ce"
    dice_weight: float = 0.5
    focal_gamma: float = 2.0
    tversky_alpha: float = 0.3
    adaptive_weights: bool = False
    accumulate: int = 1
    precision: Precision = "auto"
    keep: Literal["last", "best"] = "last"
    ema_decay: float = 0.99
    grad_clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    checkpoint_minutes: float = 5.0
    validate_every: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "accumulate"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("learning_rate", "grad_clip", "checkpoint_minutes"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("foreground", "rare_oversampling", "dice_weight", "tversky_alpha"):
            _require(0 <= getattr(self, name) <= 1, name, "from 0 to 1", getattr(self, name))
        for name in ("warmup", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        for name in ("validate_every", "seed", "weight_decay", "focal_gamma"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        _require(self.max_minutes is None or self.max_minutes > 0, "max_minutes", "positive", self.max_minutes)
        choices = {"schedule": Schedule, "loss": Loss, "optimiser": Optimiser, "precision": Precision}
        for name, choice in choices.items():
            _require(getattr(self, name) in get_args(choice), name, f"one of {get_args(choice)}", getattr(self, name))
        _require(self.keep in ("last", "best"), "keep", '"last" or "best"', self.keep)
        validated = self.keep == "last" or self.validate_every >= 1
        _require(validated, "validate_every", "1 or more with keep: best", self.validate_every)
        if self.crop is not None:
            _require(len(self.crop) == 2 and min(self.crop) > 0, "crop", "two positive numbers", self.crop)
            object.__setattr__(self, "crop", tuple(self.crop))


def _require(holds: bool, name: str, wanted: str, got: object) -> None:
    if not holds:
        raise InvalidSettings(f"training.{name} must be {wanted}, got {got!r}")
