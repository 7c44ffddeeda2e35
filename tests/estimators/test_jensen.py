import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.estimators import _jensen as jensen


def normals(key, num_samples):
    return jax.random.normal(key, (num_samples,))


@pytest.mark.parametrize(
    ("f", "exact", "sign"),
    [
        (jnp.exp, np.exp(0.5) - 1, 1),
        (lambda x: -jnp.exp(x / 2), 1 - np.exp(0.125), -1),
        (lambda x: 2 * x + 1, 0.0, 0),
        (lambda x: x**3, 0.0, 0),
    ],
    ids=["convex", "concave", "linear", "neither"],
)
def test_jensen_gap_has_its_value_sign_and_error(f, exact, sign, key):
    gap, found = jensen.jensen_gap(key, normals, f, 200_000)
    assert abs(gap.value - exact) < 4 * gap.standard_error + 1e-6
    assert found == sign


def test_stated_error_of_the_jensen_gap_is_its_spread(key):
    gap = jax.vmap(lambda k: jensen.jensen_gap(k, normals, jnp.exp, 1000).gap)(
        jax.random.split(key, 2000)
    )
    stated = np.sqrt(np.mean(np.asarray(gap.standard_error) ** 2))
    chex.assert_trees_all_close(stated, np.std(np.asarray(gap.value)), rtol=0.1)


def test_jensen_gap_of_vectors(key):
    gap, sign = jensen.jensen_gap(
        key, lambda k, n: jax.random.normal(k, (n, 3)), lambda x: jnp.sum(x**2), 50_000
    )
    assert sign == 1
    assert abs(gap.value - 3) < 4 * gap.standard_error


def test_rounding_of_a_line_through_widely_spread_draws_is_no_gap(key):
    _, sign = jensen.jensen_gap(key, normals, lambda x: 0.1 * x, 1_000_000, num_errors=0.0)
    assert sign == 0
