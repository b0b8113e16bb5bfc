"""The order of a queue: the strategy's cases, those drawn at random and those of held-out patients take turns.

The strategy sees pool cases alone, without those of the random lane. Each place says in words how it came about.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lib.ledger.queuerows import Candidate
from lib.selection.lanes import RANDOM, STRATEGY, Shares, draw, interleave
from lib.selection.ranking import Ranking
from lib.workflows.collect import Split
from lib.workflows.config import QueryConfig

Rank = Callable[[Sequence[Candidate], int], Ranking]
RANDOM_WORDS = "random lane: drawn at random from the pool, whatever the strategy"
HELD_OUT_WORDS = "held-out draw: a {} patient, drawn at random, whatever a model says"


@dataclass(frozen=True, slots=True)
class LineUp:
    """A queue.

    Attributes:
        places: (series_uid, score, why), the one to hand out first in front; NaN = not chosen by a score.
        lanes: by series_uid, of those that the strategy did not choose: "random" or "held-out".
    """

    places: Sequence[tuple[str, float, str]]
    lanes: Mapping[str, str]


def line_up(candidates: Sequence[Candidate], strategy: str, rank: Rank, config: QueryConfig, turn: int) -> LineUp:
    """The queue of a strategy.

    Args:
        candidates: of all splits, each once; their order makes no difference.
        strategy: name.
        rank: its ranking of pool cases, given a seed.
        config: shares and seed.
        turn: how many cases were handed out before.
    """
    pool = [c for c in sorted(candidates, key=lambda c: c.series_uid) if c.split == Split.POOL]
    share = 0.0 if strategy == RANDOM else config.random_share  # the whole pool is drawn at random then
    drawn = draw([c.series_uid for c in pool], config.seed, share)
    kept = frozenset(drawn)
    left = [c for c in pool if c.series_uid not in kept]
    ranked = rank(left, config.seed).ranked([c.series_uid for c in left])
    groups = _held_out(candidates, config.seed)
    told = _drawn_words(RANDOM_WORDS, drawn, config.seed)
    told |= {uid: (score, why) for uid, score, why in ranked}
    for split, uids in groups.items():
        told |= _drawn_words(HELD_OUT_WORDS.format(split), uids, config.seed)
    shares = Shares(share, config.held_out_share)
    places = interleave([uid for uid, _, _ in ranked], drawn, tuple(groups.values()), shares, turn)
    lanes = {place.case: place.lane for place in places if place.lane != STRATEGY}
    return LineUp([(place.case, *told[place.case]) for place in places], lanes)


def _held_out(candidates: Sequence[Candidate], seed: int) -> dict[str, tuple[str, ...]]:
    """The cases that are not of the pool by split, each in the order of its draw."""
    splits = sorted({c.split for c in candidates} - {Split.POOL.value})
    return {split: draw([c.series_uid for c in candidates if c.split == split], seed, 1.0) for split in splits}


def _drawn_words(lane: str, uids: Sequence[str], seed: int) -> dict[str, tuple[float, str]]:
    """By series, no score and why it stands where it stands."""
    count = len(uids)
    return {uid: (math.nan, f"{lane} (draw {n} of {count}, seed {seed})") for n, uid in enumerate(uids, start=1)}
