"""Figures of a label stream. Pure: nights as plain values in, numbers out."""

import math
from collections.abc import Mapping, Sequence
from itertools import compress, pairwise
from statistics import fmean
from typing import Any

from scipy import special

from rare_label import paired

NAMES = ("recipe", "monailabel", "scratch")
ALLOWED_LOSS, ALLOWED_COST = 0.005, 0.35
CONFIDENCE = 0.95


def area(nights: Sequence[Mapping[str, Any]], figure: str = "served") -> float:
    """Mean height of the curve of a Dice over labels, by trapezoids; of one night its Dice."""
    if len(nights) == 1:
        return float(nights[0][figure])
    steps = ((b["labels"] - a["labels"], (a[figure] + b[figure]) / 2) for a, b in pairwise(nights))
    return float(sum(width * height for width, height in steps) / (nights[-1]["labels"] - nights[0]["labels"]))


def total(nights: Sequence[Mapping[str, Any]], figure: str) -> float:
    """Sum of a figure over the nights."""
    return float(sum(night[figure] for night in nights))


def changes(nights: Sequence[Mapping[str, Any]], figure: str, promoted: bool) -> list[float]:
    """What a figure is above the Dice that served before, at nights after the first that did, or did not, promote."""
    pairs = [(a, b) for a, b in pairwise(nights) if b["promoted"] == promoted and b[figure] is not None]
    return [b[figure] - a["served"] for a, b in pairs]


def wilson(hits: int, count: int) -> list[float] | None:
    """Wilson's 95 % score interval of a share; None of nothing."""
    if not count:
        return None
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    share, extra = hits / count, z * z / count
    middle, half = share + extra / 2, z * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return [max(0.0, (middle - half) / (1 + extra)), min(1.0, (middle + half) / (1 + extra))]


def lowered(found: Sequence[float]) -> dict[str, Any]:
    """How many changes of the Dice that serves were for the worse, their share with its interval, and the worst."""
    count = sum(change < 0 for change in found)
    return {
        "of": len(found),
        "lowered": count,
        "interval": wilson(count, len(found)),
        "worst": min(found, default=None),
    }


def row_of(streams: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Figures of one way over its seeds."""
    promoted, kept = ([c for nights in streams for c in changes(nights, "made", one)] for one in (True, False))
    firsts = [change for nights in streams for change in changes(nights, "first", True)]
    served = [[night["served"] for night in nights] for nights in streams]
    return {
        "labels": [night["labels"] for night in streams[0]],
        "served": [fmean(column) for column in zip(*served, strict=True)],
        "area": fmean(map(area, streams)),
        "end": fmean(nights[-1]["served"] for nights in streams),
        "made_area": fmean(area(nights, "made") for nights in streams),
        "made_end": fmean(nights[-1]["made"] for nights in streams),
        "steps": fmean(total(nights, "steps") for nights in streams),
        "train_s": fmean(total(nights, "train_s") for nights in streams),
        "judge_s": fmean(total(nights, "judge_s") for nights in streams),
        "promotions": lowered(promoted),
        "rejected": {"count": len(kept), "better": sum(change > 0 for change in kept), "changes": kept},
        "at_first_validation": {**lowered(firsts), "mean": fmean(firsts) if firsts else None},
    }


def compared(
    streams: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], machines: Mapping[str, Sequence[str | None]]
) -> dict[str, dict[str, Any]]:
    """Paired differences, the recipe minus another way: area and end; and its cost as a share of the other's.

    Args:
        streams: nights by way and seed.
        machines: processor by way and seed; None = not known. Seconds of different ones are not compared.
    """
    found: dict[str, dict[str, Any]] = {}
    for other in NAMES[1:]:
        pairs = list(zip(streams["recipe"], streams[other], strict=True))
        alike = [
            ours is not None and ours == theirs
            for ours, theirs in zip(machines["recipe"], machines[other], strict=True)
        ]
        costs = [total(ours, "train_s") / total(theirs, "train_s") for ours, theirs in compress(pairs, alike)]
        found[other] = {
            "area": paired([area(ours) - area(theirs) for ours, theirs in pairs]),
            "made_area": paired([area(ours, "made") - area(theirs, "made") for ours, theirs in pairs]),
            "end": paired([ours[-1]["served"] - theirs[-1]["served"] for ours, theirs in pairs]),
            "cost": fmean(costs) if costs else None,
            "cost_of": len(costs),
            "steps": fmean(total(ours, "steps") / total(theirs, "steps") for ours, theirs in pairs),
        }
    return found


def verdict(differences: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | None]:
    """Whether the goals are met; None where one seed has no interval, or no machine made both ways."""
    end, gain, cost = differences["scratch"]["end"], differences["monailabel"]["area"], differences["scratch"]["cost"]
    low = [None if one["half_interval"] is None else one["mean"] - one["half_interval"] for one in (end, gain)]
    return {
        "end_within": end["mean"] >= -ALLOWED_LOSS,
        "end_shown_within": None if low[0] is None else low[0] >= -ALLOWED_LOSS,
        "cost_within": None if cost is None else cost <= ALLOWED_COST,
        "above_monailabel": None if low[1] is None else low[1] > 0,
    }
