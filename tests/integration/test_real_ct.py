"""A real CT through the archive: arrival, a draft on the right slices, a planted mask that comes back in place."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from lib.core.values import Mask
from lib.dicom.seg import read_seg
from lib.workflows.presegment import load_series
from lib.workflows.review import annotation_mask, submit_mask
from loop import install, register_random_model, settle

pytestmark = [pytest.mark.orthanc, pytest.mark.data]
TOLERANCE_MM = 0.01


@pytest.fixture
def files() -> list[Path]:
    folder = Path(os.environ.get("TRANSUNET_DATA", "absent")) / "ct_abdomen_dicom"
    if not folder.is_dir():
        pytest.skip(f"no real CT at {folder}; set TRANSUNET_DATA to the folder that holds ct_abdomen_dicom")
    return sorted(folder.glob("*.dcm"))


def test_a_real_ct_is_drafted_on_the_right_slices_and_a_planted_mask_comes_back(own_orthanc, tmp_path, files):
    services = install(own_orthanc, tmp_path / "var", tasks="abdomen_ct")
    task = services.task()
    originals = [dcmread(file) for file in files]
    services.archive.store(originals)
    register_random_model(services, task, tmp_path / "model")
    settle(services)
    series_uid = str(originals[0].SeriesInstanceUID)
    assert services.ledger.series.get(series_uid).status == "ready"
    source = load_series(services, series_uid)
    heights = sorted(float(dataset.ImagePositionPatient[2]) for dataset in originals)
    np.testing.assert_allclose(
        sorted(source.geometry.to_lps([[k, 0, 0] for k in range(35)])[:, 2]), heights, atol=TOLERANCE_MM
    )

    draft = services.ledger.annotations.latest_draft(series_uid, task.name)
    (dataset,) = services.archive.fetch(draft.seg_series_uid)
    assert read_seg(dataset, source, task.schema).voxels() == draft.voxels
    places = {str(original.SOPInstanceUID): original.ImagePositionPatient for original in originals}
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        image = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient, places[image], atol=TOLERANCE_MM
        )

    planted = np.zeros(source.geometry.shape, np.uint8)
    planted[7:19, 100:180, 300:410] = task.schema.find("liver").id
    planted[30, 250, 250] = task.schema.find("aorta").id
    label = submit_mask(services, task, source, Mask(planted, source.geometry, task.schema), "anna")
    settle(services)
    back = annotation_mask(services, label)
    np.testing.assert_array_equal(back.array, planted)
    np.testing.assert_allclose(back.geometry.corners_mm(), source.geometry.corners_mm(), atol=TOLERANCE_MM)
    assert services.ledger.annotations.get(label).changed_voxels == int(
        (planted != annotation_mask(services, draft.id).array).sum()
    )
