"""No draws at all, and budgets without an end, of the one-dimensional samplers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.samplers._adaptive_rejection import adaptive_rejection
from jaxgen.samplers._alias import alias
from jaxgen.samplers._gamma import gamma
from jaxgen.samplers._guide_table import guide_table
from jaxgen.samplers._inverse_cdf._build import inverse_cdf
from jaxgen.samplers._rejection import (
    Proposal,
    rejection,
    rejection_expectation,
    rejection_from_uniforms,
)

BOX = Proposal(None, lambda _, u: u[0], lambda _, x: 0.0)


def ramp(_, x):
    return jnp.log(x)


@pytest.mark.parametrize("shape", [(3, 0)])
def test_no_draws_are_an_empty_result(shape, key):
    def clone():
        return jax.random.clone(key)

    drawn = rejection(clone(), ramp, None, BOX, 0.0, shape)
    assert drawn.samples.shape == drawn.accepted.shape == shape
    assert np.isnan(drawn.acceptance_rate)
    assert not drawn.bound_exceeded
    hull = adaptive_rejection(lambda _, x: -(x**2), None)
    assert hull.sample(clone(), shape).samples.shape == shape
    table = inverse_cdf(lambda _, x: -x, None, support=(0.0, 1.0))
    assert table.sample(clone(), shape).shape == shape
    for method in (table.quantile, table.cdf, table.log_prob):
        assert method(jnp.zeros(shape)).shape == shape
    for categorical in (guide_table, alias):
        assert categorical(jnp.zeros(3)).sample(clone(), shape).shape == shape
    assert gamma(clone(), 2.0, shape).shape == shape


def test_no_uniforms_are_no_proposals():
    drawn = rejection_from_uniforms(ramp, None, BOX, 0.0, jnp.zeros((0, 2)))
    assert drawn.samples.shape == drawn.accepted.shape == (0,)


@pytest.mark.parametrize("budget", [10**9, 10**18])
def test_a_budget_may_be_as_good_as_endless(budget, key):
    drawn = rejection(key, ramp, None, BOX, 0.0, (10,), max_proposals_per_sample=budget)
    assert drawn.accepted.all()
    found = rejection_expectation(
        jax.random.key(1),
        lambda _, x: x,
        ramp,
        None,
        BOX,
        0.0,
        num_samples=10,
        max_proposals_per_sample=budget,
    )
    assert found.estimate.num_samples == 10


def test_proposals_that_run_out_are_an_error_where_it_can_be_one(key):
    """At an acceptance of 1e-4 a thousand proposals a sample fill less than a tenth."""
    bound = math.log(1e4 / 2)
    with pytest.raises(ValueError, match=r"only \d+ of 1000 samples were accepted; try about"):
        rejection(key, ramp, None, BOX, bound, (1000,))
    drawn = jax.jit(lambda k: rejection(k, ramp, None, BOX, bound, (1000,)))(jax.random.key(1))
    assert 50 < drawn.accepted.sum() < 200
    empty = lambda _, x: x * 0 - jnp.inf  # noqa: E731
    with pytest.raises(ValueError, match="only 0 of 3 samples were accepted; try more"):
        rejection(jax.random.key(2), empty, None, BOX, 0.0, (3,))
