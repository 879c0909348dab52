"""Likelihood ratios against beta distributions, whose ratio has the fitted form exactly."""

from __future__ import annotations

import numpy as np
import pytest

from crosscam.decision.likelihood import Likelihood, fit_likelihood

SCORES = np.linspace(-0.999, 0.999, 4001)


def _beta(a: float, b: float) -> np.ndarray:
    p = (1 + SCORES) / 2
    density = p ** (a - 1) * (1 - p) ** (b - 1)
    return density / density.sum()


def test_finds_the_ratio_of_two_beta_distributions() -> None:
    same, other = _beta(9.0, 2.0), _beta(4.0, 5.0)
    found = fit_likelihood(SCORES, same, SCORES, other)
    inner = np.abs(SCORES) < 0.9
    expected = np.log(same[inner] / other[inner])
    np.testing.assert_allclose(found.log_ratio(SCORES[inner]), expected, atol=0.02)
    assert found.a == pytest.approx(5.0, abs=0.01)
    assert found.b == pytest.approx(3.0, abs=0.01)


def test_the_sizes_of_the_classes_do_not_matter() -> None:
    same, other = _beta(8.0, 3.0), _beta(4.0, 5.0)
    one = fit_likelihood(SCORES, same, SCORES, other)
    two = fit_likelihood(SCORES, same, SCORES, 1000 * other)
    np.testing.assert_allclose((one.a, one.b, one.c), (two.a, two.b, two.c), rtol=1e-9)


def test_never_falls_even_where_the_data_do() -> None:
    found = fit_likelihood(SCORES, _beta(2.0, 6.0), SCORES, _beta(6.0, 2.0))
    assert (np.diff(found.log_ratio(SCORES)) >= 0).all()
    assert found.a == found.b == 0.0


def test_a_slope_that_would_be_negative_is_left_out() -> None:
    found = fit_likelihood(SCORES, _beta(9.0, 6.0), SCORES, _beta(3.0, 5.0))  # b would be -1
    assert found.b == 0.0
    assert found.a > 0.0
    assert (np.diff(found.log_ratio(SCORES)) >= 0).all()


def test_of_two_slopes_the_negative_one_is_left_out() -> None:
    same, other = _beta(3.0, 2.0), _beta(4.0, 9.0)  # a would be -1, b 7
    found = fit_likelihood(SCORES, same, SCORES, other)
    assert found.a == 0.0
    assert found.b > 0.0


def test_the_fit_is_where_the_loss_is_least() -> None:
    random = np.random.default_rng(0)
    same, other = random.normal(0.6, 0.15, 300).clip(-1, 1), random.normal(0.1, 0.2, 900)
    found = fit_likelihood(same, np.ones(300), other, np.ones(900))

    def loss(it: Likelihood) -> float:
        return float(
            np.logaddexp(0, -it.log_ratio(same)).mean()
            + np.logaddexp(0, it.log_ratio(other)).mean()
        )

    least = loss(found)
    for a, b, c in random.normal(0, 0.05, (50, 3)):
        near = Likelihood(max(found.a + a, 0), max(found.b + b, 0), found.c + c)
        assert loss(near) >= least - 1e-6


def test_separable_scores_stay_finite() -> None:
    found = fit_likelihood(np.array([0.9, 0.95]), np.ones(2), np.array([-0.2, 0.0]), np.ones(2))
    assert np.isfinite(found.log_ratio([-1.0, 0.0, 1.0])).all()


def test_probability_is_bayes_rule() -> None:
    it = Likelihood(2.0, 1.0, 0.3)
    ratio = np.exp(it.log_ratio(0.4))
    for prior in (0.5, 0.01):
        expected = ratio * prior / (ratio * prior + 1 - prior)
        assert it.probability(0.4, prior) == pytest.approx(expected, rel=1e-12)
