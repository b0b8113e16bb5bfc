import copy
from collections.abc import Callable

import numpy as np
import pytest
from highdicom.seg import Segmentation
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from lib.core.errors import GeometryMismatch, InvalidInput, InvalidMask, InvalidSegmentation
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.dicom.seg import SegOrigin, read_seg, seg_summary, write_seg
from lib.dicom.series import assemble, reversed_slices
from lib.dicom.writer import new_uid, series_to_datasets

DRAFT = SegOrigin("AUTOMATIC", "radiology_transunet", "abdomen_ct", "7", "Draft of abdomen_ct 7")
LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.fixture(scope="session")
def painted(schema) -> Callable[..., Mask]:
    """A random mask of the schema's ids; some slices are empty."""

    def make(geometry: Geometry, seed: int = 0) -> Mask:
        random = np.random.default_rng(seed)
        array = random.choice([0, *schema.ids], geometry.shape).astype(np.uint8)
        array[random.random(geometry.shape[0]) < 0.4] = 0
        array[0, 0, 0] = schema.ids[seed % len(schema)]
        return Mask(array, geometry, schema)

    return make


def ohif_seg(mask: Mask, source, numbers: dict[str, int], compressed: bool = False) -> Dataset:
    """A SEG as OHIF 3.13 stores a correction: label map, no FrameContentSequence, generic codes, last slice first."""
    seg = Dataset()
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    seg.file_meta.MediaStorageSOPClassUID = seg.SOPClassUID = LABELMAP_CLASS
    seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID = new_uid()
    seg.StudyInstanceUID, seg.SeriesInstanceUID = source.study_uid, new_uid()
    seg.PatientID, seg.PatientName, seg.Modality = "P-1", "Prüfer^Ärmin", "SEG"
    seg.SpecificCharacterSet = "ISO_IR 192"
    seg.SeriesDescription, seg.Manufacturer = "Research Derived series", "Unspecified"
    seg.SegmentationType, seg.ContentLabel, seg.InstanceNumber = "LABELMAP", "SEGMENTATION", 1
    seg.FrameOfReferenceUID = source.frame_of_reference_uid
    seg.SegmentSequence = [_ohif_segment(number, name) for name, number in numbers.items()]
    reference = Dataset()
    reference.SeriesInstanceUID = source.series_uid
    reference.ReferencedInstanceSequence = [_image_reference(header) for header in source.headers]
    seg.ReferencedSeriesSequence = [reference]
    seg.SharedFunctionalGroupsSequence = [_shared(source)]
    slices = [index for index in reversed(range(mask.geometry.shape[0])) if mask.array[index].any()]
    seg.PerFrameFunctionalGroupsSequence = [_ohif_frame(source.headers[index]) for index in slices]
    _add_label_map(seg, mask, numbers, slices)
    if compressed:
        seg.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return seg


def _ohif_segment(number: int, name: str) -> Dataset:
    segment, tissue = Dataset(), Dataset()
    tissue.CodeValue, tissue.CodingSchemeDesignator, tissue.CodeMeaning = "85756007", "SCT", "Tissue"
    segment.SegmentNumber, segment.SegmentLabel = number, name
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = "MANUAL", "OHIF Brush"
    segment.SegmentedPropertyCategoryCodeSequence = segment.SegmentedPropertyTypeCodeSequence = [tissue]
    return segment


def _image_reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _shared(source) -> Dataset:
    groups, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = source.headers[0].ImageOrientationPatient
    measures.PixelSpacing = source.headers[0].PixelSpacing
    measures.SliceThickness = measures.SpacingBetweenSlices = source.geometry.spacing_mm[0]
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    return groups


def _ohif_frame(header: Dataset) -> Dataset:
    frame, position, derivation = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = header.ImagePositionPatient
    derivation.SourceImageSequence = [_image_reference(header)]
    frame.PlanePositionSequence, frame.DerivationImageSequence = [position], [derivation]
    return frame


def _add_label_map(seg: Dataset, mask: Mask, numbers: dict[str, int], slices: list[int]) -> None:
    values = np.zeros_like(mask.array)
    for name, number in numbers.items():
        label = mask.schema.find(name)
        if label is not None:
            values[mask.array == label.id] = number
    seg.NumberOfFrames = len(slices)
    seg.Rows, seg.Columns = mask.geometry.shape[1:]
    seg.SamplesPerPixel, seg.PhotometricInterpretation, seg.PixelRepresentation = 1, "MONOCHROME2", 0
    seg.BitsAllocated, seg.BitsStored, seg.HighBit = 8, 8, 7
    content = values[slices].tobytes()
    seg.PixelData = content + b"\0" * (len(content) % 2)
    seg["PixelData"].VR = "OB"


