"""The default: something of each strategy that helps, by quotas."""

from dataclasses import replace

from lib.selection.classwise import classwise_quotas
from lib.selection.config import SelectionConfig
from lib.selection.dealing import Quota, deal
from lib.selection.diversity import diverse_quota
from lib.selection.embeddings import Comparable
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking
from lib.selection.rarity import novelty_quotas, presence_quotas
from lib.selection.sampling import foreground_random, stratified_random
from lib.selection.typicality import typical, typical_quota


def mixed(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """Quotas of classwise_power, rare, typical and diverse; below `cold_start` labelled cases the cold strategy.

    Once a rare label was labelled, cases that seem to show it are looked for as such, which a random draw of the
    foreground does with a third of the precision; the noise of classwise_power keeps small budgets near to
    random sampling, which single-minded uncertainty loses against; typical cases keep the mean from being forgotten.
    """
    if len(pool.labelled) < options.cold_start:
        return _cold(pool, seed, options)
    return deal(pool, seed, options, mixed_quotas(pool, seed, options))


def mixed_quotas(pool: Pool, seed: int, options: SelectionConfig) -> list[Quota]:
    """The quotas of all parts; a quota without cases hands its places to the next one, so their order is a choice.

    Places of a rare label that nothing shows go to plain uncertainty, which is where it hides if it is anywhere, and
    not to what is unlike the labelled cases, which in small budgets are mostly bad pictures.
    """
    mix = options.mix
    parts = [
        (mix.rare, novelty_quotas(pool, seed, options)),
        (mix.diverse, [diverse_quota(pool, seed, options)] if mix.diverse else []),
        (mix.typical, [typical_quota(pool, seed, options)] if mix.typical else []),
        (mix.rare, presence_quotas(pool, seed, options)),
        (mix.classwise_power, classwise_quotas(pool, seed, options)),
    ]
    return [quota.scaled(share) for share, quotas in parts for quota in quotas]


def _cold(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    strategy = options.cold_strategy
    if strategy == "typical" and not len(Comparable.of(pool)):
        strategy = "foreground_random"
    if strategy == "foreground_random" and not (pool.volumes_ml > 0).any():
        strategy = "stratified_random"
    rank = {"typical": typical, "foreground_random": foreground_random, "stratified_random": stratified_random}[
        strategy
    ]
    ranking = rank(pool, seed, options)
    start = f"{len(pool.labelled)} labelled, fewer than {options.cold_start}, so {strategy}"
    return replace(ranking, reasons=tuple(f"{start}: {text}" for text in ranking.reasons))
