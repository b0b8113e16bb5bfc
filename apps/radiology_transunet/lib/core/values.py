"""Volume, Mask and Prediction: frozen arrays that know their place in the patient."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lib.core.errors import InvalidMask, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.labels import BACKGROUND, LabelSchema

VolumeArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint8]


def _frozen(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A read-only view; the caller's own array stays writeable."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An image.

    Attributes:
        array: (S, R, C) float32: HU for CT, raw values for MR; read-only.
        geometry: its grid.
        modality: DICOM modality, for example "CT" or "MR".

    Raises:
        InvalidVolume: another shape than the grid's, or values that are not finite.
    """

    array: VolumeArray
    geometry: Geometry
    modality: str

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.shape != self.geometry.shape:
            raise InvalidVolume(f"the array must have the grid's shape {self.geometry.shape}, got {array.shape}")
        array = array.astype(np.float32, copy=False)
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            raise InvalidVolume(f"all voxels must be finite, got {bad} of {array.size} that are NaN or infinite")
        object.__setattr__(self, "array", _frozen(array))


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Label ids on a grid.

    Attributes:
        array: (S, R, C) uint8, 0 is background; read-only.
        geometry: its grid.
        schema: what the ids mean.

    Raises:
        InvalidMask: another shape, values that are no whole numbers, or ids the schema does not know.
    """

    array: MaskArray
    geometry: Geometry
    schema: LabelSchema

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.shape != self.geometry.shape:
            raise InvalidMask(f"the mask must have the grid's shape {self.geometry.shape}, got {array.shape}")
        found = np.unique(array)
        unknown = [v for v in found.tolist() if v not in (BACKGROUND, *self.schema.ids)]
        if unknown:
            raise InvalidMask(f"label ids must be 0 or among {self.schema.ids}, got {unknown[:8]}")
        object.__setattr__(self, "array", _frozen(array.astype(np.uint8, copy=False)))

    @property
    def is_empty(self) -> bool:
        """Whether every voxel is background."""
        return not self.array.any()

    def voxels(self) -> dict[str, int]:
        """Number of voxels of each label, by name; labels that do not occur have 0."""
        counts = np.bincount(self.array.reshape(-1), minlength=256)
        return {label.name: int(counts[label.id]) for label in self.schema}

    def changed_voxels(self, other: "Mask") -> int:
        """Number of voxels whose label differs.

        Raises:
            GeometryMismatch: the masks lie on different grids.
        """
        self.geometry.require_same(other.geometry, "the mask to compare with")
        return int((self.array != other.array).sum())


@dataclass(frozen=True, slots=True)
class LabelEvidence:
    """What a prediction shows of one label, from which its quality can be guessed.

    NaN stands for what is not defined. A label that is predicted nowhere has a volume, a number of components and an
    edge share of 0, its largest probability, and NaN for what would need voxels of it.

    Attributes:
        volume_ml: of its predicted voxels.
        largest_probability: that any voxel of the volume gave it.
        mean_probability: over its predicted voxels.
        boundary_entropy: mean entropy in nats near its boundary, inside and outside, within the slices.
        components: number of its connected parts; voxels that share a corner are connected.
        edge_share: share of its slices in which it reaches the volume's edge: the first or last row, column or slice.
        samples_dice: mean Dice of each two samples; NaN without samples, and where none of them shows the label.
    """

    volume_ml: float
    largest_probability: float
    mean_probability: float = nan
    boundary_entropy: float = nan
    components: int = 0
    edge_share: float = 0.0
    samples_dice: float = nan


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one volume, on the volume's own grid.

    Attributes:
        mask: the most probable label of each voxel.
        entropy: (S, R, C) float16, entropy of the class probabilities in nats, in [0, ln C]; read-only.
        scores: by label name, how much a human label would help as the entropy has it; larger = label first.
        embedding: (d,) float32, what the encoder saw of the volume.
        latencies_s: seconds by stage (for example preprocess, network, restore).
        quantities: such scores by quantity ("entropy", "margin" and, with samples, "bald" and "disagreement") and label
            name; empty = the entropy's alone.
        evidence: by label name.
        information: (S, R, C) float16, mutual information of class and sample in nats, in [0, ln C]; read-only. None
            without samples.

    Raises:
        InvalidVolume: a map of another shape than the grid's.
    """

    mask: Mask
    entropy: npt.NDArray[np.float16]
    scores: Mapping[str, float]
    embedding: npt.NDArray[np.float32]
    latencies_s: Mapping[str, float] = field(default_factory=dict)
    quantities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    evidence: Mapping[str, LabelEvidence] = field(default_factory=dict)
    information: npt.NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        for name, values in (("entropy", self.entropy), ("information", self.information)):
            if values is None:
                continue
            if values.shape != self.mask.geometry.shape:
                raise InvalidVolume(
                    f"the {name} map must have the grid's shape {self.mask.geometry.shape}, got {values.shape}"
                )
            object.__setattr__(self, name, _frozen(values))
        object.__setattr__(self, "embedding", _frozen(self.embedding))
        object.__setattr__(self, "scores", MappingProxyType(dict(self.scores)))
        quantities = {name: MappingProxyType(dict(scores)) for name, scores in self.quantities.items()}
        object.__setattr__(self, "quantities", MappingProxyType(quantities or {"entropy": self.scores}))
        for name in ("latencies_s", "evidence"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each label that there is evidence of, by name."""
        return {name: evidence.volume_ml for name, evidence in self.evidence.items()}

    @property
    def geometry(self) -> Geometry:
        """The grid of mask and maps."""
        return self.mask.geometry
