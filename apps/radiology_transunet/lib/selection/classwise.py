"""Class-stratified power sampling of whole cases, after ClaSP PE (Lüth et al., TMLR 2026)."""

import numpy as np

from lib.selection.arrays import FloatArray, Keys
from lib.selection.config import SelectionConfig
from lib.selection.dealing import Quota, deal
from lib.selection.draws import gumbel, keys, uniform
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking, descending
from lib.selection.uncertainty import WORDS, by_quantity, label_uncertainty


def classwise_power(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """Quotas for labels, each filled by noisy uncertainty of that label; the rest by plain uncertainty."""
    return deal(pool, seed, options, classwise_quotas(pool, seed, options))


def classwise_quotas(pool: Pool, seed: int, options: SelectionConfig) -> list[Quota]:
    """A quota of plain uncertainty and one for each label that any case has a value of; shares add up to 1."""
    plain = by_quantity(pool, seed, options)
    scored = plain.order[np.isfinite(plain.scores[plain.order])]
    quotas = [Quota(f"plain {WORDS[options.quantity][0]}", 1.0, scored, plain.scores, plain.reasons.__getitem__)]
    values, hashes = label_uncertainty(pool, options.quantity), keys(pool.ids, seed)
    beta = power(len(pool.labelled), options)
    labels = [_label_quota(label, values[:, column], hashes, beta) for column, label in enumerate(pool.labels)]
    weights = label_weights(pool, options) * np.array([len(quota.order) > 0 for quota in labels])
    if not weights.sum():
        return quotas
    shares = (1.0 - options.entropy_share) * weights / weights.sum()
    scaled = [quota.scaled(share) for quota, share in zip(labels, shares, strict=True)]
    return [quotas[0].scaled(options.entropy_share), *scaled]


def _label_quota(label: str, values: FloatArray, hashes: Keys, beta: float) -> Quota:
    """The cases by log uncertainty (n,) of one label + Gumbel noise / beta; cases without a value are left out."""
    with np.errstate(divide="ignore"):
        scores = np.log(values) + gumbel(uniform(hashes, f"power {label}")) / beta
    eligible = values > 0
    order = descending(np.where(eligible, scores, np.nan), hashes)[: int(eligible.sum())]

    def why(i: int) -> str:
        drawn = f"drawn by its uncertainty of {label}"
        return f"{drawn} ({values[i]:.3f}; log + noise / {beta:.3g} = {scores[i]:.2f})"

    return Quota(label, 1.0, order, scores, why)


def power(labelled: int, options: SelectionConfig) -> float:
    """Beta of the power noise: grows exponentially with the labelled cases, from nearly random to nearly greedy."""
    grown = min(1.0, labelled / options.power_cases)
    return float(options.power_first * (options.power_last / options.power_first) ** grown)


def label_weights(pool: Pool, options: SelectionConfig) -> FloatArray:
    """(n_labels,) weight of each label's quota: one over the root of its frequency, more for the task's rare labels.

    The frequency is that among the labelled cases; one case is added, so that a label never seen has a finite weight.
    """
    cases = len(pool.labelled)
    smoothed = (pool.labelled.frequency() * cases + 1.0) / (cases + 1.0)
    factors = [options.rare_weight if label in pool.rare else 1.0 for label in pool.labels]
    return np.asarray(np.array(factors) / np.sqrt(smoothed), dtype=np.float64)


def rare_labels(pool: Pool, options: SelectionConfig) -> list[int]:
    """Columns of the labels that the task calls rare or that few labelled cases hold."""
    seldom = pool.labelled.frequency() < options.rare_below
    return [
        column
        for column, label in enumerate(pool.labels)
        if label in pool.rare or (len(pool.labelled) > 0 and seldom[column])
    ]
