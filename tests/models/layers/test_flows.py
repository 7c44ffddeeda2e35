import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.models.layers._flows import InverseAutoregressive, Spline, SplineCoupling

pytestmark = pytest.mark.usefixtures("distrax_broadcasting")

FLOWS = {
    "spline": SplineCoupling(num_steps=2, num_bins=4, hidden_size=6),
    "autoregressive": InverseAutoregressive(num_steps=2, hidden_size=6),
    "autoregressive_in_bfloat16": InverseAutoregressive(2, hidden_size=6, dtype=jnp.bfloat16),
}
CONTEXT = jnp.array([0.3, -1.0])


class Passes(nn.Module):
    """Points through all steps and back; each step's Jacobians beside what it says of them."""

    flow: nn.Module

    @nn.compact
    def __call__(self, x):
        steps = self.flow(x.shape[-1], CONTEXT)
        claimed, actual, points = [], [], [x]
        for step in steps:
            y, log_det = step.forward(points[-1])
            back, inverse_log_det = step.inverse(y)
            jacobian = jax.jacfwd(lambda x, step=step: step.forward(x)[0])(points[-1])
            claimed.append(jnp.stack([log_det, -inverse_log_det]))
            actual.append(jnp.linalg.slogdet(jacobian)[1])
            points.append(y)
            points[-2] = jnp.stack([points[-2], back])
        return jnp.stack(claimed), jnp.stack(actual), jnp.stack(points[:-1])


@pytest.mark.parametrize("name", FLOWS)
def test_log_determinants_and_inverses(name):
    module, x = Passes(FLOWS[name]), jnp.array([0.4, -1.3, 6.0])  # the last beyond the splines
    random = np.random.default_rng(3)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    claimed, actual, pairs = jax.jit(module.apply)(params, x)
    chex.assert_trees_all_close(claimed[:, 0], actual, atol=1e-4, rtol=1e-7)
    chex.assert_trees_all_close(claimed[:, 1], actual, atol=1e-3, rtol=1e-7)
    chex.assert_trees_all_close(pairs[:, 1], pairs[:, 0], atol=1e-3, rtol=1e-7)
    assert np.abs(actual).min() > 1e-2  # the steps do something


def test_an_autoregressive_step_looks_back_alone():
    module, x = Passes(FLOWS["autoregressive"]), jnp.array([0.4, -1.3, 0.7])
    with pytest.raises(ValueError, match="hidden_size must be at least 3, got 2"):
        Passes(InverseAutoregressive(hidden_size=2)).init(jax.random.key(0), x)
    claimed, _, _ = jax.jit(module.init_with_output)(jax.random.key(0), x)[0]
    chex.assert_trees_all_close(claimed[:, 0], 3 * jax.nn.log_sigmoid(2.0), rtol=1e-5)


def test_splines_of_any_parameters_take_points_back():
    """Each coordinate has a spline of its own; the last thousand are at all their bounds."""
    size, num_bins = 4000, 8
    random = np.random.default_rng(0)
    scale = np.repeat([0.5, 1, 3, 100], 1000)[:, None]
    raw = (scale * random.standard_normal((size, 3 * num_bins + 1))).astype(np.float32)
    spline, params = Spline(num_bins, 4.0), jnp.asarray(raw.T)
    x = random.uniform(-5, 5, size).astype(np.float32)
    back = jax.jit(lambda x: spline.inverse(params, spline.forward(params, x)[0])[0])(x)
    chex.assert_trees_all_close(back, x, atol=1e-4, rtol=1e-7)


def test_gradients_of_splines_are_finite_differences():
    """In float64, along a direction that moves every parameter, and both ways through."""
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        spline, step = Spline(4, 3.0), 1e-6
        params, direction = jnp.asarray(random.normal(size=(2, 13, 40)))
        x, weights = (
            jnp.asarray(random.uniform(-4, 4, 40)),
            jnp.asarray(random.normal(size=(2, 40))),
        )

        def total(move, params):
            point, log_slope = move(params, x)
            return jnp.sum(weights[0] * point + weights[1] * log_slope)

        def both(params):
            for move in (spline.forward, spline.inverse):
                f = functools.partial(total, move)
                gradient = jnp.sum(jax.grad(f)(params) * direction)
                _, tangent = jax.jvp(f, (params,), (direction,))
                rise = f(params + step * direction) - f(params - step * direction)
                yield gradient, tangent, rise / (2 * step)

        for gradient, tangent, slope in jax.jit(lambda p: list(both(p)))(params):
            chex.assert_trees_all_close(gradient, slope, rtol=1e-6)
            chex.assert_trees_all_close(tangent, slope, rtol=1e-6)
