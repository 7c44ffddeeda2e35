"""Rows of the samplers' benchmark for any one-dimensional density, against SciPy's UNU.RAN.

`PINV` is `scipy.stats.sampling.NumericalInversePolynomial` drawing from NumPy's PCG64. Every row
is from key to sample, everything compiled before it is timed.
"""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats.sampling import NumericalInversePolynomial

import jaxgen as jg
from experiments.benchmarks._timing import Row, compare
from jaxgen.core import Array

INF = float("inf")


class Law(NamedTuple):
    """A density up to a constant, for JAX and for NumPy.

    Attributes:
      log_prob_fn: `(params, x) -> log-density`.
      pdf: the density over NumPy floats.
      support: its ends.
    """

    log_prob_fn: Callable[[None, Array], Array]
    pdf: Callable[[float], float]
    support: tuple[float, float]


LAWS = {
    "normal": Law(lambda _, x: -0.5 * x**2, lambda x: np.exp(-0.5 * x * x), (-INF, INF)),
    "gamma_2.5": Law(lambda _, x: 1.5 * jnp.log(x) - x, lambda x: x**1.5 * np.exp(-x), (0.0, INF)),
    "two_modes": Law(
        lambda _, x: jnp.logaddexp(-0.5 * (x - 2.5) ** 2, -0.5 * (x + 2.5) ** 2),
        lambda x: np.exp(-0.5 * (x - 2.5) ** 2) + np.exp(-0.5 * (x + 2.5) ** 2),
        (-INF, INF),
    ),
}
POLES = {
    "beta_half_half": (
        lambda _, x: -0.5 * (jnp.log(x) + jnp.log1p(-x)),
        (0.0, 1.0),
        lambda rng, n: rng.beta(0.5, 0.5, n),
    ),
    "gamma_half": (
        lambda _, x: -0.5 * jnp.log(x) - x,
        (0.0, INF),
        lambda rng, n: rng.gamma(0.5, size=n),
    ),
}

draw = jax.jit(jg.samplers.InverseCDF.sample, static_argnames="shape")


def continuous_rows(seed: int, num_draws: int, num_densities: int, num_repeats: int) -> list[Row]:
    """Draws in float32 and float64, densities with poles, and set-up."""
    time = functools.partial(compare, num_repeats=num_repeats)
    rows = draw_rows(seed, num_draws, time) + pole_rows(seed, num_draws, time)
    with jax.enable_x64(True):
        rows += draw_rows(seed, num_draws, time)
    return [*rows, *setup_rows(num_densities, time)]


def draw_rows(seed: int, num_draws: int, time: Callable[..., Row]) -> list[Row]:
    """Draws in the default dtype against PINV, and the normal against `jax.random.normal`."""
    key, dtype = jax.random.key(seed), jnp.result_type(float).name
    resolution = 1e-12 if dtype == "float64" else 1e-7
    rows = []
    for name, law in LAWS.items():
        table = jg.samplers.inverse_cdf(law.log_prob_fn, None, support=law.support)
        ours = functools.partial(draw, table, key, shape=(num_draws,))
        pinv = functools.partial(make_pinv(law, resolution, seed).rvs, num_draws)
        checked = f"u-error {float(table.u_error):.1e}"
        label = f"{name}_{dtype}"
        rows.append(time(label, ours, pinv, num_items=num_draws, peer="PINV", accuracy=checked))
        if name == "normal" and dtype == "float32":
            normal = functools.partial(
                jax.jit(jax.random.normal, static_argnums=1), key, (num_draws,)
            )
            rows.append(
                time(
                    f"{label}_jax",
                    ours,
                    normal,
                    num_items=num_draws,
                    peer="jax.random.normal",
                    accuracy=checked,
                )
            )
    return rows


def pole_rows(seed: int, num_draws: int, time: Callable[..., Row]) -> list[Row]:
    """Densities unbounded at an end, which PINV cannot do, against NumPy's own generators."""
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    rows = []
    for name, (log_prob_fn, support, peer_fn) in POLES.items():
        table = jg.samplers.inverse_cdf(log_prob_fn, None, support=support)
        ours = functools.partial(draw, table, key, shape=(num_draws,))
        peer = functools.partial(peer_fn, rng, num_draws)
        checked = f"u-error {float(table.u_error):.1e} by distance to the end"
        label = f"{name}_{jnp.result_type(float).name}"
        rows.append(time(label, ours, peer, num_items=num_draws, peer="NumPy", accuracy=checked))
    return rows


def setup_rows(num_densities: int, time: Callable[..., Row]) -> list[Row]:
    """Set-up of one table, and of many at once, compiled."""
    law = LAWS["normal"]

    def log_prob_fn(params: tuple[Array, Array], x: Array) -> Array:
        return -0.5 * ((x - params[0]) / params[1]) ** 2

    def build(loc: float, scale: float) -> jg.samplers.InverseCDF:
        return jg.samplers.inverse_cdf(log_prob_fn, (loc, scale), support=law.support)

    def pinv() -> NumericalInversePolynomial:
        return make_pinv(law, 1e-10, 0)

    one = time("setup_one", lambda: build(0.0, 1.0), pinv, num_items=1, peer="PINV")
    many_fn = jax.jit(jax.vmap(build))
    locs, scales = jnp.linspace(-3, 3, num_densities), jnp.linspace(0.5, 2, num_densities)
    worst = float(jnp.max(many_fn(locs, scales).u_error))
    many = time(
        "setup_many_each",
        lambda: many_fn(locs, scales),
        lambda: [pinv() for _ in range(num_densities)],
        num_items=num_densities,
        peer="PINV",
        accuracy=f"u-error at most {worst:.1e}",
    )
    return [one, many]


def make_pinv(law: Law, u_resolution: float, seed: int) -> NumericalInversePolynomial:
    """SciPy's generator for a law, set up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where its accuracy test fails, and goes on
        return NumericalInversePolynomial(
            _Density(law.pdf),
            domain=law.support,
            center=1.0,
            u_resolution=u_resolution,
            random_state=np.random.default_rng(seed),
        )


class _Density:
    # SciPy wants an object with a method.
    def __init__(self, pdf: Callable[[float], float]) -> None:
        self.pdf = pdf
