"""What the search for mass sees by itself, at the edge of what it promises, and what is named."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats as st

from jaxgen.samplers._inverse_cdf import _build
from jaxgen.samplers._inverse_cdf._build import inverse_cdf
from jaxgen.samplers._inverse_cdf._coordinate import from_support

INF = float("inf")
LINE, HALF = (-INF, INF), (0.0, INF)


def boxes(params, x):
    """1 on [0, 1] and on [distance, distance + width]."""
    distance, width = params
    inside = ((x >= 0) & (x <= 1)) | ((x >= distance) & (x <= distance + width))
    return jnp.where(inside, 0.0, -jnp.inf)


@pytest.mark.parametrize("support", [LINE, HALF])
def test_a_box_a_thousand_widths_away_is_seen(support):
    table = inverse_cdf(boxes, (1000.0, 1.0), support=support)
    chex.assert_trees_all_close(table.log_normalizer, np.log(2), rtol=1e-6)
    chex.assert_trees_all_close(
        table.quantile(jnp.array([0.25, 0.75])), np.array([0.5, 1000.5]), rtol=1e-5
    )


@pytest.mark.parametrize("distance", [-3e3, 7.0, 50.0, 4e5, 9e6])
def test_mass_of_a_thousandth_of_its_distance_is_seen(distance):
    width = abs(distance) / 1000
    table = inverse_cdf(boxes, (distance, width), support=LINE)
    chex.assert_trees_all_close(table.log_normalizer, np.log1p(width), rtol=1e-6)


@pytest.mark.parametrize("distance", [-1e6, -3e3, 7.0, 5e4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_under_a_trace_mass_of_a_tenth_of_its_distance_is_seen(distance, dtype):
    """The sizes of a traced search, run in NumPy, where nothing of it compiles."""
    effort, _ = _build._plan(dtype, False, 0)
    line = from_support(np.array(LINE), (False, False))
    params = (distance, abs(distance) / 10)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        _, integral = _build._integrate(boxes, params, line, np.zeros(0), effort)
    chex.assert_trees_all_close(integral.log_normalizer, np.log1p(params[1]), rtol=1e-2)


def test_narrower_mass_is_seen_where_it_is_named():
    params = (1e6, 1e-2)
    missed = inverse_cdf(boxes, params, support=LINE)
    chex.assert_trees_all_close(
        missed.log_normalizer, 0, atol=1e-6, rtol=1e-7
    )  # as the docstring warns
    for point in (1e6, 1e6 + 0.004, 1e6 + 1e-2):
        table = inverse_cdf(boxes, params, support=LINE, points=(point,))
        chex.assert_trees_all_close(table.log_normalizer, np.log1p(1e-2), rtol=1e-6)


def spiked(params, x):
    place, scale = params
    spike = -0.5 * ((x - place) / scale) ** 2 - jnp.log(scale)
    return jnp.logaddexp(-0.5 * x**2, spike)


@pytest.mark.parametrize("point", [1.7, 1.7 + 3e-5])
def test_a_spike_under_a_bump_is_seen_where_it_is_named(point):
    table = inverse_cdf(spiked, (1.7, 1e-5), support=LINE, points=(point,))
    chex.assert_trees_all_close(table.log_normalizer, 0.5 * np.log(8 * np.pi), rtol=1e-6)
    below = st.norm.cdf(1.7) / 2
    chex.assert_trees_all_close(table.quantile(below + 0.25), 1.7, rtol=1e-6)
    chex.assert_trees_all_close(table.cdf(1.6), st.norm.cdf(1.6) / 2, atol=1e-6, rtol=1e-7)


def test_a_pole_inside_the_support_is_integrated_where_it_is_named():
    def log_prob_fn(place, x):
        return -0.5 * jnp.log(jnp.abs(x - place))

    table = inverse_cdf(log_prob_fn, 0.3, support=(0.0, 1.0), points=(0.3,), max_u_error=1e-3)
    mass = 2 * np.sqrt(0.3) + 2 * np.sqrt(0.7)
    chex.assert_trees_all_close(table.log_normalizer, np.log(mass), rtol=1e-5)
    chex.assert_trees_all_close(table.cdf(0.3), 2 * np.sqrt(0.3) / mass, atol=3e-4, rtol=1e-7)


def histogram(params, x):
    edges, log_heights = params
    return log_heights[jnp.clip(jnp.searchsorted(edges, x) - 1, 0, log_heights.size - 1)]


@pytest.mark.parametrize("lower", [0.0, -1.0])
def test_a_histogram_of_200_bins(lower):
    rng = np.random.default_rng(0)
    edges = np.sort(np.append(rng.uniform(0, 1, 199), [0, 1])) * (1 - lower) + lower
    heights = rng.gamma(1.0, size=200)
    params = (jnp.asarray(edges, jnp.float32), jnp.log(jnp.asarray(heights, jnp.float32)))
    edges = np.asarray(params[0], np.float64)
    table = inverse_cdf(histogram, params, support=(lower, 1.0), points=edges)
    assert table.u_error < 3e-7
    below = np.cumsum(np.append(0, heights * np.diff(edges)))
    chex.assert_trees_all_close(table.log_normalizer, np.log(below[-1]), rtol=1e-5)
    x = np.asarray(table.quantile(np.linspace(0.001, 0.999, 4001, dtype=np.float32)), np.float64)
    cdf = np.interp(x, edges, below / below[-1])
    chex.assert_trees_all_close(cdf, np.linspace(0.001, 0.999, 4001), atol=6e-7, rtol=1e-7)


def test_points_that_name_nothing_change_nothing():
    def normal(_, x):
        return -0.5 * x**2

    u = np.linspace(0.001, 0.999, 99, dtype=np.float32)
    table = inverse_cdf(normal, None, support=LINE, points=[-40.0, -1e300, 0.0, 0.3, 0.3, 5.0])
    chex.assert_trees_all_close(table.quantile(u), scipy.special.ndtri(u), atol=1e-6, rtol=1e-7)
    assert table.u_error < 1.5e-7


@pytest.mark.parametrize("points", [(2.0,), (np.nan,), (-INF,), "edges", (1j,)])
def test_points_outside_the_support_are_refused(points):
    with pytest.raises(ValueError, match="points must be"):
        inverse_cdf(boxes, (0.0, 1.0), support=(-INF, 1.0), points=points)


def test_traced_points_are_refused():
    build = jax.jit(lambda p: inverse_cdf(boxes, (p, 1.0), support=LINE, points=(p,)).u_error)
    with pytest.raises(ValueError, match="points must be concrete numbers"):
        build(3.0)


def test_under_a_trace_a_piece_wider_than_a_tenth_of_its_distance_is_seen():
    """At sixteen distances, so that a grid too coarse by a fifth misses one."""

    def log_prob(start, x):
        return jnp.where((x > start) & (x < 1.1 * start), -jnp.log(0.1 * start), -0.5 * x**2)

    @jax.jit
    @jax.vmap
    def log_mass(start):
        return inverse_cdf(log_prob, start, support=(-INF, INF)).log_normalizer

    starts = jnp.geomspace(100.0, 1e6, 16)
    assert np.all(np.exp(log_mass(starts)) - np.sqrt(2 * np.pi) > 0.9)
