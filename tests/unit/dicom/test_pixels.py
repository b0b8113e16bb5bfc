from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from lib.core.errors import UnreadablePixels
from lib.dicom.pixels import frames, slice_values
from lib.dicom.series import assemble

SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    RLELossless: gdcm.TransferSyntax.RLELossless,
}


def recode(dataset, syntax, folder: Path):
    """The instance in another transfer syntax, written by gdcm as a modality would."""
    plain, coded = folder / "plain.dcm", folder / "coded.dcm"
    dcmwrite(plain, dataset, enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(coded))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return dcmread(coded)


def fill(dataset, bits: int, signed: bool) -> np.ndarray:
    """Random stored values with the extremes of the depth among them."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = np.random.default_rng(bits).integers(low, high + 1, (int(dataset.Rows), int(dataset.Columns)))
    values[0, :2] = low, high
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1024
    dataset.PixelData = values.astype("<i2" if bits > 8 else "<i1").tobytes()
    dataset["PixelData"].VR = "OW"
    return values * 2.0 - 1024


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, False), (16, True)])
def test_compressed_values_equal_the_plain_ones(ct, tmp_path, syntax, bits, signed) -> None:
    dataset = ct(shape=(1, 32, 24))[0]
    expected = fill(dataset, bits, signed)
    coded = recode(dataset, syntax, tmp_path)
    assert coded.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(slice_values(coded), expected)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_a_compressed_series_assembles_like_the_plain_one(ct, tmp_path, syntax) -> None:
    datasets = ct(shape=(4, 40, 28))
    expected = assemble(datasets)
    series = assemble([recode(dataset, syntax, tmp_path) for dataset in datasets])
    np.testing.assert_array_equal(series.volume.array, expected.volume.array)
    assert series.geometry.is_close(expected.geometry, 1e-9)


def test_damaged_compressed_data_is_named_with_its_syntax(ct, tmp_path) -> None:
    coded = recode(ct(shape=(1, 32, 24))[0], JPEG2000Lossless, tmp_path)
    coded.PixelData = coded.PixelData[:24] + b"\0" * 40
    with pytest.raises(UnreadablePixels, match=r"in JPEG 2000 Image Compression .* cannot be decoded"):
        slice_values(coded)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_a_stream_of_another_size_is_refused_and_ends_no_process(ct, tmp_path, syntax) -> None:
    coded = recode(ct(shape=(1, 32, 24))[0], syntax, tmp_path)
    coded.Rows, coded.Columns = 57, 3
    with pytest.raises(UnreadablePixels, match="cannot be decoded"):
        slice_values(coded)


def test_frames_of_bits_may_start_inside_a_byte(ct) -> None:
    dataset = ct(shape=(1, 3, 5))[0]
    expected = np.random.default_rng(0).integers(0, 2, (4, 3, 5)).astype(np.uint8)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.NumberOfFrames = 0, 4
    dataset.PixelData = np.packbits(expected.reshape(-1), bitorder="little").tobytes()
    np.testing.assert_array_equal(np.stack(list(frames(dataset))), expected)
    dataset.NumberOfFrames = 5
    with pytest.raises(UnreadablePixels, match="5 frames of 3x5 bits need 10 bytes, got 8"):
        list(frames(dataset))
