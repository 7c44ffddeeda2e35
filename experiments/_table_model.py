"""Densities of the rows of a table, with cells that may be missing, and what stands in those."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen as jg
from experiments import _harness as harness
from experiments._table_columns import Column
from jaxgen.core import Array, Key, Params

_FILLED_AT_ONCE = 500  # rows


class Rows(NamedTuple):
    """Rows `[N, D]`, possible values where nothing is known; and which cells are, bool `[N, D]`."""

    x: Any
    is_observed: Any

    def at(self, index: np.ndarray) -> "Rows":
        """Return some of the rows."""
        return Rows(self.x[index], self.is_observed[index])


class Fit(NamedTuple):
    """A model and its parameters."""

    model: jg.MADE | jg.Independent | jg.models.OrderAgnostic
    params: Params


class Fills(NamedTuple):
    """What stands in the cells of rows `[B, D]`: known values, and of others what is drawn.

    Attributes:
      best: medians of reals, the commonest symbols.
      low: the tenth percentile.
      high: the ninetieth.
    """

    best: np.ndarray
    low: np.ndarray
    high: np.ndarray


def rows_of(x: np.ndarray, columns: jg.models.Mixed) -> Rows:
    """Return rows of floats `[N, D]` in which NaN says that a cell is empty."""
    is_observed = np.isfinite(x)
    return Rows(np.where(is_observed, x, np.asarray(columns.start(x.shape))), is_observed)


def train(
    key: Key,
    rows: Rows,
    valid: Rows,
    columns: jg.models.Mixed,
    *,
    hidden_size: int,
    num_steps: int,
) -> Fit:
    """Fit rows by maximum likelihood, stopped by the validation part.

    One chain where every cell is known; where some are not, one network for all orders, which
    scores the observed cells alone.
    """
    num_dims, sizes = len(columns.columns), (hidden_size, hidden_size)
    model: jg.MADE | jg.models.OrderAgnostic
    if rows.is_observed.all() and valid.is_observed.all():
        model = jg.MADE(num_dims, None, sizes, 0.2, True, conditional=columns)
    else:
        model = jg.models.OrderAgnostic(num_dims, None, sizes, 0.1, conditional=columns)

    def loss(key: Key, params: Params, batch: Rows, step: Array) -> Array:
        if isinstance(model, jg.MADE):
            return -jnp.mean(model.log_prob(params, batch.x, dropout_key=key))
        order_key, dropout_key = jax.random.split(key)
        x, is_observed = batch
        return -jnp.mean(
            model.any_order_log_prob(
                order_key, params, x, is_observed=is_observed, dropout_key=dropout_key
            )
        )

    @jax.jit
    def validation(params: Params) -> Array:
        return -jnp.mean(log_prob(Fit(model, params), valid))

    init_key, fit_key = jax.random.split(key)
    params = jax.jit(model.init)(init_key, rows.x[:1])
    with harness.progress_bar("rows", num_steps) as update:
        result = harness.fit(
            fit_key,
            jg.models.set_output_bias(model, params, rows.x, is_observed=rows.is_observed),
            loss,
            rows,
            optax.adamw(1e-3, weight_decay=0.1, mask=jg.training.kernel_mask),
            num_steps=num_steps,
            batch_size=min(100, len(rows.x)),
            validate_fn=validation,
            patience=8,
            average_decay=0.99,
            report_fn=lambda step, numbers: update(step, f"{numbers['loss']:.2f} nats"),
        )
    return Fit(model, result.params)


def independent(rows: Rows, columns: jg.models.Mixed, *, num_steps: int) -> Fit:
    """Fit every column by itself: the same densities, without the chain."""
    model = jg.Independent(len(columns.columns), None, columns)
    start = model.init(jax.random.key(0), rows.x[:1])
    params = jg.models.set_output_bias(model, start, rows.x, is_observed=rows.is_observed)

    def loss(params: Params) -> Array:
        return -jnp.mean(log_prob(Fit(model, params), rows))

    optimizer = optax.adam(1e-2)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    begin = (params, optimizer.init(params))
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=num_steps))(begin)
    return Fit(model, params)


def log_prob(fit: Fit, rows: Rows) -> Array:
    """Return log p of the observed cells of every row, nats `[N]`."""
    if isinstance(fit.model, jg.models.OrderAgnostic):
        return fit.model.observed_log_prob(fit.params, rows.x, rows.is_observed)
    return jnp.sum(cell_log_probs(fit, rows), axis=-1)


def cell_log_probs(fit: Fit, rows: Rows) -> Array:
    """Return log p of every cell, nats `[N, D]`, and zero for one that is not observed.

    Given the cells before it in a chain, and all other observed cells where one network knows every
    order.
    """
    x, is_observed = rows
    conditional = fit.model.conditional_or_default
    if not isinstance(fit.model, jg.models.OrderAgnostic):
        log_probs = conditional.log_prob(fit.model.outputs(fit.params, x), x)
        return jnp.where(is_observed, log_probs, 0.0)
    model, params = fit.model, fit.params

    def given_others(index: Array) -> Array:
        is_known = is_observed & (jnp.arange(x.shape[1]) != index)[None]
        return conditional.log_prob(model.outputs_given(params, x, is_known), x)[:, index]

    columns = jax.lax.map(given_others, jnp.arange(x.shape[1]))
    return jnp.where(is_observed, columns.T, 0.0)


def fill_in(key: Key, fit: Fit, rows: Rows, columns: tuple[Column, ...], num_draws: int) -> Fills:
    """Draw the empty cells of rows given all that are known, many times, and sum up the draws."""
    model = fit.model
    if not isinstance(model, jg.models.OrderAgnostic):
        raise TypeError(f"fit must know every order to fill in, got {type(model).__name__}")

    @jax.jit
    def draw(key: Key, x: Array, is_observed: Array) -> Array:
        keys = jax.random.split(key, num_draws)
        return jax.lax.map(lambda key: model.fill_in(key, fit.params, x, is_observed), keys)

    parts = []
    for start in range(0, len(rows.x), _FILLED_AT_ONCE):
        places = np.arange(start, start + _FILLED_AT_ONCE) % len(rows.x)
        drawn = draw(jax.random.fold_in(key, start), *rows.at(places))
        parts.append(_summed_up(np.asarray(drawn), columns))
    return Fills(*(np.concatenate(part)[: len(rows.x)] for part in zip(*parts, strict=True)))


def _direction(drawn: np.ndarray, column: Column) -> np.ndarray:
    """Return where draws `[K, B]` of angles lie on average, `[B]`; zeros of what is no angle."""
    if column.turn is None:
        return np.zeros(drawn.shape[1])
    rate = 2 * np.pi / (column.turn[1] - column.turn[0])
    return np.asarray(np.angle(np.mean(np.exp(1j * rate * drawn), axis=0))) / rate


def _summed_up(drawn: np.ndarray, columns: tuple[Column, ...]) -> Fills:
    """Sum up draws `[K, B, D]`."""
    centers = np.stack([_direction(drawn[..., i], c) for i, c in enumerate(columns)], axis=-1)
    lengths = np.array([c.turn[1] - c.turn[0] if c.turn else np.inf for c in columns])
    off = drawn - centers
    is_angle = np.isfinite(lengths)
    off[..., is_angle] -= lengths[is_angle] * np.round(off[..., is_angle] / lengths[is_angle])
    low, best, high = centers + np.quantile(off, [0.1, 0.5, 0.9], axis=0)
    for i, column in enumerate(columns):
        if column.turn is not None:
            low[:, i], best[:, i], high[:, i] = (
                column.turn[0] + (part[:, i] - column.turn[0]) % lengths[i]
                for part in (low, best, high)
            )
        if column.labels is not None:
            symbols = np.arange(len(column.labels)).reshape(-1, 1, 1)
            best[:, i] = np.argmax(np.sum(drawn[None, :, :, i] == symbols, axis=1), axis=0)
    return Fills(best, low, high)
