import copy
from collections.abc import Callable
from math import log

import numpy as np
import pytest
from highdicom.pm import ParametricMap
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage

from lib.core.errors import GeometryMismatch, InvalidInput, InvalidVolume
from lib.core.geometry import Geometry
from lib.dicom.pmap import QUANTITIES, read_pmap, write_pmap
from lib.dicom.seg import SegOrigin
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import new_uid

ORIGIN = SegOrigin("AUTOMATIC", "radiology_transunet", "TransUNet abdomen", "7", "Uncertainty abdomen v7")
CLASSES = 4


def map_of(geometry: Geometry, seed: int = 0) -> np.ndarray:
    """Random entropies (S, R, C) as inference keeps them."""
    return np.random.default_rng(seed).uniform(0, log(CLASSES), geometry.shape).astype(np.float16)


def written(source: SourceSeries, values: np.ndarray, quantity: str = "entropy", uid: str = "1.2.3") -> Dataset:
    return write_pmap(values, source.geometry, source, QUANTITIES[quantity], ORIGIN, CLASSES, uid)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    seed=st.integers(0, 99),
)
def test_a_map_comes_back_equal_from_any_orientation(
    shape: tuple[int, int, int],
    order: list[int],
    signs: tuple[float, ...],
    seed: int,
    ct: Callable[..., list[Dataset]],
    shuffled: Callable[..., list[Dataset]],
    through_bytes: Callable[[Dataset], Dataset],
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs * (2.5, 0.7, 0.9)
    affine[:3, 3] = (-12.5, 30.25, -200.0)
    source = assemble(shuffled(ct(geometry=Geometry(shape, affine)), seed))
    values = map_of(source.geometry, seed)
    found = read_pmap(through_bytes(written(source, values)), source)
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_a_map_says_what_it_shows_and_of_which_images(source, through_bytes) -> None:
    series = source()
    found = through_bytes(written(series, map_of(series.geometry), "bald", "1.2.3.4"))
    assert (found.SOPClassUID, found.SOPInstanceUID, found.Modality) == (ParametricMapStorage, "1.2.3.4", "OT")
    assert (found.FrameOfReferenceUID, found.StudyInstanceUID) == (series.frame_of_reference_uid, series.study_uid)
    referenced = found.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == series.series_uid
    images = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert images == {str(header.SOPInstanceUID) for header in series.headers}
    mapping = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == log(CLASSES)
    (quantity,) = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeValue == "BALD"
    assert (found.SeriesDescription, found.ContentCreatorName) == ("Uncertainty abdomen v7", "radiology_transunet")
    assert found.PatientName == series.headers[0].PatientName


def test_frames_stand_in_the_order_of_the_slices_each_with_its_position_and_source(source) -> None:
    series = source()
    values = map_of(series.geometry)
    found = written(series, values)
    stored = np.frombuffer(found.FloatPixelData, dtype="<f4").reshape(values.shape)
    np.testing.assert_array_equal(stored, values)
    for number, (frame, header) in enumerate(
        zip(found.PerFrameFunctionalGroupsSequence, series.headers, strict=True), start=1
    ):
        assert frame.PlanePositionSequence[0].ImagePositionPatient == header.ImagePositionPatient
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert frame.FrameContentSequence[0].DimensionIndexValues == number


def test_highdicom_itself_reads_the_map_at_its_place(source, through_bytes) -> None:
    series = source()
    values = map_of(series.geometry)
    volume = ParametricMap.from_dataset(through_bytes(written(series, values))).get_volume()
    index = np.round(np.linalg.inv(volume.affine) @ series.geometry.affine @ (2, 3, 4, 1)).astype(int)
    assert volume.array[tuple(index[:3])] == np.float32(values[2, 3, 4])


def test_what_cannot_be_a_map_of_the_series_is_refused(source) -> None:
    series = source()
    values = map_of(series.geometry)
    other = Geometry.from_spacing(series.geometry.shape, (2.5, 0.7, 0.9))
    with pytest.raises(GeometryMismatch, match="the map"):
        write_pmap(values, other, series, QUANTITIES["entropy"], ORIGIN, CLASSES, new_uid())
    with pytest.raises(InvalidVolume, match="finite"):
        written(series, np.full_like(values, np.nan))
    with pytest.raises(InvalidVolume, match="shape"):
        written(series, values[1:])


def test_a_map_of_something_else_is_refused_with_what_came(source) -> None:
    series = source()
    found = written(series, map_of(series.geometry))

    def changed(**values: object) -> Dataset:
        dataset = copy.deepcopy(found)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        return dataset

    with pytest.raises(InvalidInput, match="frame of reference"):
        read_pmap(changed(FrameOfReferenceUID="1.2"), series)
    with pytest.raises(InvalidInput, match=r"refer to series .*, got none"):
        read_pmap(changed(ReferencedSeriesSequence=[]), series)
    with pytest.raises(InvalidInput, match="Parametric Map is needed"):
        read_pmap(changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), series)
    lost, short = copy.deepcopy(found), copy.deepcopy(found)
    lost.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 999]
    with pytest.raises(InvalidInput, match="cannot be placed"):
        read_pmap(lost, series)
    short.PerFrameFunctionalGroupsSequence = short.PerFrameFunctionalGroupsSequence[1:]
    short.NumberOfFrames -= 1
    short.FloatPixelData = short.FloatPixelData[4 * found.Rows * found.Columns :]
    with pytest.raises(InvalidInput, match="1 have none"):
        read_pmap(short, series)
