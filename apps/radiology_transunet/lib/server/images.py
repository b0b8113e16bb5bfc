"""What a client may name as an image: a series of the archive, an uploaded file, a session. Never a path."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from lib.core.errors import InvalidInput
from lib.server.volumefiles import suffix_of

UID = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_UID = 64


def series_uid(image: str) -> str:
    """The image id as a SeriesInstanceUID.

    Raises:
        InvalidInput: anything else, above all a path.
    """
    if len(image) > MAX_UID or not UID.fullmatch(image):
        raise InvalidInput(
            f"image must be a SeriesInstanceUID (uploads go into the form field file), got {image[:100]!r}"
        )
    return image


def parameters(text: str | None) -> dict[str, Any]:
    """The JSON object of a form's params field.

    Raises:
        InvalidInput: no JSON, or no object.
    """
    try:
        values = json.loads(text or "{}")
    except ValueError as error:
        raise InvalidInput(f"params must be a JSON object: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidInput(f"params must be a JSON object, got {type(values).__name__}")
    return values


@contextmanager
def kept_upload(upload: UploadFile, folder: Path) -> Iterator[Path]:
    """An upload as a file with its ending, removed afterwards.

    Raises:
        InvalidInput: a file that is no volume by its name.
    """
    suffix = suffix_of(upload.filename or "")
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the cache since the start
    with tempfile.NamedTemporaryFile(dir=folder, suffix=suffix) as file:
        shutil.copyfileobj(upload.file, file, 2**20)
        file.flush()
        yield Path(file.name)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder for the files of one reply, removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)
