"""Plain Monte Carlo: averages of samples, each with its standard error."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.core._arrays import as_reals
from jaxgen.core._checks import check_count, check_in_range, check_key
from jaxgen.core._types import Array, Estimate, Key

SampleFn = Callable[[Key, int], Any]
"""`sample_fn(key, num_samples)` draws a pytree of independent samples, `[num_samples, ...]`."""

ValueFn = Callable[[Any], Any]
"""`f(x)` of one sample: a scalar, an array or a pytree of arrays."""

_MAX_CHUNKS = 2**31 - 1


class Moments(NamedTuple):
    """Mean and variance of a stream of equal chunks, held so that 1e10 samples lose no digits.

    Averages are kept rather than sums, so nothing grows; the bits that the running mean cannot
    hold are carried beside it (Kahan 1965), and chunks merge without cancellation
    (Chan, Golub & LeVeque 1983).

    Attributes:
      mean: the average so far, a pytree of `[...]`.
      remainder: what `mean` lost to rounding, same shapes; the average is `mean + remainder`.
      variance: the average squared deviation from the mean, same shapes.
      num_chunks: a scalar int32.
    """

    mean: Any
    remainder: Any
    variance: Any
    num_chunks: Array


def init_moments(shapes: Any) -> Moments:
    """Start an empty stream for values of the shapes and dtypes given, a pytree."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return Moments(zeros, zeros, zeros, jnp.zeros((), jnp.int32))


def update_moments(moments: Moments, values: Any) -> Moments:
    """Add a chunk of values, a pytree of `[chunk, ...]`; every chunk must have the same length."""
    num_chunks = moments.num_chunks + 1
    leaves, treedef = jax.tree.flatten(values)
    held = [jax.tree.leaves(tree) for tree in moments[:3]]
    merged = [
        _merge(mean, remainder, variance, chunk, num_chunks)
        for mean, remainder, variance, chunk in zip(*held, leaves, strict=True)
    ]
    mean, remainder, variance = (
        jax.tree.unflatten(treedef, part) for part in zip(*merged, strict=True)
    )
    return Moments(mean, remainder, variance, num_chunks)


def estimate_from_moments(moments: Moments, chunk_size: int) -> Estimate:
    """Read the stream's mean, its standard error s/√n and n, the number of samples."""
    num_samples = moments.num_chunks.astype(jnp.result_type(float)) * chunk_size
    value = jax.tree.map(jnp.add, moments.mean, moments.remainder)
    # NaN, and rightly, for a single sample: 0 / 0.
    error = jax.tree.map(
        lambda v: jnp.sqrt(v / (num_samples - 1).astype(v.dtype)), moments.variance
    )
    return Estimate(value, error, num_samples)


