"""A Gaussian mixture with a variance for each axis, fitted by expectation maximisation.

Written out for one reason: the fit starts from clusters whose centres are drawn by ids, and ends after a set number of
rounds, so that the same cases and seed give the same densities whatever their order.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from lib.selection.arrays import FloatArray, Keys
from lib.selection.embeddings import k_means

ROUNDS = 30
FLOOR = 0.1
"""Least variance, as a share of that of all cases: a few labelled ones lie on a plane, which all others are off."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Weights (k,), means (k, axes) and variances (k, axes)."""

    weights: FloatArray
    means: FloatArray
    variances: FloatArray


def fit_mixture(points: FloatArray, components: int, scale: FloatArray, hashes: Keys) -> Mixture:
    """Fit to the points.

    Args:
        points: (n, axes), at least one.
        components: how many, at most n.
        scale: (axes,) variance of all cases along each axis; a tenth of it is the least variance of a component.
        hashes: (n,) that tie the start to the points.
    """
    clusters = k_means(points, components, hashes)
    shares = np.eye(clusters.max() + 1)[clusters]  # (n, k)
    shares = shares[:, shares.any(axis=0)]
    floor = np.maximum(FLOOR * scale, 1e-12)
    mixture = _maximised(points, shares, floor)
    for _ in range(ROUNDS if shares.shape[1] > 1 else 0):
        parts = _log_parts(mixture, points)
        mixture = _maximised(points, np.exp(parts - logsumexp(parts, axis=1, keepdims=True)), floor)
    return mixture


def log_density(mixture: Mixture, points: FloatArray) -> FloatArray:
    """(n,) log density of the points (n, axes)."""
    return np.asarray(logsumexp(_log_parts(mixture, points), axis=1), dtype=np.float64)


def principal_axes(points: FloatArray, count: int) -> FloatArray:
    """(d, min(count, d)) directions in which the points (n, d) vary most."""
    centred = points - points.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(vectors[:, ::-1][:, :count], dtype=np.float64)


def _maximised(points: FloatArray, shares: FloatArray, floor: FloatArray) -> Mixture:
    sums = np.maximum(shares.sum(axis=0), 1e-12)
    means = shares.T @ points / sums[:, None]
    squares = shares.T @ points**2 / sums[:, None] - means**2
    return Mixture(sums / sums.sum(), means, np.maximum(squares, floor))


def _log_parts(mixture: Mixture, points: FloatArray) -> FloatArray:
    """(n, k) log of weight times density of each component."""
    parts = [
        np.log(weight) - 0.5 * (np.log(2 * np.pi * variance) + (points - mean) ** 2 / variance).sum(axis=1)
        for weight, mean, variance in zip(mixture.weights, mixture.means, mixture.variances, strict=True)
    ]
    return np.stack(parts, axis=1)
