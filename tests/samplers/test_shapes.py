"""Named draws take `shape` exactly as the functions of `jax.random` do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers._beta import beta, beta_log_odds
from jaxgen.samplers._binomial import binomial
from jaxgen.samplers._categorical import categorical
from jaxgen.samplers._dirichlet import dirichlet, log_dirichlet
from jaxgen.samplers._gamma import gamma, log_gamma
from jaxgen.samplers._multinomial import multinomial
from jaxgen.samplers._negative_binomial import negative_binomial
from jaxgen.samplers._poisson import poisson
from jaxgen.samplers._shapes import result_shape
from jaxgen.samplers._student_t import student_t
from jaxgen.samplers._truncated_normal import truncated_normal
from jaxgen.samplers._von_mises import von_mises

OURS_AND_JAX = {
    "gamma": (gamma, jax.random.gamma),
    "log_gamma": (log_gamma, jax.random.loggamma),
    "poisson": (poisson, jax.random.poisson),
    "student_t": (student_t, jax.random.t),
    "dirichlet": (dirichlet, jax.random.dirichlet),
    "log_dirichlet": (log_dirichlet, jax.random.dirichlet),
    "von_mises": (von_mises, jax.random.poisson),  # JAX has none: the rule of one parameter
}
OURS_AND_JAX_OF_TWO = {
    "beta": (beta, jax.random.beta),
    "beta_log_odds": (beta_log_odds, jax.random.beta),
    "binomial": (binomial, jax.random.binomial),
    "negative_binomial": (negative_binomial, jax.random.binomial),  # JAX has none
    "truncated_normal": (truncated_normal, jax.random.truncated_normal),
}
PARAMETER_SHAPES = [(), (1,), (3,), (0,), (1, 3), (2, 1), (2, 3), (4, 1, 3)]
SHAPES = [
    None,
    (),
    (3,),
    [3],
    3,
    (0,),
    (1, 3),
    (2, 3),
    (2, 0),
    (4, 2, 3),
    (-1,),
    (2.0,),
    (np.int64(3),),
]
AXES = [-1, 0, 1, 2, -3]


def outcome(draw, *parameter_shapes):
    """The shape of the result, or that it is refused."""
    parameters = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in parameter_shapes]
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        return jax.eval_shape(draw, key, *parameters).shape
    except (TypeError, ValueError, IndexError):  # NumPy's error for jax.random's axis
        return "refused"


def expected_outcome(draw, *parameter_shapes):
    with jax.numpy_rank_promotion("allow"):  # jax.random.t promotes ranks inside
        return outcome(draw, *parameter_shapes)


@pytest.mark.parametrize("name", OURS_AND_JAX)
def test_shapes_are_those_of_jax(name):
    ours, theirs = OURS_AND_JAX[name]
    seen = set()
    for own in PARAMETER_SHAPES:
        for shape in SHAPES:
            found = outcome(functools.partial(ours, shape=shape), own)
            expected = expected_outcome(functools.partial(theirs, shape=shape), own)
            assert found == expected, (own, shape)
            seen.add(found)
    assert len(seen) > 5
    assert "refused" in seen


@pytest.mark.parametrize("name", OURS_AND_JAX_OF_TWO)
def test_shapes_of_two_parameters_are_those_of_jax(name):
    ours, theirs = OURS_AND_JAX_OF_TWO[name]
    for own in [(), (3,), (0,), (2, 3)]:
        for other in [(), (3,), (2, 1)]:
            for shape in SHAPES:
                found = outcome(functools.partial(ours, shape=shape), own, other)
                expected = expected_outcome(functools.partial(theirs, shape=shape), own, other)
                assert found == expected, (own, other, shape)


def test_shapes_of_multinomial_counts_are_batches_as_of_other_vectors():
    """JAX's own text says batch, as everywhere else, and its code takes the full shape."""
    for own in PARAMETER_SHAPES[1:]:
        by_default = outcome(jax.random.multinomial, own[:-1], own)
        assert outcome(multinomial, own[:-1], own) == by_default == own
        for shape in SHAPES:
            found = outcome(functools.partial(multinomial, shape=shape), (), own)
            assert found == outcome(functools.partial(dirichlet, shape=shape), own), (own, shape)


def test_shapes_of_symbols_are_those_of_jax():
    for logits in [shape for shape in PARAMETER_SHAPES if 0 not in shape]:
        for axis in AXES:
            for shape in SHAPES:
                found = outcome(functools.partial(categorical, axis=axis, shape=shape), logits)
                expected = expected_outcome(
                    functools.partial(jax.random.categorical, axis=axis, shape=shape), logits
                )
                assert found == expected, (logits, axis, shape)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"rate must broadcast to shape \(2,\), got shape \(3,\)"):
        result_shape((2,), {"rate": (3,)})
    with pytest.raises(ValueError, match=r"a and b must broadcast together, got .*\(2,\) and \(3,"):
        result_shape(None, {"a": (2,), "b": (3,)})
    with pytest.raises(ValueError, match="shape must hold no negative size"):
        result_shape((-1,), {})
    with pytest.raises(TypeError, match="shape must be a tuple of integers"):
        result_shape((2.0,), {})
