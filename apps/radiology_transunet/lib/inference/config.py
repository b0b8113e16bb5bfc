"""What a task file may say about preprocessing, and where inference runs."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from lib.core.errors import InvalidSettings
from lib.networks.config import NetworkConfig

FlipAxis = Literal["slices", "rows", "columns"]
UncertaintyKind = Literal["entropy", "dropout", "tta", "ensemble"]
UncertaintyMap = Literal["entropy", "bald"]
MAX_OVERLAP = 0.9
MOST_SAMPLES = 64
WITHOUT_DROPOUT = ("dynunet",)
"""Kinds of network that have no dropout, whatever the task says."""


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """The `preprocess` block of a task file.

    Attributes:
        spacing_mm: pixel spacing within the slices that the network sees, the slices staying as they are; or
            (slices, rows, columns) to resample all three; or None to keep each volume's own grid, or that of the model
            (`train` chooses a coarser one where CPUs train on large slices).
        window_hu: (lowest, highest) intensity, scaled to [-1, 1]; for CT. None = percentiles.
        clip_percentiles: (lowest, highest) percentile of the volume at which intensities are clipped before the
            z-score; used when there is no window; for MR.

    Raises:
        InvalidSettings: a spacing that is not positive and finite, a range that is empty or endless.
    """

    spacing_mm: float | tuple[float, float, float] | None = None
    window_hu: tuple[float, float] | None = None
    clip_percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        given = () if self.spacing_mm is None else self.spacing_mm
        wanted = given if isinstance(given, tuple) else (given,)
        if len(wanted) not in (0, 1, 3) or not all(mm > 0 and isfinite(mm) for mm in wanted):
            raise InvalidSettings(
                f"preprocess.spacing_mm must be one positive number, three (slices, rows, columns) or left out, "
                f"got {self.spacing_mm}"
            )
        if self.window_hu is not None:
            object.__setattr__(self, "window_hu", _range("preprocess.window_hu", self.window_hu))
        clip = _range("preprocess.clip_percentiles", self.clip_percentiles)
        if clip[0] < 0 or clip[1] > 100:
            raise InvalidSettings(f"preprocess.clip_percentiles must lie within 0 and 100, got {clip}")
        object.__setattr__(self, "clip_percentiles", clip)


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """The `predict` block of a task file: how a network is asked.

    Attributes:
        overlap: share of a patch by which neighbouring patches overlap, at least; for networks of patches.
        flips: axes ("slices", "rows", "columns") along which the image is also predicted mirrored, in all
            combinations; the probabilities are averaged.

    Raises:
        InvalidSettings: an overlap outside [0, 0.9], an unknown axis.
    """

    overlap: float = 0.5
    flips: tuple[FlipAxis, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise InvalidSettings(f"predict.overlap must be from 0 to {MAX_OVERLAP}, got {self.overlap}")
        unknown = [axis for axis in self.flips if axis not in get_args(FlipAxis)]
        if unknown or len(set(self.flips)) != len(self.flips):
            raise InvalidSettings(f"predict.flips may hold each of {get_args(FlipAxis)} once, got {self.flips}")
        object.__setattr__(self, "flips", tuple(self.flips))


@dataclass(frozen=True, slots=True)
class UncertaintyConfig:
    """What a network's uncertainty is read from.

    Attributes:
        kind: "entropy" of one answer; or samples whose disagreement is also told: "dropout" (parts of the network are
            left out at random), "tta" (the image mirrored as the task's `predict.flips` say), "ensemble" (the champions
            before).
        samples: networks drawn by dropout; champions of the ensemble, with the present one at most so many. Mirroring
            has as many as there are combinations of the axes.
        seed: of what dropout leaves out: the same seed leaves out the same for every volume, batch and thread.
        map: the quantity of the map that goes into the archive: "entropy", or "bald" (mutual information of class and
            sample), which needs samples.

    Raises:
        InvalidSettings: an unknown kind or map, fewer than 2 samples or too many, a map that the kind does not have.
    """

    kind: UncertaintyKind
    samples: int
    seed: int
    map: UncertaintyMap

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(UncertaintyKind)), ("map", get_args(UncertaintyMap))):
            if getattr(self, name) not in known:
                raise InvalidSettings(
                    f"uncertainty.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if not 2 <= self.samples <= MOST_SAMPLES:
            raise InvalidSettings(f"uncertainty.samples must be from 2 to {MOST_SAMPLES}, got {self.samples}")
        if self.seed < 0:
            raise InvalidSettings(f"uncertainty.seed must be 0 or more, got {self.seed}")
        if self.map == "bald" and self.kind == "entropy":
            raise InvalidSettings(
                "uncertainty.map bald needs samples: set uncertainty.kind to dropout, tta or ensemble"
            )

    def require_possible(self, task: str, network: NetworkConfig, predict: PredictConfig) -> None:
        """Raise InvalidSettings, with the way out, when a task's network or options have no samples of this kind."""
        if self.kind == "dropout" and (network.dropout == 0 or network.kind in WITHOUT_DROPOUT):
            has = f"network.dropout {network.dropout:g}" if network.dropout == 0 else f"network.kind {network.kind}"
            raise InvalidSettings(
                f"uncertainty.kind dropout needs a network with dropout, but task {task} has {has}; change the task, "
                "or set uncertainty.kind to tta, ensemble or entropy"
            )
        alone = not network.of_patches and network.context_slices == 0
        if self.kind == "tta" and not mirrored_axes(predict, alone):
            raise InvalidSettings(
                f"uncertainty.kind tta needs axes along which images are mirrored, but task {task} names none in "
                "predict.flips (slices, where the network sees one at a time, count as none); name some if its network "
                "learns from mirrored images, or set uncertainty.kind to ensemble or entropy"
            )


def mirrored_axes(predict: PredictConfig, alone: bool) -> tuple[FlipAxis, ...]:
    """The axes along which images are mirrored.

    Args:
        predict: the options.
        alone: whether the network sees single slices: without neighbours they have no order to turn round.
    """
    return tuple(axis for axis in predict.flips if not (alone and axis == "slices"))


ONE_ANSWER = UncertaintyConfig(kind="entropy", samples=2, seed=0, map="entropy")
"""Nothing is sampled: for predictors whose uncertainty nobody reads."""


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """Where and how networks run.

    Attributes:
        device: "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:N".
        batch_size: slices that go through a network at once.
        threads: CPU threads of the network; 0 = half of the cores, at least one.

    Raises:
        InvalidSettings: an unknown device, a number out of range.
    """

    device: str
    batch_size: int
    threads: int

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda") and not self.device.removeprefix("cuda:").isdigit():
            raise InvalidSettings(f"inference.device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if self.batch_size < 1:
            raise InvalidSettings(f"inference.batch_size must be at least 1, got {self.batch_size}")
        if self.threads < 0:
            raise InvalidSettings(f"inference.threads must be 0 or more, got {self.threads}")


def _range(name: str, values: tuple[float, float]) -> tuple[float, float]:
    """A (low, high) pair of finite floats with low < high."""
    if len(values) != 2 or not values[0] < values[1] or not all(map(isfinite, values)):
        raise InvalidSettings(f"{name} must be two finite numbers, the lower one first, got {values}")
    return float(values[0]), float(values[1])
