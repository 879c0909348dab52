"""What a score says: how much likelier it is between sightings of one person than of two.

Beta calibration (Kull, Silva Filho, Flach: "Beta calibration", AISTATS 2017): with the score s
brought to p = (1 + s) / 2 in (0, 1),

    log LR(s) = a log p - b log(1 - p) + c,      a, b >= 0,

which is exact where p is beta-distributed in both classes, and never falls as s grows.  It is
fitted as a logistic regression in which both classes weigh the same, so that what comes out is a
likelihood ratio and no base rate of the fitting data is left in it (Brümmer and du Preez:
"Application-independent evaluation of speaker detection", Computer Speech and Language 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosscam.errors import InputError

__all__ = ["Likelihood", "fit_likelihood"]

Floats = npt.NDArray[np.float64]
_EDGE = 1e-4  # p is kept this far from 0 and 1
_RIDGE = 1e-8  # keeps the slope finite where the classes do not overlap
_STEPS = 200
_FLAT = 1e-14  # differences of the loss that are rounding


@dataclass(frozen=True)
class Likelihood:
    """log LR(s) = a log p - b log(1 - p) + c with p = (1 + s) / 2."""

    a: float  # at least 0, as b: it never falls
    b: float
    c: float

    def __post_init__(self) -> None:
        if not (0 <= self.a < np.inf and 0 <= self.b < np.inf and np.isfinite(self.c)):
            raise InputError(
                f"a likelihood ratio needs finite numbers, a and b not below 0, got {self}."
            )

    def log_ratio(self, scores: npt.ArrayLike) -> Floats:
        """The natural logarithm of the likelihood ratio of every score."""
        x, y = _features(np.asarray(scores, np.float64))
        return self.a * x + self.b * y + self.c

    def probability(self, scores: npt.ArrayLike, prior: float) -> Floats:
        """P(one person | score), if a share ``prior`` of such comparisons is of one person."""
        return _sigmoid(self.log_ratio(scores) + np.log(prior / (1 - prior)))


def fit_likelihood(
    same: Floats, same_weight: Floats, other: Floats, other_weight: Floats
) -> Likelihood:
    """The likelihood ratio that fits weighted scores of one person and of two best.

    Newton's method on the convex loss; a coefficient that would be negative is set to zero.
    """
    scores = np.concatenate([same, other])
    target = np.concatenate([np.ones(len(same)), np.zeros(len(other))])
    weight = np.concatenate(
        [same_weight / (2 * same_weight.sum()), other_weight / (2 * other_weight.sum())]
    )
    x, y = _features(scores)
    columns = [x, y]
    used = [0, 1]
    while used:
        design = np.stack([*(columns[i] for i in used), np.ones_like(x)], 1)
        found = _logistic(design, target, weight)
        if (found[:-1] >= 0).all():
            slopes = np.zeros(2)
            slopes[used] = found[:-1]
            return Likelihood(float(slopes[0]), float(slopes[1]), float(found[-1]))
        del used[int(found[:-1].argmin())]
    return Likelihood(0.0, 0.0, 0.0)  # higher scores do not speak for one person at all


def _features(scores: Floats) -> tuple[Floats, Floats]:
    p = np.clip((1.0 + scores) / 2, _EDGE, 1 - _EDGE)
    return np.log(p), -np.log1p(-p)


def _logistic(design: Floats, target: Floats, weight: Floats) -> Floats:
    ridge = np.full(design.shape[1], _RIDGE)
    ridge[-1] = 0.0

    def loss(at: Floats) -> float:
        z = design @ at
        fit = weight @ (np.logaddexp(0.0, z) - target * z)
        return float(fit + 0.5 * (ridge * at) @ at)

    def newton(at: Floats) -> Floats:
        p = _sigmoid(design @ at)
        slope = design.T @ (weight * (p - target)) + ridge * at
        curve = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        return np.asarray(np.linalg.lstsq(curve, slope, rcond=None)[0], np.float64)

    at: Floats = np.zeros(design.shape[1])
    now = loss(at)
    for _ in range(_STEPS):
        step = newton(at)
        length = 1.0
        while (then := loss(at - length * step)) > now and length > 1e-10:
            length /= 2
        at = at - length * step
        if now - then < _FLAT:
            break
        now = then
    # Where the loss is too flat to tell two points apart, they still differ in half of their
    # digits; the slope is not flat there.
    for _ in range(2):
        closer = at - newton(at)
        if loss(closer) > loss(at) + _FLAT:
            break
        at = closer
    return at


def _sigmoid(z: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -z))
