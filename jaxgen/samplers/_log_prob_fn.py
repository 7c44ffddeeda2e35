"""What a user's log-density must be, checked in one place."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core._types import Array, LogProbFn, Params


def scalar_log_prob(log_prob_fn: LogProbFn, params: Params, x: Array) -> Array:
    """Return `log_prob_fn(params, x)` as an array of x's dtype; a Python number counts as one."""
    return jnp.asarray(log_prob_fn(params, x)).astype(x.dtype)


def check_log_prob_fn(log_prob_fn: LogProbFn, params: Params) -> None:
    """Refuse what is no log-density of one number that can be compiled once and kept.

    Raises:
      TypeError: it is not hashable, closes over traced values, has its two arguments in the other
        order, or does not return a real floating-point number.
      ValueError: it returns more than a scalar.
    """
    name = type(log_prob_fn).__name__
    if not callable(log_prob_fn):
        raise TypeError(f"log_prob_fn must be a function (params, x) -> scalar, got {name}")
    remedy = "pass a plain function and, as params, the arrays it reads"
    try:
        hash(log_prob_fn)
    except TypeError as error:
        raise TypeError(
            f"log_prob_fn must be hashable, as functions are, got a {name} that is not: {remedy}, "
            "as in log_prob_fn=lambda module, x: module(x), params=module"
        ) from error
    x = jax.ShapeDtypeStruct((), jnp.result_type(float))
    try:
        traced, result = jax.make_jaxpr(log_prob_fn, return_shape=True)(params, x)
    except Exception as error:
        if _is_scalar(log_prob_fn, x, params):
            raise _swapped() from error
        raise
    if not isinstance(result, jax.ShapeDtypeStruct):
        raise TypeError(f"log_prob_fn must return a number, got a {type(result).__name__}")
    if result.shape != ():
        if _is_scalar(log_prob_fn, x, params):
            raise _swapped()
        raise ValueError(
            f"log_prob_fn must return a scalar for a scalar x, got shape {result.shape}"
        )
    # A Python integer is a number like another, an array of integers is a mistake.
    is_integer = result.weak_type and jnp.issubdtype(result.dtype, jnp.integer)
    if not (is_integer or jnp.issubdtype(result.dtype, jnp.floating)):
        raise TypeError(f"log_prob_fn must return floating-point numbers, got {result.dtype}")
    if any(isinstance(value, jax.core.Tracer) for value in traced.consts):
        raise TypeError(
            f"log_prob_fn must not close over traced values, got a function that does: {remedy}"
        )


def _is_scalar(fn: Any, *arguments: Any) -> bool:
    try:
        result = jax.eval_shape(fn, *arguments)
    except Exception:
        return False
    return isinstance(result, jax.ShapeDtypeStruct) and result.shape == ()


def _swapped() -> TypeError:
    return TypeError(
        "log_prob_fn must take (params, x), got a function that only works as (x, params): swap "
        "its arguments"
    )
