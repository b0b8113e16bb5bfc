"""From the fingerprint of a data set to a task: spacing, normalisation, network, patch, batch, and why.

The rules follow nnU-Net (Isensee et al., Nature Methods 2021, supplementary note 2) where they can. What differs:
slices that are thick and few go to the TransUNet of slices, and without a graphics card all is
sized for two CPU cores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Literal

from lib.core.errors import InvalidInput
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.taskfile import NAME_PATTERN, Task
from lib.training.config import FitConfig
from lib.workflows.fingerprint import Fingerprint, Numbers
from lib.workflows.planlabels import RARE_CASES, is_scarce, planned_labels, shown_rarely
from lib.workflows.plansizes import Machine, coarsened, sized_patch, slice_crop

ANISOTROPIC = 3.0
"""Slices that are thicker than pixels by this factor are not interpolated between: nnU-Net's threshold."""
FEW_SLICES = 64
"""So many anisotropic slices or fewer go to the network of slices; more are worth a flat patch."""
LEAST_SLICES = 8
"""Fewer slices than this are no volume to convolve."""
UNLIKE_SPACING = 1.5
"""Ratio of the 90th and the 10th percentile of slice spacings above which slices are resampled to one thickness."""
LOWEST_HU_OF_CT = -200.0
"""Images whose lowest intensity, in the median, is at most this are taken for CT; MR that was normalised is above."""
Dimensions = Literal["auto", "2", "3"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What is asked of a plan.

    Attributes:
        name: of the task.
        modality: "CT" or "MR"; "" = guessed from the intensities.
        device_memory_gb: of the graphics card that will train; None = two CPU cores.
        dimensions: "2" = slices, "3" = patches, "auto" = by the data.
        names: of labels by id; ids without a name become "label N".

    Raises:
        InvalidInput: a name that a task cannot have, an unknown modality or number of dimensions, memory that is not
            positive.
    """

    name: str
    modality: str = ""
    device_memory_gb: float | None = None
    dimensions: Dimensions = "auto"
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise InvalidInput(f"a task's name is lower-case letters, digits and underscores, got {self.name!r}")
        if self.modality not in ("", "CT", "MR"):
            raise InvalidInput(f"the modality must be CT or MR, got {self.modality!r}")
        if self.dimensions not in ("auto", "2", "3"):
            raise InvalidInput(f"dimensions must be 2, 3 or auto, got {self.dimensions!r}")
        if self.device_memory_gb is not None and not (self.device_memory_gb > 0 and isfinite(self.device_memory_gb)):
            raise InvalidInput(f"the device's memory must be positive, got {self.device_memory_gb} GB")


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task and, by dotted key, why it says what it says; "" = the data in one sentence."""

    task: Task
    reasons: Mapping[str, str]


@dataclass(slots=True)
class _Draft:
    """Decisions so far with their reasons."""

    reasons: dict[str, str]

    def because(self, key: str, why: str) -> None:
        self.reasons[key] = why


def plan_task(fingerprint: Fingerprint, options: PlanOptions) -> TaskPlan:
    """The task for data of that fingerprint, and the reasons.

    Raises:
        InvalidInput: labelled voxels of a CT within one Hounsfield unit, names that occur twice.
    """
    machine = Machine(options.device_memory_gb)
    draft = _Draft({"": _summary(fingerprint, machine)})
    modality = _modality(fingerprint, options, draft)
    slices = _takes_slices(fingerprint, options, draft)
    spacing_mm = coarsened(target_spacing(fingerprint), fingerprint.median_size, machine, slices)
    preprocess = PreprocessConfig(
        _spacing(fingerprint, spacing_mm, slices, machine, draft), _window(fingerprint, modality, draft)
    )
    size = fingerprint.median_size(spacing_mm)
    plan = _slices_plan if slices else _patches_plan
    network, training = plan(fingerprint, size, spacing_mm, machine, draft)
    labels, why = planned_labels(fingerprint, options.names)
    for position, text in enumerate(why):
        draft.because(f"labels.{position}", text)
    rare = shown_rarely(fingerprint, labels)
    if rare:
        draft.because("rare", f"in less than {RARE_CASES:.0%} of the cases: reported apart from the mean")
    task = Task(
        name=options.name,
        description=f"{len(labels)} labels in {modality}",
        modalities=(modality,),
        labels=labels,
        rare=rare,
        preprocess=preprocess,
        network=network,
        training=training,
    )
    return TaskPlan(task, MappingProxyType(draft.reasons))


def target_spacing(fingerprint: Fingerprint) -> Numbers:
    """The median spacing; where one axis is much coarser than the others, its 10th percentile.

    Never finer than the next axis (nnU-Net's rule for anisotropic data).
    """
    spacing = list(fingerprint.median_spacing_mm)
    size = fingerprint.median_size(spacing)
    coarse = max(range(3), key=lambda axis: spacing[axis])
    others = [axis for axis in range(3) if axis != coarse]
    next_mm = max(spacing[axis] for axis in others)
    if spacing[coarse] / next_mm > ANISOTROPIC and size[coarse] * ANISOTROPIC < min(size[axis] for axis in others):
        spacing[coarse] = max(fingerprint.spacing_percentile_mm(10)[coarse], next_mm)
    return spacing[0], spacing[1], spacing[2]


def _modality(fingerprint: Fingerprint, options: PlanOptions, draft: _Draft) -> str:
    lowest = sorted(fingerprint.lowest)[fingerprint.cases // 2]
    guess = "CT" if lowest <= LOWEST_HU_OF_CT else "MR"
    said = "as asked" if options.modality else "guessed; say --modality if that is wrong"
    draft.because("modalities", f"lowest intensity of a typical image {lowest:.0f}: {said}")
    return options.modality or guess


def _takes_slices(fingerprint: Fingerprint, options: PlanOptions, draft: _Draft) -> bool:
    """Whether the network sees slices; the reason for its kind."""
    spacing = fingerprint.median_spacing_mm
    slices = fingerprint.median_size(spacing)[0]
    ratio = spacing[0] / max(spacing[1:])
    thick = ratio >= ANISOTROPIC and slices <= FEW_SLICES
    chosen = thick or slices < LEAST_SLICES
    said = f"slices are {ratio:.1f} times as thick as pixels, {slices:.0f} in a typical image"
    if options.dimensions != "auto":
        chosen = options.dimensions == "2"
        said = f"asked for {'slices' if chosen else 'patches'}; {said}"
    elif not chosen and ratio >= ANISOTROPIC:
        said = f"{said}: many enough for flat patches"
    draft.because("network.kind", said)
    return chosen


def _spacing(
    fingerprint: Fingerprint, spacing_mm: Numbers, slices: bool, machine: Machine, draft: _Draft
) -> float | Numbers:
    """What the task says of the spacing; a network of slices takes them as thick as they are where they are alike."""
    median = " x ".join(f"{mm:.3g}" for mm in fingerprint.median_spacing_mm)
    coarser = any(mm > 1.01 * own for mm, own in zip(spacing_mm, target_spacing(fingerprint), strict=True))
    why = f"the median is {median} mm" + (f", coarser so that {machine.name} can train in minutes" if coarser else "")
    thin, thick = (fingerprint.spacing_percentile_mm(percent)[0] for percent in (10, 90))
    if slices and thick <= UNLIKE_SPACING * thin:
        draft.because("preprocess.spacing_mm", f"within the slice, which keeps its thickness; {why}")
        return _rounded((spacing_mm[1] + spacing_mm[2]) / 2)
    draft.because("preprocess.spacing_mm", f"slices, rows, columns; {why}")
    return _rounded(spacing_mm[0]), _rounded(spacing_mm[1]), _rounded(spacing_mm[2])


def _window(fingerprint: Fingerprint, modality: str, draft: _Draft) -> tuple[float, float] | None:
    low, high = fingerprint.intensities[0], fingerprint.intensities[-1]
    if modality == "MR":
        draft.because("preprocess.clip_percentiles", "intensities of MR are not comparable: each image by its own")
        return None
    if not round(low) < round(high):
        raise InvalidInput(
            f"labelled voxels of a CT must differ by a Hounsfield unit or more, but 99 % of them are from {low:.3g} to "
            f"{high:.3g}; the images must be in Hounsfield units"
        )
    draft.because("preprocess.window_hu", "0.5th and 99.5th percentile of the labelled voxels")
    return float(round(low)), float(round(high))


def _patches_plan(
    fingerprint: Fingerprint, size: Numbers, spacing_mm: Numbers, machine: Machine, draft: _Draft
) -> tuple[NetworkConfig, FitConfig]:
    patch, strides = sized_patch(size, spacing_mm, machine.patch_voxels)
    batch = machine.patches(patch)
    median = " x ".join(f"{side:.0f}" for side in size)
    draft.because("network.size", machine.why)
    draft.because("network.patch", f"slices, rows, columns; a typical image has {median} voxels at this spacing")
    draft.because("network.strides", "an axis is halved while it is about as fine as the finest one and long enough")
    draft.because("training.batch_size", f"patches of a step, within what {machine.name} can take")
    size_name, dropout = machine.size_of_patches(patch, batch), _dropout(machine, draft)
    network = NetworkConfig("transunet3d", size_name, dropout=dropout, patch=patch, strides=strides)
    return network, _training(fingerprint, batch, None, machine, draft)


def _slices_plan(
    fingerprint: Fingerprint, size: Numbers, spacing_mm: Numbers, machine: Machine, draft: _Draft
) -> tuple[NetworkConfig, FitConfig]:
    alone = size[0] < 2
    draft.because("network.size", machine.why)
    draft.because("network.context_slices", "there is one slice" if alone else "neighbours on each side, as channels")
    context_slices, dropout = 0 if alone else 1, _dropout(machine, draft)
    network = NetworkConfig("transunet", machine.size_of_slices, context_slices, dropout)
    crop = slice_crop((size[1], size[2]), network.stride, machine.slice_pixels)
    batch = machine.slices(crop)
    draft.because("training.batch_size", f"slices of a step, within what {machine.name} can take")
    typical = f"a typical slice has {size[1]:.0f} x {size[2]:.0f} pixels at this spacing"
    draft.because("training.crop", f"rows and columns that a step sees; {typical}")
    return network, _training(fingerprint, batch, crop, machine, draft)


def _dropout(machine: Machine, draft: _Draft) -> float:
    if machine.minutes is None:
        return NetworkConfig().dropout
    draft.because("network.dropout", "minutes of training do not overfit")
    return 0.0


def _training(
    fingerprint: Fingerprint, batch: int, crop: tuple[int, int] | None, machine: Machine, draft: _Draft
) -> FitConfig:
    scarce = any(is_scarce(fingerprint, number) for number in fingerprint.labels)
    draft.because("training.steps", machine.why_steps)
    if machine.minutes is not None:
        draft.because("training.max_minutes", "the schedule shrinks to this; more is better")
    draft.because("training.learning_rate", "peak; larger networks need smaller steps")
    if scarce:
        draft.because("training.adaptive_weights", "some labels are rare: those and what lags behind weigh more")
    return FitConfig(
        steps=machine.steps,
        max_minutes=machine.minutes,
        batch_size=batch,
        crop=crop,
        learning_rate=machine.learning_rate,
        adaptive_weights=scarce,
    )


def _summary(fingerprint: Fingerprint, machine: Machine) -> str:
    spacing_mm = fingerprint.median_spacing_mm
    size = " x ".join(f"{side:.0f}" for side in fingerprint.median_size(spacing_mm))
    spacing = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    return (
        f"Planned from {fingerprint.cases} labelled images, typically {size} voxels (slices, rows, columns) of "
        f"{spacing} mm, for {machine.name}. Every value may be changed; the codes of the labels are only "
        "place-holders: give each its own."
    )


def _rounded(mm: float) -> float:
    """Three figures are enough."""
    return float(f"{mm:.3g}")
