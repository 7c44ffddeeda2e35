"""Columns of several kinds in one model: bits, categories, levels, reals."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core._arrays import as_reals, nan_unless
from jaxgen.core._checks import check_rank
from jaxgen.core._conditional import Conditional
from jaxgen.core._types import Array


@dataclasses.dataclass(frozen=True)
class Mixed(Conditional):
    """Every coordinate under a conditional of its own.

    Data are floats, `[..., D]`, in which symbols are whole numbers; so are draws. Outputs, units
    and features are padded to those of the widest kind. At once, columns of one kind are evaluated
    together; one after the other, by a switch over the kinds.

    Attributes:
      columns: the conditional of each of D coordinates; equal ones are of one kind.
    """

    columns: tuple[Conditional, ...]
    num_symbols: None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        """Check the columns."""
        if not isinstance(self.columns, tuple) or not self.columns:
            raise TypeError(f"columns must be a tuple of conditionals, got {self.columns!r}")
        for column in self.columns:
            if not isinstance(column, Conditional) or isinstance(column, Mixed):
                raise TypeError(f"columns must hold conditionals of one column, got {column!r}")
            if column.num_shared:
                raise ValueError(f"columns must share no outputs, got {column!r}")

    @property
    def num_outputs(self) -> int:
        """Return the P of the widest kind."""
        return max(kind.num_outputs for kind in self.kinds)

    @property
    def num_units(self) -> int:  # type: ignore[override]
        """Return the U of the kind with most units."""
        return max(kind.num_units for kind in self.kinds)

    @property
    def num_features(self) -> int:
        """Return the F of the kind with most features."""
        return max(kind.num_features for kind in self.kinds)

    @property
    def kinds(self) -> tuple[Conditional, ...]:
        """Return the conditionals that differ, in the order in which they come."""
        return tuple(dict.fromkeys(self.columns))

    @property
    def kind_of(self) -> np.ndarray:
        """Return the place of each column's conditional among the kinds, `[D]`."""
        return np.array([self.kinds.index(column) for column in self.columns])

    def at(self, index: Array) -> Conditional:
        """Return the conditional of one coordinate, whose index may be traced."""
        index = jnp.clip(jnp.asarray(index), 0, len(self.columns) - 1)
        return _Column(self, jnp.asarray(self.kind_of)[index])

    def check_num_dims(self, num_dims: int) -> None:
        """Raise ValueError unless there are D columns."""
        if len(self.columns) != num_dims:
            raise ValueError(f"columns must be num_dims={num_dims}, got {len(self.columns)}")

    def as_values(self, name: str, x: ArrayLike) -> Array:
        """Return data as floats."""
        return as_reals(name, x).astype(jnp.result_type(float))

    def is_value(self, x: Array) -> Array:
        """Return where values `[..., T]` of the first T columns are possible."""
        return self._by_kind(lambda kind, x: kind.is_value(_own(kind, x)), x)

    def start(self, shape: tuple[int, ...]) -> Array:
        """Return values that are possible, of a shape `[..., T]`."""
        starts = [kind.start(()).astype(jnp.result_type(float)) for kind in self.kinds]
        row = jnp.stack(starts)[self.kind_of[: shape[-1]]]
        return jnp.broadcast_to(row.reshape((1,) * (len(shape) - 1) + (-1,)), shape)

    def units(self, x: np.ndarray) -> np.ndarray:
        """Return the units of each column of data `[N, D]`, padded with zeros, `[D, U]`."""
        return self._columnwise(lambda kind, x: kind.units(x), x, self.num_units)

    def features(self, x: Array, units: Array | None = None) -> Array:
        """Encode values `[..., T]`, padded with zeros, `[..., T, F]`; NaN for what is none."""
        if units is None:
            units = jnp.zeros((*x.shape, self.num_units))
        units = jnp.broadcast_to(units, (*x.shape, units.shape[-1]))

        def of(kind: Conditional, x: Array, units: Array) -> Array:
            return _features(kind, x, units, self.num_features)

        return self._by_kind(of, self.as_values("x", x), units)

    def log_prob(self, outputs: Array, x: Array) -> Array:
        """Return the log-density of reals and log-probability of symbols, `[..., T]`."""
        return self._by_kind(self._log_prob, outputs, self.as_values("x", x))

    def cdf(self, outputs: Array, x: Array, share: Array | float = 1.0) -> Array:
        """Return the CDF, and of symbols so much of their own step as `share` says, `[..., T]`."""
        x = self.as_values("x", x)
        return self._by_kind(self._cdf, outputs, x, jnp.broadcast_to(share, x.shape))

    def quantile(self, outputs: Array, u: Array) -> Array:
        """Map uniforms to values, floats `[..., T]`."""
        shape = jnp.broadcast_shapes(outputs.shape[:-1], jnp.shape(u))
        outputs = jnp.broadcast_to(outputs, (*shape, outputs.shape[-1]))
        return self._by_kind(self._quantile, outputs, jnp.broadcast_to(u, shape))

    def mean(self, outputs: Array) -> Array:
        """Return the expected values, `[..., T]`."""

        def of(kind: Conditional, outputs: Array, _: Array) -> Array:
            return kind.mean(self._trimmed(kind, outputs))

        return self._by_kind(of, outputs, outputs[..., 0])

    def marginal_outputs(self, x: np.ndarray) -> np.ndarray:
        """Return outputs that fit each column by itself, padded with zeros, `[D, P]`."""
        return self._columnwise(lambda kind, x: kind.marginal_outputs(x), x, self.num_outputs)

    def _log_prob(self, kind: Conditional, outputs: Array, x: Array) -> Array:
        own = _own(kind, x)
        return nan_unless(kind.is_value(own), kind.log_prob(self._trimmed(kind, outputs), own))

    def _cdf(self, kind: Conditional, outputs: Array, x: Array, share: Array) -> Array:
        own = _own(kind, x)
        cdf = kind.cdf(self._trimmed(kind, outputs), own, share)
        return nan_unless(kind.is_value(own), cdf)

    def _quantile(self, kind: Conditional, outputs: Array, u: Array) -> Array:
        x = kind.quantile(self._trimmed(kind, outputs), u).astype(jnp.result_type(float))
        return x if kind.num_symbols is None else nan_unless(x >= 0, x)

    def _trimmed(self, kind: Conditional, outputs: Array) -> Array:
        """Return of padded outputs what belongs to a kind."""
        own = outputs[..., : kind.num_outputs]
        if not kind.num_units:
            return own
        start = self.num_outputs
        return jnp.concatenate([own, outputs[..., start : start + kind.num_units]], axis=-1)

    def _by_kind(self, of: Callable[..., Array], *arrays: Array) -> Array:
        """Return what `of(kind, *arrays)` gives of the columns of each kind, back in their order.

        The last array has the columns as its last axis; those of higher rank as the same axis.
        """
        axis = min(array.ndim for array in arrays) - 1
        kind_of = self.kind_of[: arrays[0].shape[axis]]
        groups = [np.flatnonzero(kind_of == k) for k in range(len(self.kinds))]
        parts = [
            of(kind, *(jnp.take(array, group, axis=axis) for array in arrays))
            for kind, group in zip(self.kinds, groups, strict=True)
            if group.size or not kind_of.size
        ]
        back = np.argsort(np.concatenate(groups))
        return jnp.take(jnp.concatenate(parts, axis=axis), back, axis=axis)

    def _columnwise(self, of: Callable, x: np.ndarray, width: int) -> np.ndarray:
        check_rank("x", x, 2)
        self.check_num_dims(x.shape[1])
        result = np.zeros((x.shape[1], width))
        for k, kind in enumerate(self.kinds):
            group = np.flatnonzero(self.kind_of == k)
            column = x[:, group]
            part = of(kind, column if kind.num_symbols is None else _whole(column))
            result[group, : part.shape[-1]] = part
        return result


