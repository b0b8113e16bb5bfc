import json

import numpy as np
import pydicom_seg
import pytest
import SimpleITK

from lib.core.geometry import Geometry
from lib.core.values import Volume
from lib.dicom.files import decode, encode
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets

TISSUE = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}


def metainfo(*values: int) -> dict:
    """What monailabel 0.8.5 hands over."""
    segments = [
        {
            "labelID": value,
            "SegmentLabel": f"organ {value}",
            "SegmentDescription": "Unknown",
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "MONAILABEL",
            "SegmentedPropertyCategoryCodeSequence": TISSUE,
            "SegmentedPropertyTypeCodeSequence": TISSUE,
            "recommendedDisplayRGBValue": [220, 50, 40],
        }
        for value in values
    ]
    return {
        "ContentCreatorName": "Reader1",
        "ClinicalTrialSeriesID": "Session1",
        "ClinicalTrialTimePointID": "1",
        "SeriesDescription": "model",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "segmentAttributes": [segments],
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "MONAI Label - Image segmentation",
        "ClinicalTrialCoordinatingCenterName": "MONAI",
        "BodyPartExamined": "",
    }


@pytest.fixture
def images():
    """Headers of an oblique CT of 5 slices, as read without pixels, out of order."""
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:3, 0] = 2.5 * np.array([0, -np.sin(turn), np.cos(turn)])
    affine[:3, 1] = 0.8 * np.array([0, np.cos(turn), np.sin(turn)])
    affine[:3, 2] = 0.6 * np.array([1, 0, 0])
    affine[:3, 3] = 10, -20, 30
    volume = Volume(np.zeros((5, 7, 9), np.float32), Geometry((5, 7, 9), affine), "CT")
    identity = SeriesIdentity("P-1", "one-part", new_uid(), new_uid(), new_uid(), "ct")
    datasets = [decode(encode(dataset)) for dataset in series_to_datasets(volume, identity)]
    return [datasets[i] for i in (3, 0, 4, 1, 2)]


def mask_image(array: np.ndarray) -> SimpleITK.Image:
    """The array on the grid of `images`, as ITK reads a NIfTI of it."""
    turn = np.radians(20)
    image = SimpleITK.GetImageFromArray(array.astype(np.uint16))
    image.SetOrigin((10, -20, 30))
    image.SetSpacing((0.6, 0.8, 2.5))
    image.SetDirection((1, 0, 0, 0, np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn)))
    return image


def random_mask(*values: int) -> np.ndarray:
    array = np.random.default_rng(0).choice([0, *values], (5, 7, 9))
    array[2] = 0  # an empty slice in the middle
    return array


def write(array: np.ndarray, images, *values: int, **kwargs):
    template = pydicom_seg.template.from_dcmqi_metainfo(metainfo(*values))
    writer = pydicom_seg.MultiClassWriter(template=template, inplane_cropping=False, **kwargs)
    return writer.write(mask_image(array), images)


@pytest.mark.parametrize("skip_empty_slices", [False, True])
def test_label_values_and_geometry_survive_the_round_trip(images, tmp_path, skip_empty_slices) -> None:
    array = random_mask(1, 3, 12)
    seg = write(array, images, 1, 3, 12, skip_empty_slices=skip_empty_slices)
    seg.save_as(tmp_path / "seg.dcm")

    result = pydicom_seg.MultiClassReader().read(decode((tmp_path / "seg.dcm").read_bytes()))

    np.testing.assert_array_equal(result.data, array)
    expected = mask_image(array)
    np.testing.assert_allclose(result.image.GetOrigin(), expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(result.image.GetSpacing(), expected.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(result.image.GetDirection(), expected.GetDirection(), atol=1e-6)
    assert seg.NumberOfFrames == (12 if skip_empty_slices else 15)
    assert {n: item.SegmentLabel for n, item in result.segment_infos.items()} == {
        1: "organ 1", 3: "organ 3", 12: "organ 12",
    }  # fmt: skip
    assert result.referenced_series_uid == images[0].SeriesInstanceUID


def test_a_mask_with_turned_axes_lands_on_the_same_places(images) -> None:
    array = random_mask(1, 2)
    template = pydicom_seg.template.from_dcmqi_metainfo(metainfo(1, 2))
    turned = SimpleITK.Flip(mask_image(array), [True, False, True])
    seg = pydicom_seg.MultiClassWriter(template).write(turned, images)
    np.testing.assert_array_equal(pydicom_seg.MultiClassReader().read(seg).data, array)


def test_texts_of_the_template_and_of_the_patient_arrive(images) -> None:
    seg = write(random_mask(4), images, 4)
    assert (seg.ContentCreatorName, seg.SeriesDescription, seg.SeriesNumber) == ("Reader1", "model", 300)
    assert (seg.ClinicalTrialSeriesID, seg.PatientName, seg.PatientID) == ("Session1", "one-part", "P-1")
    assert seg.StudyInstanceUID == images[0].StudyInstanceUID
    assert seg.SegmentSequence[0].SegmentNumber == 4
    assert seg.SegmentSequence[0].SegmentAlgorithmName == "MONAILABEL"


def test_the_template_may_lie_in_a_file(tmp_path) -> None:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(metainfo(5)))
    assert pydicom_seg.template.from_dcmqi_metainfo(path).SegmentSequence[0].SegmentNumber == 5


def test_wrong_masks_and_templates_are_refused(images) -> None:
    array = random_mask(1, 2)
    with pytest.raises(ValueError, match=r"among \[1\] and not all 0, got \[1, 2\]"):
        write(array, images, 1)
    with pytest.raises(ValueError, match=r"labels \[9\] of the template do not occur"):
        write(array, images, 1, 2, 9)
    assert len(write(array, images, 1, 2, 9, skip_missing_segment=True).SegmentSequence) == 2
    with pytest.raises(ValueError, match="must lie on the grid"):
        write(array[1:], images, 1, 2)
    with pytest.raises(ValueError, match="different labelID"):
        pydicom_seg.template.from_dcmqi_metainfo(metainfo(1, 1))
    with pytest.raises(ValueError, match="inplane_cropping"):
        pydicom_seg.MultiClassWriter(pydicom_seg.template.from_dcmqi_metainfo(metainfo(1)), inplane_cropping=True)
