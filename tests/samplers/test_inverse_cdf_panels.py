"""Pieces of the table by themselves, in NumPy's float64, on panels with known integrals."""

import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxgen.samplers._inverse_cdf._build import _EAGER
from jaxgen.samplers._inverse_cdf._coordinate import from_support
from jaxgen.samplers._inverse_cdf._expectation import Nodes, _error
from jaxgen.samplers._inverse_cdf._modes import Location, _ladder, _zoom
from jaxgen.samplers._inverse_cdf._panels import Panels, _missing_mass, find_quantile, integrate

LINE = from_support(np.array([-np.inf, np.inf]), (False, False))
EDGES = np.linspace(-10, 10, 21)
LOCATION = Location(LINE, EDGES, np.float64(0), np.bool_(False), np.bool_(False))


def test_a_quantile_is_exact_after_one_step_from_its_first_guess():
    tails = integrate(lambda _, z: -(z**2) / 2, LOCATION, EDGES, 16).tails
    z = np.linspace(-4, 2, 601)
    found = find_quantile(Panels(*(leaf[0] for leaf in tails)), scipy.special.ndtr(z), num_steps=1)
    np.testing.assert_allclose(found, z, atol=1e-13)


def test_a_quantile_stays_in_its_panel_where_rounding_asks_for_more_than_its_mass():
    """Next to an end where the density is almost 0, a rounding of the mass is a long way."""
    unit = np.array([0.0, 1.0])
    falling = Panels(unit, unit, np.array([[1.0], [1e-6 - 1]]))
    assert find_quantile(falling, np.array([1 + 1e-6]), num_steps=40) == 1


def test_mass_beyond_the_panels_is_that_of_a_density_that_goes_on_as_it_ends():
    missing = _missing_mass(lambda _, z: -np.abs(z) / 2, LOCATION, EDGES)
    np.testing.assert_allclose(missing, 2 * 2 * np.exp(-5), rtol=1e-6)


def test_an_expectation_counts_what_lies_beyond_its_last_panels():
    """By the outermost nodes of the panels that have a width."""
    edges = np.append(EDGES, [10.0, 10.0])
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (1 + np.polynomial.legendre.leggauss(16)[0])
    density = np.where(half > 0, np.exp(-np.abs(z)) / 2, 0)
    nodes = Nodes(*(jnp.asarray(a, jnp.float32) for a in (z, z, half[:, 0], density)))
    np.testing.assert_allclose(_error(nodes, nodes.density[:, :, None]), np.exp(-10), rtol=0.1)


def test_a_ladder_is_increasing_and_has_each_distance_on_either_side():
    ladder = _ladder(np.dtype(np.float64), _EAGER.search)
    assert np.all(np.diff(ladder) > 0)
    np.testing.assert_array_equal(ladder, -ladder[::-1])


def test_a_density_that_only_rises_is_followed_to_the_end():
    grid = np.linspace(-1, 1, 33)
    modes, is_mode = _zoom(lambda _, z: z, LINE, grid, grid, _EAGER.search)
    np.testing.assert_array_equal(is_mode, [True] + [False] * (modes.size - 1))
    np.testing.assert_allclose(modes[0], 1, atol=1e-9)