OHIF_NUMBERS = {"Spleen": 1, "Left kidney": 2, "Liver": 5}


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(3, 7), st.integers(3, 7)),
    spacing_mm=st.tuples(*[st.floats(0.3, 5)] * 3),
    origin_mm=st.tuples(*[st.floats(-400, 400)] * 3),
    turns=st.tuples(*[st.floats(-3, 3)] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_mask_survives_the_file_on_any_grid(
    shape, spacing_mm, origin_mm, turns, seed, oblique, painted, identity, through_bytes, schema
) -> None:
    geometry = oblique(shape, spacing_mm, origin_mm, turns)
    volume = Volume(np.zeros(geometry.shape, np.float32), geometry, "CT")
    source = assemble([through_bytes(d) for d in series_to_datasets(volume, identity())])
    mask = painted(source.geometry, seed)

    back = read_seg(through_bytes(write_seg(mask, source, DRAFT, new_uid())), source, schema)

    np.testing.assert_array_equal(back.array, mask.array)
    assert back.geometry.is_close(source.geometry)


def test_frames_are_placed_by_position_in_any_order(source, painted, through_bytes, schema) -> None:
    series = source(shape=(6, 5, 3))
    mask = painted(series.geometry, 3)
    seg = through_bytes(write_seg(mask, series, DRAFT, new_uid()))
    order = np.random.default_rng(0).permutation(seg.NumberOfFrames)
    bits = seg.pixel_array.reshape(seg.NumberOfFrames, 5, 3)[order]
    seg.PixelData = np.packbits(bits.reshape(-1), bitorder="little").tobytes() + b"\0"
    seg.PerFrameFunctionalGroupsSequence = [seg.PerFrameFunctionalGroupsSequence[i] for i in order]
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)


def test_segments_are_named_coded_and_coloured_by_label(source, painted, through_bytes, schema) -> None:
    series = source()
    array = np.zeros(series.geometry.shape, np.uint8)
    array[2, 3, 4] = 9  # the third label alone: its name must not slip to the first segment
    seg = through_bytes(write_seg(Mask(array, series.geometry, schema), series, DRAFT, new_uid()))

    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["Liver", "Left kidney", "Spleen"]
    assert [s.SegmentNumber for s in seg.SegmentSequence] == [1, 2, 3]
    assert [s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in seg.SegmentSequence] == [
        "10200004", "18639004", "78961009",
    ]  # fmt: skip
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    assert seg.NumberOfFrames == 1
    assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 3
    lightness, red, yellow = seg.SegmentSequence[0].RecommendedDisplayCIELabValue  # of sRGB (220, 50, 40)
    assert lightness / 65535 * 100 == pytest.approx(48.6, abs=0.5)
    assert red / 65535 * 255 - 128 == pytest.approx(64.6, abs=1.0)
    assert yellow / 65535 * 255 - 128 == pytest.approx(46.6, abs=1.0)
    assert read_seg(seg, series, schema).voxels() == {"Liver": 0, "Left kidney": 0, "Spleen": 1}


def test_the_header_says_who_made_it_and_what_it_lies_on(source, painted, through_bytes) -> None:
    series = source()
    uid, series_uid = new_uid(), new_uid()
    seg = through_bytes(write_seg(painted(series.geometry), series, DRAFT, uid, series_uid))
    summary = seg_summary(seg)
    assert (summary.sop_instance_uid, summary.series_uid) == (uid, series_uid)
    assert (summary.study_uid, summary.referenced_series_uid) == (series.study_uid, series.series_uid)
    assert summary.referenced_instance_uid in {header.SOPInstanceUID for header in series.headers}
    assert summary.frame_of_reference_uid == series.frame_of_reference_uid
    assert summary.segment_names == ("Liver", "Left kidney", "Spleen")
    assert summary.algorithm_types == ("AUTOMATIC",) * 3
    assert summary.is_automatic
    assert summary.creator_name == "radiology_transunet"
    assert summary.description == "Draft of abdomen_ct 7"
    assert summary.manufacturer == "radiology_transunet"
    assert (str(seg.PatientName), seg.PatientID, seg.AccessionNumber) == ("Prüfer^Ärmin", "P-1", "A1")
    identification = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("abdomen_ct", "7")
    assert "SeriesDate" not in seg  # the study's, not the image series' tags
    assert seg.SeriesNumber != series.headers[0].SeriesNumber


