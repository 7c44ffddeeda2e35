"""Families of q(z | x) that a model can be given: each is a small module, called by the model."""

from collections.abc import Callable

import distrax
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core._arrays import nan_unless
from jaxgen.core._types import Array, Key
from jaxgen.models.layers._flows import Flow, InverseAutoregressive
from jaxgen.samplers._inverse_cdf._build import inverse_cdf
from jaxgen.samplers._inverse_cdf._table import InverseCDF


class Posterior(nn.Module):
    """Base of all: a module that gives q(z | x), with batch shape [B] and event shape [Z]."""

    def __call__(self, mean: Array, log_scale: Array, hidden: Array) -> distrax.Distribution:
        """Return q(z | x).

        Args:
          mean: the encoder's first output, `[B, Z]`.
          log_scale: its second output, `[B, Z]`.
          hidden: its last hidden layer, `[B, H]`.
        """
        raise NotImplementedError


class DiagonalNormal(Posterior):
    r"""The normal :math:`\mathcal N(\mu(x), \mathrm{diag}\, \sigma^2(x))`, without parameters."""

    def __call__(self, mean: Array, log_scale: Array, hidden: Array) -> distrax.Distribution:
        """Return the normal; it does not use `hidden`."""
        return distrax.MultivariateNormalDiag(mean, jnp.exp(log_scale))


class FlowPosterior(Posterior):
    """The diagonal normal, sent through a flow that sees the encoder's last hidden layer.

    Attributes:
      flow: a module that gives the steps: `InverseAutoregressive`, or `SplineCoupling`, whose
        density at a given z costs no more than a draw (doubly reparameterized gradients need it).
    """

    flow: nn.Module = InverseAutoregressive()

    @nn.compact
    def __call__(self, mean: Array, log_scale: Array, hidden: Array) -> distrax.Distribution:
        """Return the density behind the flow."""
        base = distrax.MultivariateNormalDiag(mean, jnp.exp(log_scale))
        return Flow(base, self.flow(mean.shape[-1], hidden))


class InverseCDFPosterior(Posterior):
    r"""Any density on the line, learned for each coordinate, then moved and scaled by the encoder.

    .. math:: z_i = \mu_i(x) + \sigma_i(x)\, y_i, \qquad y_i \sim \tilde f(y; \theta_i) / Z_i

    The density need not be normalized; its parameters θ get implicit gradients through the draws
    of `jaxgen.samplers.inverse_cdf`. One table a coordinate is built whenever the posterior is:
    milliseconds each, so this suits tens of latents. Where a table fails, log-probabilities are
    NaN.

    Attributes:
      log_density_fn: `(θ [P], y) -> scalar`, nats up to a constant, on the whole line.
      initial: where each θ_i begins, P numbers.
    """

    log_density_fn: Callable[[Array, Array], Array]
    initial: tuple[float, ...]

    @nn.compact
    def __call__(self, mean: Array, log_scale: Array, hidden: Array) -> distrax.Distribution:
        """Return the density of the moved and scaled draws; it does not use `hidden`."""

        def begin(_: Key) -> Array:
            return jnp.tile(jnp.asarray(self.initial)[None], (mean.shape[-1], 1))

        shape = self.param("shape", begin)
        if self.is_initializing():  # tables make no parameters
            return DiagonalNormal()(mean, log_scale, hidden)
        line = (-float("inf"), float("inf"))
        tables = jax.vmap(lambda p: inverse_cdf(self.log_density_fn, p, support=line))(shape)
        return TabulatedLocationScale(tables, mean, log_scale)


_MAX_U_ERROR = 1e-3
"""Of a table in use: far beyond that of any healthy one."""


class TabulatedLocationScale(distrax.Distribution):
    """Independent coordinates z = μ + σ y, where the densities of y are given by tables."""

    def __init__(self, tables: InverseCDF, mean: Array, log_scale: Array) -> None:
        """Keep Z tables, with a leading axis, and the moves `[*batch, Z]`."""
        self._tables, self._mean, self._log_scale = tables, mean, log_scale

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Return [Z]."""
        return self._mean.shape[-1:]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return that of the mean."""
        return self._mean.shape[:-1]

    def log_prob(self, value: Array) -> Array:
        """Return nats; NaN where a table failed."""
        y = (value - self._mean) * jnp.exp(-self._log_scale)
        columns = jnp.moveaxis(y, -1, 0)
        log_density = jax.vmap(InverseCDF.log_prob)(self._tables, columns)
        log_density = jnp.moveaxis(log_density, 0, -1)
        is_usable = jnp.all(self._tables.u_error < _MAX_U_ERROR)
        return nan_unless(is_usable, jnp.sum(log_density - self._log_scale, axis=-1))

    def _sample_n(self, key: Key, n: int) -> Array:
        keys = jax.random.split(key, self._mean.shape[-1])
        shape = (n, *self.batch_shape)
        y = jax.vmap(lambda k, table: table.sample(k, shape))(keys, self._tables)
        return self._mean[None] + jnp.exp(self._log_scale)[None] * jnp.moveaxis(y, 0, -1)
