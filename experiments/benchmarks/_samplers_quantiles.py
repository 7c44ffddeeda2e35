"""Rows of the samplers' benchmark for quantiles with a parameter per element, in float32.

Against TensorFlow Probability under JAX where it has the quantile, and SciPy's float64. Parameters
are from 0.1 to 10⁴, even in their logarithm, and probabilities uniform.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

import jaxgen as jg
from experiments.benchmarks._timing import Row, compare
from jaxgen.core import Array, Key

_MOST_IN_FLOAT64 = 2**12
"""Elements that SciPy works on: it takes microseconds an element."""


class Quantile(NamedTuple):
    """A quantile function, ours and others'.

    Attributes:
      ours: `(*parameters, u) -> x`.
      scipy: the same, float64.
      num_parameters: how many parameters it has.
      peer: the same by TensorFlow Probability, if it has one.
    """

    ours: Callable[..., Array]
    scipy: Callable[..., np.ndarray]
    num_parameters: int
    peer: Callable[..., Array] | None = None


def quantiles() -> dict[str, Quantile]:
    """Return what is timed, by its name."""
    from tensorflow_probability.substrates import jax as tfp  # seconds of import

    laws: Any = tfp.distributions
    return {
        "gamma_quantile": Quantile(
            jg.samplers.gamma_quantile,
            scipy.special.gammaincinv,
            1,
            lambda a, u: laws.Gamma(a, jnp.ones_like(a)).quantile(u),
        ),
        "beta_quantile": Quantile(
            jg.samplers.beta_quantile,
            scipy.special.betaincinv,
            2,
            lambda a, b, u: laws.Beta(a, b).quantile(u),
        ),
        "student_t_quantile": Quantile(
            jg.samplers.student_t_quantile,
            lambda nu, u: scipy.stats.t.ppf(u, nu),
            1,
            lambda nu, u: laws.StudentT(nu, jnp.zeros_like(nu), jnp.ones_like(nu)).quantile(u),
        ),
        "poisson_quantile": Quantile(
            jg.samplers.poisson_quantile, lambda rate, u: scipy.stats.poisson.ppf(u, rate), 1
        ),
    }


def quantile_rows(key: Key, num_samples: int, num_repeats: int) -> list[Row]:
    """Time each against the others, and compare with SciPy."""
    rows = []
    for name, law in quantiles().items():
        u, *logs = jax.random.uniform(key, (1 + law.num_parameters, num_samples))
        args = [10 ** (5 * log - 1) for log in logs] + [jnp.clip(u, 1e-6, 1 - 1e-6)]
        wide = [np.asarray(value[:_MOST_IN_FLOAT64], np.float64) for value in args]
        ours = functools.partial(jax.jit(law.ours), *args)
        accuracy = distance(ours()[:_MOST_IN_FLOAT64], law.scipy(*wide))
        time = functools.partial(compare, num_repeats=num_repeats, accuracy=accuracy)
        if law.peer is not None:
            peer = functools.partial(jax.jit(law.peer), *args)
            rows.append(time(name, ours, peer, num_items=num_samples, peer="TFP"))
        few = functools.partial(jax.jit(law.ours), *(value[:_MOST_IN_FLOAT64] for value in args))
        other = functools.partial(law.scipy, *wide)
        rows.append(time(f"{name}_scipy", few, other, num_items=len(wide[0]), peer="SciPy"))
    return rows


def distance(x: Array, exact: np.ndarray) -> str:
    """The largest relative error where float32 has the number."""
    has_number = np.abs(exact) > 1e-37
    error = np.abs(np.asarray(x, np.float64) - exact)[has_number] / np.abs(exact[has_number])
    return f"largest relative error {np.max(error, initial=0):.1e}"
