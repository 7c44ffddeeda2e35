import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core._contracts import AutoregressiveModel
from jaxgen.models.autoregressive._committee import Committee
from jaxgen.models.autoregressive._independent import Independent
from jaxgen.models.autoregressive._made import MADE


class FixedConditionals(AutoregressiveModel):
    """A model of two bits whose parameters are the logits of four conditionals."""

    num_dims = 2
    num_symbols = 2

    def logits(self, params, x, *, context=None):
        second = params[1 + x[..., 0]]
        return jnp.stack([jnp.broadcast_to(params[0], second.shape), second], axis=-2)


def test_each_conditional_is_the_mean_of_the_members_not_each_joint():
    p, q = np.array([[0.9, 0.5, 0.2], [0.1, 0.7, 0.4]])  # of a one: first, after 0, after 1
    model = FixedConditionals()
    params = tuple(jnp.log(jnp.stack([1 - r, r], axis=1)) for r in (p, q))
    x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = jnp.exp(Committee((model, model)).log_prob(params, x))
    first, after_0, after_1 = (p + q) / 2
    expected = [
        (1 - first) * (1 - after_0),
        (1 - first) * after_0,
        first * (1 - after_1),
        first * after_1,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_committee_of_one_is_that_one():
    member = MADE(4, 3, (6,))
    x = jax.random.randint(jax.random.key(1), (5, 4), 0, 3)
    params = member.init(jax.random.key(0), x)
    found = Committee((member,)).log_prob((params,), x)
    chex.assert_trees_all_close(found, member.log_prob(params, x), rtol=1e-6)


@pytest.mark.parametrize("members", [(), (MADE(4, 3, (6,)), MADE(4, 2, (6,)))])
def test_members_over_different_spaces_or_none_are_refused(members):
    with pytest.raises(ValueError, match=r"members must be .*one num_dims"):
        Committee(members)


def test_parameters_for_fewer_members_are_refused():
    member = Independent(2, 2)
    x = jnp.zeros((1, 2), int)
    params = member.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="zip"):
        Committee((member, member)).log_prob((params,), x)
