"""Two-sample tests: their level on equal distributions, their power on others."""

import jax
import numpy as np
import pytest

from jaxgen.criticism import mean_test, mmd_test
from jaxgen.criticism._two_sample import _permutation_p_value

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("test_fn", [mean_test, mmd_test])
def test_equal_distributions_are_called_different_as_rarely_as_stated(test_fn):
    p_values = np.array(
        [
            test_fn(
                jax.random.key(i),
                RNG.integers(0, 2, (12, 3)),
                RNG.integers(0, 2, (20, 3)),
                num_permutations=99,
            ).p_value
            for i in range(300)
        ]
    )
    # A binomial of 300 at 0.1 exceeds 66 with probability below 1e-9.
    assert np.mean(p_values <= 0.1) <= 66 / 300
    assert p_values.min() >= 0.01


def test_a_shifted_mean_is_found_where_it_is():
    x, samples = RNG.normal(size=(300, 4)), RNG.normal(size=(400, 4))
    x[:, 2] += 0.6
    found = mean_test(jax.random.key(0), x, samples)
    assert found.p_value < 1e-3
    assert np.argmax(np.abs(found.z)) == 2
    assert found.z[2] > 0
    scale = np.sqrt(1 / 300 + 1 / 400) * np.concatenate([x, samples])[:, 2].std()
    assert found.z[2] == pytest.approx((x[:, 2].mean() - samples[:, 2].mean()) / scale)


def test_a_statistic_sees_what_means_do_not_and_so_does_the_kernel():
    x, samples = RNG.normal(size=(150, 2)), 2.0 * RNG.normal(size=(150, 2))
    assert mean_test(jax.random.key(0), x, samples).p_value > 1e-3
    assert mean_test(jax.random.key(0), x, samples, statistic_fn=np.square).p_value < 1e-3
    assert mmd_test(jax.random.key(0), x, samples).p_value < 1e-3


def test_mmd_is_the_unbiased_estimate_of_its_formula():
    x, samples = RNG.normal(size=(5, 2)), RNG.normal(size=(7, 2))
    points = np.concatenate([x, samples])
    distance = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    k = np.exp(-distance / np.median(distance[~np.eye(12, dtype=bool)]))
    np.fill_diagonal(k, 0.0)
    expected = k[:5, :5].sum() / 20 + k[5:, 5:].sum() / 42 - 2 * k[:5, 5:].mean()
    assert mmd_test(jax.random.key(0), x, samples).statistic == pytest.approx(expected, rel=1e-5)


def test_what_never_varies_differs_nowhere():
    found = mean_test(jax.random.key(0), np.ones((5, 2)), np.ones((6, 2)))
    assert (found.statistic, found.p_value) == (0.0, 1.0)


def test_wrong_shapes_and_counts_are_refused():
    with pytest.raises(ValueError, match="number of points of x must be at least 2, got 1"):
        mean_test(jax.random.key(0), np.ones((1, 2)), np.ones((6, 2)))
    with pytest.raises(ValueError, match="statistics of one shape, got 2 and 3"):
        mean_test(jax.random.key(0), np.ones((4, 2)), np.ones((6, 3)))
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        mmd_test(0, np.ones((4, 2)), np.ones((6, 2)))


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        (range(30, 50), 20 / 50),  # the last of a round is the twentieth
        ([*range(19), 59], 20 / 60),
        (range(100), 20 / 20),
        ([7, 60, 98], (3 + 1) / (99 + 1)),
        ([], 1 / 100),
    ],
)
def test_relabelings_are_tried_until_twenty_differ_as_much(hits, expected):
    rounds = iter(np.split(np.isin(np.arange(100), list(hits)), 2))

    def statistic_fn(labels):
        assert np.all(labels.sum(axis=1) == 3)
        return next(rounds)[: len(labels)].astype(float)

    p_value = _permutation_p_value(jax.random.key(0), statistic_fn, 1.0, (3, 4), 99)
    assert p_value == pytest.approx(expected)


@pytest.mark.parametrize("test_fn", [mean_test, mmd_test])
def test_what_no_relabeling_reaches_has_a_p_value_of_one_in_5000(test_fn):
    x, samples = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2)) + 9.0
    assert test_fn(jax.random.key(0), x, samples).p_value == pytest.approx(1 / 5000)


def test_what_varies_by_the_rounding_of_another_statistic_differs_nowhere():
    x, samples = RNG.normal(size=(2, 30, 2)) * [1e6, 1e-10]
    z = mean_test(jax.random.key(0), x, samples).z
    assert z[0] != 0
    assert z[1] == 0


def test_only_what_rounding_explains_is_a_tie():
    def p_value(statistic):
        return _permutation_p_value(
            jax.random.key(0), lambda labels: np.full(len(labels), statistic), 1.0, (3, 4), 99
        )

    assert p_value(1 - 1e-6) == 1
    assert p_value(0.98) == 1 / 100


def test_mmd_of_many_points_far_apart_keeps_its_digits():
    """All kernels are nearly equal: of sums in float32 the constant would leave no digits."""
    rng = np.random.default_rng(1)
    x, samples = rng.normal(size=(2, 300, 3000))
    points = np.concatenate([x, samples])
    distance = np.sum(points**2, axis=1)
    distance = distance[:, None] + distance[None] - 2 * points @ points.T
    is_pair = ~np.eye(600, dtype=bool)
    k = np.where(is_pair, np.exp(-distance / np.median(distance[is_pair])), 0.0)
    expected = (k[:300, :300].sum() + k[300:, 300:].sum()) / (300 * 299) - 2 * k[:300, 300:].mean()
    found = mmd_test(jax.random.key(0), x, samples, num_permutations=1).statistic
    assert found == pytest.approx(expected, rel=1e-3)
