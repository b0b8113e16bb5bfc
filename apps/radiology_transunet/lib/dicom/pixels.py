"""Pixel data of single instances: what it must be, and its decoding.

Decoders are pydicom's plug-ins: gdcm for JPEG Lossless, Pillow for JPEG 2000, pyjpegls for JPEG-LS, pydicom itself for
RLE and uncompressed data. gdcm is kept from JPEG-LS and JPEG 2000: on damaged data it aborts the whole process.
"""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import iter_pixels, pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes

from lib.core.errors import UnreadablePixels

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
PLUGINS = dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls") | dict.fromkeys(JPEG2000TransferSyntaxes, "pillow")
DECODING_ERRORS = (
    ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


def name_of(dataset: Dataset) -> str:
    """An instance in words, for messages."""
    return f"instance {dataset.get('InstanceNumber', '?')} ({dataset.get('SOPInstanceUID', 'without SOPInstanceUID')})"


def require_grey(dataset: Dataset) -> None:
    """Raise unless the instance is one frame of one grey channel with pixel data.

    Raises:
        UnreadablePixels: no pixel data, colour, several frames.
    """
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        raise UnreadablePixels(f"{name_of(dataset)} has no pixel data; is it a report or an incomplete copy?")
    samples, photometric = dataset.get("SamplesPerPixel", 1), dataset.get("PhotometricInterpretation")
    if samples != 1 or photometric not in GREY:
        raise UnreadablePixels(
            f"{name_of(dataset)} must be grey ({' or '.join(GREY)}), got {samples} samples of {photometric}"
        )
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadablePixels(
            f"{name_of(dataset)} holds {dataset.NumberOfFrames} frames; only one slice a file is read, "
            "convert multi-frame objects first"
        )


def slice_values(dataset: Dataset) -> npt.NDArray[np.float32]:
    """Rescaled values (R, C) of one slice: HU for CT; its own RescaleSlope and RescaleIntercept are applied.

    Raises:
        UnreadablePixels: pixel data that cannot be decoded, a modality lookup table.
    """
    if "ModalityLUTSequence" in dataset:
        raise UnreadablePixels(
            f"{name_of(dataset)} maps its values by a lookup table; only slope and intercept are read"
        )
    try:
        stored = pixel_array(dataset, decoding_plugin=_plugin(dataset))
    except DECODING_ERRORS as error:
        raise _undecodable(dataset, error) from error
    slope, intercept = float(dataset.get("RescaleSlope") or 1.0), float(dataset.get("RescaleIntercept") or 0.0)
    return np.asarray(stored * slope + intercept, dtype=np.float32)


def frames(dataset: Dataset) -> Iterator[npt.NDArray[np.generic]]:
    """Stored values (R, C) of each frame of a multi-frame object, one at a time.

    Raises:
        UnreadablePixels: no pixel data, or data that cannot be decoded.
    """
    if "PixelData" not in dataset:
        raise UnreadablePixels(f"{name_of(dataset)} has no pixel data")
    try:
        yield from (
            _packed_bits(dataset) if _is_packed(dataset) else iter_pixels(dataset, decoding_plugin=_plugin(dataset))
        )
    except DECODING_ERRORS as error:
        raise _undecodable(dataset, error) from error


def _plugin(dataset: Dataset) -> str:
    """The decoder to use, "" for pydicom's choice."""
    return PLUGINS.get(dataset.file_meta.TransferSyntaxUID, "")


def _is_packed(dataset: Dataset) -> bool:
    syntax = dataset.file_meta.TransferSyntaxUID
    return dataset.get("BitsAllocated") == 1 and not syntax.is_encapsulated and bool(syntax.is_little_endian)


def _packed_bits(dataset: Dataset) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of one bit a pixel, which follow each other without a gap: a frame may start inside a byte.

    pydicom 3.0 reads such an object as a whole, but not frame by frame.
    """
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    packed = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    size = rows * columns
    if packed.size * 8 < size * count:
        raise ValueError(
            f"{count} frames of {rows}x{columns} bits need {-(-size * count // 8)} bytes, got {packed.size}"
        )
    for index in range(count):
        start = index * size
        bits = np.unpackbits(packed[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(rows, columns)


def _undecodable(dataset: Dataset, error: Exception) -> UnreadablePixels:
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    words = getattr(syntax, "name", "an unnamed transfer syntax")
    return UnreadablePixels(f"the pixel data of {name_of(dataset)} in {words} cannot be decoded: {error}")
