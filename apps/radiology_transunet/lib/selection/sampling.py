"""Random orders: plain, by stratum, by predicted label. What every other strategy has to beat."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray
from lib.selection.config import SelectionConfig
from lib.selection.draws import keys, number, uniform
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking, falling, random_order

Stratum = tuple[str, str, str]


def random(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """Each case with the same chance."""
    return replace(random_order(pool.ids, seed), reasons=("drawn at random",) * len(pool))


def stratified_random(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """Strata (site, scanner, protocol) take turns, each with a case drawn at random.

    In each turn every stratum that has cases left gives one. The order within a turn is drawn anew, with chances
    in proportion to the cases of a stratum, so that a large one tends to stand in front. A stratum with k
    labelled cases has had k turns: that the list is made anew after each label favours nobody.
    """
    strata = pool.facts.strata()
    done = Counter(pool.labelled.facts.strata())
    sizes = done + Counter(strata)
    turns, places = np.empty(len(pool), dtype=np.int64), np.empty(len(pool))
    taken = Counter(done)
    for i in np.argsort(keys(pool.ids, seed), kind="stable").tolist():
        stratum = strata[i]
        turns[i], taken[stratum] = taken[stratum], taken[stratum] + 1
        # exponential times with rate = size: the least of them is drawn in proportion to the sizes
        places[i] = -math.log(number(seed, "turn", *stratum, int(turns[i]))) / sizes[stratum]
    order = np.lexsort((keys(pool.ids, seed), places, turns)).astype(np.int64)
    reasons = tuple(_turn(turns[i] + 1, strata[i], sizes[strata[i]], done[strata[i]]) for i in range(len(pool)))
    return Ranking(order, falling(order), reasons)


def _turn(turn: int, stratum: Stratum, size: int, labelled: int) -> str:
    names = zip(("site", "scanner", "protocol"), stratum, strict=True)
    where = ", ".join(f"{kind} {name or 'unknown'}" for kind, name in names)
    return f"drawn at random in turn {turn} of {where} ({size} cases, {labelled} of them labelled)"


def foreground_random(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """A label drawn at random, then a case drawn at random in which the current model predicts it; again and again.

    The foreground-aware random baseline of nnActive (TMLR 2025), there for patches, here for whole cases. Labels that
    no case is left of are not drawn. Cases in which nothing is predicted come last, in random order.
    """
    predicted = pool.volumes_ml > 0
    hashes = keys(pool.ids, seed)
    lists = {
        label: _drawn(predicted[:, column], uniform(hashes, f"foreground {label}"))
        for column, label in enumerate(pool.labels)
    }
    picks = _by_labels(lists, seed, len(pool.labelled))
    rest = [i for i in np.argsort(hashes, kind="stable").tolist() if i not in picks]
    order = np.array([*picks, *rest], dtype=np.int64)
    reasons = ["drawn at random: no label is predicted in it"] * len(pool)
    for i, label in picks.items():
        volume = pool.volumes_ml[i, pool.labels.index(label)]
        reasons[i] = f"the label drawn is {label}, predicted here with {volume:.3g} ml; the case is drawn at random"
    return Ranking(order, falling(order), tuple(reasons))


def _drawn(eligible: BoolArray, draws: FloatArray) -> list[int]:
    """Indices of the eligible cases in random order, the first one at the end of the list."""
    return [i for i in np.argsort(-draws, kind="stable").tolist() if eligible[i]]


def _by_labels(lists: dict[str, list[int]], seed: int, labelled: int) -> dict[int, str]:
    """Case -> the label it was drawn for, in the order of the draws.

    The draws go on where the labelled cases ended, so that a list made anew does not begin with the same label.
    """
    picks: dict[int, str] = {}
    while open_labels := [label for label, cases in lists.items() if _drop(cases, picks)]:
        draw = number(seed, "label", labelled + len(picks))
        label = open_labels[int(draw * len(open_labels))]
        picks[lists[label].pop()] = label
    return picks


def _drop(cases: list[int], picks: dict[int, str]) -> bool:
    """Take picked cases off the end of the list; whether any is left."""
    while cases and cases[-1] in picks:
        cases.pop()
    return bool(cases)
