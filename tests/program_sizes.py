"""Sizes of what a program computes, before XLA makes it."""

from jax.extend import core


def array_sizes(jaxpr):
    """Sizes of all arrays that a program and those in it compute."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for program in core.jaxprs_in_params(equation.params):
            yield from array_sizes(program)
