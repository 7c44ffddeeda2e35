"""One network for every order: any coordinate, given whichever others are known."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import ArrayLike

from jaxgen.core._arrays import nan_unless
from jaxgen.core._checks import check_data, check_in_range, check_key, check_shape, check_sizes
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array, Key, Params
from jaxgen.models._context import Conditioning
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.layers._linear import product
from jaxgen.models.layers._rematerialized import rematerialized
from jaxgen.samplers._uniform import open_uniforms


class OrderAgnostic(LinenAutoregressiveModel):
    r"""All conditionals of one coordinate given any others, by one network (Uria et al. 2014).

    .. math:: p(x_i \mid x_S) = p(x_i; o_i(x \odot 1_S, 1_S)), \qquad i \notin S

    The network sees the known values, zeros for all others, and which are known; one pass gives
    what it says of every coordinate. So it is trained for all orders at once
    (`any_order_log_prob`), also on rows of which some cells are missing, and fills cells in given
    all others (`fill_in`), where a model of one order knows only those before.

    Under the contract it is the model of the natural order. Conditionals that are trained apart do
    not quite agree: in another order, p(x) is another number, and all are densities.

    Attributes:
      num_dims: D, the number of coordinates.
      num_symbols: V, the number of values that a coordinate takes; None for reals and mixed kinds.
      hidden_sizes: units of each hidden layer.
      dropout_rate: share of hidden units dropped where a dropout key is given.
      conditional: what the outputs of a coordinate mean; None takes `unordered`.
      conditioning: what the context is; None for none.
      dtype: of hidden units, None for that of the parameters; parameters, what adds up over
        coordinates, and outputs stay in float32.
      remat: whether training keeps of the network its input alone, and computes the rest again.
    """

    num_dims: int
    num_symbols: int | None
    hidden_sizes: tuple[int, ...] = (500, 500)
    dropout_rate: float = 0.0
    conditional: Conditional | None = None
    conditioning: Conditioning | None = None
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        """Check the fields and create the parameters."""
        self._check_fields()
        check_sizes("hidden_sizes", self.hidden_sizes)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer, got ()")
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)
        conditional = self.conditional_or_default
        num_inputs = self.num_dims * (conditional.num_features + 1)
        num_outputs = self.num_dims * conditional.num_outputs
        sizes = list(enumerate(itertools.pairwise((num_inputs, *self.hidden_sizes, num_outputs))))
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.kernels = [self.param(f"kernel_{i}", init, shape) for i, shape in sizes]
        self.biases = [self.param(f"bias_{i}", zeros, shape[1:]) for i, shape in sizes]
        self.context_to_hidden = self._context_layer(self.hidden_sizes[0])
        self.dropout = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng("dropout"))

    @property
    def output_bias(self) -> tuple[str, ...]:
        """Return where among the parameters the bias of the outputs is."""
        return (f"bias_{len(self.hidden_sizes)}",)

    @nn.nowrap
    def outputs_given(
        self,
        params: Params,
        x: ArrayLike,
        is_known: Array,
        *,
        context: Any = None,
        dropout_key: Key | None = None,
    ) -> Array:
        """Return what one pass says of every coordinate, given those that are known.

        Args:
          params: what `init` returned.
          x: data `[..., D]`; read only where `is_known`.
          is_known: which coordinates are known, bool `[..., D]`.
          context: labels or covariates, as `conditioning` says.
          dropout_key: for training with dropout; None drops nothing.

        Returns:
          Outputs `[..., D, P]`, which mean something at the coordinates that are not known; NaN in
          a row that holds, as known, what is no value.
        """
        x, is_known = self._cells(x, is_known, "is_known")
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        return jnp.asarray(self.apply(params, x, is_known, context, rngs=rngs, method="_given"))

    @nn.nowrap
    def any_order_log_prob(
        self,
        key: Key,
        params: Params,
        x: ArrayLike,
        *,
        is_observed: Array | None = None,
        context: Any = None,
        dropout_key: Key | None = None,
    ) -> Array:
        r"""Estimate the mean over all orders of log p of the observed cells, to be maximized.

        .. math:: \frac{n}{n - |S|} \sum_{i \in O \setminus S} \log p(x_i \mid x_S)

        with n cells observed, O, of which a subset S of a size drawn evenly from 0 to n − 1 is
        known: one pass, and without bias. A cell that is missing is neither an input nor scored, so
        the likelihood is that of the observed cells alone, in orders that visit these first. What
        is learned is the law of whole rows where cells are missing completely at random (Rubin
        1976), whatever the values. Where it depends on other cells which are missing, it is not:
        nothing ties p(x_i) to the p(x_i | x_j) of other rows, and each is learned from the rows
        that show it.

        Args:
          key: a typed key.
          params: what `init` returned.
          x: data `[..., D]`; read only where observed.
          is_observed: which cells are, bool `[..., D]`; None for all.
          context: labels or covariates, as `conditioning` says.
          dropout_key: for training with dropout; None drops nothing.

        Returns:
          Nats, `[...]`; 0 for a row without an observed cell.
        """
        check_key(key)
        is_observed = jnp.ones(jnp.shape(x), bool) if is_observed is None else is_observed
        x, is_observed = self._cells(x, is_observed, "is_observed")
        rank_key, size_key = jax.random.split(key)
        draws = jax.random.uniform(rank_key, x.shape)
        order = jnp.argsort(jnp.where(is_observed, draws, jnp.inf), axis=-1)
        rank = jnp.argsort(order, axis=-1)
        num_observed = jnp.sum(is_observed, axis=-1)
        size = jnp.floor(num_observed * jax.random.uniform(size_key, num_observed.shape))
        size = jnp.minimum(size.astype(num_observed.dtype), num_observed - 1)
        is_known = is_observed & (rank < size[..., None])
        outputs = self.outputs_given(params, x, is_known, context=context, dropout_key=dropout_key)
        total = self._total(outputs, x, is_observed & ~is_known)
        return total * (num_observed / jnp.maximum(num_observed - size, 1))

    @nn.nowrap
    def observed_log_prob(
        self, params: Params, x: ArrayLike, is_observed: Array, *, context: Any = None
    ) -> Array:
        r"""Return log p of the observed cells alone, nats `[...]`: exact, and a density of them.

        .. math:: \sum_{i \in O} \log p(x_i \mid x_{O \cap \{1, \dots, i - 1\}})

        The order visits the observed cells first, from the first to the last, and leaves the
        others to integrate to one. Of whole rows it is `log_prob`.

        Args:
          params: what `init` returned.
          x: data `[..., D]`; read only where observed.
          is_observed: which cells are, bool `[..., D]`.
          context: labels or covariates, as `conditioning` says.
        """
        x, is_observed = self._cells(x, is_observed, "is_observed")
        outputs = jnp.asarray(self.apply(params, x, is_observed, context, method="_in_order"))
        return self._total(outputs, x, is_observed)

    @nn.nowrap
    def fill_in(
        self, key: Key, params: Params, x: ArrayLike, is_known: Array, *, context: Any = None
    ) -> Array:
        """Draw the cells that are not known given all that are: from p(x_unknown | x_known).

        The unknown cells are drawn from the first to the last, each given the known ones and those
        drawn before it; `jg.sample(…, observed=)` conditions on the cells before each alone. Each
        takes one uniform: a symbol less likely than about 1e-7 may come too often or never.

        Args:
          key: a typed key.
          params: what `init` returned.
          x: data `[B, D]`; read only where `is_known`.
          is_known: which cells are known, bool `[B, D]`.
          context: labels or covariates, as `conditioning` says.

        Returns:
          Rows `[B, D]` with the known cells as they were.
        """
        check_key(key)
        check_shape("x", x, (None, self.num_dims))
        x, is_known = self._cells(x, is_known, "is_known")
        uniforms = open_uniforms if self.num_symbols is None else jax.random.uniform
        u = uniforms(key, x.shape)
        conditional = self.conditional_or_default

        def draw(cache: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
            index, u_i, x_i, is_known_i = inputs
            outputs = self.apply(params, cache, index, method="_read_at")
            drawn = conditional.at(index).quantile(jnp.asarray(outputs), u_i)
            drawn = jnp.where(is_known_i, x_i, drawn)
            fed = self.apply(params, cache, index, drawn, ~is_known_i, method="_fed")
            return jnp.asarray(fed), drawn

        start = self.apply(params, x, is_known, context, method="_first_layer")
        inputs = (jnp.arange(self.num_dims), u.T, x.T, is_known.T)
        return jax.lax.scan(draw, jnp.asarray(start), inputs)[1].T

    @nn.nowrap
    def _cells(self, x: ArrayLike, is_known: Array, name: str) -> tuple[Array, Array]:
        """Return values, possible ones where they are not known, and which are."""
        is_known = jnp.asarray(is_known)
        if is_known.dtype != bool:
            raise TypeError(f"{name} must hold booleans, got dtype {is_known.dtype}")
        x = self.conditional_or_default.as_values("x", x)
        check_data("x", x, self.num_dims)
        check_shape(name, is_known, x.shape)
        return jnp.where(is_known, x, self.conditional_or_default.start(x.shape)), is_known

    @nn.nowrap
    def _total(self, outputs: Array, x: Array, is_scored: Array) -> Array:
        log_probs = self.conditional_or_default.log_prob(outputs, x)
        return jnp.sum(jnp.where(is_scored, log_probs, 0.0), axis=-1)

    def _outputs(self, x: Array, context: Array | None) -> Array:
        return self._natural(x, jnp.ones(x.shape, bool), context)

    def _in_order(self, x: Array, is_observed: Array, context: Any) -> Array:
        """Return outputs `[..., D, P]` of each coordinate given the observed ones before it."""
        flat, features = self._flat(x, context)
        outputs = self._natural(flat, is_observed.reshape(flat.shape), features)
        outputs = self._until_lost(flat, self._with_units(outputs))
        return outputs.reshape(*x.shape, outputs.shape[-1])

    @rematerialized
    def _natural(self, x: Array, is_observed: Array, context: Array | None) -> Array:
        codes = jnp.where(is_observed[..., None], self._codes(x), 0.0)
        rows = self.kernels[0].reshape(self.num_dims, codes.shape[-1], -1)
        parts = jnp.einsum("bdf,dfh->bdh", codes, rows)
        is_before = jnp.tril(jnp.ones((self.num_dims, self.num_dims), parts.dtype), -1)
        before = jnp.einsum("ij,bjh->bih", is_before, parts) + self._nothing(context)[:, None]
        h = self._upper_layers(before.reshape(-1, before.shape[-1]))
        h = h.reshape(*x.shape, h.shape[-1])
        kernel = self.kernels[-1].reshape(h.shape[-1], self.num_dims, -1)
        bias = self.biases[-1].reshape(1, self.num_dims, -1)
        h, kernel = promote_dtype(h, kernel, dtype=self.dtype)
        wide = jnp.promote_types(h.dtype, jnp.float32)
        return jnp.einsum("bdh,hdp->bdp", h, kernel, preferred_element_type=wide) + bias

    @rematerialized
    def _given(self, x: Array, is_known: Array, context: Any) -> Array:
        """Return outputs `[..., D, P]` of all coordinates given the known ones."""
        h = self._upper_layers(self._first_layer(x, is_known, context))
        flat = x.reshape(-1, self.num_dims)
        outputs = product(h, self.kernels[-1], self.dtype) + self.biases[-1][None]
        outputs = self._with_units(outputs.reshape(*flat.shape, -1))
        is_lost = jnp.any(~self.conditional_or_default.is_value(flat), axis=-1)
        return nan_unless(~is_lost[:, None, None], outputs).reshape(*x.shape, outputs.shape[-1])

    def _first_layer(self, x: Array, is_known: Array, context: Any) -> Array:
        """Return pre-activations `[B, H]` of known cells `[..., D]`, B rows."""
        flat, features = self._flat(x, context)
        codes = jnp.where(is_known.reshape(*flat.shape, 1), self._codes(flat), 0.0)
        codes = codes.reshape(len(flat), -1)
        return product(codes, self.kernels[0], self.dtype) + self._nothing(features)

    def _nothing(self, context: Array | None) -> Array:
        """Return pre-activations before any value is known, `[1, H]`, or `[B, H]` by context."""
        start = self.biases[0][None]
        return start if context is None else start + self.context_to_hidden(context)

    def _codes(self, x: Array) -> Array:
        """Return of each value `[B, D]` what it is, and that it is known, `[B, D, F + 1]`."""
        features = self._input_features(x)
        return jnp.concatenate([features, jnp.ones_like(features[..., :1])], axis=-1)

    def _upper_layers(self, h: Array) -> Array:
        """Return the last hidden layer `[N, H]` of pre-activations of the first."""
        for i in range(len(self.hidden_sizes)):
            if i > 0:
                h = product(h, self.kernels[i], self.dtype) + self.biases[i][None]
            (h,) = promote_dtype(h, dtype=self.dtype)
            h = self.dropout(nn.relu(h))
        return h

    def _init_cache(self, batch_size: int, context: Array | None) -> Array:
        """Return pre-activations before any value is known, `[B, H]`."""
        return jnp.broadcast_to(self._nothing(context), (batch_size, self.hidden_sizes[0]))

    def _step(self, cache: Array, index: Array, previous: Array) -> tuple[Array, Array]:
        """Feed x_{index−1} and return the outputs of x_index."""
        cache = self._fed(cache, index - 1, previous, jnp.full(len(previous), index > 0))
        return self._outputs_at(cache, index), cache

    def _fed(self, cache: Array, index: Array, value: Array, is_fed: Array) -> Array:
        """Add one coordinate's values `[B]` to the pre-activations, in the rows that want it."""
        features = self._input_features_at(value, index)
        code = jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=-1)
        width = code.shape[-1]
        rows = jax.lax.dynamic_slice_in_dim(self.kernels[0], index * width, width)
        return cache + jnp.where(is_fed[:, None], code, 0.0) @ rows

    def _outputs_at(self, cache: Array, index: Array) -> Array:
        size = self.conditional_or_default.num_outputs
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=index * size, slice_size=size
        )
        kernel = cut(self.kernels[-1], axis=1)
        return self._upper_layers(cache) @ kernel + cut(self.biases[-1])[None]

    def _read_at(self, cache: Array, index: Array) -> Array:
        return self._with_units(self._outputs_at(cache, index), index)
