"""Figures of simulated selection. Pure: rounds as plain values in, numbers out.

A stream is the rounds of one strategy with one seed; a round has `labels` (how many cases are labelled), the Dice of
each label and of each site on the held-out cases, and what has been annotated and corrected so far.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

from scipy import stats

from rare_label import paired

Round = Mapping[str, Any]
Stream = Sequence[Round]
Values = dict[str, float]

SHARES = (0.90, 0.95)
"""Of the Dice with all of the pool labelled."""


def mean_dice(one: Round) -> float:
    """Mean over the labels."""
    return fmean(one["dice"].values())


def worst_dice(one: Round) -> float:
    """Of the label that is worst."""
    return float(min(one["dice"].values()))


def focus_dice(one: Round, focus: str) -> float:
    """Dice of the label, or the mean Dice of the site, of that name."""
    return float(one["dice"][focus] if focus in one["dice"] else one["sites"][focus])


def aubc(labels: Sequence[float], heights: Sequence[float]) -> float:
    """Area under the curve of heights over labels by trapezoids, divided by the range of labels; of one its height."""
    if len(labels) == 1:
        return float(heights[0])
    points = list(zip(labels, heights, strict=True))
    area = sum((b - a) * (low + high) / 2 for (a, low), (b, high) in pairwise(points))
    return float(area / (labels[-1] - labels[0]))


def labels_needed(labels: Sequence[float], heights: Sequence[float], goal: float) -> float | None:
    """Labels at which the curve, straight between its points, first reaches the goal; None when it never does."""
    if heights[0] >= goal:
        return float(labels[0])
    points = zip(labels, heights, strict=True)
    for (a, low), (b, high) in pairwise(points):
        if high >= goal:
            return float(a + (b - a) * (goal - low) / (high - low))
    return None


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test that the mean difference is 0; None for one pair."""
    if len(differences) < 2:
        return None
    mean, spread = fmean(differences), stdev(differences)
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    t = mean / spread * math.sqrt(len(differences))
    return float(2 * stats.t.sf(abs(t), len(differences) - 1))


def holm(found: Mapping[str, float]) -> Values:
    """The p values as Holm adjusts them for being several (Scandinavian Journal of Statistics 6, 1979)."""
    adjusted, largest = Values(), 0.0
    for place, name in enumerate(sorted(found, key=found.__getitem__)):
        largest = max(largest, min(1.0, (len(found) - place) * found[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in found}


def figures_of(stream: Stream, focus: str | None) -> Values:
    """One stream in numbers, Dice all: the areas under its curves, its end, and what that end has cost."""
    labels, last = [one["labels"] for one in stream], stream[-1]
    found = {
        "aubc": aubc(labels, [mean_dice(one) for one in stream]),
        "final": mean_dice(last),
        "worst_label": worst_dice(last),
        "foreground_voxels": float(last["foreground_voxels"]),
        "corrected_voxels": float(last["corrected_voxels"]),
    }
    if focus is None:
        return found
    curve = [focus_dice(one, focus) for one in stream]
    return {**found, "focus": curve[-1], "focus_aubc": aubc(labels, curve)}


def needed(streams: Sequence[Stream], full: float) -> dict[str, dict[str, Any]]:
    """Labels needed for shares of the full-data Dice: how many streams reach it, and their median.

    The median is over all streams, those that do not reach it counting as more than any; None where it is such a one.
    """
    rows = {}
    for share in SHARES:
        each = [
            labels_needed([one["labels"] for one in stream], [mean_dice(one) for one in stream], share * full)
            for stream in streams
        ]
        middle = median(math.inf if value is None else value for value in each)
        rows[f"{share:.0%}"] = {
            "reached": sum(value is not None for value in each),
            "of": len(each),
            "median": middle if math.isfinite(middle) else None,
        }
    return rows


def row_of(streams: Sequence[Stream], focus: str | None, full: float | None) -> dict[str, Any]:
    """Figures of one strategy: means over the seeds, the curves, and the labels needed."""
    each = [figures_of(stream, focus) for stream in streams]
    return {
        "labels": [one["labels"] for one in streams[0]],
        "curve": _curve(streams, mean_dice),
        "focus_curve": None if focus is None else _curve(streams, lambda one: focus_dice(one, focus)),
        "dice": {name: fmean(stream[-1]["dice"][name] for stream in streams) for name in streams[0][-1]["dice"]},
        "showing": {name: _curve(streams, lambda one, n=name: one["showing"][n]) for name in streams[0][-1]["showing"]},
        "false_alarms": {
            name: fmean(stream[-1]["false_alarms"][name] for stream in streams)
            for name in streams[0][-1]["false_alarms"]
        },
        **{name: fmean(values[name] for values in each) for name in each[0]},
        "needed": None if full is None else needed(streams, full),
        "of_seeds": each,
    }


def _curve(streams: Sequence[Stream], value: Callable[[Round], float]) -> list[float]:
    """Means over the streams, round by round."""
    return [fmean(map(value, column)) for column in zip(*streams, strict=True)]


def compared(
    rows: Mapping[str, Mapping[str, Any]], ours: str, others: Sequence[str], figures: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Planned comparisons by figure and other strategy: paired differences over the seeds, p, and p by Holm.

    Args:
        rows: of the strategies, their seeds in the same order.
        ours: the strategy that is to win.
        others: it is compared with; Holm's correction is over these.
        figures: by which, each of them judged by itself.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for figure in figures:
        mine = [seed[figure] for seed in rows[ours]["of_seeds"]]
        pairs = {name: [a - b[figure] for a, b in zip(mine, rows[name]["of_seeds"], strict=True)] for name in others}
        known = {name: p for name, differences in pairs.items() if (p := paired_p(differences)) is not None}
        corrected = holm(known)
        found[figure] = {
            name: {**paired(differences), "of_seeds": differences, "p": known.get(name), "p_holm": corrected.get(name)}
            for name, differences in pairs.items()
        }
    return found


def verdict(comparisons: Mapping[str, Mapping[str, Mapping[str, Any]]], error: float) -> dict[str, Any]:
    """Whether ours is above each other strategy with p by Holm within the error rate; None with one seed."""
    wins = {figure: {name: _wins(one, error) for name, one in by.items()} for figure, by in comparisons.items()}
    every = [won for by in wins.values() for won in by.values()]
    return {"wins": wins, "wins_all": None if None in every or not every else all(every)}


def _wins(one: Mapping[str, Any], error: float) -> bool | None:
    return None if one["p_holm"] is None else bool(one["mean"] > 0 and one["p_holm"] <= error)
