"""Masked autoregressive steps: in one pass each coordinate is moved as those before it say."""

import itertools
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core._checks import check_count, check_in_range, check_sizes
from jaxgen.core._types import Array, Key
from jaxgen.models.layers._flows import Step, add, bounded
from jaxgen.models.layers._linear import matmul

_LARGEST_LOG_SCALE = 5.0
"""Bound of what an affine step multiplies by, as a logarithm."""
_LARGEST_BIN, _LARGEST_SLOPE = 4.0, 5.0
"""Bounds of a spline's unconstrained widths and heights, and of its slopes: wider than those of a
coupling, because a density has to reach what the data are."""


class MaskedPerceptron(NamedTuple):
    """Numbers for each coordinate from those before it in an order.

    Attributes:
      kernels: of the hidden layers and of the outputs, masked: `[Z, H_1]`, `[H_1, H_2]`, …,
        `[H_L, Z, P]`.
      biases: of the same layers, `[H_l]` and `[Z, P]`; what features add to the first, too, which
        is then `[*batch, H_1]`.
      direct: kernel from the inputs to the outputs, masked, `[Z, Z, P]`.
      dropout_rate: share of hidden units dropped where there is a key.
      dropout_key: None drops nothing.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    direct: Array
    dropout_rate: float = 0.0
    dropout_key: Key | None = None

    def __call__(self, x: Array) -> Array:
        """Map `[..., Z]` to `[..., Z, P]`."""
        h = x
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if layer > 0:
                h = self._dropped(nn.relu(h), layer)
            h = add(matmul(h, kernel), bias)
        return h + matmul(x, self.direct)

    def _dropped(self, h: Array, layer: int) -> Array:
        if self.dropout_key is None or self.dropout_rate == 0.0:
            return h
        share = 1.0 - self.dropout_rate
        kept = jax.random.bernoulli(jax.random.fold_in(self.dropout_key, layer), share, h.shape)
        return jnp.where(kept, h / share, 0.0)


class Affine(NamedTuple):
    """Scale and shift each coordinate by two numbers, z = (x − m) exp(−a)."""

    def bijector(self, params: Array) -> distrax.Bijector:
        """Return the map of `[...]` that parameters `[..., 2]` stand for."""
        log_scale = -_LARGEST_LOG_SCALE * jnp.tanh(params[..., 1] / _LARGEST_LOG_SCALE)
        return distrax.ScalarAffine(shift=-params[..., 0] * jnp.exp(log_scale), log_scale=log_scale)

    @property
    def num_params(self) -> int:
        """Return 2."""
        return 2


class Spline(NamedTuple):
    """Move each coordinate by a monotone rational-quadratic spline (Durkan et al. 2019).

    Attributes:
      num_bins: N.
      range_max: the spline acts on [−range_max, range_max], and is linear beyond.
    """

    num_bins: int
    range_max: float

    def bijector(self, params: Array) -> distrax.Bijector:
        """Return the map of `[...]` that parameters `[..., 3 N + 1]` stand for."""
        params = bounded(params, _LARGEST_BIN, _LARGEST_SLOPE)
        return distrax.RationalQuadraticSpline(params, -self.range_max, self.range_max)

    @property
    def num_params(self) -> int:
        """Return 3 N + 1."""
        return 3 * self.num_bins + 1


class MaskedAutoregressiveStep(NamedTuple):
    r"""Each coordinate goes through a map that those before it choose.

    .. math:: z_i = t(x_i; g_i(x_{<i})), \qquad
       \log \left|\det \frac{\partial z}{\partial x}\right|
       = \sum_i \log \left|\frac{\partial t}{\partial x_i}\right|

    Attributes:
      conditioner: g, masked so that output i sees no input from i on, in the order of the step.
      transform: t, of one coordinate.
    """

    conditioner: MaskedPerceptron
    transform: Affine | Spline

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return z and the log-determinant, in one pass."""
        z, log_slopes = self._map(x).forward_and_log_det(x)
        return z, jnp.sum(log_slopes, axis=-1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """Return x and the log-determinant, by the parallel fixed point.

        Pass j makes the j-th coordinate right for good, so that Z passes are enough; it ends before
        where a pass changes nothing.
        """

        def goes_on(state: tuple[Array, Array, Array]) -> Array:
            number, x, before = state
            return (number < y.shape[-1]) & jnp.any(x != before)

        def refine(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            number, x, _ = state
            return number + 1, self._map(x).inverse(y), x

        first = self._map(jnp.zeros_like(y)).inverse(y)
        start = jnp.ones((), jnp.int32), first, jnp.full_like(first, jnp.inf)
        _, x, _ = jax.lax.while_loop(goes_on, refine, start)
        return x, -self.forward(x)[1]

    def _map(self, x: Array) -> distrax.Bijector:
        return self.transform.bijector(self.conditioner(x))


class MaskedAutoregressive(nn.Module):
    """Masked autoregressive steps whose orders alternate; they begin as the identity.

    With `num_bins` None a step is affine, as in masked autoregressive flow (Papamakarios et al.
    2017); else it is a spline (Durkan et al. 2019). The density of a point takes one pass a step,
    and a draw up to Z: where draws are what counts, use `InverseAutoregressive`.

    Attributes:
      num_steps: T.
      hidden_sizes: units of each hidden layer.
      num_bins: bins of each spline; None for affine steps.
      range_max: the splines act on [−range_max, range_max] and go on linearly.
      dropout_rate: share of hidden units dropped where a dropout key is given.
    """

    num_steps: int = 5
    hidden_sizes: tuple[int, ...] = (128, 128)
    num_bins: int | None = 8
    range_max: float = 4.0
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, size: int, features: Array | None = None) -> list[Step]:
        """Return the steps for vectors of `size`, given features `[*batch, F]` or none."""
        self._check_fields()
        transform = Affine() if self.num_bins is None else Spline(self.num_bins, self.range_max)
        orders = [np.arange(size)[:: 1 if t % 2 == 0 else -1] for t in range(self.num_steps)]
        return [
            MaskedAutoregressiveStep(
                self._conditioner(f"step_{t}", order, transform.num_params, features), transform
            )
            for t, order in enumerate(orders)
        ]

    def _check_fields(self) -> None:
        check_count("num_steps", self.num_steps)
        check_sizes("hidden_sizes", self.hidden_sizes)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer, got ()")
        if self.num_bins is not None:
            check_count("num_bins", self.num_bins)
        check_in_range("range_max", self.range_max, 0.0, float("inf"), open_lower=True)
        check_in_range("dropout_rate", self.dropout_rate, 0.0, 1.0, open_upper=True)

    def _conditioner(
        self, name: str, order: np.ndarray, num_params: int, features: Array | None
    ) -> MaskedPerceptron:
        """Make a conditioner whose outputs begin at zero; its arrays are parameters."""
        size = len(order)
        # A connection from degree a to degree b exists where a ≤ b, as in MADE; hidden units of
        # degree 0 see the features alone, and serve without any as biases do.
        hidden = [np.arange(h) * size // h for h in self.hidden_sizes]
        degrees = [order + 1, *hidden, np.repeat(order, num_params)]
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        kernels, biases = [], []
        for layer, (before, after) in enumerate(itertools.pairwise(degrees)):
            is_last = layer == len(self.hidden_sizes)
            shape = len(before), len(after)
            kernel = self.param(f"{name}_kernel_{layer}", zeros if is_last else init, shape)
            kernels.append(kernel * _mask(before, after))
            biases.append(self.param(f"{name}_bias_{layer}", zeros, shape[1:]))
        if features is not None:
            shape = features.shape[-1], self.hidden_sizes[0]
            context_kernel = self.param(f"{name}_context_kernel", init, shape)
            biases[0] = add(features @ context_kernel, biases[0])
        direct = self.param(f"{name}_direct_kernel", zeros, (size, size * num_params))
        direct = (direct * _mask(degrees[0], degrees[-1])).reshape(size, size, num_params)
        kernels[-1] = kernels[-1].reshape(-1, size, num_params)
        biases[-1] = biases[-1].reshape(size, num_params)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        return MaskedPerceptron(tuple(kernels), tuple(biases), direct, self.dropout_rate, key)


def _mask(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before[:, None] <= after[None, :]).astype(np.float32)