def test_a_person_is_no_algorithm(source, painted, through_bytes) -> None:
    series = source()
    origin = SegOrigin("MANUAL", "Dr. Åse", "", "", "Labels")
    seg = through_bytes(write_seg(painted(series.geometry), series, origin, new_uid()))
    assert seg.ContentCreatorName == "Dr. Åse"
    assert not seg_summary(seg).is_automatic
    assert "SegmentationAlgorithmIdentificationSequence" not in seg.SegmentSequence[0]


def test_sources_that_lack_optional_attributes_get_a_seg_too(ct, painted, through_bytes, schema) -> None:
    datasets = ct()
    for dataset in datasets:
        for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "ReferringPhysicianName"):
            delattr(dataset, keyword)
        dataset.SpacingBetweenSlices = -2.5  # some scanners count downwards
        dataset.PatientName = "one-part"
        del dataset.SliceThickness
    series = assemble(datasets)
    mask = painted(series.geometry)
    seg = through_bytes(write_seg(mask, series, DRAFT, new_uid()))
    assert seg.PatientName == "one-part"
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 2.5
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)


def test_highdicom_reads_what_is_written(source, painted, through_bytes, schema) -> None:
    series = source()
    mask = painted(series.geometry)
    seg = Segmentation.from_dataset(through_bytes(write_seg(mask, series, DRAFT, new_uid())))
    uids = [header.SOPInstanceUID for header in series.headers]
    read = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    numbers = np.zeros(10, np.uint8)
    numbers[list(schema.ids)] = [1, 2, 3]
    np.testing.assert_array_equal(read, numbers[mask.array])


def test_a_mask_counted_backwards_lands_on_the_right_slices(source, painted, schema) -> None:
    series = source()
    mask = painted(series.geometry)
    backwards = Mask(mask.array[::-1], reversed_slices(series.geometry), schema)
    seg = write_seg(backwards, series, DRAFT, new_uid())
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)


def test_an_empty_mask_is_no_seg(source, schema) -> None:
    series = source()
    with pytest.raises(InvalidMask, match="nothing found"):
        write_seg(Mask(np.zeros(series.geometry.shape, np.uint8), series.geometry, schema), series, DRAFT, new_uid())


def test_slices_of_a_few_pixels_are_refused(source, painted) -> None:
    series = source(shape=(4, 2, 3))
    with pytest.raises(InvalidMask, match="at least 8 pixels a slice, got a grid of 4x2x3"):
        write_seg(painted(series.geometry), series, DRAFT, new_uid())


def test_writing_leaves_the_source_as_it_is(ct, painted) -> None:
    datasets = ct()
    series = assemble(datasets)
    before = copy.deepcopy(series.headers)
    write_seg(painted(series.geometry), series, DRAFT, new_uid())
    assert series.headers == before


def test_a_mask_of_another_grid_is_refused(source, painted) -> None:
    series = source(shape=(4, 5, 6))
    with pytest.raises(GeometryMismatch, match=r"4x5x6 .* 4x6x5"):
        write_seg(painted(Geometry.from_spacing((4, 6, 5), (1, 1, 1))), series, DRAFT, new_uid())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"author": "a" * 65}, "author of a SEG has at most 64 characters"),
        ({"description": "a\\b"}, "without backslash"),
        ({"algorithm_name": ""}, "kind AUTOMATIC needs algorithm_name"),
    ],
)
def test_origins_that_dicom_cannot_hold_are_refused(change, reason) -> None:
    values = {"kind": "AUTOMATIC", "author": "x", "algorithm_name": "t", "algorithm_version": "1", "description": "d"}
    with pytest.raises(InvalidInput, match=reason):
        SegOrigin(**{**values, **change})


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "RLE"])
def test_a_correction_of_ohif_is_read_by_label_name(source, painted, through_bytes, schema, compressed) -> None:
    series = source(shape=(6, 9, 7))
    mask = painted(series.geometry, 5)
    seg = through_bytes(ohif_seg(mask, series, OHIF_NUMBERS, compressed))
    assert seg.file_meta.TransferSyntaxUID == (RLELossless if compressed else ExplicitVRLittleEndian)

    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)

    summary = seg_summary(seg)
    assert summary.segment_names == ("Spleen", "Left kidney", "Liver")
    assert (summary.description, summary.manufacturer) == ("Research Derived series", "Unspecified")
    assert summary.referenced_series_uid == series.series_uid
    assert not summary.is_automatic
    assert summary.creator_name == ""


