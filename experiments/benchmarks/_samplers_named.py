"""Rows of the samplers' benchmark for distributions with a name, against JAX, NumPy and SciPy.

Every row is from key to sample, everything compiled before it is timed.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats

import jaxgen as jg
from experiments.benchmarks._timing import Row, compare
from jaxgen.core import Array, Key


class Named(NamedTuple):
    """A distribution with the parameters of a row, ours and whoever else draws it.

    Attributes:
      ours: `(key, shape) -> draws`.
      exact: SciPy's distribution, which the draws are checked against.
      jax: `(key, shape) -> draws` by `jax.random`, if it has one.
      numpy: `(rng, shape) -> draws` by NumPy's PCG64 or by SciPy, if either is vectorized.
    """

    ours: Callable[[Key, tuple[int, ...]], Array]
    exact: Any
    jax: Callable[[Key, tuple[int, ...]], Array] | None = None
    numpy: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] | None = None


def binomial(n: int, p: float) -> Named:
    """Counts of n trials."""
    return Named(
        lambda key, shape: jg.samplers.binomial(key, n, p, shape),
        scipy.stats.binom(n, float(np.float32(p))),
        lambda key, shape: jax.random.binomial(key, n, p, shape),
        lambda rng, shape: rng.binomial(n, p, shape),
    )


def negative_binomial(total_count: float, p: float) -> Named:
    """Successes before a number of failures."""
    return Named(
        lambda key, shape: jg.samplers.negative_binomial(key, total_count, p, shape),
        scipy.stats.nbinom(total_count, 1 - p),
        None,
        lambda rng, shape: rng.negative_binomial(total_count, 1 - p, shape),
    )


def truncated_normal(lower: float, upper: float) -> Named:
    """A normal between two bounds."""
    exact = scipy.stats.truncnorm(lower, upper)
    return Named(
        lambda key, shape: jg.samplers.truncated_normal(key, lower, upper, shape),
        exact,
        lambda key, shape: jax.random.truncated_normal(key, lower, upper, shape),
        lambda rng, shape: exact.rvs(shape, random_state=rng),
    )


def von_mises(concentration: float) -> Named:
    """Angles around 0."""
    return Named(
        lambda key, shape: jg.samplers.von_mises(key, concentration, shape),
        scipy.stats.vonmises(concentration),
        None,
        lambda rng, shape: rng.vonmises(0.0, concentration, shape),
    )


def approximate_gamma(concentration: float) -> dict[str, Named]:
    """Ours, which is exact, against JAX's gamma that is not, where JAX has it."""
    if "method" not in inspect.signature(jax.random.gamma).parameters:
        return {}
    gamma: Any = jax.random.gamma  # older versions know no method
    law = Named(
        lambda key, shape: jg.samplers.gamma(key, concentration, shape),
        scipy.stats.gamma(concentration),
        lambda key, shape: gamma(key, concentration, shape, method="approximate"),
    )
    return {f"gamma_{concentration}_approximate": law}


NAMED = {
    "gamma_2.5": Named(
        lambda key, shape: jg.samplers.gamma(key, 2.5, shape),
        scipy.stats.gamma(2.5),
        lambda key, shape: jax.random.gamma(key, 2.5, shape),
    ),
    **approximate_gamma(2.5),
    "binomial_20_0.2": binomial(20, 0.2),
    "binomial_100_0.3": binomial(100, 0.3),
    "binomial_1e6_0.3": binomial(1_000_000, 0.3),
    "negative_binomial_3_0.75": negative_binomial(3.0, 0.75),
    "truncated_normal_-1_2": truncated_normal(-1.0, 2.0),
    "von_mises_2": von_mises(2.0),
    "von_mises_1e4": von_mises(1e4),
}


def named_rows(key: Key, num_samples: int, num_repeats: int) -> list[Row]:
    """Draws of one set of parameters, and a multinomial of six outcomes."""
    rows, shape = [], (num_samples,)
    rng = np.random.default_rng(0)
    time = functools.partial(compare, num_items=num_samples, num_repeats=num_repeats)
    for name, law in NAMED.items():
        ours = functools.partial(jax.jit(law.ours, static_argnums=1), key, shape)
        accuracy = checked(ours(), law.exact)
        if law.jax is not None:
            peer = functools.partial(jax.jit(law.jax, static_argnums=1), key, shape)
            rows.append(time(name, ours, peer, peer="jax.random", accuracy=accuracy))
        if law.numpy is not None:
            peer = functools.partial(law.numpy, rng, shape)
            rows.append(time(f"{name}_numpy", ours, peer, peer="NumPy, SciPy", accuracy=accuracy))
    return [*rows, multinomial_row(key, num_samples, time)]


def multinomial_row(key: Key, num_samples: int, time: Callable[..., Row]) -> Row:
    """Counts of a die, thrown 100 times."""
    p = np.full((num_samples, 6), 1 / 6, np.float32)
    ours = functools.partial(jax.jit(jg.samplers.multinomial), key, 100, p)
    peer = functools.partial(jax.jit(jax.random.multinomial), key, np.float32(100), p)
    accuracy = f"sums are exact: {bool((ours().sum(-1) == 100).all())}"
    return time("multinomial_100_of_6", ours, peer, peer="jax.random", accuracy=accuracy)


def checked(samples: Array, exact: Any) -> str:
    """The largest distance of the empirical CDF, beside what chance explains once in 10⁹."""
    values, counts = np.unique(np.asarray(samples, np.float64), return_counts=True)
    after = np.cumsum(counts) / samples.size
    is_discrete = hasattr(exact.dist, "pmf")
    expected = exact.cdf(values)
    before = expected - exact.pmf(values) if is_discrete else expected
    distance = max(
        np.abs(after - expected).max(), np.abs(after - counts / samples.size - before).max()
    )
    band = math.sqrt(math.log(2e9) / (2 * samples.size))
    return f"CDF distance {distance:.1e}, band {band:.1e}"
