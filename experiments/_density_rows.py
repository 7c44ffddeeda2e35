"""The rows of `experiments.density_estimation` over bits: the members and how each is trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from jaxgen.core import Array, Key, Params

NUM_TO_START_FROM = 20_000  # examples by which a flow's base starts


@dataclasses.dataclass(frozen=True)
class AnyOrder:
    """A MADE or NADE trained under all orders at once (Uria et al. 2014).

    A batch in training sees an order drawn for it; without a dropout key it is judged by the
    mixture over the first few orders.
    """

    model: jg.models.LinenAutoregressiveModel
    """The model, which serves any order with its parameters moved."""
    num_orders: int = 4
    """Orders in the mixture that training is stopped by."""

    def init(self, key: Key, x: Array) -> Params:
        """Return the model's parameters."""
        return self.model.init(key, x)

    def log_prob(self, params: Params, x: Array, *, dropout_key: Key | None = None) -> Array:
        """Return log p(x), nats `[B]`, of bits `[B, D]`."""
        num_dims = x.shape[1]
        if dropout_key is not None:
            order_key, dropout_key = jax.random.split(dropout_key)
            order = jax.random.permutation(order_key, num_dims)
            moved = jg.models.reordered(params, order)
            return self.model.log_prob(moved, x[:, order], dropout_key=dropout_key)
        orders = np.stack([order_of(number, num_dims) for number in range(self.num_orders)])

        def in_order(order: Array) -> Array:
            return self.model.log_prob(jg.models.reordered(params, order), x[:, order])

        return jg.log_mean_exp(jax.lax.map(in_order, jnp.asarray(orders)), axis=0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A member of a committee and its training."""

    model: Any
    """An autoregressive model, one trained for any order, or a flow."""
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
    is_whitened: bool = False
    """Whether a flow starts from the covariance of the data; rounded columns are better apart."""
    num_copies: int = 1
    """Members with this recipe, each from a start of its own."""

    @property
    def base(self) -> Any:
        """Return the model that serves one order."""
        return self.model.model if isinstance(self.model, AnyOrder) else self.model

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
        if isinstance(self.base, (jg.MADE, jg.NADE)):
            return jg.models.set_output_bias(self.base, params, x)
        if isinstance(self.model, jg.models.NormalizingFlow):
            set_statistics = jg.models.whitened if self.is_whitened else jg.models.standardized
            return with_base_of(self.model, set_statistics(params, x), x)
        return params


def with_base_of(model: jg.models.NormalizingFlow, params: Params, x: np.ndarray) -> Params:
    """Return parameters whose base fits each coordinate of the data where the steps put them."""
    if model.base is None:
        return params
    z = np.asarray(model.to_base(params, x[:NUM_TO_START_FROM]))
    own = jg.models.set_output_bias(model.base, {"params": params["params"]["base"]}, z)
    return {**params, "params": {**params["params"], "base": own["params"]}}


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
    def is_order_agnostic(self) -> bool:
        """Return whether every member is trained once, for all orders."""
        return all(isinstance(recipe.model, AnyOrder) for recipe in self.recipes)

    @property
    def members(self) -> tuple[Recipe, ...]:
        """Return a recipe for each member of a committee."""
        return tuple(recipe for recipe in self.recipes for _ in range(recipe.num_copies))


def order_of(number: int, num_dims: int) -> np.ndarray:
    """Return the order with a number, int32 `[D]`."""
    if number > 0:
        return np.random.default_rng(number).permutation(num_dims).astype(np.int32)
    return np.arange(num_dims, dtype=np.int32)[:: -1 if number else 1]
