"""Data sets as DICOM files."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.errors import InvalidDicomError

from lib.core.errors import InvalidInput, LabelError

MALFORMED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
"""What pydicom and arithmetic raise on headers that lack a value or hold nonsense."""

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


@contextmanager
def malformed_as(error: type[InvalidInput], what: str) -> Iterator[None]:
    """Turn what a malformed header raises into one of our errors."""
    try:
        yield
    except LabelError:
        raise
    except MALFORMED as reason:
        raise error(f"{what} is malformed: {type(reason).__name__}: {reason}") from reason
