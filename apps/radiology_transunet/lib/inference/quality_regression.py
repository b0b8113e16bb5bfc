"""A regression for values in [0, 1]: logistic, of fractions, with a penalty."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
STEPS = 50
PRECISION = 1e-9
FURTHEST = 15.0
"""Logits beyond have no effect on a value that is told with two digits."""


def logistic(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), in (0, 1)."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -FURTHEST, FURTHEST))))


def fit_fractions(design: FloatArray, wanted: FloatArray, weights: FloatArray, penalty: float) -> FloatArray:
    """Coefficients (p,) that make logistic(design @ coefficients) the mean of what is wanted.

    The quasi-likelihood of Papke and Wooldridge (Journal of Applied Econometrics 11, 1996, eq. 4-5), less half the
    penalty times the squared coefficients, by Newton's method. Unlike squares of a logit it is not carried away by a
    Dice of 0 or 1.

    Args:
        design: (n, p); the first column is 1 and is not penalised but for what keeps it finite.
        wanted: (n,) in [0, 1].
        weights: (n,) of the rows.
        penalty: of the other columns, in rows.
    """
    ridge = np.full(design.shape[1], penalty)
    ridge[0] = PRECISION**0.5
    coefficients = np.zeros(design.shape[1])
    before = _loss(coefficients, design, wanted, weights, ridge)
    for _ in range(STEPS):
        mean = logistic(design @ coefficients)
        slope = design.T @ (weights * (wanted - mean)) - ridge * coefficients
        curvature = (design.T * (weights * mean * (1 - mean))) @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        while (after := _loss(coefficients + step, design, wanted, weights, ridge)) > before + PRECISION:
            step = step / 2
        coefficients, gain, before = coefficients + step, before - after, after
        if gain < PRECISION:
            break
    return coefficients


def _loss(
    coefficients: FloatArray, design: FloatArray, wanted: FloatArray, weights: FloatArray, ridge: FloatArray
) -> float:
    """Penalised negative quasi-log-likelihood; convex."""
    logits = design @ coefficients
    return float(weights @ (np.logaddexp(0, logits) - wanted * logits) + ridge @ coefficients**2 / 2)