def test_a_frame_without_position_is_placed_by_the_image_it_names(source, painted, schema) -> None:
    series = source()
    mask = painted(series.geometry, 2)
    seg = ohif_seg(mask, series, OHIF_NUMBERS)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)
    image = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3"
    with pytest.raises(InvalidSegmentation, match=r"refers to image 1\.2\.3, which is not of the series"):
        read_seg(seg, series, schema)


def _highdicom(mask: Mask, series, kind: str, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """A SEG of another type with the descriptions that write_seg makes."""
    plain = write_seg(mask, series, DRAFT, new_uid())
    sources = [copy.deepcopy(header) for header in series.headers]
    for header in sources:
        header.PatientName = ""
    return Segmentation(
        source_images=sources, pixel_array=pixels, segmentation_type=kind,
        segment_descriptions=list(plain.SegmentSequence), series_instance_uid=new_uid(), series_number=1,
        sop_instance_uid=new_uid(), instance_number=1, manufacturer="m", manufacturer_model_name="m",
        software_versions="1", device_serial_number="1", transfer_syntax_uid=syntax,
    )  # fmt: skip


def _numbers(mask: Mask) -> np.ndarray:
    numbers = np.zeros(256, np.uint8)
    numbers[list(mask.schema.ids)] = np.arange(1, len(mask.schema) + 1)
    return numbers[mask.array]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_label_maps_of_highdicom_are_read(source, painted, through_bytes, schema, syntax) -> None:
    series = source()
    mask = painted(series.geometry, 4)
    seg = through_bytes(_highdicom(mask, series, "LABELMAP", _numbers(mask), syntax))
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_fractions_from_one_half_on_count_and_the_larger_wins(source, painted, through_bytes, schema, syntax) -> None:
    series = source(shape=(2, 3, 4))
    fractions = np.zeros((2, 3, 4, 3))  # (S, R, C, segment)
    fractions[0, 0, 0] = 0.4, 0.3, 0.3
    fractions[0, 0, 1] = 0.5, 0.2, 0.3
    fractions[1, 2, 3] = 0.55, 0.9, 0.6
    fractions[1, 0, 0] = 0.1, 0.0, 0.8
    seg = through_bytes(_highdicom(painted(series.geometry), series, "FRACTIONAL", fractions, syntax))
    expected = np.zeros((2, 3, 4), np.uint8)
    expected[0, 0, 1], expected[1, 2, 3], expected[1, 0, 0] = 6, 2, 9
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, expected)


def test_overlapping_segments_are_refused_with_both_names(source, painted, schema) -> None:
    series = source(shape=(2, 3, 4))
    pixels = np.zeros((2, 3, 4, 3), np.uint8)
    pixels[1, 1, 1:3, 0] = 1
    pixels[1, 1, 2:4, 2] = 1
    seg = _highdicom(painted(series.geometry), series, "BINARY", pixels)
    with pytest.raises(InvalidSegmentation, match="'Spleen' overlaps 'Liver' in 1 voxels of slice 2"):
        read_seg(seg, series, schema)


def test_two_segments_of_one_label_are_united(source, painted, schema) -> None:
    series = source(shape=(2, 3, 4))
    pixels = np.zeros((2, 3, 4, 3), np.uint8)
    pixels[1, 1, 1:3, 0] = 1
    pixels[1, 1, 2:4, 2] = 1
    seg = _highdicom(painted(series.geometry), series, "BINARY", pixels)
    seg.SegmentSequence[2].SegmentLabel = " LIVER "
    assert np.argwhere(read_seg(seg, series, schema).array == 6).tolist() == [[1, 1, 1], [1, 1, 2], [1, 1, 3]]


def _rename(seg, series) -> None:
    seg.SegmentSequence[0].SegmentLabel = "Segment 1"


def _undescribe(seg, series) -> None:
    del seg.SegmentSequence[0]