def expectation(
    key: Key,
    sample_fn: SampleFn,
    f: ValueFn,
    num_samples: int,
    *,
    standard_error: float | None = None,
    chunk_size: int = 2**14,
    progress_fn: Callable[[Estimate], None] | None = None,
) -> Estimate:
    r"""Estimate an expectation from independent samples, in memory that does not grow with them.

    .. math:: \hat\mu = \frac{1}{n} \sum_i f(x_i), \qquad \mathrm{SE} = \frac{s}{\sqrt n}

    Works under `jax.jit` and `jax.vmap`. With no `standard_error` it can be differentiated in
    reverse, through `f` and a reparameterized `sample_fn`; with one its length is not known before.

    Args:
      key: a typed key; chunk i is drawn with `fold_in(key, i)`, so a longer run extends a shorter.
      sample_fn: `(key, num_samples) -> samples`, a pytree of `[num_samples, ...]`.
      f: a function of one sample; integers and bits are averaged as floats.
      num_samples: the budget, a Python integer. Chunks have equal size, so up to one sample a
        chunk may be added; the result says how many there were.
      standard_error: stop once no component's error exceeds this. An error of exactly zero has
        seen no variation yet and does not stop the run. Stopping on the data's own word biases
        the result slightly where a chunk holds few samples.
      chunk_size: samples in memory at once.
      progress_fn: called on the host about a hundred times with the `Estimate` so far.

    Returns:
      An `Estimate` of the shapes of `f`'s value. `num_samples` is a float scalar: 1e10 overflows
      int32.

    Raises:
      TypeError: `f` gives complex numbers.
      ValueError: more than 2³¹ − 1 chunks are asked for.

    >>> draw = lambda key, num_samples: jax.random.uniform(key, (num_samples,))
    >>> estimate = expectation(jax.random.key(0), draw, lambda u: u**2, 100_000)
    >>> bool(abs(estimate.value - 1 / 3) < 4 * estimate.standard_error)
    True
    """
    check_key(key)
    check_count("num_samples", num_samples)
    check_count("chunk_size", chunk_size)
    if standard_error is not None:
        check_in_range("standard_error", standard_error, 0.0, math.inf, open_lower=True)
    num_chunks, chunk_size = _equal_chunks(num_samples, chunk_size)
    report_every = max(1, num_chunks // 100)

    def values_of_chunk(index: Array) -> Any:
        samples = sample_fn(jax.random.fold_in(key, index), chunk_size)
        return _reals(jax.vmap(f)(samples))

    def step(moments: Moments) -> Moments:
        moments = update_moments(moments, values_of_chunk(moments.num_chunks))
        if progress_fn is not None:
            _report(progress_fn, moments, chunk_size, report_every)
        return moments

    def goes_on(moments: Moments) -> Array:
        error = estimate_from_moments(moments, chunk_size).standard_error
        reached = [jnp.all((e <= standard_error) & (e > 0)) for e in jax.tree.leaves(error)]
        return (moments.num_chunks < num_chunks) & ~jnp.all(jnp.stack(reached))

    first = jax.eval_shape(values_of_chunk, jax.ShapeDtypeStruct((), jnp.int32))
    moments = init_moments(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), first)
    )
    if standard_error is None:
        moments, _ = jax.lax.scan(lambda m, _: (step(m), None), moments, length=num_chunks)
    else:
        moments = jax.lax.while_loop(goes_on, step, moments)
    return estimate_from_moments(moments, chunk_size)


def replicated(
    key: Key,
    sample_fn: SampleFn,
    f: ValueFn,
    num_samples: int,
    *,
    num_replicates: int = 16,
) -> Estimate:
    r"""Estimate an expectation from dependent points, with an error from independent replicates.

    Each replicate averages `f` over one set of points with a key of its own: one scrambling of a
    Sobol sequence, one stratified or Latin design, one set of antithetic pairs. Points within a
    set may depend on each other in any way that leaves each with the right marginal law. Then

    .. math:: \hat\mu = \frac{1}{R} \sum_r \hat\mu_r, \qquad
       \mathrm{SE}^2 = \frac{1}{R (R - 1)} \sum_r (\hat\mu_r - \hat\mu)^2

    is right whatever the dependence (Owen 1997; L'Ecuyer 2018). With few replicates an interval
    needs Student's t with R − 1 degrees of freedom.

    Args:
      key: a typed key.
      sample_fn: `(key, num_samples) -> points`, a pytree of `[num_samples, ...]`, such as
        `samplers.scrambled_sobol` of some dimension, which wants a power of two.
      f: a function of one point.
      num_samples: points in each replicate.
      num_replicates: R, at least 2; replicates run one after the other.

    Returns:
      An `Estimate` whose `num_samples` is R, the number of independent averages.
    """
    check_key(key)
    check_count("num_samples", num_samples)
    check_count("num_replicates", num_replicates, 2)

    def average(replicate: Array) -> Any:
        values = jax.vmap(f)(sample_fn(jax.random.fold_in(key, replicate), num_samples))
        return jax.tree.map(_mean, _reals(values))

    return mean_of_independent(jax.lax.map(average, jnp.arange(num_replicates)))


