"""Files that the command line writes: whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

PRIVATE = 0o600


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    _write(path, text, PRIVATE)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a JSON file."""
    _write(path, json.dumps(values, indent=2) + "\n", 0o666)


def _write(path: Path, text: str, mode: int) -> None:
    """Write beside the target, then move; the mode is narrowed by the process's umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # one of a killed process of that number would keep its mode
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)
