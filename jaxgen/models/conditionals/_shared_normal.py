"""Reals with one learned scale."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_float_array
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array


@dataclasses.dataclass(frozen=True)
class SharedNormal(Conditional):
    """Reals with normal noise of one learned scale for all coordinates (Rybkin et al. 2021).

    A scale for each coordinate and each z would let the density grow without bound. The outputs
    are the mean and, shared, the log-scale.
    """

    num_symbols: None = dataclasses.field(default=None, init=False)
    num_shared: int = dataclasses.field(default=1, init=False)

    @property
    def num_outputs(self) -> int:
        """Return 1."""
        return 1

    @property
    def num_features(self) -> int:
        """Return 1."""
        return 1

    def features(self, x: Array, units: Array | None = None) -> Array:
        """Return the data themselves, `[...] -> [..., 1]`."""
        del units
        check_float_array("x", x)
        return x[..., None]

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return the log-density in nats, `[...]`, of outputs `[..., 2]`."""
        mean, log_scale = outputs[..., 0], outputs[..., 1]
        z = (x - mean) * jnp.exp(-log_scale)
        return -0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi)

    def cdf(self, outputs: Array, x: Array, share: Array | float = 1.0) -> Array:
        """Return the CDF, `[...]`; no value has a share of its own."""
        del share
        return jax.scipy.special.ndtr((x - outputs[..., 0]) * jnp.exp(-outputs[..., 1]))

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms to reals, `[...]`."""
        return outputs[..., 0] + jnp.exp(outputs[..., 1]) * jax.scipy.special.ndtri(u)

    def mean(self, outputs: Array) -> Array:
        """Return the mean, `[...]`."""
        return outputs[..., 0]

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the means, `[D, 1]`."""
        return np.asarray(x).mean(0)[:, None]


def _log_one_minus_exp(log_d: Array) -> Array:
    """Return log(1 − exp(−d)) of log d: also where d itself underflows."""
    d = jnp.exp(log_d)
    is_small = d < 0.01
    direct = jnp.log(-jnp.expm1(-jnp.where(is_small, 1.0, d)))
    return jnp.where(is_small, log_d - d / 2 + d**2 / 24, direct)
