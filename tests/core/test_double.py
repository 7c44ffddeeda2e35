from fractions import Fraction

import chex
import jax
import numpy as np

from jaxgen.core import _double as double

EPS = 2.0**-44


@jax.jit
def arithmetic(a, b, c, d):
    x, y = double.Double(a, b), double.Double(c, d)
    return double.add(x, y), double.multiply(x, y), double.divide(x, y)


def test_sums_products_and_quotients_have_twice_the_digits():
    generator = np.random.default_rng(0)
    high = generator.uniform(0.5, 1e6, (2, 50)).astype(np.float32)
    low = (high * generator.uniform(-(2.0**-25), 2.0**-25, high.shape)).astype(np.float32)
    exact = high.astype(np.float64) + low
    x, y = exact
    results = arithmetic(high[0], low[0], high[1], low[1])
    for (high_part, low_part), expected in zip(results, (x + y, x * y, x / y), strict=True):
        value = np.asarray(high_part, np.float64) + np.asarray(low_part, np.float64)
        chex.assert_trees_all_close(value, expected, rtol=EPS)


def test_shares_of_equal_weights_are_whole_numbers_at_every_number_of_points():
    sizes = np.arange(1, 201, dtype=np.float32)[:, None]
    multiples = np.array([1, 2, 5], np.float32)[None]
    zeros = np.zeros((200, 3), np.float32)
    num_copies = sizes * multiples

    @jax.jit
    def shares(part, copies, sizes):
        ratio = double.divide(double.Double(copies, zeros), double.Double(sizes, zeros))
        return double.whole_and_fraction(double.multiply(double.Double(part, zeros), ratio))

    for part in (1, 7, 151):
        whole, fraction = shares(zeros + part, num_copies, zeros + sizes)
        chex.assert_trees_all_equal(whole, part * multiples + zeros)
        chex.assert_trees_all_equal(fraction, 0)


def test_a_long_sum_keeps_what_float32_would_lose():
    x = np.random.default_rng(1).exponential(size=100_003).astype(np.float32) ** 6
    high, low = jax.jit(double.cumulative_sum)(x)
    expected = np.cumsum(x.astype(np.longdouble))
    value = np.asarray(high, np.longdouble) + np.asarray(low, np.longdouble)
    assert np.max(np.abs(value / expected - 1)) < 1e-12
    assert np.max(np.abs(np.cumsum(x) / expected - 1)) > 1e-9


def test_integers_and_fractions_come_apart_at_every_size():
    number = 2**30 - 5
    high, low = double.double(number, np.float32)
    assert Fraction(float(high)) + Fraction(float(low)) == number
    for value in (number - 0.25, 7.0, 2.0**-30, 12345678.75):
        high = np.float32(value)
        low = np.float32(value - np.float64(high))
        whole, fraction = double.whole_and_fraction(double.Double(high, low))
        assert int(whole) == np.floor(value)
        chex.assert_trees_all_close(float(fraction), value % 1, atol=1e-6, rtol=1e-7)
