"""The best tilt: its gain by brute force, its p-value against exact sums of bits and levels."""

import chex
import numpy as np
import pytest
from scipy import optimize, special, stats

from jaxgen.criticism import best_tilt


def bits(p):
    """Log-probabilities `[N, 1, 2]` of bits that are one with probabilities `[N]`."""
    return np.log(np.stack([1 - p, p], axis=-1))[:, None]


def exact_p_value(p, total):
    """Twice the smaller tail of a sum of independent bits, by convolution."""
    pmf = np.ones(1)
    for q in p:
        pmf = np.convolve(pmf, [1 - q, q])
    return min(2 * pmf[total:].sum(), 2 * pmf[: total + 1].sum(), 1.0)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "p",
    [np.full(50, 0.01), np.full(40, 0.3), RNG.random(60), np.full(1000, 1e-3), np.full(3, 0.5)],
    ids=["rare", "even", "mixed", "very rare", "few"],
)
def test_p_values_of_bits_are_those_of_the_exact_sum_down_to_rare_events(p):
    for total in range(min(len(p), 60) + 1):
        x = np.zeros((len(p), 1), int)
        x[np.argsort(-p)[:total]] = 1
        exact = exact_p_value(p, total)
        if 1e-13 < exact < 0.9:
            found = best_tilt(bits(p), x, np.arange(2)).p_value[0]
            assert abs(np.log(found / exact)) < 0.4, (total, found, exact)


def test_a_normal_approximation_would_cry_wolf_where_the_p_value_does_not():
    p, x = np.full(100, 1e-4), np.zeros((100, 1), int)
    x[0] = 1
    z = (1 - p.sum()) / np.sqrt(np.sum(p * (1 - p)))
    assert 2 * special.ndtr(-z) < 1e-20
    assert best_tilt(bits(p), x, np.arange(2)).p_value[0] == pytest.approx(0.02, rel=0.2)


def test_the_gain_is_the_highest_that_any_tilt_reaches():
    log_probs = special.log_softmax(RNG.normal(size=(30, 2, 4)), axis=-1)
    x = RNG.integers(0, 4, (30, 2))
    statistic = np.array([0.0, 1.0, 2.0, 3.0])
    tilt = best_tilt(log_probs, x, statistic)

    def loss(theta, i):
        tilted = special.log_softmax(log_probs[:, i] + theta * statistic, axis=-1)
        return -np.sum(np.take_along_axis(tilted - log_probs[:, i], x[:, i, None], 1))

    for i in range(2):
        best = optimize.minimize_scalar(loss, args=(i,), bounds=(-5, 5), method="bounded")
        assert tilt.gain[i] == pytest.approx(-best.fun, abs=1e-6)
        assert tilt.tilt[i] == pytest.approx(best.x, abs=1e-3)


def test_groups_add_up_and_a_common_temperature_is_recovered():
    logits = RNG.normal(size=(4000, 3, 5))
    colder = special.softmax(logits / 0.8, axis=-1)
    x = np.sum(RNG.random((4000, 3, 1)) > np.cumsum(colder, axis=-1), axis=-1)
    log_probs = special.log_softmax(logits, axis=-1)
    tilt = best_tilt(log_probs, x, -log_probs, np.zeros(1, int))
    assert tilt.tilt.shape == (1,)
    assert 1 / (1 - tilt.tilt[0]) == pytest.approx(0.8, abs=0.03)
    assert tilt.p_value[0] < 1e-12
    rows = best_tilt(log_probs, x, np.arange(5), np.array([0, 0, 1]))
    assert rows.tilt.shape == (2,)


def test_what_cannot_vary_is_right_or_impossible():
    log_probs = np.log(np.array([[[1.0, 1e-300]]])).repeat(5, axis=0)
    right, wrong = np.zeros((5, 1), int), np.ones((5, 1), int)
    assert best_tilt(log_probs, right, np.arange(2)).p_value[0] == 1.0
    assert best_tilt(log_probs, wrong, np.arange(2)).p_value[0] == 0.0
    never = np.array([[[0.0, -np.inf]]]).repeat(5, axis=0)
    assert best_tilt(never, right, np.arange(2)).p_value[0] == 1.0


def test_float32_log_probabilities_that_miss_one_by_rounding_are_no_finding():
    logits = RNG.normal(size=(20_000, 4, 3))
    p = special.softmax(logits, axis=-1)
    x = np.sum(RNG.random((20_000, 4, 1)) > np.cumsum(p, axis=-1), axis=-1)
    rounded = special.log_softmax(logits, axis=-1).astype(np.float32) + np.float32(1e-6)
    kinds = (np.arange(3), -rounded)
    p_values = [best_tilt(rounded, x, kind, np.zeros(1, int)).p_value[0] for kind in kinds]
    assert min(p_values) > 1e-4


def test_p_values_are_uniform_under_the_model_or_larger():
    p = RNG.random((100, 400))
    x = (RNG.random((100, 400, 8)) < p[..., None]).astype(int)
    log_probs = np.log(np.stack([1 - p, p], axis=-1))
    found = np.concatenate(
        [best_tilt(log_probs, x[..., i], np.arange(2)).p_value for i in range(8)]
    )
    for level in (0.1, 0.01, 0.001):
        allowed = stats.binom.ppf(1 - 1e-9, len(found), 1.15 * level) / len(found)
        assert np.mean(found < level) <= allowed


def test_neither_the_unit_of_the_statistic_nor_that_of_the_weights_matters():
    log_probs = special.log_softmax(RNG.normal(size=(30, 2, 4)), axis=-1)
    x = RNG.integers(0, 4, (30, 2))
    statistic = RNG.normal(size=log_probs.shape)
    first = best_tilt(log_probs, x, statistic)
    for other in (
        best_tilt(log_probs, x, 1e-5 * statistic),
        best_tilt(log_probs + 3.0, x, statistic),
    ):
        chex.assert_trees_all_close(other.gain, first.gain, rtol=1e-6)
        chex.assert_trees_all_close(other.p_value, first.p_value, rtol=1e-6)


def test_what_was_called_impossible_and_came_tilts_to_its_side():
    certain = np.array([0.0, -40.0])
    log_probs = np.stack([certain, certain[::-1]])[None].repeat(5, axis=0)
    x = np.array([[0, 1]] * 4 + [[1, 0]])
    tilt = best_tilt(log_probs, x, np.arange(2))
    chex.assert_trees_all_equal(np.sign(tilt.tilt), np.array([1, -1]))
    assert np.all(tilt.gain > 1)
    chex.assert_trees_all_equal(tilt.p_value, 0)
    chex.assert_trees_all_equal(best_tilt(log_probs[:4], x[:4], np.arange(2)).tilt, 0)
