"""Every public sampler, called on a batch of rows: what is tested of all of them reads this."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen as jg

NUM_ROWS = 16
RNG = np.random.default_rng(0)
SMALL = np.linspace(0.3, 9.0, NUM_ROWS, dtype=np.float32)
LARGE = np.linspace(2.0, 90.0, NUM_ROWS, dtype=np.float32)
U = RNG.random(NUM_ROWS, np.float32)
LOGITS = RNG.normal(size=(NUM_ROWS, 8)).astype(np.float32)
SIMPLEX = (np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)).astype(np.float32)
LINE = (-np.inf, np.inf)
MADE = jg.MADE(3, 2, (8,))
WIDE = jg.MADE(2, 300, (4,))


class Case(NamedTuple):
    """A call `fn(key, *rows)`.

    Attributes:
      names: the public names that it calls.
      fn: what is called; without randomness it leaves the key alone.
      rows: arrays `[NUM_ROWS, ...]`.
    """

    names: tuple[str, ...]
    fn: Callable[..., Any]
    rows: tuple[np.ndarray, ...] = ()


@functools.cache
def params_of(model: Any) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, model.num_dims), int))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype("f4"), shapes)


def log_quartic(scale: Any, x: Any) -> Any:
    return -(x**4) / scale


def box(scale: Any) -> jg.samplers.Proposal:
    """Uniforms around 0; the width is a parameter, so that it may differ between devices."""
    return jg.samplers.Proposal(
        scale,
        lambda scale, u: (2 * u[0] - 1) * scale,
        lambda scale, x: jnp.where(jnp.abs(x) <= scale, -jnp.log(2 * scale), -jnp.inf),
    )


def by_rejection(key: Any, scale: Any) -> Any:
    scale = jnp.max(scale)
    return jg.samplers.rejection(key, log_quartic, scale, box(scale), jnp.log(2 * scale), (16,))


def rejected_uniforms(key: Any, scale: Any, u: Any) -> Any:
    scale = jnp.max(scale)
    bound = jnp.log(2 * scale)
    return jg.samplers.rejection_from_uniforms(log_quartic, scale, box(scale), bound, u)


def expected(key: Any, scale: Any) -> Any:
    scale = jnp.max(scale)
    return jg.samplers.rejection_expectation(
        key,
        lambda _, x: x**2,
        log_quartic,
        scale,
        box(scale),
        jnp.log(2 * scale),
        num_samples=16,
    )


def bound(key: Any, scale: Any) -> Any:
    scale = jnp.max(scale)
    return jg.samplers.rejection_log_bound(key, log_quartic, scale, box(scale), num_samples=64)


def by_hull(key: Any, scale: Any) -> Any:
    hull = jg.samplers.adaptive_rejection(log_quartic, jnp.max(scale), num_points=6)
    return hull.sample(key, (NUM_ROWS,))


def by_given_hull(key: Any) -> Any:
    with jax.ensure_compile_time_eval():
        hull = jg.samplers.adaptive_rejection(log_quartic, 1.5, num_points=6)
    return hull.sample(key, (NUM_ROWS,))


def tabulated(key: Any, scale: Any, u: Any) -> Any:
    def log_density(scale: Any, x: Any) -> Any:
        return -(x**2) / scale

    table = jg.samplers.inverse_cdf(log_density, 1.5, support=LINE)
    return table.sample(key, (len(u),)), table.quantile(u), table.cdf(scale)


def built(key: Any, scale: Any) -> Any:
    table = jg.samplers.inverse_cdf(log_quartic, jnp.max(scale), support=LINE)
    return table.sample(key, (NUM_ROWS,))


def by_table(name: str) -> Callable[..., Any]:
    def draw(key: Any, logits: Any) -> Any:
        return getattr(jg.samplers, name)(logits.ravel()).sample(key, (NUM_ROWS,))

    return draw


def resampled(key: Any, log_weights: Any) -> Any:
    methods = ("multinomial", "stratified", "systematic", "residual")
    keys = jax.random.split(key, len(methods))
    return [
        jg.samplers.resample(k, log_weights, NUM_ROWS, method=m)
        for k, m in zip(keys, methods, strict=True)
    ]


def designs(key: Any) -> Any:
    keys = jax.random.split(key, 4)
    s = jg.samplers
    made = (s.iid_uniforms, s.antithetic_uniforms, s.stratified_uniforms, s.scrambled_sobol)
    randomized = [make(k, NUM_ROWS, 2) for make, k in zip(made, keys, strict=True)]
    return [*randomized, s.sobol(NUM_ROWS, 2)]


def filtered(key: Any, logits: Any) -> Any:
    s = jg.samplers
    return s.temper(logits, 0.5), s.keep_top_k(logits, 3), s.keep_top_p(logits, 0.7)


def draws_of(name: str, **options: Any) -> Callable[..., Any]:
    def draw(key: Any, *rows: Any) -> Any:
        return getattr(jg.samplers, name)(key, *rows, **options)

    return draw


def quantiles_of(name: str) -> Callable[..., Any]:
    def quantiles(key: Any, *rows: Any) -> Any:
        return getattr(jg.samplers, name)(*rows)

    return quantiles


NAMED = {
    "beta": (SMALL, LARGE),
    "beta_log_odds": (SMALL, LARGE),
    "binomial": (LARGE.round(), U),
    "categorical": (LOGITS,),
    "categorical_with_tails": (LOGITS,),
    "dirichlet": (SIMPLEX,),
    "gamma": (SMALL,),
    "log_dirichlet": (SIMPLEX,),
    "log_gamma": (SMALL,),
    "multinomial": (LARGE.round(), SIMPLEX),
    "negative_binomial": (SMALL, U),
    "poisson": (LARGE,),
    "student_t": (SMALL,),
    "truncated_normal": (-SMALL, SMALL),
    "von_mises": (LARGE,),
}
QUANTILES = {
    "beta_quantile": (SMALL, LARGE, U),
    "categorical_quantile": (LOGITS, U),
    "gamma_quantile": (SMALL, U),
    "poisson_quantile": (LARGE, U),
    "student_t_quantile": (SMALL, U),
    "truncated_normal_quantile": (-SMALL, SMALL, U),
}
U2, U3 = (RNG.random((NUM_ROWS, size), np.float32) for size in (2, 3))
EXCLUDED = {"UniformsFn": "a type"}
CASES = {
    **{name: Case((name,), draws_of(name), rows) for name, rows in NAMED.items()},
    **{name: Case((name,), quantiles_of(name), rows) for name, rows in QUANTILES.items()},
    "gumbel_top_k": Case(("gumbel_top_k",), draws_of("gumbel_top_k", num_drawn=2), (LOGITS,)),
    "alias": Case(("alias",), by_table("alias"), (LOGITS,)),
    "guide_table": Case(("guide_table",), by_table("guide_table"), (LOGITS,)),
    "blocked_categorical": Case(
        ("blocked_categorical",),
        lambda key, logits: jg.samplers.blocked_categorical(logits).sample(key),
        (LOGITS,),
    ),
    "rejection": Case(("rejection", "Proposal"), by_rejection, (SMALL,)),
    "rejection_from_uniforms": Case(("rejection_from_uniforms",), rejected_uniforms, (SMALL, U2)),
    "rejection_expectation": Case(("rejection_expectation",), expected, (SMALL,)),
    "rejection_log_bound": Case(("rejection_log_bound",), bound, (SMALL,)),
    "adaptive_rejection": Case(("adaptive_rejection",), by_hull, (SMALL,)),
    "adaptive_rejection_by_a_given_hull": Case(("adaptive_rejection",), by_given_hull),
    "inverse_cdf": Case(("inverse_cdf", "InverseCDF"), tabulated, (SMALL, U)),
    "inverse_cdf_in_a_trace": Case(("inverse_cdf", "InverseCDF"), built, (SMALL,)),
    "resample": Case(("resample",), resampled, (LARGE,)),
    "uniforms": Case(
        (
            "antithetic_uniforms",
            "iid_uniforms",
            "scrambled_sobol",
            "sobol",
            "stratified_uniforms",
        ),
        designs,
    ),
    "logits": Case(("temper", "keep_top_k", "keep_top_p"), filtered, (LOGITS,)),
    "quantile": Case(
        ("quantile", "Draws"),
        lambda key, u: jg.samplers.quantile(MADE, params_of(MADE), u),
        (U3,),
    ),
    "quantile_parallel": Case(
        ("quantile_parallel", "ParallelDraws"),
        lambda key, u: jg.samplers.quantile_parallel(MADE, params_of(MADE), u),
        (U3,),
    ),
    "sample": Case(
        ("sample",), lambda key: jg.samplers.sample(key, MADE, params_of(MADE), NUM_ROWS)
    ),
    "sample_of_many_symbols": Case(
        ("sample",), lambda key: jg.samplers.sample(key, WIDE, params_of(WIDE), NUM_ROWS)
    ),
    "sample_from_a_prompt": Case(
        ("sample",),
        lambda key, prompt: jg.samplers.sample(key, MADE, params_of(MADE), prompt=prompt),
        (np.zeros((NUM_ROWS, 1), np.int32),),
    ),
    "sample_parallel": Case(
        ("sample_parallel",),
        lambda key: jg.samplers.sample_parallel(key, MADE, params_of(MADE), NUM_ROWS),
    ),
}
