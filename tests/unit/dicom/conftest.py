from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pydicom import Dataset

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Volume
from lib.dicom.files import decode, encode
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    """Ids and channel order differ, and there are gaps."""
    return LabelSchema(
        (
            Label("Liver", 6, (220, 50, 40), Code("10200004", "Liver")),
            Label("Left kidney", 2, (60, 170, 70), Code("18639004", "Left kidney")),
            Label("Spleen", 9, (60, 80, 200), Code("78961009", "Spleen")),
        )
    )


@pytest.fixture(scope="session")
def identity() -> Callable[[], SeriesIdentity]:
    def make() -> SeriesIdentity:
        return SeriesIdentity(
            patient_id="P-1",
            patient_name="Prüfer^Ärmin",
            study_uid=new_uid(),
            series_uid=new_uid(),
            frame_of_reference_uid=new_uid(),
            description="axial",
            study_description="abdomen",
            accession="A1",
            date="20240229",
            institution="Institute",
        )

    return make


@pytest.fixture(scope="session")
def through_bytes() -> Callable[[Dataset], Dataset]:
    """Write as a file and read again: what an archive sees."""

    return lambda dataset: decode(encode(dataset))


@pytest.fixture(scope="session")
def ct(identity, through_bytes) -> Callable[..., list[Dataset]]:
    """A CT series of random HU as read from files; keyword `geometry` or `shape`."""

    def make(shape=(5, 7, 6), spacing_mm=(2.5, 0.7, 0.9), geometry: Geometry | None = None, seed=0) -> list[Dataset]:
        grid = geometry or Geometry.from_spacing(shape, spacing_mm, (-12.5, 30.25, -200.0))
        values = np.random.default_rng(seed).integers(-1024, 3000, grid.shape).astype(np.float32)
        return [through_bytes(slice_) for slice_ in series_to_datasets(Volume(values, grid, "CT"), identity())]

    return make


@pytest.fixture(scope="session")
def source(ct) -> Callable[..., SourceSeries]:
    def make(**kwargs) -> SourceSeries:
        return assemble(ct(**kwargs))

    return make


@pytest.fixture(scope="session")
def shuffled() -> Callable[[Sequence[Dataset], int], list[Dataset]]:
    def shuffle(datasets: Sequence[Dataset], seed: int = 1) -> list[Dataset]:
        return [datasets[i] for i in np.random.default_rng(seed).permutation(len(datasets))]

    return shuffle


@pytest.fixture(scope="session")
def oblique() -> Callable[..., Geometry]:
    """A rotated grid; `turns` are Euler angles in radians, `flips` reverse axes (left-handed when odd)."""

    def make(shape, spacing_mm, origin_mm, turns, flips=(1, 1, 1)) -> Geometry:
        a, b, c = turns
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
        axes = about_z @ about_y @ about_x @ np.eye(3)[:, ::-1]
        affine = np.eye(4)
        affine[:3, :3] = axes * (np.array(spacing_mm) * np.array(flips))
        affine[:3, 3] = origin_mm
        return Geometry(shape, affine)

    return make
