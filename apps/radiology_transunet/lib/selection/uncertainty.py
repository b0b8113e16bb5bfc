"""Scores by case: how unsure the model is of it, and of each label in it."""

from dataclasses import replace

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray
from lib.selection.config import SAMPLED, Quantity, SelectionConfig
from lib.selection.pool import NO_MODEL, Pool
from lib.selection.ranking import Ranking, by_mean

WORDS: dict[Quantity, tuple[str, str]] = {
    "entropy": ("entropy", " nats"),
    "bald": ("mutual information", " nats"),
    "margin": ("lack of margin", ""),
    "disagreement": ("disagreement", ""),
}
"""What each quantity is called in a reason, and its unit."""
NOTHING_FOUND = "the model found nothing in it"
LEAST_PRESENCE = 1e-12
"""A probability of 0 is never a presence, whatever the options say."""


def by_quantity(pool: Pool, seed: int, options: SelectionConfig, quantity: Quantity | None = None) -> Ranking:
    """The cases first with the largest mean of a quantity over the labels that they show or may show.

    A case that shows one of four organs ranks as its uncertainty of that one: that the model is sure of the absence of
    the other three says nothing about it. See `may_show`.

    Args:
        pool: of cases.
        seed: orders equal cases.
        options: of the selection.
        quantity: None = that of the options.
    """
    named, counted = quantity or options.quantity, may_show(pool, options)
    values = np.where(counted, pool.quantities[named], np.nan)
    ranking = by_mean(pool.ids, values, seed, pool.labels, *WORDS[named])
    reasons = list(ranking.reasons)
    for i in np.flatnonzero(np.isnan(ranking.scores) & (pool.versions != NO_MODEL)).tolist():
        reasons[i] = _lacking(named) if counted[i].any() else NOTHING_FOUND
    return replace(ranking, reasons=tuple(reasons))


def _lacking(quantity: Quantity) -> str:
    """Why a case that a model has seen has no value, in words."""
    needs = "; it needs samples of the model (uncertainty.kind dropout, tta or ensemble)" if quantity in SAMPLED else ""
    return f"its model told no {WORDS[quantity][0]}{needs}"


def may_show(pool: Pool, options: SelectionConfig) -> BoolArray:
    """(n, n_labels) whether a label is predicted, probable enough (`presence_min`), or nothing is known of it."""
    found: BoolArray = (pool.volumes_ml > 0) | ~(pool.presence < max(options.presence_min, LEAST_PRESENCE))
    return found


def entropy(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """By entropy of the mean prediction."""
    return by_quantity(pool, seed, options, "entropy")


def bald(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """By mutual information of prediction and weights (Houlsby et al. 2011)."""
    return by_quantity(pool, seed, options, "bald")


def margin(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """By how close the two likeliest labels are."""
    return by_quantity(pool, seed, options, "margin")


def disagreement(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """By how much samples or members of the model differ."""
    return by_quantity(pool, seed, options, "disagreement")


def label_uncertainty(pool: Pool, quantity: Quantity) -> FloatArray:
    """(n, n_labels) uncertainty times probability of the label, as in ClaSP PE; NaN = no value.

    A label that is not predicted has no foreground to average over. There the entropy of its likeliest voxel,
    H(p) of the largest probability p, stands in for any quantity: a rare label that the model almost saw
    still counts. Where the probability is not known a predicted label counts as sure to be there.
    """
    table, presence = pool.quantities[quantity], pool.presence
    with np.errstate(divide="ignore", invalid="ignore"):
        binary = -presence * np.log(presence) - (1 - presence) * np.log1p(-presence)
    hidden = np.where((presence == 0) | (presence == 1), 0.0, binary)
    values = np.where(np.isnan(table), hidden, table)
    return np.asarray(values * np.where(np.isnan(presence), 1.0, presence), dtype=np.float64)
