"""What the hull certifies: other modes at any distance are found, flat tops are covered whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgen.samplers._adaptive_rejection import adaptive_rejection


def modes(params, x):
    distance, log_weight, scale = params
    other = log_weight - 0.5 * ((x - distance) / scale) ** 2 - jnp.log(scale)
    return jnp.logaddexp(-0.5 * x**2, other)


def flat_power(params, x):
    power, scale, location = params
    return -(jnp.abs((x - location) / scale) ** power)


def flat_sigmoid(params, x):
    steepness, half_width, location = params
    return -jax.nn.softplus(steepness * (jnp.abs(x - location) - half_width))


def pieces(params, x):
    """1 / cosh on [−10, 10], and more of it that nothing slopes toward, beyond a gap."""
    gap, _, _ = params
    away = jnp.abs(x)
    return jnp.where((away < 10) | (away > 10 + gap), -jnp.log(jnp.cosh(x / 100)), -jnp.inf)


DENSITIES = [modes, flat_power, flat_sigmoid, pieces]
DISTANCES = [4.0, 15.0, 22.0, 30.0, 100.0, -300.0, 1000.0, -1e5, 1e8]
FAR = [(0, (d, w, 1.0)) for d in DISTANCES for w in (0.0, -5.0)] + [
    (0, (1000.0, 0.0, 30.0)),
    (0, (-15.0, 0.0, 0.1)),
    (3, (500.0, 0.0, 0.0)),
]
FLAT = [
    *[(1, p) for p in [(8.0, 1.0, 0.0), (50.0, 1.0, 0.0), (150.0, 1.0, 3.0), (20.0, 1e3, 7.0)]],
    *[(2, p) for p in [(30.0, 1.0, 0.0), (5.0, 100.0, 0.0), (1.0, 100.0, 30.0), (1.0, 1e3, 0.0)]],
]


def family(case, x):
    index, params = case
    return jax.lax.switch(index, DENSITIES, params, x)


@functools.cache
def hulls_of(transform):
    """All cases at once: one program a transform."""
    index = jnp.array([case[0] for case in FAR + FLAT])
    params = jnp.array([case[1] for case in FAR + FLAT])
    build = functools.partial(adaptive_rejection, family, transform=transform)
    return jax.jit(jax.vmap(build))((index, params))


@pytest.mark.parametrize("transform", ["log", "inverse_sqrt"])
def test_another_mode_is_found_at_any_distance(transform):
    is_concave = hulls_of(transform).is_concave[: len(FAR)]
    assert not np.any(is_concave), np.array(FAR, object)[np.asarray(is_concave)]


def test_another_mode_is_found_on_a_support_shorter_than_a_unit():
    def two(distance, x):
        return jnp.logaddexp(-0.5 * (100 * x) ** 2, -0.5 * (100 * (x - distance)) ** 2)

    with pytest.raises(ValueError, match="log_prob_fn must be concave"):
        adaptive_rejection(two, 0.8, support=(-0.1, 0.85), start=0.005)
    with pytest.raises(ValueError, match="log_prob_fn must be concave"):
        adaptive_rejection(lambda d, x: two(d, 1 - x), 0.8, support=(0.15, 1.1), start=0.995)


def test_a_density_that_underflows_to_a_constant_is_no_second_mode():
    """As the log of exp(−x² / 2) with a tiny number added, in floats."""
    assert adaptive_rejection(lambda _, x: jnp.maximum(-0.5 * x**2, -80.0), None).is_concave


@pytest.mark.parametrize("transform", ["log", "inverse_sqrt"])
def test_flat_tops_are_covered_whole(transform):
    """The mass under the hull is that of the density and a few percent, never less."""
    hulls = hulls_of(transform)
    assert np.all(hulls.is_concave[len(FAR) :])
    powers, sigmoids = (np.array([p for i, p in FLAT if i == index]) for index in (1, 2))
    masses = np.concatenate(
        [
            2 * powers[:, 1] * scipy.special.gamma(1 + 1 / powers[:, 0]),
            2 * np.logaddexp(0, sigmoids[:, 0] * sigmoids[:, 1]) / sigmoids[:, 0],
        ]
    )
    acceptance = masses / np.exp(np.asarray(hulls.log_bound[len(FAR) :], np.float64))
    assert np.all((acceptance > 0.94) & (acceptance < 1 + 1e-5)), acceptance


def test_values_too_large_to_tell_are_refused():
    """Rounding of 1e9 is 64 nats in float32: nothing can be said of the shape."""
    with pytest.raises(ValueError, match="too large for their rounding to tell"):
        adaptive_rejection(lambda _, x: 1e9 - 0.5 * x**2, None)
