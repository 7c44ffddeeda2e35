"""Weight decay reaches what multiplies activations, and nothing else."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgen as jg

MODELS = [
    jg.MADE(4, 3, (5,), has_direct_connections=True, conditioning=jg.models.Labels(2)),
    jg.NADE(4, 3, 5),
    jg.GatedPixelCNN((2, 2), 3, width=4, num_layers=2),
    jg.CausalTransformer(4, 3, 8, 1, 2),
    jg.LinearRecurrence(4, 3, 8, 2),
    jg.VAE(4, 2, 3, (5,), posterior_family=jg.models.FlowPosterior()),
    jg.VAE(4, 2, 3, (5,), prior_family=jg.models.VampPrior(2)),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_kernels_decay_and_vectors_and_tables_do_not(model, distrax_broadcasting):
    x = np.zeros((2, 4), np.int32)
    context = jnp.zeros(2, int) if model.conditioning else None
    init = lambda: model.init(jax.random.key(0), x, context)  # noqa: E731
    shapes = jax.eval_shape(init)
    mask = jg.training.kernel_mask(shapes)
    for (path, is_kernel), leaf in zip(
        jax.tree.leaves_with_path(mask), jax.tree.leaves(shapes), strict=True
    ):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        tables = ("table", "symbols", "positions", "pseudo", "means", "logits", "scale", "norm")
        is_vector = "bias" in name or "offset" in name or "rate" in name
        assert is_kernel != (is_vector or any(t in name for t in tables)), (path, leaf.shape)


def test_decay_under_the_mask_moves_kernels_alone():
    params = {"kernel_0": jnp.ones(2), "bias_0": jnp.ones(2)}
    optimizer = optax.add_decayed_weights(0.5, mask=jg.training.kernel_mask)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    chex.assert_trees_all_equal(updates["kernel_0"], np.array([0.5, 0.5]))
    chex.assert_trees_all_equal(updates["bias_0"], np.array([0.0, 0.0]))


def test_parameters_without_a_kernel_are_refused_since_nothing_would_decay():
    with pytest.raises(ValueError, match="kernel"):
        jg.training.kernel_mask({"bias": jnp.ones(2)})
