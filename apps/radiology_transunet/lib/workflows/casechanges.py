"""The cases on which two models differ most, with pictures; one pass over the cases, a few pictures in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from lib.core.metrics import dice
from lib.core.values import Mask
from lib.workflows.overlays import most_different, side_by_side, slice_words
from lib.workflows.report import CaseChange

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor
    from lib.training.data import Case

SHOWN = 5
SMALLEST = 0.0005
"""Dice; a smaller change is none that a person could see."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Of cases under two models.

    Attributes:
        improved: those that gained most, the best first.
        worsened: those that lost most, the worst first.
        compared: how many cases there were.
    """

    improved: tuple[CaseChange, ...] = ()
    worsened: tuple[CaseChange, ...] = ()
    compared: int = 0


def changes(
    champion: "Predictor",
    challenger: "Predictor",
    cases: "Sequence[Case]",
    tell: Callable[[float, str], None] = lambda share, message: None,
    shown: int = SHOWN,
) -> Changes:
    """The cases that gained and lost most, at most `shown` of each.

    Args:
        champion: the model before.
        challenger: the model after.
        cases: that neither learned from.
        tell: called between cases; may raise to end it.
        shown: how many of each.
    """
    found = Changes()
    for number in range(len(cases)):
        tell(number / len(cases), f"comparing case {number + 1} of {len(cases)} for the report")
        case = cases[number]
        before, after = champion.predict(case.volume).mask, challenger.predict(case.volume).mask
        change = compare(case, before, after)
        if change is not None:
            found = _with(found, change, shown, lambda: _picture(case, before, after))  # noqa: B023 called at once
    return replace(found, compared=len(cases))


def compare(case: "Case", before: Mask, after: Mask) -> CaseChange | None:
    """Mean Dice of both masks over the labels that any of the three shows; None when none does.

    A model that rightly finds nothing, where the other one finds what is not there, has a Dice of 1, as at the gate.
    """
    covered = slice(None) if case.coverage.slices is None else np.array(case.coverage.slices)
    truth, old, new = (mask.array[covered] for mask in (case.mask, before, after))
    pairs = []
    for label in case.mask.schema:
        if case.coverage.labels is not None and label.name not in case.coverage.labels:
            continue
        found = [dice(truth == label.id, mask == label.id) for mask in (old, new)]
        if found != [None, None]:
            pairs.append([1.0 if value is None else value for value in found])
    if not pairs:
        return None
    return CaseChange(case.name, case.patient, fmean(old for old, _ in pairs), fmean(new for _, new in pairs))


def _with(known: Changes, change: CaseChange, shown: int, draw: Callable[[], bytes]) -> Changes:
    """The changes with one more, drawn when it is among those that are shown."""
    if abs(change.change) < SMALLEST:
        return known
    gained = change.change > 0
    before = known.improved if gained else known.worsened
    ranked = tuple(sorted((*before, change), key=_size))[:shown]
    if change not in ranked:
        return known
    drawn = tuple(replace(one, picture=draw()) if one is change else one for one in ranked)
    return replace(known, improved=drawn) if gained else replace(known, worsened=drawn)


def _size(change: CaseChange) -> tuple[float, str]:
    return -abs(change.change), change.name


def _picture(case: "Case", before: Mask, after: Mask) -> bytes:
    number = most_different(before, after)
    words = f"{slice_words(case.volume, number)}: annotation | champion | challenger"
    return side_by_side(case.volume, (case.mask, before, after), number, words, zoom=True)
