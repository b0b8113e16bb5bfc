"""The cases on which two models differ most, with pictures; one pass over the cases, a few pictures in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
OUTLINE = 3
"""Pixels; pages show the pictures smaller than they are."""
SMALLEST = 0.0005
"""Dice; a smaller change is none that a person could see."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Of cases under two models.

    Attributes:
        improved: those that gained most, the best first.
        worsened: those that lost most, the worst first.
        compared: how many cases both models were run on.
        of: how many there are.
    """

    improved: tuple[CaseChange, ...] = ()
    worsened: tuple[CaseChange, ...] = ()
    compared: int = 0
    of: int = 0


def changes(
    champion: "Predictor",
    challenger: "Predictor",
    cases: "Sequence[Case]",
    tell: Callable[[float, str], None] = lambda share, message: None,
    shown: int = SHOWN,
    most: int = 0,
    seed: int = 0,
    window_hu: tuple[float, float] | None = None,
) -> Changes:
    """The cases that gained and lost most, at most `shown` of each.

    Both models are run on each case: with `most` the time is bounded, whatever the number of cases.

    Args:
        champion: the model before.
        challenger: the model after.
        cases: that neither learned from.
        tell: called between cases; may raise to end it.
        shown: how many of each.
        most: cases that are compared at most, see `sample`; 0 = all.
        seed: of the sample.
        window_hu: black and white of the pictures of a CT; None = percentiles.
    """
    found = Changes()
    numbers = sample(len(cases), most, seed)
    for done, number in enumerate(numbers):
        tell(done / len(numbers), f"comparing case {done + 1} of {len(numbers)} for the report")
        case = cases[number]
        before, after = champion.predict(case.volume).mask, challenger.predict(case.volume).mask
        change = compare(case, before, after)
        if change is not None:
            draw = partial(_drawn, case=case, before=before, after=after, window_hu=window_hu)
            found = _with(found, change, shown, draw)
    return replace(found, compared=len(numbers), of=len(cases))


def sample(count: int, most: int, seed: int) -> tuple[int, ...]:
    """At most so many numbers below `count`, drawn without replacement, each alike, in their order; 0 = all. Pure."""
    if not most or count <= most:
        return tuple(range(count))
    return tuple(sorted(np.random.default_rng(seed).choice(count, most, replace=False).tolist()))


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


def _with(known: Changes, change: CaseChange, shown: int, draw: Callable[[CaseChange], CaseChange]) -> Changes:
    """The changes with one more, drawn when it is among those that are shown."""
    if abs(change.change) < SMALLEST:
        return known
    gained = change.change > 0
    before = known.improved if gained else known.worsened
    ranked = tuple(sorted((*before, change), key=_size))[:shown]
    if change not in ranked:
        return known
    drawn = tuple(draw(one) if one is change else one for one in ranked)
    return replace(known, improved=drawn) if gained else replace(known, worsened=drawn)


def _size(change: CaseChange) -> tuple[float, str]:
    return -abs(change.change), change.name


def _drawn(
    change: CaseChange, case: "Case", before: Mask, after: Mask, window_hu: tuple[float, float] | None
) -> CaseChange:
    """The change with its picture: annotation, champion and challenger on the slice where both models differ most."""
    number = most_different(before, after)
    masks = case.mask, before, after
    picture = side_by_side(case.volume, masks, number, zoom=True, window_hu=window_hu, width=OUTLINE)
    return replace(change, where=slice_words(case.volume, number), picture=picture)
