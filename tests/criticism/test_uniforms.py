"""The map to uniforms: the inverse of sampling, uniform under the model and only then."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxgen as jg
from jaxgen.criticism import conditional_log_probs, rosenblatt, uniformity

MODEL = jg.MADE(5, 3, (8,), conditioning=jg.models.Labels(2))


@pytest.fixture(scope="module")
def params():
    start = MODEL.init(jax.random.key(0), np.zeros((1, 5), np.int32))
    noise = jax.random.normal(jax.random.key(1), (1000,))
    leaves, treedef = jax.tree.flatten(start)
    moved = [leaf + noise[: leaf.size].reshape(leaf.shape) for leaf in leaves]
    return jax.tree.unflatten(treedef, moved)


def test_the_uniforms_of_data_make_the_same_data_again(key, params):
    x = jax.random.randint(key, (400, 5), 0, 3)
    labels = jnp.arange(400) % 2
    u = jax.jit(rosenblatt)(jax.random.key(2), MODEL, params, x, context=labels)
    again = jax.jit(jg.samplers.quantile)(MODEL, params, u, context=labels).x
    assert np.mean(np.any(np.asarray(again) != np.asarray(x), axis=1)) < 0.005  # within rounding


def test_log_probs_are_those_of_the_model_whatever_the_batches(key, params):
    x = np.asarray(jax.random.randint(key, (7, 5), 0, 3))
    labels = jnp.arange(7) % 2
    found = conditional_log_probs(MODEL, params, x, context=labels, batch_size=3)
    expected = jax.nn.log_softmax(jax.jit(MODEL.logits)(params, x, context=labels))
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-7)


def test_draws_of_the_model_are_uniform_and_others_are_not(key, params):
    labels = jnp.arange(2000) % 2
    draw = jax.jit(lambda key, labels: jg.sample(key, MODEL, params, 2000, context=labels).x)
    x = draw(key, labels)
    back = jax.jit(rosenblatt)
    right = uniformity(back(jax.random.key(2), MODEL, params, x, context=labels))
    wrong = uniformity(back(jax.random.key(2), MODEL, params, x, context=1 - labels))
    assert min(right.coordinate.min(), right.pair.min(), right.total, right.spread) > 1e-9
    assert wrong.coordinate.min() < 1e-9


def test_p_values_of_uniforms_are_uniform():
    generator = np.random.default_rng(0)
    found = [uniformity(generator.random((50, 4))) for _ in range(400)]
    off_diagonal = ~np.eye(4, dtype=bool)
    for p in (
        np.concatenate([f.coordinate for f in found]),
        np.concatenate([f.pair[off_diagonal] for f in found]),
        np.array([f.total for f in found]),
        np.array([f.spread for f in found]),
    ):
        for level in (0.05, 0.2):
            assert np.mean(p < level) == pytest.approx(level, abs=0.05)


def test_each_departure_shows_where_it_is():
    u = np.random.default_rng(1).random((3000, 3))
    assert np.argmin(uniformity(np.stack([u[:, 0], u[:, 1] ** 1.2, u[:, 2]], 1)).coordinate) == 1
    tied = np.stack([u[:, 0], u[:, 1], (u[:, 0] + 0.2 * u[:, 1]) % 1], 1)
    assert uniformity(tied).pair[0, 2] < 1e-12
    together = np.sort(u, axis=1)[np.arange(3000), np.random.default_rng(2).integers(0, 3, 3000)]
    assert uniformity(np.stack([together] * 3, 1)).spread < 1e-12
    common = 0.5 + 0.5 * (u - 0.5)
    assert uniformity(common).spread < 1e-12


def test_uniforms_at_their_very_ends_are_no_more_than_unlikely():
    u = np.random.default_rng(3).random((1000, 2))
    assert uniformity(u).spread > 1e-3
    u[0] = 0.0, 1.0
    assert uniformity(u).spread > 1e-3
    assert np.all(uniformity(u).coordinate > 1e-9)


@pytest.mark.parametrize("u", [np.zeros((2, 3)), np.zeros(3)])
def test_too_few_points_are_refused(u):
    with pytest.raises(ValueError, match=r"u must|rows of u"):
        uniformity(u)


def test_pairs_of_few_points_have_the_p_values_of_a_correlation_coefficient():
    u = np.random.default_rng(4).random((9, 3))
    scores = special.ndtri(u)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        exact = stats.pearsonr(scores[:, i], scores[:, j]).pvalue
        assert uniformity(u).pair[i, j] == pytest.approx(exact, rel=1e-6)
