"""Filling the demo's archive with labels as they come, empty ones among them."""

import numpy as np
import pytest

from lib.cli.demo_upload import Upload
from lib.core.values import Mask
from lib.demo.cohort import DRAFT, TRAIN, CohortCase
from loop import body, install, liver_of, settle

pytestmark = pytest.mark.orthanc


def test_a_label_without_voxels_counts_as_nothing_found_and_is_told_once(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var")
    task = services.task()

    def case(key: str, role: str, empty: bool) -> CohortCase:
        volume = body()
        mask = liver_of(task, volume.geometry)
        if empty:
            mask = Mask(np.zeros(volume.geometry.shape, np.uint8), volume.geometry, task.schema)
        return CohortCase(key, key, key, f"Test^{key}", role, "phantom", lambda: (volume, mask))

    cohort = [case("full", TRAIN, False), case("empty", TRAIN, True), case("unlabelled", DRAFT, True)]
    for _ in range(2):
        upload = Upload(services, cohort, tmp_path)
        upload.run()
        assert (upload.error, upload.stored) == (None, 3)
        settle(services)
        labels = services.ledger.annotations.accepted(task.name)
        assert {row.series_uid: row.nothing_found for row in labels} == {
            cohort[0].series_uid: False,
            cohort[1].series_uid: True,
        }
    assert len(services.ledger.annotations.list(task=task.name)) == 2
