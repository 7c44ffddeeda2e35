"""Any density on the line from energies: normalized by quadrature, drawn by numerical inversion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core._checks import check_count, check_multiple
from jaxgen.core._quadrature import gauss_legendre
from jaxgen.core._types import Array
from jaxgen.models.conditionals._reals import Reals, invert, nearer_tail

_SMALLEST_WIDTH = 1e-3  # of a panel, in parts of an even one
_LARGEST_ENERGY = 20.0  # beyond it, a panel's quadrature would lose digits
_NUM_STEPS = 28


@dataclasses.dataclass(frozen=True)
class Energy(Reals):
    r"""A density by its logarithm up to a constant, whatever its shape.

    .. math:: p_z(z) = q(z)\, \frac{e^{E(t)}}{\int_0^1 e^{E(t')}\, dt'}, \qquad t = Q(z)

    Q is the CDF of a base q with heavy tails: Student's t of two degrees on the line, a logistic
    of the log-distance to a finite end or the log-odds. On N panels, whose widths are outputs too
    and so adapt to the data, E is a cubic with given values and slopes at the edges: what the
    network says of x_<i. The integral is Gauss and Legendre's on every panel, exact to what
    `normalization_error` says, and part of what is differentiated. A quantile is found among the
    cumulated masses of the panels, then inside one by Newton's steps within a bracket.

    Attributes:
      support: the ends (a, b) of what values can be.
      num_panels: N; the outputs are N widths, N + 1 energies and N + 1 slopes.
      num_nodes: nodes of the rule on each panel, even.
    """

    num_panels: int = 8
    num_nodes: int = 12

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_count("num_panels", self.num_panels)
        check_multiple("num_nodes", self.num_nodes, 2)

    @property
    def num_outputs(self) -> int:
        """Return 3 N + 2."""
        return 3 * self.num_panels + 2

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return panels of equal mass, `[D, P]`: a density of steps, by the quantiles."""
        units = self.units(x)
        z = (self._forth_numpy(x) - units[None, :, 0]) * np.exp(-units[None, :, 1])
        inner = np.quantile(z, np.arange(1, self.num_panels) / self.num_panels, axis=0).T
        t = _base_cdf_numpy(inner, self._is_line)
        widths = np.maximum(np.diff(t, axis=-1, prepend=0.0, append=1.0), 1e-3)
        density = -np.log(widths * self.num_panels)
        padded = np.pad(density, [(0, 0), (1, 1)], mode="edge")
        energies = (padded[:, 1:] + padded[:, :-1]) / 2
        return np.concatenate([np.log(widths), energies, np.zeros_like(energies)], axis=-1)

    def normalization_error(self, outputs: Array) -> Array:
        """Return the relative error of the normalizer, `[...]`, as half of the nodes tell it.

        The difference from the rule of half as many nodes on each panel: an error of that rule, and
        more than that of the one in use.
        """
        outputs = self._parts(outputs)[0]
        totals = [
            jnp.sum(self._masses(outputs, num_nodes), axis=-1)
            for num_nodes in (self.num_nodes, self.num_nodes // 2)
        ]
        return jnp.abs(totals[1] / totals[0] - 1)

    @property
    def _is_line(self) -> bool:
        return bool(np.isinf(self.support).all())

    def _log_density(self, outputs: Array, z: Array) -> Array:
        t, _, log_base = self._base(z)
        panel, width, left, _ = self._place(outputs, t)
        s = jnp.clip((t - left) / width, 0.0, 1.0)
        energy = _cubic(self._panel(outputs, panel), s)
        return log_base + energy - jnp.log(jnp.sum(self._masses(outputs, self.num_nodes), axis=-1))

    def _log_tail(self, outputs: Array, z: Array, sign: Array) -> Array:
        t, rest, _ = self._base(z)
        masses = self._masses(outputs, self.num_nodes)
        panel, width, left, right = self._place(outputs, t)
        length = jnp.where(sign > 0, t - left, rest - right) / width
        passed = _before(masses, panel, sign)
        ends = self._panel(outputs, panel)
        passed += width * self._partial(ends, jnp.clip(length, 0.0, 1.0), sign)
        tiny = jnp.finfo(passed.dtype).tiny
        return jnp.log(jnp.maximum(passed, tiny)) - jnp.log(jnp.sum(masses, axis=-1))

    def _solve(self, outputs: Array, u: Array) -> Array:
        sign, log_target = nearer_tail(u)
        masses = self._masses(outputs, self.num_nodes)
        target = jnp.exp(log_target) * jnp.sum(masses, axis=-1)
        from_left = jnp.cumsum(masses, axis=-1)
        from_right = jnp.cumsum(masses[..., ::-1], axis=-1)
        passed = jnp.where(sign[..., None] > 0, from_left, from_right)
        step = jnp.sum((passed <= target[..., None]).astype(jnp.int32), axis=-1)
        step = jnp.minimum(step, self.num_panels - 1)
        panel = jnp.where(sign > 0, step, self.num_panels - 1 - step)
        before = _before(masses, panel, sign)
        widths = self._widths(outputs)
        width = _take(widths, panel)
        mass = (target - before) / width
        length = _solve_panel(self, self._panel(outputs, panel), mass, sign)
        # Each from its own end, so that a point close to one keeps its digits.
        s = jnp.where(sign > 0, length, 1 - length)
        r = jnp.where(sign > 0, 1 - length, length)
        ones = jnp.ones_like(sign)
        left, right = _before(widths, panel, ones), _before(widths, panel, -ones)
        return self._base_quantile(left + width * s, right + width * r)

    def _widths(self, outputs: Array) -> Array:
        floor = _SMALLEST_WIDTH / self.num_panels
        return floor + (1 - _SMALLEST_WIDTH) * jax.nn.softmax(outputs[..., : self.num_panels])

    def _edges(self, outputs: Array) -> tuple[Array, Array]:
        """Return energies and slopes at the edges, `[..., N + 1]`."""
        energies, slopes = jnp.split(outputs[..., self.num_panels :], 2, axis=-1)
        return _bounded(energies), _bounded(slopes)

    def _panel(self, outputs: Array, panel: Array) -> tuple[Array, ...]:
        """Return the energies and slopes at both edges of one panel, `[...]` each."""
        energies, slopes = self._edges(outputs)
        return tuple(_take(a, panel + k) for a in (energies, slopes) for k in (0, 1))

    def _masses(self, outputs: Array, num_nodes: int) -> Array:
        """Return the integral of e^E over each panel, `[..., N]`."""
        energies, slopes = self._edges(outputs)
        s, weights = _rule(num_nodes, outputs.ndim, outputs.dtype)
        ends = (energies[..., :-1], energies[..., 1:], slopes[..., :-1], slopes[..., 1:])
        density = jnp.exp(_cubic(tuple(end[..., None] for end in ends), s))
        return self._widths(outputs) * jnp.sum(weights * density, axis=-1)

    def _partial(self, ends: tuple[Array, ...], length: Array, sign: Array) -> Array:
        """Return the integral of e^E over a part of a panel of width one, from its edge inward."""
        nodes, weights = _rule(self.num_nodes, length.ndim, length.dtype)
        along = length[..., None] * nodes
        along = jnp.where(sign[..., None] > 0, along, 1 - along)
        density = jnp.exp(_cubic(tuple(end[..., None] for end in ends), along))
        return length * jnp.sum(weights * density, axis=-1)

    def _place(self, outputs: Array, t: Array) -> tuple[Array, Array, Array, Array]:
        """Return the panel that t lies in, its width, and what is left and right of it."""
        widths = self._widths(outputs)
        ends = jnp.cumsum(widths, axis=-1)
        panel = jnp.sum((ends[..., :-1] <= t[..., None]).astype(jnp.int32), axis=-1)
        ones = jnp.ones_like(t)
        left, right = _before(widths, panel, ones), _before(widths, panel, -ones)
        return panel, _take(widths, panel), left, right

    def _base(self, z: Array) -> tuple[Array, Array, Array]:
        """Return Q(z), 1 − Q(z) and log q(z)."""
        if not self._is_line:
            log_base = jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)
            return jax.nn.sigmoid(z), jax.nn.sigmoid(-z), log_base
        root = jnp.sqrt(2 + z**2)
        far = 1 / (root * (root + jnp.abs(z)))  # (1 − |z| / root) / 2 without cancellation
        return jnp.where(z < 0, far, 1 - far), jnp.where(z < 0, 1 - far, far), -3 * jnp.log(root)

    def _base_quantile(self, t: Array, rest: Array) -> Array:
        """Return z of t = Q(z) and 1 − t, each with digits of its own."""
        limits = jnp.finfo(t.dtype)
        t, rest = jnp.maximum(t, limits.tiny), jnp.maximum(rest, limits.tiny)
        if not self._is_line:
            return jnp.log(t) - jnp.log(rest)
        return (t - rest) / jnp.sqrt(2 * t * rest)


def _solve_panel(energy: Energy, ends: tuple[Array, ...], mass: Array, sign: Array) -> Array:
    """Return how far inward of a panel of width one the integral of e^E reaches a mass."""

    def excess(length: Array) -> tuple[Array, Array]:
        s = jnp.where(sign > 0, length, 1 - length)
        return energy._partial(ends, length, sign) - mass, jnp.exp(_cubic(ends, s))

    start = jnp.zeros_like(mass)
    return invert(excess, (start, start + 1), start + 0.5, _NUM_STEPS)


def _before(parts: Array, panel: Array, sign: Array) -> Array:
    """Return the sum of `[..., N]` over the panels left of one, or right of it for sign −1."""
    index = jnp.arange(parts.shape[-1]).reshape((1,) * panel.ndim + (-1,))
    is_left, is_right = index < panel[..., None], index > panel[..., None]
    return jnp.sum(
        jnp.where(jnp.where(sign[..., None] > 0, is_left, is_right), parts, 0.0), axis=-1
    )


def _cubic(ends: tuple[Array, ...], s: Array) -> Array:
    """Return Hermite's cubic at s in [0, 1], of both values and both slopes at its ends."""
    e0, e1, d0, d1 = ends
    r = 1 - s
    inner = s * r * ((d0 - (e1 - e0)) * r - (d1 - (e1 - e0)) * s)
    return e0 * r + e1 * s + inner


def _rule(num_nodes: int, rank: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    rule = gauss_legendre(0.0, 1.0, num_nodes)
    shape = (1,) * rank + (-1,)
    return (jnp.asarray(a, dtype).reshape(shape) for a in rule)  # type: ignore[return-value]


def _take(values: Array, index: Array) -> Array:
    """Return one of `[..., N]` for each of `[...]`."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _bounded(x: Array) -> Array:
    return _LARGEST_ENERGY * jnp.tanh(x / _LARGEST_ENERGY)


def _base_cdf_numpy(z: np.ndarray, is_line: bool) -> np.ndarray:
    return 0.5 * (1 + z / np.sqrt(2 + z**2)) if is_line else 1 / (1 + np.exp(-z))
