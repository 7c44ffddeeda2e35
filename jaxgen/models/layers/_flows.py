"""Invertible maps of vectors whose log-determinants are known, and densities made with them.

A step is a pure function of its arrays, with `forward(x)` and `inverse(y)`, each giving the point
and the log of the absolute Jacobian determinant of that direction. A module makes the arrays.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core._checks import check_count, check_in_range
from jaxgen.core._types import Array, Key
from jaxgen.models._rational_quadratic import Bin, find_bin, slope_above
from jaxgen.models.layers._linear import matmul

_SMALLEST = 1e-4
"""Of a spline's widths, heights and slopes."""


class Step(Protocol):
    """One invertible map of `[..., Z]`."""

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the point y, `[..., Z]`, and `log |det ∂y/∂x|`, `[...]`."""

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """Return the point x, `[..., Z]`, and `log |det ∂x/∂y|`, `[...]`."""


class Conditioner(NamedTuple):
    """A perceptron with one hidden layer, from a point (and features) to P numbers a coordinate.

    Attributes:
      first: kernel of the hidden layer, `[Z, H]`.
      offset: its bias and what the features add, `[*batch, H]`.
      last: kernel of the outputs, `[H, Z, P]`.
      bias: bias of the outputs, `[Z, P]`.
      dtype: of hidden units, None for that of the parameters. They alone are rounded, neither the
        point nor the outputs, so that what is taken back finds the units of the way forth.
    """

    first: Array
    offset: Array
    last: Array
    bias: Array
    dtype: Any = None

    def __call__(self, x: Array) -> Array:
        """Map `[..., *batch, Z]` to `[..., *batch, Z, P]`."""
        (h,) = promote_dtype(add(matmul(x, self.first), self.offset), dtype=self.dtype)
        h, last = promote_dtype(nn.tanh(h), self.last, dtype=self.dtype)
        return matmul(h, last, self.bias, in_float32=True)


class Spline(NamedTuple):
    """Move each coordinate by a monotone rational-quadratic spline (Durkan et al. 2019).

    Attributes:
      num_bins: N.
      range_max: the spline acts on [−range_max, range_max], and is linear beyond.
      largest_bin: bound of the unconstrained widths and heights.
      largest_slope: bound of the unconstrained slopes. A slope of e^-7 leaves three digits of
        float32 to what is taken back through it.
    """

    num_bins: int
    range_max: float
    largest_bin: float = 1.0
    largest_slope: float = 2.0

    @property
    def num_params(self) -> int:
        """Return 3 N + 1."""
        return 3 * self.num_bins + 1

    def forward(self, params: Array, x: Array) -> tuple[Array, Array]:
        """Return y `[...]` and log-slopes, of parameters `[3 N + 1, ...]`."""
        return self._bin(params, x, of_y=False).forward(x, self.range_max)

    def inverse(self, params: Array, y: Array) -> tuple[Array, Array]:
        """Return x `[...]`, and the log-slopes of the way forth."""
        return self._bin(params, y, of_y=True).inverse(y, self.range_max)

    def _bin(self, params: Array, at: Array, *, of_y: bool) -> Bin:
        n = self.num_bins
        widths, heights = self._sizes(params[:n]), self._sizes(params[n : 2 * n])
        slopes = params[2 * n :]
        return find_bin(at, widths, heights, slopes, self._slope, self.range_max, of_y=of_y)

    def _sizes(self, raw: Array) -> Array:
        # A softmax of bounded numbers, which needs no maximum taken off.
        share = jnp.exp(bounded(raw, self.largest_bin))
        total = 2.0 * self.range_max - self.num_bins * _SMALLEST
        return _SMALLEST + share * (total / jnp.sum(share, axis=0, keepdims=True))

    def _slope(self, raw: Array) -> Array:
        return slope_above(bounded(raw, self.largest_slope), _SMALLEST)


class SplineCouplingStep(NamedTuple):
    r"""Every other coordinate passes; each one between goes through a spline that those choose.

    .. math:: y_i = x_i \ (i \text{ passes}), \qquad y_i = s(x_i; g_i(x_\text{passing}))

    with s monotone and piecewise rational-quadratic on [−range, range], linear beyond (Durkan et
    al. 2019). Bins and slopes are bounded, whatever the conditioner says: within a range of 4 the
    inverse takes every point back to within 1e-4 in float32.

    Attributes:
      conditioner: g.
      first: the first coordinate that moves, 0 or 1.
      spline: s.
    """

    conditioner: Conditioner
    first: int
    spline: Spline

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return y and the log-determinant."""
        moved, log_slopes = self.spline.forward(self._params(x), x[..., self.first :: 2])
        return self._joined(x, moved), jnp.sum(log_slopes, axis=-1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """Return x and the log-determinant."""
        moved, log_slopes = self.spline.inverse(self._params(y), y[..., self.first :: 2])
        return self._joined(y, moved), -jnp.sum(log_slopes, axis=-1)

    def _params(self, x: Array) -> Array:
        """Return parameters of the coordinates that move, `[3 N + 1, ..., M]`."""
        net, passing, moving = self.conditioner, slice(1 - self.first, None, 2), self.first
        last, bias = net.last[:, moving::2], net.bias[moving::2]
        part = net._replace(first=net.first[passing], last=jnp.swapaxes(last, -1, -2), bias=bias.T)
        return jnp.moveaxis(part(x[..., passing]), -2, 0)

    def _joined(self, x: Array, moved: Array) -> Array:
        size = x.shape[-1]
        is_moved = np.arange(size) % 2 == self.first
        shape = moved.shape[:-1] + x.shape[-1:]
        last = size - self.first - max(2 * moved.shape[-1] - 1, 0)
        padding = [(0, 0, 0)] * (moved.ndim - 1) + [(self.first, last, 1)]
        spread = jax.lax.pad(moved, jnp.zeros((), moved.dtype), padding)
        is_moved = is_moved.reshape((1,) * (len(shape) - 1) + is_moved.shape)
        return jnp.where(is_moved, spread, jnp.broadcast_to(x, shape))


class AutoregressiveStep(NamedTuple):
    r"""Each coordinate is moved by those before it: one pass forward, Z passes back.

    .. math:: y_i = \sigma(s_i)\, x_i + (1 - \sigma(s_i))\, m_i, \qquad
       (m_i, s_i) = g_i(x_{<i})

    (Kingma et al. 2016, equation 14.)

    Attributes:
      conditioner: g, masked so that output i sees no input from i on, in the order of the step;
        P = 2.
    """

    conditioner: Conditioner

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return y and the log-determinant, in one pass."""
        shift, gate_logit = self._moves(x)
        gate = jax.nn.sigmoid(gate_logit)
        log_det = jnp.sum(jax.nn.log_sigmoid(gate_logit), axis=-1)
        return gate * x + (1.0 - gate) * shift, log_det

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """Return x and the log-determinant: pass j makes the j-th coordinate right for good."""

        def refine(_: int, x: Array) -> Array:
            shift, gate_logit = self._moves(x)
            return y + (y - shift) * jnp.exp(-gate_logit)  # (y − (1 − g) m) / g

        start = y + jnp.zeros_like(self._moves(y)[0])
        x = jax.lax.fori_loop(0, y.shape[-1], refine, start)
        return x, -jnp.sum(jax.nn.log_sigmoid(self._moves(x)[1]), axis=-1)

    def _moves(self, x: Array) -> tuple[Array, Array]:
        moves = self.conditioner(x)
        return moves[..., 0], moves[..., 1]


class Rematerialized(NamedTuple):
    """A step of which gradients keep the point alone, and compute the rest again.

    Attributes:
      step: the step.
    """

    step: Step

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return y and the log-determinant."""
        return jax.checkpoint(self.step.forward)(x)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """Return x and the log-determinant."""
        return jax.checkpoint(self.step.inverse)(y)


class Flow(distrax.Distribution):
    r"""The density of a base draw sent through steps.

    .. math:: z = f_T \circ \dots \circ f_1(\epsilon), \qquad
       \log q(z) = \log q_0(\epsilon) - \sum_t \log |\det \nabla f_t|

    Not distrax's `Transformed`: that takes two flows of one architecture for equal, whatever their
    parameters, and reports the KL divergence of their bases.
    """

    def __init__(self, base: distrax.Distribution, steps: Sequence[Step]) -> None:
        """Keep the base, of event shape [Z], and the steps, in the order of sampling."""
        self._base, self._steps = base, tuple(steps)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Return [Z]."""
        return self._base.event_shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Return that of the base."""
        return self._base.batch_shape

    def log_prob(self, value: Array) -> Array:
        """Return nats, by way of the inverse steps."""
        total = jnp.zeros(())
        for step in reversed(self._steps):
            value, log_det = step.inverse(value)
            total = total + log_det
        return self._base.log_prob(value) + total

    def _sample_n(self, key: Key, n: int) -> Array:
        return self._sample_n_and_log_prob(key, n)[0]

    def _sample_n_and_log_prob(self, key: Key, n: int) -> tuple[Array, Array]:
        z, log_prob = self._base.sample_and_log_prob(seed=key, sample_shape=(n,))
        for step in self._steps:
            z, log_det = step.forward(z)
            log_prob = log_prob - log_det
        return z, log_prob


class SplineCoupling(nn.Module):
    """Spline coupling steps whose masks alternate; they begin as the identity.

    Attributes:
      num_steps: T.
      num_bins: bins of each spline.
      hidden_size: hidden units of each conditioner.
      range_max: the splines act on [−range_max, range_max] and go on linearly.
      dtype: of hidden units, None for that of the parameters; parameters, points and what is said
        of them stay in float32.
      remat: whether training keeps of each step its input alone, and computes the rest again.
    """

    num_steps: int = 4
    num_bins: int = 8
    hidden_size: int = 64
    range_max: float = 4.0
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, size: int, features: Array | None = None) -> list[Step]:
        """Return the steps for vectors of `size`, given features `[*batch, F]` or none."""
        check_count("num_steps", self.num_steps)
        check_count("num_bins", self.num_bins)
        check_in_range("range_max", self.range_max, 0.0, float("inf"), open_lower=True)
        spline = Spline(self.num_bins, self.range_max)
        everything = np.ones((size, self.hidden_size)), np.ones((self.hidden_size, size))
        shape = (size, self.hidden_size, spline.num_params)
        steps: list[Step] = [
            SplineCouplingStep(
                _conditioner(self, f"step_{t}", shape, features, everything), t % 2, spline
            )
            for t in range(self.num_steps)
        ]
        return kept_by_inputs(steps) if self.remat else steps


