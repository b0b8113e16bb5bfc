"""Volume, Mask and Prediction: frozen arrays that know their place in the patient."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says of one volume, on the volume's own grid.

    Attributes:
        mask: the most probable label of each voxel.
        entropy: (S, R, C) float16, entropy of the class probabilities in nats, in [0, ln C]; read-only.
        scores: by label name, how much a human label would help; larger = label first.
        embedding: (d,) float32, what the encoder saw of the volume.
        latencies_s: seconds by stage (for example preprocess, network, restore).
    """

    mask: Mask
    entropy: npt.NDArray[np.float16]
    scores: Mapping[str, float]
    embedding: npt.NDArray[np.float32]
    latencies_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.entropy.shape != self.mask.geometry.shape:
            raise InvalidVolume(
                f"the entropy map must have the grid's shape {self.mask.geometry.shape}, got {self.entropy.shape}"
            )
        object.__setattr__(self, "entropy", _frozen(self.entropy))
        object.__setattr__(self, "embedding", _frozen(self.embedding))
        object.__setattr__(self, "scores", MappingProxyType(dict(self.scores)))
        object.__setattr__(self, "latencies_s", MappingProxyType(dict(self.latencies_s)))

    @property
    def geometry(self) -> Geometry:
        """The grid of mask and maps."""
        return self.mask.geometry
