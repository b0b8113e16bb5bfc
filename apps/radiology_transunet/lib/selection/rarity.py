"""Cases that may show a rare label, or are unlike everything that is labelled."""

import numpy as np

from lib.selection.arrays import BoolArray, FloatArray
from lib.selection.classwise import label_weights, rare_labels
from lib.selection.config import SelectionConfig
from lib.selection.dealing import Quota, deal
from lib.selection.draws import keys
from lib.selection.embeddings import Comparable, mean_distance, nearest
from lib.selection.mixture import fit_mixture, log_density, principal_axes
from lib.selection.pool import Pool
from lib.selection.ranking import Ranking, descending
from lib.selection.uncertainty import LEAST_PRESENCE

AXES = 16
"""Principal axes of the embeddings in which the mixture is fitted."""
CASES_A_COMPONENT = 10


def rare(pool: Pool, seed: int, options: SelectionConfig) -> Ranking:
    """Quotas for cases that may show a rare label, and for cases unlike the labelled ones; then by uncertainty."""
    return deal(pool, seed, options, [*presence_quotas(pool, seed, options), *novelty_quotas(pool, seed, options)])


def presence_quotas(pool: Pool, seed: int, options: SelectionConfig) -> list[Quota]:
    """A quota for each rare label, empty where no case may show it; their shares add up to `presence_share`."""
    columns = rare_labels(pool, options)
    weights = label_weights(pool, options)[columns]
    quotas = [_presence_quota(pool, seed, options, column) for column in columns]
    return [
        quota.scaled(options.presence_share * weight / weights.sum())
        for quota, weight in zip(quotas, weights, strict=True)
    ]


def _may_show(pool: Pool, options: SelectionConfig) -> BoolArray:
    """(n, n_labels) whether the label is predicted, or likely enough."""
    enough = max(options.presence_min, LEAST_PRESENCE)
    found: BoolArray = (pool.volumes_ml > 0) | (np.nan_to_num(pool.presence) >= enough)
    return found


def evidence(volumes_ml: FloatArray, presence: FloatArray) -> FloatArray:
    """(n,) how much speaks for a label in each case, 0 to 2: its largest probability, plus v / (v + median volume).

    A single sure voxel is often a false alarm, a volume seldom is. The median is over the cases that the
    label is predicted in. Where the probability is not known a predicted label counts as sure.
    """
    predicted = volumes_ml > 0
    half = float(np.median(volumes_ml[predicted])) if predicted.any() else 1.0
    sure = np.where(np.isnan(presence), predicted, presence)
    return np.asarray(sure + volumes_ml / (volumes_ml + half), dtype=np.float64)


def _presence_quota(pool: Pool, seed: int, options: SelectionConfig, column: int) -> Quota:
    label, volumes, presence = pool.labels[column], pool.volumes_ml[:, column], pool.presence[:, column]
    scores, eligible = evidence(volumes, presence), _may_show(pool, options)[:, column]
    order = descending(np.where(eligible, scores, np.nan), keys(pool.ids, seed))[: int(eligible.sum())]
    holding = int(pool.labelled.presence[:, column].sum())

    def why(i: int) -> str:
        sure = "unknown" if np.isnan(presence[i]) else f"{presence[i]:.2f}"
        seen = f"{holding} of {len(pool.labelled)} labelled cases hold it"
        return f"probability {sure}, {volumes[i]:.3g} ml predicted; {seen}"

    return Quota(f"the rare label {label}", 1.0, order, scores, why)


def novelty_quotas(pool: Pool, seed: int, options: SelectionConfig) -> list[Quota]:
    """One quota by distance to the labelled cases, or none where there is nothing to compare; its share is the rest."""
    space = Comparable.of(pool)
    if not len(space) or not len(space.anchors):
        return []
    values = novelty(space, seed, options)
    scores = np.full(len(pool), np.nan)
    scores[space.cases] = values
    beside = dict(zip(space.cases.tolist(), nearest(space.points, space.anchors)[1].tolist(), strict=True))
    order = descending(scores, keys(pool.ids, seed))[: len(space)]

    def why(i: int) -> str:
        unlike = f"further from the labelled cases than {100 * scores[i]:.0f} % of the pool"
        return f"{unlike}; the nearest of them is {space.anchor_ids[beside[i]]}"

    return [Quota("cases unlike the labelled ones", 1.0 - options.presence_share, order, scores, why)]


def novelty(space: Comparable, seed: int, options: SelectionConfig) -> FloatArray:
    """(c,) how unlike the labelled cases each comparable case is: mean of two percentiles, 0 to 1.

    The one is of the mean distance to the `rare_neighbours` nearest labelled cases; the other of minus the log density
    of a Gaussian mixture of the labelled cases in the principal axes of all, one component for each ten cases.
    """
    distances = mean_distance(space.points, space.anchors, options.rare_neighbours)
    axes = principal_axes(np.concatenate([space.points, space.anchors]), AXES)
    labelled = space.anchors @ axes
    components = min(options.components, 1 + len(labelled) // CASES_A_COMPONENT)
    spread = np.concatenate([space.points @ axes, labelled]).var(axis=0)
    mixture = fit_mixture(labelled, components, spread, keys(space.anchor_ids, seed))
    surprise = -log_density(mixture, space.points @ axes)
    return (percentile(distances) + percentile(surprise)) / 2


def percentile(values: FloatArray) -> FloatArray:
    """(n,) share of the values that each one exceeds, equal ones counted half."""
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values, side="left"), np.searchsorted(ordered, values, side="right")
    return np.asarray((below + upto) / (2.0 * max(1, len(values))), dtype=np.float64)
