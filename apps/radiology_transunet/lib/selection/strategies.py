"""The strategies by name: what `next` may be asked for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from lib.selection import classwise, diversity, mix, rarity, sampling, typicality, uncertainty
from lib.selection.config import SelectionConfig
from lib.selection.pool import NO_MODEL, Pool
from lib.selection.ranking import Ranking

Rank = Callable[[Pool, int, SelectionConfig], Ranking]


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to rank a pool.

    The ranking depends on the cases, the seed and the options: the cases are ranked in the order of their ids and
    put back, so that their order in the pool can make no difference, not even by rounding.
    The first N of a ranking are a batch to label: strategies that spread cases do so along the list.

    Attributes:
        name: as people ask for it.
        describe: what it looks for, in words.
        rank: of a pool whose cases stand in the order of their ids.
        by_model: whether it uses what a model said of the cases.
        by_embedding: whether it uses embeddings.
    """

    name: str
    describe: str
    rank: Rank
    by_model: bool = True
    by_embedding: bool = False

    def __call__(self, pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
        """Rank the cases of a pool; each reason has strategy, rank, seed, and the model if it is not the champion."""
        if not len(pool):
            return Ranking(np.empty(0, dtype=np.int64), np.empty(0), ())
        by_id = sorted(range(len(pool)), key=pool.ids.__getitem__)
        ranking = self.rank(pool.take(by_id), seed, options)
        places = np.array(by_id, dtype=np.int64)
        order, scores = places[ranking.order], np.empty(len(pool))
        scores[places] = ranking.scores
        return Ranking(order, scores, self._reasons(pool, seed, ranking, by_id))

    def _reasons(self, pool: Pool, seed: int, ranking: Ranking, by_id: list[int]) -> tuple[str, ...]:
        reasons, count = [""] * len(pool), len(pool)
        versions, ages = pool.versions.tolist(), pool.ages_days.tolist()
        for rank, i in enumerate(ranking.order.tolist(), start=1):
            case = by_id[i]
            old = self.by_model and versions[case] not in (NO_MODEL, pool.champion)
            age = f" ({_age(versions[case], pool.champion, ages[case])})" if old else ""
            reasons[case] = f"{self.name}, rank {rank} of {count}, seed {seed}: {ranking.reasons[i]}{age}"
        return tuple(reasons)


def _age(version: int, champion: int, days: float) -> str:
    """What scored a case that the champion has not scored, and how long ago."""
    ago = "" if math.isnan(days) else f", {int(days)} day{'' if int(days) == 1 else 's'} ago"
    return f"scored by version {version}, the champion is {champion}{ago}"


_MIX = (
    Strategy(
        "default",
        "a mix by quotas: cases that make single labels uncertain, that may show a rare label or are unlike the "
        "labelled ones, that stand for many others, and that are far from all labelled ones",
        mix.mixed,
        by_embedding=True,
    ),
)
_BY_CHANCE = (
    Strategy("random", "a case drawn at random", sampling.random, by_model=False),
    Strategy(
        "stratified_random",
        "a case drawn at random; sites, scanners and protocols take turns",
        sampling.stratified_random,
        by_model=False,
    ),
    Strategy(
        "foreground_random",
        "a label drawn at random, then a case drawn at random in which the model predicts it",
        sampling.foreground_random,
    ),
)
_BY_UNCERTAINTY = (
    Strategy("entropy", "the case on whose predicted foreground the model is least sure", uncertainty.entropy),
    Strategy("bald", "the case that would tell most about the model's weights (mutual information)", uncertainty.bald),
    Strategy("margin", "the case in which the two likeliest labels are closest", uncertainty.margin),
    Strategy("disagreement", "the case on which the model's samples differ most", uncertainty.disagreement),
    Strategy(
        "classwise_power",
        "quotas for labels, rare ones more; in each the uncertain cases, at random at first and strictly later",
        classwise.classwise_power,
    ),
)
_BY_EMBEDDING = (
    Strategy("diverse", "the case farthest from all that is labelled", diversity.diverse, by_embedding=True),
    Strategy(
        "hybrid",
        "among the uncertain cases the one farthest from all that is labelled",
        diversity.hybrid,
        by_embedding=True,
    ),
    Strategy(
        "typical",
        "the case that stands for most others; for the first labels",
        typicality.typical,
        by_embedding=True,
    ),
    Strategy(
        "rare", "a case that may show a rare label, or is unlike the labelled ones", rarity.rare, by_embedding=True
    ),
)

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {strategy.name: strategy for strategy in (*_MIX, *_BY_CHANCE, *_BY_UNCERTAINTY, *_BY_EMBEDDING)}
)
"""By name; `describe` is what is shown of each."""
