"""The third contract: the distribution of one coordinate, given what a model says of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core._arrays import as_reals, as_symbols, nan_unless
from jaxgen.core._categorical_quantile import categorical_quantile
from jaxgen.core._likelihood_terms import categorical_log_prob
from jaxgen.core._types import Array


class Conditional:
    """Base of all: symbols in [0, V), by their logits.

    A small frozen value, a field of a model under either contract: in a chain it is p(x_i | x_<i),
    in a latent-variable model p(x_i | z). It says how many outputs a network must give for a
    coordinate, and what they mean. One over reals (`num_symbols` None) writes `log_prob`, `cdf` and
    `quantile`; one over symbols writes `logits`, and the rest follows.

    Attributes:
      num_symbols: V; None for reals, and where coordinates are of several kinds.
      num_outputs: P, the numbers that the network gives for a coordinate.
      num_shared: how many parameters all coordinates share; they follow the outputs.
      num_units: U, the numbers that say in which units a coordinate's data are; statistics that are
        not trained, they follow the outputs.
      num_features: F, the numbers by which a value enters a network.
    """

    num_symbols: int | None = None
    num_shared: int = 0
    num_units: int = 0

    @property
    def num_outputs(self) -> int:
        """Return P."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Return F."""
        raise NotImplementedError

    def at(self, index: Array) -> "Conditional":
        """Return the conditional of one coordinate, a scalar: itself, unless kinds are mixed."""
        del index
        return self

    def check_num_dims(self, num_dims: int) -> None:
        """Raise ValueError if this cannot be the conditional of data points of D coordinates."""

    def as_values(self, name: str, x: ArrayLike) -> Array:
        """Return data as computations want them: int32 with −1 for what is no symbol, or floats.

        Raises:
          TypeError: `x` holds no integers, or no reals; its name is `name`.
        """
        if self.num_symbols is None:
            return as_reals(name, x).astype(jnp.result_type(float))
        return as_symbols(name, x, self.num_symbols)

    def start(self, shape: tuple[int, ...]) -> Array:
        """Return values that are possible, of a shape `[...]`: what stands where none is known."""
        dtype = jnp.result_type(float) if self.num_symbols is None else jnp.int32
        return jnp.zeros(shape, dtype)

    def is_value(self, x: Array) -> Array:
        """Return where values, `[...]` as `as_values` returns them, are possible at all."""
        return jnp.isfinite(x) if self.num_symbols is None else x >= 0

    def units(self, x: np.ndarray) -> np.ndarray:
        """Return the units of each coordinate of data `[N, D]`, `[D, U]`; zeros are those of x."""
        return np.zeros((x.shape[1], self.num_units))

    def features(self, x: Array, units: Array | None = None) -> Array:
        """Encode values `[...]` as floats of order one, `[..., F]`; NaN for what is no symbol.

        Args:
          x: values, `[...]`.
          units: of the coordinates, `[..., U]` with all axes of `x`; None takes x as it is.
        """
        del units
        if self.num_symbols is None:
            raise NotImplementedError
        x = as_symbols("x", x, self.num_symbols)
        return nan_unless((x >= 0)[..., None], self._code(x))

    def _code(self, x: Array) -> Array:
        """Encode symbols, int32 `[...]`, as floats of order one, `[..., F]`."""
        raise NotImplementedError

    def logits(self, outputs: Array) -> Array:
        """Return unnormalized log-probabilities of all symbols, `[..., P] -> [..., V]`."""
        raise TypeError(f"{type(self).__name__} is over reals, which have no logits")

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return log p(x) in nats, `[...]`, of values `[...]`; NaN for what is no symbol."""
        return categorical_log_prob(self.logits(outputs), x)

    def cdf(self, outputs: Array, x: Array, share: Array | float = 1.0) -> Array:
        r"""Return :math:`P(X < x) + s\, P(X = x)`, `[...]`, of values `[...]`.

        Args:
          outputs: what the model says, `[..., P]`.
          x: values, `[...]`.
          share: s, how much of the step at x counts, `[...]` or one for all: 1 gives the CDF, and
            uniforms give uniforms. Where nothing has a probability of its own it plays no part.
        """
        log_probs = jax.nn.log_softmax(self.logits(outputs), axis=-1)
        return stepped_cdf(log_probs, x, jnp.broadcast_to(jnp.asarray(share), jnp.shape(x)))

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms in [0, 1), `[...]`, to values, `[...]`, by the inverse CDF."""
        logits, u = _aligned(self.logits(outputs), u)
        return categorical_quantile(logits, u)

    def mean(self, outputs: Array) -> Array:
        """Return the expected value, `[...]`."""
        probabilities = jax.nn.softmax(self.logits(outputs), axis=-1)
        return probabilities @ jnp.arange(probabilities.shape[-1], dtype=probabilities.dtype)

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return outputs `[D, P]` that fit each coordinate of data `[N, D]` by itself."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Logits(Conditional):
    """Symbols whose outputs are their logits: what a model has that says nothing else.

    Attributes:
      num_symbols: V.
    """

    num_symbols: int

    @property
    def num_outputs(self) -> int:
        """Return V."""
        return self.num_symbols

    def logits(self, outputs: Array) -> Array:
        """Return the outputs themselves, `[..., V]`."""
        return outputs


def stepped_cdf(log_probs: Array, x: Array, share: Array) -> Array:
    """Return F(x − 1) + s p(x), `[...]`, of log-probabilities `[..., V]` and shares s `[...]`."""
    symbols = jnp.arange(log_probs.shape[-1]).reshape((1,) * jnp.ndim(x) + (-1,))
    x = jnp.asarray(x)[..., None]
    counted = jnp.where(symbols < x, 1.0, jnp.where(symbols == x, share[..., None], 0.0))
    return jnp.sum(jnp.exp(log_probs) * counted, axis=-1)


def _aligned(logits: Array, u: Array) -> tuple[Array, Array]:
    shape = jnp.broadcast_shapes(logits.shape[:-1], jnp.shape(u))
    return jnp.broadcast_to(logits, (*shape, logits.shape[-1])), jnp.broadcast_to(u, shape)