class InverseAutoregressive(nn.Module):
    """Autoregressive steps in alternating order (Kingma et al. 2016); they begin near the identity.

    Drawing takes one pass a step. The density of a point drawn elsewhere takes Z.

    Attributes:
      num_steps: T.
      hidden_size: hidden units of each conditioner.
      dtype: of hidden units, None for that of the parameters; parameters, points and what is said
        of them stay in float32.
      remat: whether training keeps of each step its input alone, and computes the rest again.
    """

    num_steps: int = 2
    hidden_size: int = 200
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, size: int, features: Array | None = None) -> list[Step]:
        """Return the steps for vectors of `size`, given features `[*batch, F]` or none."""
        check_count("num_steps", self.num_steps)
        check_count("hidden_size", self.hidden_size, minimum=size)
        # A connection from degree a to degree b exists where a ≤ b, as in MADE; hidden units of
        # degree 0 see the features alone.
        hidden = np.arange(self.hidden_size) * size // self.hidden_size
        steps: list[Step] = []
        for t in range(self.num_steps):
            order = np.arange(size) if t % 2 == 0 else np.arange(size)[::-1]
            masks = order[:, None] + 1 <= hidden, hidden[:, None] <= order
            shape = (size, self.hidden_size, 2)
            net = _conditioner(self, f"step_{t}", shape, features, masks)
            # Gates begin at σ(2): most of x passes.
            bias = net.bias + jnp.array([0.0, 2.0])[None]
            steps.append(AutoregressiveStep(net._replace(bias=bias)))
        return kept_by_inputs(steps) if self.remat else steps


