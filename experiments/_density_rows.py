"""The rows of `experiments.density_estimation` over bits: the members and how each is trained."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

import jaxgen as jg
from jaxgen.core import Params


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A member of a committee and its training."""

    model: Any
    """An autoregressive model, or a flow."""
    num_epochs: int
    """Epochs at most."""
    batch_size: int = 100
    """Examples in a step."""
    learning_rate: float = 2e-3
    """The highest rate of Adam; it falls to nothing along a cosine."""
    weight_decay: float = 0.1
    """Decoupled weight decay, of kernels alone."""
    average_decay: float = 0.99
    """Of the moving average of the parameters, which is what is judged and kept."""
    num_copies: int = 1
    """Members with this recipe, each from a start of its own."""

    def optimizer(self, num_steps: int) -> optax.GradientTransformation:
        """AdamW with clipped gradients."""
        rate = optax.cosine_decay_schedule(self.learning_rate, num_steps)
        return optax.chain(
            optax.clip_by_global_norm(10.0),
            optax.adamw(rate, weight_decay=self.weight_decay, mask=jg.training.kernel_mask),
        )

    def initial_params(self, seed: int, x: np.ndarray) -> Params:
        """Parameters before training, with what each coordinate is by itself."""
        params = jax.jit(self.model.init)(jax.random.key(seed), x[:1])
        if isinstance(self.model, (jg.MADE, jg.NADE)):
            return jg.models.set_output_bias(self.model, params, x)
        if isinstance(self.model, jg.models.NormalizingFlow):
            return jg.models.standardized(params, x)
        return params


@dataclasses.dataclass(frozen=True)
class BinaryRow:
    """A line of the table over a binary set: a mixture over orders of committees."""

    data: str
    """The set, as `jg.data.binary` names it."""
    recipes: tuple[Recipe, ...]
    """The members of the committee in each order."""
    reference: str = ""
    """The published number and where it stands."""
    orders: tuple[int, ...] = (0,)
    """An order for each committee: 0 is the natural one, -1 its reverse, k > 0 the k-th drawn."""

    @property
    def members(self) -> tuple[Recipe, ...]:
        """Return a recipe for each member of a committee."""
        return tuple(recipe for recipe in self.recipes for _ in range(recipe.num_copies))


def order_of(number: int, num_dims: int) -> np.ndarray:
    """Return the order with a number, int32 `[D]`."""
    if number > 0:
        return np.random.default_rng(number).permutation(num_dims).astype(np.int32)
    return np.arange(num_dims, dtype=np.int32)[:: -1 if number else 1]
