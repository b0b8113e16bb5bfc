"""Labels of a planned task: names, colours, which of them are rare."""

import colorsys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lib.core.errors import InvalidInput
from lib.core.labels import MAX_LABEL_ID, Code, Label
from lib.workflows.fingerprint import Fingerprint

RARE_CASES, RARE_VOXELS = 0.2, 0.01
"""Shares of the cases, and of the labelled voxels, below which a label is rare."""
BODY_STRUCTURE = Code("123037004", "Body structure")
GOLDEN = 0.618034


def parse_names(text: str) -> Mapping[int, str]:
    """Names of labels by id, of "liver, spleen" (ids from 1 on) or "3: liver, 7: spleen".

    Raises:
        InvalidInput: an id that is none or occurs twice, a name that occurs twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    names: dict[int, str] = {}
    for position, part in enumerate(parts, start=1):
        number, colon, name = part.partition(":")
        chosen = number.strip() if colon else str(position)
        if not chosen.isdigit() or not 1 <= int(chosen) <= MAX_LABEL_ID or int(chosen) in names:
            raise InvalidInput(f"names must be like 'liver, spleen' or '3: liver, 7: spleen', got {part!r} in {text!r}")
        names[int(chosen)] = name.strip() if colon else part
    if len({name.casefold() for name in names.values()}) < len(names):
        raise InvalidInput(f"each label needs its own name, got one twice in {text!r}")
    return MappingProxyType(names)


def planned_labels(fingerprint: Fingerprint, names: Mapping[int, str]) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """A label for each id that occurs or has a name, and for each where it occurs, in words."""
    numbers = sorted({*fingerprint.labels, *names})
    labels = tuple(
        Label(names.get(number, f"label {number}"), number, colour(position), BODY_STRUCTURE)
        for position, number in enumerate(numbers)
    )
    found = [fingerprint.labels.get(number) for number in numbers]
    none = "in no case: nothing to learn it from"
    return labels, tuple(f"in {one.cases} of {fingerprint.cases} cases" if one else none for one in found)


def shown_rarely(fingerprint: Fingerprint, labels: Sequence[Label]) -> tuple[str, ...]:
    """Names of labels that too few cases show for the mean Dice; never all of them."""
    few = [label.name for label in labels if _cases(fingerprint, label.id) < RARE_CASES * fingerprint.cases]
    return tuple(few) if len(few) < len(labels) else ()


def is_scarce(fingerprint: Fingerprint, number: int) -> bool:
    """Whether few cases, or few of the labelled voxels, show a label that occurs."""
    labelled = sum(one.voxels for one in fingerprint.labels.values())
    few = _cases(fingerprint, number) < RARE_CASES * fingerprint.cases
    return few or fingerprint.labels[number].voxels < RARE_VOXELS * labelled


def colour(position: int) -> tuple[int, int, int]:
    """Red, green and blue: hues a golden angle apart, so that neighbours differ, in three shades by turns."""
    hue = (0.08 + position * GOLDEN) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.5)[position % 2], (0.9, 0.75, 0.6)[position % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def _cases(fingerprint: Fingerprint, number: int) -> int:
    return fingerprint.labels[number].cases if number in fingerprint.labels else 0
