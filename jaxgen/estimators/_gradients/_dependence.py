"""Which parameters a function depends on, and which of them a derivative can reach."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from jaxgen.core._types import Params


def check_differentiable(name: str, fn: Callable[[Params], Any], params: Params) -> None:
    """Refuse a function that depends on a parameter by steps only.

    Comparisons, rounding, argmax and draws of integers cut a derivative to a structural zero that
    autodiff returns without a word; this reads the traced program to find them. Where a parameter
    has one smooth route and another that is cut, nothing is found.

    Raises:
      ValueError: a parameter moves the value of `fn` and no derivative flows through it.
    """
    check_reached(name, moved_parameters(fn, params), reached_parameters(fn, params))


def check_reached(name: str, moved: set[str], reached: set[str]) -> None:
    """Raise ValueError if a parameter that matters is not reached by the derivative of `name`."""
    if lost := sorted(moved - reached):
        raise ValueError(
            f"{name} must be differentiable in {', '.join(lost)}, but no derivative flows through; "
            "autodiff would return a silent zero. The score function or a measure-valued "
            "derivative needs none through the sample"
        )


def check_continuous(name: str, samples: Any) -> None:
    """Raise ValueError unless every leaf of `samples` is floating-point."""
    for leaf in jax.tree.leaves(samples):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} must give continuous samples to have a pathwise gradient, got dtype "
                f"{leaf.dtype}; use the score function, a measure-valued derivative or a relaxation"
            )


def placeholder(fn: Callable[[Params], Any], params: Params) -> Any:
    """Return zeros of the shapes of `fn(params)`, to trace with; `fn` is not run."""
    shapes = jax.eval_shape(fn, params)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def moved_parameters(fn: Callable[[Params], Any], params: Params) -> set[str]:
    """Name the floating-point parameters on which the value of `fn` depends."""
    names, moving, rebuild = _floating_leaves(params)
    jaxpr = jax.make_jaxpr(lambda *leaves: fn(rebuild(leaves)))(*moving).jaxpr
    used = _used_inputs(jaxpr, [True] * len(jaxpr.outvars))
    return {name for name, is_used in zip(names, used, strict=True) if is_used}


def reached_parameters(fn: Callable[[Params], Any], params: Params) -> set[str]:
    """Name the floating-point parameters that the derivative of `fn` does not cut off."""
    names, moving, rebuild = _floating_leaves(params)

    def derivative(*direction: Any) -> Any:
        return jax.jvp(lambda *leaves: fn(rebuild(leaves)), tuple(moving), direction)[1]

    jaxpr = jax.make_jaxpr(derivative)(*moving).jaxpr
    used = _used_inputs(jaxpr, [True] * len(jaxpr.outvars))
    return {name for name, is_used in zip(names, used, strict=True) if is_used}


def _floating_leaves(params: Params) -> tuple[list[str], list[Any], Callable]:
    paths, treedef = jax.tree.flatten_with_path(params)
    leaves = [jnp.asarray(leaf) for _, leaf in paths]
    moves = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    places = [i for i, is_moving in enumerate(moves) if is_moving]

    def rebuild(moving: Any) -> Params:
        rebuilt = list(leaves)
        for place, leaf in zip(places, moving, strict=True):
            rebuilt[place] = leaf
        return jax.tree.unflatten(treedef, rebuilt)

    names = [jax.tree_util.keystr(paths[i][0]) or "its argument" for i in places]
    return names, [leaves[i] for i in places], rebuild


# Calls whose operands and results are those of the program inside, one for one.
_CALLS = ("pjit", "jit", "closed_call", "checkpoint", "remat2", "custom_jvp_call")


def _used_inputs(jaxpr: Any, used_outputs: list[bool]) -> list[bool]:
    """Say of each input of a traced program whether the outputs marked depend on it."""
    live = {
        var
        for var, is_used in zip(jaxpr.outvars, used_outputs, strict=True)
        if is_used and not isinstance(var, jex_core.Literal)
    }
    for eqn in reversed(jaxpr.eqns):
        used = [var in live for var in eqn.outvars]
        if any(used):
            live.update(_used_operands(eqn, used))
    return [var in live for var in jaxpr.invars]


def _used_operands(eqn: Any, used_outputs: list[bool]) -> Iterator[Any]:
    # Loops and branches are taken to connect every operand with every result.
    used = [True] * len(eqn.invars)
    if eqn.primitive.name in _CALLS:
        program = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
        used = _used_inputs(getattr(program, "jaxpr", program), used_outputs)
    for var, is_used in zip(eqn.invars, used, strict=True):
        if is_used and not isinstance(var, jex_core.Literal):
            yield var
