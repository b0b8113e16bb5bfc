import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask
from lib.dicom.files import decode, encode
from lib.dicom.seg import SegOrigin, read_seg, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import new_uid

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("TRANSUNET_DATA" not in os.environ, reason="TRANSUNET_DATA names no folder with real images"),
]


@pytest.fixture(scope="module")
def series() -> SourceSeries:
    folder = Path(os.environ["TRANSUNET_DATA"]) / "ct_abdomen_dicom"
    return assemble([dcmread(path) for path in sorted(folder.glob("*.dcm"), reverse=True)])


def test_a_real_ct_assembles(series) -> None:
    assert series.geometry.shape == (35, 512, 512)
    assert series.geometry.spacing_mm == pytest.approx((5.0, 0.859375, 0.859375))
    np.testing.assert_allclose(series.geometry.to_lps((0, 0, 0)), (-235.56, -220.0, -178.329), atol=1e-3)
    np.testing.assert_allclose(series.geometry.to_lps((34, 511, 511)), (203.581, 219.141, -8.329), atol=1e-3)
    values = series.volume.array
    assert (values.min(), values.max()) == (-3024, 3071)  # padding of -2000 below the intercept
    assert -150 < np.median(values[17, 200:312, 200:312]) < 150  # soft tissue in the middle of the body


def test_a_planted_mask_comes_back_on_the_same_grid(series) -> None:
    schema = LabelSchema(
        tuple(Label(f"organ {i}", i, (i, 2 * i, 3 * i), Code("123037004", "Body structure")) for i in (3, 7, 11))
    )
    array = np.zeros(series.geometry.shape, np.uint8)
    array[4:9, 100:180, 200:260] = 3
    array[8:20, 300:333, 40:90] = 7
    array[34, 511, 511] = 11
    mask = Mask(array, series.geometry, schema)
    origin = SegOrigin("AUTOMATIC", "radiology_transunet", "abdomen_ct", "1", "planted")

    seg = decode(encode(write_seg(mask, series, origin, new_uid())))
    back = read_seg(seg, series, schema)

    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.is_close(series.geometry, 0.01)
    starts = {
        tuple(float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient)
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    expected = {tuple(np.round(series.geometry.to_lps((i, 0, 0)), 3)) for i in [*range(4, 20), 34]}
    assert {tuple(np.round(start, 3)) for start in starts} == expected