def _shift(seg, series) -> None:
    frame = seg.PerFrameFunctionalGroupsSequence[0]
    x, y, z = (float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient)
    frame.PlanePositionSequence[0].ImagePositionPatient = [x, y + 0.02, z]


def _blank_position(seg, series) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = None


def _flip(seg, series) -> None:
    seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _stretch(seg, series) -> None:
    row, column = (float(v) for v in series.headers[0].PixelSpacing)
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [row, column + 0.01]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_rename, r"named as one of Liver, Left kidney, Spleen, got 'Segment 1' \(\d+ voxels\)"),
        (_undescribe, r"\(undescribed segment 1\)"),
        (_shift, r"within 0\.01 mm of a slice of the series, .* 0\.020 mm from slice"),
        (_flip, "turned, flipped or of another pixel spacing"),
        (_stretch, r"a corner is 0\.060 mm off"),
        (lambda seg, series: setattr(seg, "FrameOfReferenceUID", "1.2.3"), r"frame of reference .* got 1\.2\.3"),
        (lambda seg, series: setattr(seg, "Rows", 8), r"must have \(9, 7\) rows and columns .* got \(8, 7\)"),
        (lambda seg, series: setattr(seg.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2"), "refer to series"),
        (lambda seg, series: delattr(seg, "SharedFunctionalGroupsSequence"), "has no PlaneOrientationSequence"),
        (lambda seg, series: delattr(seg, "SegmentSequence"), "needs a SegmentSequence"),
        (_blank_position, "the SEG is malformed: TypeError"),
        (lambda seg, series: delattr(seg, "PixelData"), "has no pixel data"),
        (lambda seg, series: setattr(seg, "PixelData", seg.PixelData[:40]), "cannot be decoded"),
        (lambda seg, series: setattr(seg, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "got CT Image Storage"),
    ],
)
def test_what_does_not_fit_the_series_is_refused_with_the_reason(source, painted, schema, change, reason) -> None:
    series = source(shape=(6, 9, 7))
    seg = ohif_seg(painted(series.geometry, 5), series, OHIF_NUMBERS)
    change(seg, series)
    with pytest.raises(InvalidSegmentation, match=reason):
        read_seg(seg, series, schema)


def test_an_unknown_segment_without_voxels_does_no_harm(source, painted, schema) -> None:
    series = source()
    mask = painted(series.geometry, 1)
    seg = ohif_seg(mask, series, {**OHIF_NUMBERS, "Segment 4": 4})
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)


def test_rounding_of_positions_within_the_tolerance_is_accepted(source, painted, schema) -> None:
    series = source()
    mask = painted(series.geometry, 1)
    seg = ohif_seg(mask, series, OHIF_NUMBERS)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        x, y, z = (float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient)
        frame.PlanePositionSequence[0].ImagePositionPatient = [x + 0.005, y - 0.005, z + 0.005]
    np.testing.assert_array_equal(read_seg(seg, series, schema).array, mask.array)


def test_fractional_frames_without_a_segment_number_are_refused(source, painted, schema) -> None:
    series = source()
    seg = write_seg(painted(series.geometry), series, DRAFT, new_uid())
    del seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence
    with pytest.raises(InvalidSegmentation, match="frame 1 does not say which segment"):
        read_seg(seg, series, schema)


def test_a_series_with_rounded_cosines_takes_back_its_segs(painted, through_bytes, schema, identity) -> None:
    """Some scanners write four decimals: at the far corner of 512 pixels that is a tenth of a millimetre."""
    turn, tilt = 0.3217, 0.1113
    row = np.array([np.cos(turn), np.sin(turn), 0.0])
    column = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(row, column) * 3.0, column * 0.8, row * 0.8], axis=1)
    grid = Geometry((2, 512, 512), affine)
    datasets = series_to_datasets(Volume(np.zeros(grid.shape, np.float32), grid, "CT"), identity())
    for dataset in datasets:
        dataset.ImageOrientationPatient = [round(float(x), 4) for x in dataset.ImageOrientationPatient]
    source = assemble([through_bytes(dataset) for dataset in datasets])
    mask = painted(source.geometry)
    for seg in (
        write_seg(mask, source, DRAFT, new_uid()),
        ohif_seg(mask, source, {name: n for n, name in enumerate(schema.names, 1)}),
    ):
        np.testing.assert_array_equal(read_seg(through_bytes(seg), source, schema).array, mask.array)