def _conditioner(
    module: Any,
    name: str,
    shape: tuple[int, int, int],
    features: Array | None,
    masks: tuple[np.ndarray, np.ndarray],
) -> Conditioner:
    """Make a conditioner whose outputs begin at zero; its arrays are parameters of `module`."""
    size, hidden, num_params = shape
    kernel, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
    first = module.param(f"{name}_first_kernel", kernel, (size, hidden))
    offset = module.param(f"{name}_offset", zeros, (hidden,))
    if features is not None:
        weights = module.param(f"{name}_context_kernel", kernel, (features.shape[-1], hidden))
        offset = add(features @ weights, offset)
    last = module.param(f"{name}_last_kernel", zeros, (hidden, size, num_params))
    bias = module.param(f"{name}_bias", zeros, (size, num_params))
    first = first * masks[0].astype(np.float32)
    last = last * masks[1].astype(np.float32)[..., None]
    return Conditioner(first, offset, last, bias, module.dtype)


def kept_by_inputs(steps: Sequence[Step]) -> list[Step]:
    """Return the same steps, of which gradients keep the inputs alone."""
    return [Rematerialized(step) for step in steps]


def bounded(x: Array, largest: float) -> Array:
    """Return x where it is small, and never more than `largest`, of either sign."""
    return largest * jnp.tanh(x / largest)


def add(x: Array, y: Array) -> Array:
    """Return the sum of arrays whose trailing axes match, of whatever ranks."""
    rank = max(x.ndim, y.ndim)
    x, y = (a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (x, y))
    return x + y
