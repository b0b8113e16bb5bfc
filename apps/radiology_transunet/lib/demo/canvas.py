"""A canvas of Hounsfield units and labels on which shapes are painted, the later over the earlier."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.core.labels import LabelSchema
from lib.core.values import MaskArray
from lib.demo.shapes import Array, Points, Region, Shape, smooth_field

EDGE_MM = 3.2
"""Width over which one tissue passes into the next: about a voxel, the partial volume effect."""
AIR_HU = -1000.0
LOWEST_HU = -1024.0
HIGHEST_HU = 3071.0


@dataclass(frozen=True, slots=True)
class Tissue:
    """What a shape is made of.

    Attributes:
        hu: mean attenuation.
        coarse_hu: deviation of its patches of some centimetres.
        fine_hu: deviation of its grain of some millimetres.
    """

    hu: float
    coarse_hu: float = 3.0
    fine_hu: float = 3.0


class Canvas:
    """Image and labels of one patient while they are painted.

    Args:
        points: where each voxel lies in the patient.
        schema: names that a painted label may have; a name it lacks stays background.
        rng: draws the texture.
    """

    def __init__(self, points: Points, schema: LabelSchema, rng: np.random.Generator) -> None:
        slices, rows, columns = points.x.shape
        shape = (slices, rows, columns)
        self.points = points
        self.image: Array = np.full(shape, AIR_HU, dtype=np.float32)
        self.labels: MaskArray = np.zeros(shape, dtype=np.uint8)
        self._schema = schema
        self._coarse = smooth_field(rng, shape, (16, 24, 24))
        grain = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0.7, 1.0, 1.0), truncate=2.5)
        self._fine: Array = grain / grain.std()

    def paint(self, region: Region, distance_mm: Array, tissue: Tissue, label: str = "") -> None:
        """Lay a tissue over a region.

        Args:
            region: the block of voxels that `distance_mm` covers.
            distance_mm: (S, R, C) of the block, negative inside.
            tissue: what to lay there.
            label: name of its label; "" takes away what was labelled there.
        """
        cover = np.clip(0.5 - distance_mm / EDGE_MM, 0, 1)
        hu = tissue.hu + tissue.coarse_hu * self._coarse[region] + tissue.fine_hu * self._fine[region]
        self.image[region] += cover * (hu - self.image[region])
        found = self._schema.find(label) if label else None
        self.labels[region][distance_mm < 0] = found.id if found else 0

    def paint_shape(self, shape: Shape, tissue: Tissue, label: str = "", grow_mm: float = 0.0) -> None:
        """Lay a tissue over a shape made larger by `grow_mm`."""
        region = self.points.region(*shape.box())
        self.paint(region, shape.distance_mm(self.points[region]) - grow_mm, tissue, label)

    def scanned(self, rng: np.random.Generator, noise_hu: float) -> Array:
        """The image as a scanner would show it: blurred a little, with grained noise, whole HU (S, R, C)."""
        blurred = ndimage.gaussian_filter(self.image, (0.25, 0.45, 0.45), truncate=3.0)
        grain = ndimage.gaussian_filter(
            rng.standard_normal(blurred.shape, dtype=np.float32), (0, 0.6, 0.6), truncate=2.5
        )
        depth = np.exp(-(np.square(self.points.x / 130) + np.square(self.points.y / 95)))
        noisy = blurred + grain * (noise_hu / grain.std()) * (0.6 + 0.6 * depth)
        return np.asarray(np.clip(np.rint(noisy), LOWEST_HU, HIGHEST_HU), dtype=np.float32)
