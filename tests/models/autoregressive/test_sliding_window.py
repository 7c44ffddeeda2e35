"""A window slid along a longer array, through the conformance suite and against its definition."""

import functools

import autoregressive_conformance as conformance
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen as jg
from jaxgen.models._context import Labels
from jaxgen.models.autoregressive._linear_recurrence import LinearRecurrence
from jaxgen.models.autoregressive._made import MADE
from jaxgen.models.autoregressive._sliding_window import SlidingWindow
from jaxgen.models.autoregressive._transformer import CausalTransformer

# An overlap of one and of two; several windows, the last of them not full; one that is not full.
MODELS = {
    "made": SlidingWindow(MADE(3, 2, (8,)), 6),
    "transformer": SlidingWindow(CausalTransformer(4, 2, 4, 1, 2), 7),
    "recurrence": SlidingWindow(LinearRecurrence(5, 2, width=4, num_layers=1), 9),
    "one_window": SlidingWindow(MADE(4, 3, (8,)), 3),
}
# All but that every coordinate before has a say.
CHECKS = [check for check in conformance.ALL if check is not conformance.check_causality]


@functools.cache
def measured(name):
    model = MODELS[name]
    return conformance.measure(model, conformance.random_params(model.model))


@pytest.mark.parametrize("check", [*CHECKS, conformance.check_code], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_conforms(name, check):
    check(measured(name))


def window_of(model, index):
    """Where the window begins that gives a coordinate's conditional."""
    begin, size = 0, model.model.num_dims
    while index >= begin + size:
        begin += size - size // 2
    return begin


@pytest.mark.parametrize("name", MODELS)
def test_a_coordinate_is_given_its_window_and_no_more(name):
    model = MODELS[name]
    before, *after, _ = measured(name).outputs
    changes = (np.stack(after) != before).any(axis=(1, 3))
    changes = changes.reshape(model.num_dims, -1, model.num_dims).any(axis=1)
    i = np.arange(model.num_dims)
    begin = np.array([window_of(model, index) for index in i])
    chex.assert_trees_all_equal(changes, (i[:, None] >= begin[None]) & (i[:, None] < i[None]))


@pytest.mark.parametrize("name", ["made", "transformer"])
def test_its_conditionals_are_those_of_the_model_in_the_window(name):
    model, params = MODELS[name], measured(name).params
    x = conformance.every_x(model)[::5]
    inner = jax.jit(model.model.outputs)
    found = jax.jit(model.outputs)(params, x)
    for i in range(model.num_dims):
        begin = window_of(model, i)
        window = np.zeros((len(x), model.model.num_dims), int)
        window[:, : i - begin] = x[:, begin:i]
        expected = inner(params, window)[:, i - begin]
        chex.assert_trees_all_close(found[:, i], expected, atol=1e-5)


def test_rows_keep_their_contexts_from_window_to_window():
    inner = MADE(3, 2, (8,), conditioning=Labels(2))
    model, params = SlidingWindow(inner, 7), conformance.random_params(inner, scale=2.0)
    labels = np.array([0, 1, 1, 0])
    u = np.tile(np.random.default_rng(0).random((1, 7), np.float32), (4, 1))
    draws = jax.jit(jg.samplers.quantile)(model, params, u, context=labels)
    alone = [
        jax.jit(model.log_prob)(params, x, context=k) for x, k in zip(draws.x, labels, strict=True)
    ]
    chex.assert_trees_all_close(draws.log_probs.sum(1), jnp.stack(alone), atol=1e-5)
    chex.assert_trees_all_equal(draws.x[0], draws.x[3])
    assert (draws.x[0] != draws.x[1]).any()


def test_what_cannot_slide_is_refused():
    with pytest.raises(ValueError, match="num_dims must be at least 1"):
        SlidingWindow(MADE(3, 2, (8,)), 0)
    with pytest.raises(ValueError, match=r"model\.num_dims must be at least 2"):
        SlidingWindow(MADE(1, 2, (8,)), 4)
    with pytest.raises(ValueError, match="one alphabet"):
        SlidingWindow(MADE(3, None, (8,), conditional=jg.models.Mixture()), 4)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6\)"):
        MODELS["made"].log_prob(None, np.zeros((2, 3), int))
