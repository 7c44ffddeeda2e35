"""Typicality, the ensemble's criterion, and ROC curves, against their definitions."""

import chex
import numpy as np
import pytest

from jaxgen.criticism import roc, typicality, waic

RNG = np.random.default_rng(0)


def test_the_likeliest_are_as_strange_as_the_least_likely():
    drawn = RNG.normal(size=999)
    found = typicality(np.array([-10.0, np.median(drawn), 10.0]), drawn)
    chex.assert_trees_all_close(found, np.array([0.002, 1.0, 0.002]), rtol=1e-7)


def test_p_values_count_the_draws_on_the_thinner_side_ties_on_both():
    found = typicality(np.array([0.0, 1.5, 2.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    chex.assert_trees_all_close(found, np.array([0.4, 0.8, 1.0, 0.4]), rtol=1e-7)


def test_typicality_of_draws_is_uniform_or_larger():
    p_values = typicality(RNG.normal(size=4000), RNG.normal(size=4000))
    for level in (0.05, 0.2):
        assert np.mean(p_values <= level) == pytest.approx(level, abs=0.04)


def test_waic_is_the_mean_less_the_variance_over_members():
    log_probs = RNG.normal(size=(4, 6))
    expected = log_probs.mean(0) - log_probs.var(0, ddof=1)
    chex.assert_trees_all_close(waic(log_probs), expected, rtol=1e-7)
    with pytest.raises(ValueError, match="at least 2 members, got 1"):
        waic(log_probs[:1])


def test_the_area_is_the_probability_that_an_inside_point_scores_higher():
    inside, outside = RNG.integers(0, 5, 40) + 1, RNG.integers(0, 5, 30)
    found = roc(inside, outside)
    above = np.mean(inside[:, None] > outside) + 0.5 * np.mean(inside[:, None] == outside)
    assert found.area == pytest.approx(above)
    assert found.true_positive_rate[[0, -1]].tolist() == [0.0, 1.0]
    assert found.false_positive_rate[[0, -1]].tolist() == [0.0, 1.0]
    tied, a = roc([0.0, 1.0, 2.0], [0.0, 1.0]), 2 / 3
    assert tied.area == pytest.approx(a)
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)  # Hanley & McNeil
    variance = a * (1 - a) + (3 - 1) * (q1 - a**2) + (2 - 1) * (q2 - a**2)
    assert tied.standard_error == pytest.approx(np.sqrt(variance / 6))
    assert 0.0 < found.standard_error < 0.1
    assert roc([1.0, 2.0], [0.0]).area == 1.0


def test_waic_takes_two_members():
    chex.assert_trees_all_close(
        waic([[-1.0, -2.0], [-3.0, -2.0]]), np.array([-4.0, -2.0]), rtol=1e-7
    )
