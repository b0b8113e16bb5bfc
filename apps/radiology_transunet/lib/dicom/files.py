"""Data sets as DICOM files."""

import io

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.errors import InvalidDicomError

from lib.core.errors import InvalidInput

__all__ = ["Dataset", "decode", "encode"]  # the type, too: pydicom is imported in this room alone


def encode(dataset: Dataset) -> bytes:
    """The data set as a complete DICOM file: preamble, file meta information, data.

    Raises:
        InvalidInput: a data set that lacks what a file needs.
    """
    buffer = io.BytesIO()
    try:
        dcmwrite(buffer, dataset, enforce_file_format=True)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"the data set cannot become a DICOM file: {error}") from error
    return buffer.getvalue()


def decode(content: bytes) -> Dataset:
    """The data set in the bytes of a DICOM file.

    Raises:
        InvalidInput: bytes that are none.
    """
    try:
        return dcmread(io.BytesIO(content))
    except (InvalidDicomError, AttributeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"a DICOM file is needed, got {len(content)} bytes: {error}") from error
