"""Normalizing flows as densities of real vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from jaxgen.core._checks import check_count, check_data, check_key, check_real_array, check_shape
from jaxgen.core._types import Array, Key, Params
from jaxgen.models._context import Conditioning, context_features
from jaxgen.models._init import CompiledInit
from jaxgen.models.autoregressive._module import LinenAutoregressiveModel
from jaxgen.models.layers._flows import add
from jaxgen.models.layers._linear import matmul
from jaxgen.models.layers._masked_flows import MaskedAutoregressive
from jaxgen.samplers import _ancestral as ancestral


class NormalizingFlow(CompiledInit):
    r"""A density whose every point is a draw of a base sent back through invertible steps.

    .. math:: z = f_T \circ \dots \circ f_1\!\left(L^{-1} (x - \mu)\right), \qquad
       \log p(x) = \log p_0(z) + \sum_t \log |\det \nabla f_t| - \sum_i \log L_{ii}

    The base p₀ is the standard normal distribution, or an autoregressive density: a `MADE` of
    `Mixture` conditionals over masked steps is the MAF MoG of Papamakarios et al. (2017).

    μ and the lower triangular L are statistics of the data, kept among the parameters, where no
    gradient reaches them: log p is of the data's own units. `standardized` sets deviations alone,
    `whitened` the covariance, so that training starts from the normal distribution of the data.

    Attributes:
      num_dims: D.
      flow: a module that gives the steps: `MaskedAutoregressive`, whose density is cheap, or
        `SplineCoupling`, whose draws are cheap as well.
      conditioning: what the context is, which the steps see; None for none.
      base: an autoregressive module over reals, without a context; None is the standard normal.
    """

    num_dims: int
    flow: nn.Module = MaskedAutoregressive()
    conditioning: Conditioning | None = None
    base: LinenAutoregressiveModel | None = None

    def setup(self) -> None:
        """Check the fields and create the statistics."""
        check_count("num_dims", self.num_dims)
        base = self.base
        if base is not None and (base.num_symbols, base.num_dims) != (None, self.num_dims):
            raise ValueError(f"base must be a model of {self.num_dims} reals, got {base}")
        self.shift = self.param("shift", nn.initializers.zeros, (self.num_dims,))
        # Both, because a batch of triangular solves can hang on a CPU with jax 0.10.
        self.factor, self.inverse_factor = (
            self.param(name, _identity, (self.num_dims, self.num_dims))
            for name in ("factor", "inverse_factor")
        )

    def __call__(self, x: Array, context: Any = None) -> tuple[Array, Array]:
        """Return z `[..., D]` and log p(x) `[...]` of points `[..., D]`."""
        shift, inverse = jax.lax.stop_gradient((self.shift, self.inverse_factor))
        z = matmul(add(x, -shift), inverse.T)
        log_prob = jnp.sum(jnp.log(jnp.diagonal(inverse)))
        for step in self._steps(context, x.shape[:-1]):
            z, log_det = step.forward(z)
            log_prob = log_prob + log_det
        if self.base is None:
            columns = jnp.moveaxis(z, -1, 0)  # as masked steps leave them
            return z, log_prob - 0.5 * jnp.sum(columns**2 + jnp.log(2 * jnp.pi), axis=0)
        own = self.base.conditional_or_default.log_prob(self.base(z), z)
        return z, log_prob + jnp.sum(own, axis=-1)

    def inverse(self, z: Array, context: Any = None) -> Array:
        """Return x `[..., D]` of draws of the base, z `[..., D]`."""
        for step in reversed(self._steps(context, z.shape[:-1])):
            z, _ = step.inverse(z)
        return add(matmul(z, self.factor.T), self.shift)

    @nn.nowrap
    def log_prob(
        self, params: Params, x: ArrayLike, *, context: Any = None, dropout_key: Key | None = None
    ) -> Array:
        """Return the log-density in nats, `[...]`, at points `[..., D]`.

        Args:
          params: what `init` returned, and `standardized` after it.
          x: real numbers `[..., D]`.
          context: labels or covariates, as `conditioning` says.
          dropout_key: for training with dropout; None drops nothing.
        """
        return self._apply(params, x, context, dropout_key)[1]

    @nn.nowrap
    def to_base(self, params: Params, x: ArrayLike, *, context: Any = None) -> Array:
        """Return z `[..., D]`, which is of the base where x `[..., D]` is of the density."""
        return self._apply(params, x, context, None)[0]

    @nn.nowrap
    def from_base(self, params: Params, z: ArrayLike, *, context: Any = None) -> Array:
        """Return x `[..., D]` of z `[..., D]`: the way back, and the map that draws."""
        z = self._checked("z", z)
        return jnp.asarray(self.apply(params, z, context, method="inverse"))

    @nn.nowrap
    def sample(self, key: Key, params: Params, num_samples: int, *, context: Any = None) -> Array:
        """Draw independently, `[num_samples, D]`; a context is one for all or one a draw."""
        check_key(key)
        check_count("num_samples", num_samples)
        if self.base is None:
            z = jax.random.normal(key, (num_samples, self.num_dims))
        else:
            own = {"params": params["params"]["base"]}
            z = ancestral.sample(key, self.base, own, num_samples).x
        return self.from_base(params, z, context=context)

    @nn.nowrap
    def _apply(
        self, params: Params, x: ArrayLike, context: Any, dropout_key: Key | None
    ) -> tuple[Array, Array]:
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        result: Any = self.apply(params, self._checked("x", x), context, rngs=rngs)
        return result

    @nn.nowrap
    def _checked(self, name: str, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        check_real_array(name, x)
        check_data(name, x, self.num_dims)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _steps(self, context: Any, batch_shape: tuple[int, ...]) -> list[Any]:
        is_initializing = self.is_initializing()
        features = context_features(
            self.conditioning, context, batch_shape, is_initializing=is_initializing
        )
        return self.flow(self.num_dims, features)


jax.tree_util.register_static(NormalizingFlow)


def standardized(params: Params, x: np.ndarray) -> Params:
    """Return parameters of a `NormalizingFlow` with the mean and the deviation of each column.

    Args:
      params: what `init` returned.
      x: training data, `[N, D]`.

    Raises:
      ValueError: a column that does not vary, or is not finite.
    """
    x = _checked_data(params, x)
    return _with_statistics(params, x.mean(axis=0), np.diag(x.std(axis=0)))


def whitened(params: Params, x: np.ndarray) -> Params:
    """Return parameters of a `NormalizingFlow` with the mean and the covariance of the data.

    Args:
      params: what `init` returned.
      x: training data, `[N, D]`.

    Raises:
      ValueError: a column that does not vary, is not finite, or follows from those before it.
    """
    x = _checked_data(params, x)
    scale = x.std(axis=0)
    correlation = np.atleast_2d(np.corrcoef(x.T))
    rank = int(np.linalg.matrix_rank(correlation, hermitian=True))
    if rank < len(scale):
        raise ValueError(
            f"x must have a covariance of full rank, got {rank} for {len(scale)} columns; "
            "`standardized` asks for none"
        )
    factor = scale[:, None] * np.linalg.cholesky(correlation)
    return _with_statistics(params, x.mean(axis=0), factor)


def _checked_data(params: Params, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    check_shape("x", x, (None, params["params"]["shift"].shape[0]))
    scale = x.std(axis=0)
    wrong = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if wrong.size:
        raise ValueError(
            f"x must be finite and vary in every column, got a deviation of {scale[wrong[0]]} in "
            f"column {wrong[0]}"
        )
    return x


def _with_statistics(params: Params, mean: np.ndarray, factor: np.ndarray) -> Params:
    dtype = params["params"]["shift"].dtype
    statistics = {"shift": mean, "factor": factor, "inverse_factor": np.linalg.inv(factor)}
    arrays = {name: jnp.asarray(value, dtype) for name, value in statistics.items()}
    return {**params, "params": {**params["params"], **arrays}}


def _identity(_: Key, shape: tuple[int, int]) -> Array:
    return jnp.eye(shape[0])
