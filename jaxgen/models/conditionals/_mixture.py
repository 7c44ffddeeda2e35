"""Mixtures of bumps on the line: normals, logistics, and Student t's for tails."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_count, check_one_of
from jaxgen.core._log_mean_exp import log_sum_exp
from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array
from jaxgen.models.conditionals._reals import Reals, invert, nearer_tail

_LARGEST_DEGREES = 30.0  # above it a Student t is a normal to the eye
_NUM_TAIL_NODES = 32


@dataclasses.dataclass(frozen=True)
class Mixture(Reals):
    r"""A mixture of K bumps of one family, each with its own place, width and weight.

    .. math:: p_z(z) = \sum_k \frac{\pi_k}{s_k}\, f\Big(\frac{z - \mu_k}{s_k}\Big)

    The outputs are K logits of the weights, K places μ and K log-scales, and of Student t's K
    numbers more: their degrees of freedom go from 1, where the mean ceases to be, to 30.
    Log-scales count as at least `smallest_log_scale`: on data that repeat themselves the density
    would grow without bound.

    Attributes:
      support: the ends (a, b) of what values can be.
      num_components: K.
      family: `normal`, `logistic` or `student_t`.
      smallest_log_scale: in the units of the column.
    """

    num_components: int = 10
    family: Literal["normal", "logistic", "student_t"] = "normal"
    smallest_log_scale: float = -7.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_count("num_components", self.num_components)
        check_one_of("family", self.family, ("normal", "logistic", "student_t"))

    @property
    def num_outputs(self) -> int:
        """Return 3 K, or 4 K of Student t's."""
        return (4 if self.family == "student_t" else 3) * self.num_components

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return components at the quantiles of each coordinate, `[D, P]`."""
        units = self.units(x)
        z = (self._forth_numpy(x) - units[None, :, 0]) * np.exp(-units[None, :, 1])
        shares = (np.arange(self.num_components) + 0.5) / self.num_components
        places = np.quantile(z, shares, axis=0).T
        zeros = np.zeros_like(places)
        spread = 0.55 if self.family == "logistic" else 1.0
        log_scales = zeros + np.log(spread * min(1.0, 2.0 / self.num_components))
        more = [zeros] if self.family == "student_t" else []
        return np.concatenate([zeros, places, log_scales, *more], axis=-1)

    def _log_density(self, outputs: Array, z: Array) -> Array:
        log_weights, places, log_scales, degrees = self._components(outputs)
        t = (z[..., None] - places) * jnp.exp(-log_scales)
        return log_sum_exp(log_weights - log_scales + self._log_bump(t, degrees), axis=-1)

    def _log_bump(self, t: Array, degrees: Array) -> Array:
        """Return log f(t), `[...]`."""
        if self.family == "normal":
            return -0.5 * t**2 - 0.5 * math.log(2 * math.pi)
        if self.family == "logistic":
            return jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t)
        tail = jnp.log1p(t**2 / degrees)
        return _log_constant(degrees) - 0.5 * jnp.log(degrees) - 0.5 * (degrees + 1) * tail

    def _log_tail(self, outputs: Array, z: Array, sign: Array) -> Array:
        log_weights, places, log_scales, degrees = self._components(outputs)
        t = sign[..., None] * (z[..., None] - places) * jnp.exp(-log_scales)
        if self.family == "student_t":
            return log_sum_exp(log_weights + student_t_log_cdf(t, degrees), axis=-1)
        # No uniform is so small that these tails underflow where they are the answer.
        cdf = jax.scipy.special.ndtr if self.family == "normal" else jax.nn.sigmoid
        tail = jnp.sum(jnp.exp(log_weights) * cdf(t), axis=-1)
        return jnp.log(jnp.maximum(tail, jnp.finfo(tail.dtype).tiny))

    def _solve(self, outputs: Array, u: Array) -> Array:
        log_weights, places, log_scales, _ = self._components(outputs)
        sign, log_tail = nearer_tail(u)
        if self.family == "normal":
            ends = jnp.stack([jax.scipy.special.ndtri(jnp.exp(log_tail))] * 2)
        elif self.family == "logistic":
            ends = jnp.stack([log_tail - jnp.log1p(-jnp.exp(log_tail))] * 2)
        else:  # between the center and where a Cauchy's quantile is
            ends = jnp.stack([-1 / jnp.tan(math.pi * jnp.exp(log_tail)), jnp.zeros_like(u)])
        ends = (sign[None] * ends)[..., None] * jnp.exp(log_scales)[None] + places[None]
        low, high = jnp.min(ends, axis=(0, -1)), jnp.max(ends, axis=(0, -1))
        slack = 1e-3 * jnp.max(jnp.exp(log_scales), axis=-1) + 1e-5 * jnp.abs(low)
        guess = jnp.sum(jnp.exp(log_weights) * jnp.mean(ends, axis=0), axis=-1)
        if self.family == "student_t":
            guess = jnp.sum(jnp.exp(log_weights) * places, axis=-1)
        low, high = low - slack, high + slack

        def excess(z: Array) -> tuple[Array, Array]:
            own = self._log_tail(outputs, z, sign)
            slope = jnp.exp(jnp.maximum(self._log_density(outputs, z) - own, -60.0))
            return sign * (own - log_tail), slope

        num_steps = 40 if self.family == "student_t" else 32
        return invert(excess, (low, high), jnp.clip(guess, low, high), num_steps)

    def _components(self, outputs: Array) -> tuple[Array, Array, Array, Array]:
        """Return log-weights, places, log-scales and degrees of freedom, `[..., K]` each."""
        parts = jnp.split(outputs, self.num_outputs // self.num_components, axis=-1)
        log_scales = jnp.maximum(parts[2], self.smallest_log_scale)
        degrees = 1 + (_LARGEST_DEGREES - 1) * jax.nn.sigmoid(parts[-1])
        return jax.nn.log_softmax(parts[0], axis=-1), parts[1], log_scales, degrees


def _log_constant(degrees: Array) -> Array:
    """Return log Γ((ν + 1) / 2) / (√π Γ(ν / 2))."""
    half = degrees / 2
    gammas = jax.lax.lgamma(half + 0.5) - jax.lax.lgamma(half)
    return gammas - 0.5 * math.log(math.pi)


def student_t_log_cdf(t: Array, degrees: Array) -> Array:
    r"""Return log P(T < t) by quadrature over an angle, differentiable in the degrees too.

    .. math:: P(T > t) = c \int_0^{\varphi} \sin^{\nu - 1}\theta\, d\theta,
       \qquad \varphi = \mathrm{arccot}(t / \sqrt\nu)

    With θ = φ w² the integrand is smooth enough at zero for every ν from 1 on.
    """
    rule = gauss_legendre(0.0, 1.0, _NUM_TAIL_NODES)
    shape = (1,) * t.ndim + (-1,)
    w = jnp.asarray(rule.nodes, t.dtype).reshape(shape)
    log_weights = jnp.asarray(np.log(2 * rule.nodes * rule.weights), t.dtype).reshape(shape)
    angle = jnp.arctan2(jnp.sqrt(degrees), jnp.abs(t))
    log_sines = jnp.log(jnp.sin(angle[..., None] * w**2))
    terms = log_weights + (degrees[..., None] - 1) * log_sines
    log_far = _log_constant(degrees) + jnp.log(angle) + log_sum_exp(terms, axis=-1)
    return jnp.where(t < 0, log_far, jnp.log1p(-jnp.exp(log_far)))
