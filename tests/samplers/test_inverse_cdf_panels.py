"""Pieces of the table by themselves, in NumPy's float64, on panels with known integrals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgen.samplers._inverse_cdf._build import _EAGER, _forbid_gradient
from jaxgen.samplers._inverse_cdf._coordinate import from_support
from jaxgen.samplers._inverse_cdf._expectation import Nodes, _error, density_nodes
from jaxgen.samplers._inverse_cdf._modes import Location, _ladder, _surround, _zoom, locate
from jaxgen.samplers._inverse_cdf._panels import (
    Integral,
    Panels,
    _missing_mass,
    find_quantile,
    integrate,
    refine,
)

LINE = from_support(np.array([-np.inf, np.inf]), (False, False))
EDGES = np.linspace(-10, 10, 21)
LOCATION = Location(LINE, EDGES, np.float64(0), np.bool_(False), np.bool_(False))


def test_a_quantile_is_exact_after_one_step_from_its_first_guess():
    tails = integrate(lambda _, z: -(z**2) / 2, LOCATION, EDGES, 16).tails
    z = np.linspace(-4, 2, 601)
    found = find_quantile(Panels(*(leaf[0] for leaf in tails)), scipy.special.ndtr(z), num_steps=1)
    chex.assert_trees_all_close(found, z, atol=1e-13, rtol=1e-7)


@np.errstate(all="ignore")
def test_a_quantile_in_a_wide_panel_is_exact_after_two_steps():
    """Where the density falls by three thousand in each, and the first guess is off by some."""
    edges = np.array([0.0, 8.0, 16.0])
    tails = integrate(lambda _, z: -z, LOCATION, edges, 32).tails
    z = np.linspace(0.01, 9, 301)
    mass = np.expm1(-z) / np.expm1(-16)
    found = find_quantile(Panels(*(leaf[0] for leaf in tails)), mass, num_steps=2)
    chex.assert_trees_all_close(found, z, atol=1e-10, rtol=1e-7)


def test_a_quantile_stays_in_its_panel_where_rounding_asks_for_more_than_its_mass():
    """Next to an end where the density is almost 0, a rounding of the mass is a long way."""
    unit = np.array([0.0, 1.0])
    falling = Panels(unit, unit, np.array([[1.0], [1e-6 - 1]]))
    assert find_quantile(falling, np.array([1 + 1e-6]), num_steps=40) == 1


def test_mass_beyond_the_panels_is_that_of_a_density_that_goes_on_as_it_ends():
    missing = _missing_mass(lambda _, z: -np.abs(z) / 2, LOCATION, EDGES)
    chex.assert_trees_all_close(missing, 2 * 2 * np.exp(-5), rtol=1e-6)


def test_an_expectation_counts_what_lies_beyond_its_last_panels():
    """By the outermost nodes of the panels that have a width."""
    edges = np.append(EDGES, [10.0, 10.0])
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (1 + np.polynomial.legendre.leggauss(16)[0])
    density = np.where(half > 0, np.exp(-np.abs(z)) / 2, 0)
    nodes = Nodes(*(jnp.asarray(a, jnp.float32) for a in (z, z, half[:, 0], density)))
    chex.assert_trees_all_close(_error(nodes, nodes.density[:, :, None]), np.exp(-10), rtol=0.1)


def test_a_ladder_is_increasing_and_has_each_distance_on_either_side():
    ladder = _ladder(np.dtype(np.float64), _EAGER.search)
    assert np.all(np.diff(ladder) > 0)
    chex.assert_trees_all_equal(ladder, -ladder[::-1])


def test_a_density_that_only_rises_is_followed_to_the_end():
    grid = np.linspace(-1, 1, 33)
    modes, is_mode = _zoom(lambda _, z: z, LINE, grid, grid, _EAGER.search)
    np.testing.assert_array_equal(is_mode, [True] + [False] * (modes.size - 1))
    np.testing.assert_allclose(modes[0], 1, atol=1e-9)


def test_mass_beyond_the_panels_goes_by_the_outer_half_of_the_outermost():
    """Inside of it the density is flat, and a slope over more would be less."""
    missing = _missing_mass(lambda _, z: -np.maximum(np.abs(z) - 9.4, 0), LOCATION, EDGES)
    slope = 2 * 0.6 - 2 * 0.1  # over half a panel, of width 1, it falls from −0.1 to −0.6
    chex.assert_trees_all_close(missing, 2 * np.exp(-0.6) / slope, rtol=1e-12)


@np.errstate(all="ignore")
def test_a_panel_that_is_not_resolved_is_cut_in_half():
    edges = np.array([0.0, 1, 4, 4, 4, 4, 4, 4, 4])
    location = LOCATION._replace(edges=edges)
    wave = lambda _, z: np.where(z < 1, np.sin(20 * z), 0)  # noqa: E731
    cut = refine(wave, location, num_nodes=16, num_rounds=1)
    chex.assert_trees_all_equal(cut, np.array([0, 0.5, 1, 4, 4, 4, 4, 4, 4]))


@np.errstate(all="ignore")
def test_the_ends_of_a_hole_are_found_to_the_last_bit_with_room_for_no_more():
    """The upper one is a mode; the end of the support, to which the mass goes, takes no room."""
    unit = from_support(np.array([0.0, 1.0]), (True, True))
    hole = scipy.special.logit([0.7, 0.8])

    def log_density(_, z):
        is_inside = (z > hole[0]) & (z < hole[1])
        return np.where(
            is_inside, -np.inf, scipy.special.log_expit(z) + scipy.special.log_expit(-z)
        )

    found = locate(log_density, unit, np.zeros(0), _EAGER.search._replace(num_edges=1))
    assert found.has_jump
    nearest = found.edges[np.argmin(np.abs(found.edges - hole[:, None]), axis=1)]
    chex.assert_trees_all_close(nearest, hole, atol=1e-14, rtol=1e-7)


@np.errstate(all="ignore")
def test_a_density_without_an_edge_has_none():
    assert not locate(lambda _, z: -(z**2), LINE, np.zeros(0), _EAGER.search).has_jump


@np.errstate(all="ignore")
def test_of_what_is_empty_only_the_edge_is_told():
    """Around a site; the points over all of the line, two units apart, are told in any case."""
    step = lambda _, z: np.where(z < 0.1, -(z**2), -np.inf)  # noqa: E731
    points, values = _surround(step, LINE, np.zeros(1), np.full(1, np.inf), _EAGER.search)
    assert np.sum((points > 0.1) & (points < 1.9)) == 1
    chex.assert_trees_all_equal(values[points == np.inf], -np.inf)
    is_told = points < np.inf
    chex.assert_trees_all_equal(values[is_told], step(None, points[is_told]))


def test_nodes_lie_where_the_map_of_a_finite_support_has_them():
    edges = jnp.linspace(-3.0, 3.0, 4)
    panels = Panels(edges, jnp.linspace(0.0, 1.0, 4), jnp.full((5, 3), 1 / 6).at[1:].set(0))
    support = jnp.array([0.0, 1.0])
    nodes = density_nodes(panels, from_support(support, (True, True)), support)
    chex.assert_trees_all_close(nodes.x, scipy.special.expit(np.asarray(nodes.z, float)), rtol=1e-6)


def test_an_expectation_counts_what_its_series_may_leave_out():
    """On two panels of width 1, the two last terms; next to nothing is beyond."""
    s = np.polynomial.legendre.leggauss(8)[0]
    z = np.stack([(s - 1) / 2, (s + 1) / 2])
    heights = np.stack([0 * s, np.polynomial.legendre.legval(s, [0] * 6 + [0.25, -0.5])])
    nodes = Nodes(*(jnp.asarray(a, jnp.float32) for a in (z, z, np.full(2, 0.5), np.ones((2, 8)))))
    found = _error(nodes, jnp.asarray(heights[..., None], jnp.float32))
    chex.assert_trees_all_close(found, 0.75, rtol=1e-3)


def test_an_expectation_that_rises_outward_from_nothing_is_not_known():
    """With panels of the two nodes that tell a slope at least."""
    z = jnp.array([[-2.0, -1.0], [1.0, 2.0]])
    nodes = Nodes(z, z, jnp.ones(2), jnp.ones((2, 2)))
    heights = jnp.array([[[1.0, 1.0], [2.0, 0.0]], [[2.0, 2.0], [1.0, 1.0]]])
    chex.assert_trees_all_equal(np.isinf(_error(nodes, heights)), np.array([False, True]))


@pytest.mark.parametrize(("has_jump", "expected"), [(True, np.nan), (False, 1.0)])
def test_where_a_density_jumps_its_integral_has_no_gradient(has_jump, expected):
    """Whatever moves it; an integer among the parameters does not."""

    def log_mass(scale):
        integral = Integral(Panels(*[jnp.zeros(1)] * 3), jnp.log(scale), jnp.zeros(()))
        return _forbid_gradient(integral, (scale, 3), jnp.asarray(has_jump)).log_normalizer

    chex.assert_trees_all_equal(jax.grad(log_mass)(1.0), expected)
