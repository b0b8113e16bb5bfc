"""Data sets as DICOM files."""

import io

from pydicom import Dataset


def encode(dataset: Dataset) -> bytes:
    """The data set as a complete DICOM file: preamble, file meta information, data."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
