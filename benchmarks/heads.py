"""The hippocampus set: its cases, and who is held out.

Cases 2m - 1 and 2m are the two hippocampi of head m, so every split is one of heads.
"""

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from lib.dicom.nifti import read_mask, read_volume
from lib.taskfile import Task
from lib.training.data import Case

HELD_OUT_SHARE = 0.25
SPLITS = ("test", "dev")


def add_options(parser: argparse.ArgumentParser) -> None:
    """--data and --split."""
    data = Path(os.environ.get("TRANSUNET_DATA", "../shared/data")) / "hippocampus"
    parser.add_argument("--data", type=Path, default=data, help="folder with images/ and labels/")
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="dev: a part of the heads to learn from, to change a recipe by"
    )


def head_of(path: Path) -> int:
    """The head that a file shows."""
    return (int("".join(filter(str.isdigit, path.name.partition(".")[0]))) + 1) // 2


def ordered(heads: Sequence[int], salt: str) -> list[int]:
    """The heads in an order that follows from the salt."""
    return sorted(heads, key=lambda head: hashlib.sha256(f"{salt} {head}".encode()).digest())


def divide(heads: Sequence[int], split: str) -> tuple[list[int], list[int]]:
    """Heads to learn from and held out; those of the split "dev" are what the split "test" learns from."""
    learn, held_out = list(heads), list[int]()
    for name in SPLITS[: SPLITS.index(split) + 1]:
        order = ordered(learn, name)
        count = round(HELD_OUT_SHARE * len(order))
        learn, held_out = order[count:], order[:count]
    return learn, held_out


def images_of(data: Path) -> list[Path]:
    """The images of the set.

    Raises:
        SystemExit: it is not there.
    """
    found = sorted((data / "images").glob("*.nii*"))
    if not found:
        raise SystemExit(f"no images in {data / 'images'}: set TRANSUNET_DATA or --data to the hippocampus set")
    return found


def read_case(image: Path, task: Task) -> Case:
    """One case of the set."""
    volume, mask = read_volume(image, "MR"), read_mask(image.parents[1] / "labels" / image.name, task.schema)
    return Case(volume, mask, str(head_of(image)), image.name)


def read_split(data: Path, split: str, task: Task) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and held out."""
    images = images_of(data)
    sets = divide(sorted({head_of(path) for path in images}), split)
    learn, held_out = ([read_case(path, task) for path in images if head_of(path) in heads] for heads in sets)
    return learn, held_out