class _Column(Conditional):
    """One coordinate of `Mixed`: a switch over the kinds."""

    def __init__(self, mixed: Mixed, kind: Array) -> None:
        self._mixed, self._kind = mixed, kind

    def as_values(self, name: str, x: ArrayLike) -> Array:
        return self._mixed.as_values(name, x)

    def is_value(self, x: Array) -> Array:
        return self._switch(lambda kind, x: kind.is_value(_own(kind, x)), x)

    def start(self, shape: tuple[int, ...]) -> Array:
        starts = [kind.start(()).astype(jnp.result_type(float)) for kind in self._mixed.kinds]
        return jnp.broadcast_to(jnp.stack(starts)[self._kind], shape)

    def features(self, x: Array, units: Array | None = None) -> Array:
        if units is None:
            units = jnp.zeros((*x.shape, self._mixed.num_units))
        width = self._mixed.num_features
        return self._switch(lambda kind, x, units: _features(kind, x, units, width), x, units)

    def log_prob(self, outputs: Array, x: Array) -> Array:
        return self._switch(self._mixed._log_prob, outputs, x)

    def cdf(self, outputs: Array, x: Array, share: Array | float = 1.0) -> Array:
        return self._switch(self._mixed._cdf, outputs, x, jnp.broadcast_to(share, x.shape))

    def quantile(self, outputs: Array, u: Array) -> Array:
        return self._switch(self._mixed._quantile, outputs, u)

    def _switch(self, of: Callable[..., Array], *arrays: Array) -> Array:
        def branch(kind: Conditional) -> Callable[..., Array]:
            return lambda *arrays: of(kind, *arrays)

        return jax.lax.switch(self._kind, [branch(kind) for kind in self._mixed.kinds], *arrays)


def _features(kind: Conditional, x: Array, units: Array, width: int) -> Array:
    """Return a kind's features `[..., F]`, padded with zeros; NaN for what is no value."""
    own = _own(kind, x)
    features = kind.features(own, units[..., : kind.num_units] if kind.num_units else None)
    padding = [(0, 0)] * (features.ndim - 1) + [(0, width - features.shape[-1])]
    return jnp.pad(features.astype(jnp.result_type(float)), padding)


def _own(kind: Conditional, x: Array) -> Array:
    """Return floats as a kind takes them: int32 with −1 for what is no symbol, or as they are."""
    if kind.num_symbols is None:
        return x
    is_symbol = (x >= 0) & (x < kind.num_symbols) & (x == jnp.floor(x))
    return jnp.where(is_symbol, x, -1).astype(jnp.int32)


def _whole(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    if not np.all(x == np.floor(x)):
        raise ValueError(f"x must hold whole numbers in columns of symbols, got {x.ravel()[:5]}")
    return x.astype(np.int64)