def batch_means(values: ArrayLike, *, num_batches: int) -> Estimate:
    r"""Estimate the mean of a correlated sequence, with an error from the means of its batches.

    .. math:: \mathrm{SE}^2 = \frac{1}{B (B - 1)} \sum_b (\bar x_b - \bar x)^2

    Neighbors may depend on each other, as the characters of a text or the states of a chain do:
    the means of batches much longer than that dependence are nearly independent (Conway 1963).

    Args:
      values: a sequence in its order, `[n, ...]`.
      num_batches: B, from 2 to n; the lengths of the batches differ by one at most.

    Returns:
      An `Estimate` `[...]` whose `num_samples` is B, the number of nearly independent means.

    >>> round(float(batch_means(jnp.arange(6.0), num_batches=3).standard_error), 4)
    1.1547
    """
    x = as_reals("values", values)
    num_values = x.shape[0] if x.ndim else 0
    check_count("num_batches", num_batches, 2)
    check_count("the number of values less num_batches", num_values - num_batches, 0)
    long, length = num_values % num_batches, num_values // num_batches
    cut = long * (length + 1)
    batches = [
        part.reshape(-1, size, *x.shape[1:])
        for part, size in ((x[:cut], length + 1), (x[cut:], length))
    ]
    means = jnp.concatenate([jax.vmap(_mean)(batch) for batch in batches])
    return mean_of_independent(means)._replace(value=_mean(x))


def mean_of_independent(values: Any) -> Estimate:
    """Average independent values, a pytree of `[n, ...]`, with the standard error of the mean."""
    values = _reals(values)
    empty = init_moments(jax.tree.map(lambda leaf: leaf[0], values))
    return estimate_from_moments(update_moments(empty, values), jax.tree.leaves(values)[0].shape[0])


def antithetic_integrand(f: ValueFn, reflect_fn: Callable[[Any], Any]) -> ValueFn:
    """Average `f` over a point and its mirror image, which has the same law.

    The variance falls below that of two independent points wherever the two values are negatively
    correlated, as for any monotone `f` (Hammersley & Morton 1956).

    Args:
      f: a function of one sample.
      reflect_fn: a measure-preserving map, for example negation of a symmetric variable.

    Returns:
      The function to hand to `expectation`; its samples count pairs.

    >>> antithetic_integrand(jnp.exp, jnp.negative)(0.0).item()
    1.0
    """

    def paired(x: Any) -> Any:
        return jax.tree.map(lambda a, b: (a + b) / 2, _reals(f(x)), _reals(f(reflect_fn(x))))

    return paired


def common_random_numbers(
    key: Key, sample_fn: SampleFn, f: ValueFn, g: ValueFn, num_samples: int, **options: Any
) -> Estimate:
    """Estimate E[f] − E[g] from the same samples, so that what they share cancels.

    Arguments and result are those of `expectation`; `g` is another function of one sample.
    """

    def difference(x: Any) -> Any:
        return jax.tree.map(jnp.subtract, _reals(f(x)), _reals(g(x)))

    return expectation(key, sample_fn, difference, num_samples, **options)


def _equal_chunks(num_samples: int, chunk_size: int) -> tuple[int, int]:
    num_chunks = -(-num_samples // chunk_size)
    if num_chunks > _MAX_CHUNKS:
        raise ValueError(
            f"chunk_size must be at least {-(-num_samples // _MAX_CHUNKS)} for {num_samples} "
            f"samples, got {chunk_size}"
        )
    return num_chunks, -(-num_samples // num_chunks)


def _merge(
    mean: Array, remainder: Array, variance: Array, values: Array, num_chunks: Array
) -> tuple[Array, Array, Array]:
    chunk_mean = _mean(values)
    chunk_variance = jnp.mean((values - chunk_mean[None]) ** 2, axis=0)
    n = num_chunks.astype(mean.dtype)
    gap = (chunk_mean - mean) - remainder
    increment = gap / n + remainder
    new_mean = mean + increment
    new_remainder = increment - (new_mean - mean)
    variance = variance + (chunk_variance - variance) / n + gap**2 / n * (1 - 1 / n)
    return new_mean, new_remainder, variance


def _mean(values: Array) -> Array:
    # The second pass takes back the rounding of the first.
    rough = jnp.mean(values, axis=0)
    return rough + jnp.mean(values - rough[None], axis=0)


def _reals(values: Any) -> Any:
    return jax.tree.map(lambda leaf: as_reals("the value of f", leaf), values)


def _report(
    progress_fn: Callable[[Estimate], None], moments: Moments, chunk_size: int, report_every: int
) -> None:
    jax.lax.cond(
        moments.num_chunks % report_every == 0,
        lambda m: jax.debug.callback(progress_fn, estimate_from_moments(m, chunk_size)),
        lambda m: None,
        moments,
    )
