"""The u-error of tables over a matrix of densities, against closed-form distribution functions.

Ten million draws cannot see an error of 1e-7; a grid of a few thousand exact quantiles can.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

from jaxgen.core import _quadrature as quadrature
from jaxgen.samplers._inverse_cdf._build import inverse_cdf
from jaxgen.samplers._inverse_cdf._table import InverseCDF

INF = float("inf")
LINE, HALF = (-INF, INF), (0.0, INF)


class Case(NamedTuple):
    support: tuple
    log_prob: object  # x -> log-density up to a constant
    below: object  # mass below, of (x, offset of x from the anchor)
    above: object


def closed_form(support, log_prob, law):
    return Case(support, log_prob, lambda x, _: law.cdf(x), lambda x, _: law.sf(x))


def mixture(weights, means, scales):
    logits, means, scales = np.log(weights), np.asarray(means), np.asarray(scales)

    def log_prob(x):
        z = (x - means.astype(x.dtype)) / scales.astype(x.dtype)
        return jax.nn.logsumexp((logits - np.log(scales)).astype(x.dtype) - 0.5 * z**2)

    def tail(sign):
        def mass(x, _):
            z = (x[..., None] - means) / scales
            return (st.norm.cdf(sign * z) * weights).sum(-1)

        return mass

    return Case(LINE, log_prob, tail(1), tail(-1))


def arcsine_mass(_, offset):
    return 2 / np.pi * np.arcsin(np.sqrt(np.abs(offset)))


def sharp_mass(sign):
    return lambda _, offset: st.norm.cdf(sign * offset / 1e-8)


def hole_mass(_, offset):
    near = np.abs(offset)  # from the end of the tail
    return near * (2 - near) / 2


def truncated_normal(cut, sign):
    """A normal beyond `cut`, upwards or downwards: the mass next to the cut, and the far tail."""
    nodes, weights = quadrature.gauss_legendre(0.0, 1.0, 20)

    def near(x, offset):
        d = np.minimum(np.abs(offset), 2.0)[..., None]
        mass = (st.norm.pdf(np.abs(cut) + d * nodes) * weights * d).sum(-1) / st.norm.sf(abs(cut))
        return np.where(np.abs(offset) < 2, mass, 1 - far(x, offset))

    def far(x, _):
        return st.norm.sf(np.abs(x)) / st.norm.sf(abs(cut))

    support, tails = ((cut, INF), (near, far)) if sign > 0 else ((-INF, cut), (far, near))
    return Case(support, lambda x: -0.5 * x**2, *tails)


CASES = {
    # standard
    "normal": closed_form(LINE, lambda x: -0.5 * x**2, st.norm()),
    "unnormalized": closed_form(LINE, lambda x: 300 - (x - 5) ** 2 / 8, st.norm(5, 2)),
    "Cauchy": closed_form(LINE, lambda x: -jnp.log1p(x**2), st.cauchy()),
    "Student t, 2 degrees": closed_form(LINE, lambda x: -1.5 * jnp.log1p(x**2 / 2), st.t(2)),
    "Laplace": closed_form(LINE, lambda x: -jnp.abs(x), st.laplace()),
    "skewed Laplace": closed_form(
        LINE, lambda x: jnp.where(x > 0, -2 * x, x / 2), st.laplace_asymmetric(2)
    ),
    "sharp": Case(LINE, lambda x: -0.5 * ((x - 1) / 1e-8) ** 2, sharp_mass(1), sharp_mass(-1)),
    "exponential": closed_form(HALF, lambda x: -x, st.expon()),
    "gamma 2.5": closed_form(HALF, lambda x: 1.5 * jnp.log(x) - x, st.gamma(2.5)),
    "log-normal": closed_form(HALF, lambda x: -jnp.log(x) - jnp.log(x) ** 2 / 2, st.lognorm(1)),
    "beta 2, 5": closed_form((0.0, 1.0), lambda x: jnp.log(x) + 4 * jnp.log1p(-x), st.beta(2, 5)),
    # quasi-flat, and -inf on part of the support
    "uniform": closed_form((0.0, 1.0), lambda x: 0 * x, st.uniform()),
    "nearly uniform": Case(
        (0.0, 1.0),
        lambda x: -1e-4 * x,
        lambda x, _: np.expm1(-1e-4 * x) / np.expm1(-1e-4),
        lambda x, offset: np.exp(-1e-4 * x) * np.expm1(1e-4 * offset) / np.expm1(-1e-4),
    ),
    "uniform inside": closed_form(
        (-1.0, 1.0), lambda x: jnp.where((x > 0.3) & (x < 0.7), 0.0, -jnp.inf), st.uniform(0.3, 0.4)
    ),
    # vanishing in the middle
    "vanishing": Case((-1.0, 1.0), lambda x: jnp.log(jnp.abs(x)), hole_mass, hole_mass),
    # truncated
    "steep": closed_form((0.0, 1.0), lambda x: -1000 * x, st.truncexpon(1000, scale=1e-3)),
    "normal beyond 2": truncated_normal(2.0, 1),
    "normal below -5": truncated_normal(-5.0, -1),
    # unbounded
    "gamma 1/2": closed_form(HALF, lambda x: -0.5 * jnp.log(x) - x, st.gamma(0.5)),
    "beta 1/2, 1/2": Case(
        (0.0, 1.0), lambda x: -0.5 * (jnp.log(x) + jnp.log1p(-x)), arcsine_mass, arcsine_mass
    ),
    # multimodal
    "two modes": mixture([0.5, 0.5], [-2.5, 2.5], [1.0, 1.0]),
    "far modes": mixture([0.3, 0.7], [-300.0, 300.0], [1.0, 0.1]),
    "three modes": mixture([0.2, 0.5, 0.3], [-30.0, 0.0, 9.0], [0.5, 1.0, 0.01]),
}
NAMES = list(CASES)


def kind_of(case):
    """Which ends of the support are finite: what a build compiles for."""
    return tuple(bool(np.isfinite(end)) for end in case.support)


def family(kind):
    """All densities of one kind in one function of their index, so that they compile once."""
    branches = [lambda x, c=c: c.log_prob(x) + 0 * x for c in CASES.values() if kind_of(c) == kind]
    return lambda index, x: jax.lax.switch(index, branches, x)


FAMILIES = {kind: family(kind) for kind in {kind_of(case) for case in CASES.values()}}


def table_of(name):
    kind = kind_of(CASES[name])
    index = [n for n in CASES if kind_of(CASES[n]) == kind].index(name)
    return inverse_cdf(FAMILIES[kind], index, support=CASES[name].support)


quantiles = jax.jit(InverseCDF.tail_quantile)
offsets = jax.jit(InverseCDF.tail_offset)


def u_errors(name, table, v):
    """|F(x(v)) - v| in both tails, x taken through its offset, and what correct rounding gives."""
    errors, floors = [], []
    anchors = np.asarray(table.cells.anchors, np.float64)
    for is_upper, mass in ((False, CASES[name].below), (True, CASES[name].above)):
        x = np.asarray(quantiles(table, is_upper, v))
        offset = np.asarray(offsets(table, is_upper, v))
        through_x = mass(x.astype(np.float64), x.astype(np.float64) - anchors[int(is_upper)])
        precise = offset.astype(np.float64)
        through_offset = mass(anchors[int(is_upper)] + precise, precise)
        error = np.fmin(np.abs(through_x - v), np.abs(through_offset - v))  # x may be refused
        beside = np.nextafter(x, np.inf).astype(np.float64)
        spacing = np.abs(mass(beside, beside - anchors[int(is_upper)]) - through_x)
        errors.append(error)
        floors.append(np.nan_to_num(spacing / 2))
    return np.concatenate(errors), np.concatenate(floors)


def tail_grid(lowest, num=4001):
    return np.exp(np.linspace(np.log(lowest), np.log(0.5), num))


@pytest.mark.parametrize("name", NAMES)
def test_float32_reaches_its_u_error(name):
    table = table_of(name)
    assert table.cells.center.dtype == jnp.float32
    v = tail_grid(2.0**-33).astype(np.float32)
    errors, floors = u_errors(name, table, v)
    assert np.max(errors - np.maximum(1.5e-7, 2.5 * floors)) <= 0
    # The table's own number is measured on other points than these, but it must not flatter.
    assert np.max(errors) <= 1.5 * table.u_error + 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_float64_reaches_its_u_error_and_its_tails(name, x64):
    table = table_of(name)
    v = tail_grid(2.0**-40)
    errors, floors = u_errors(name, table, v)
    # A closed form at x has the rounding of x in it too, which no quantile can be blamed for.
    assert np.max(errors - np.maximum(1e-12, 2.5 * floors)) <= 0
    if name == "uniform inside":
        return  # its tails begin inside the support, where x itself has no relative precision
    relative = errors / np.concatenate([v, v])
    assert np.max(relative - np.maximum(2e-8, 5 * floors / np.concatenate([v, v]))) <= 0


def test_a_quantile_function_wrong_by_1e_minus_6_is_seen():
    table = table_of("normal")
    bent = table.cells._replace(
        center=table.cells.center * (1 + 1e-5), offset=table.cells.offset * (1 + 1e-5)
    )
    errors, _ = u_errors(
        "normal",
        dataclasses.replace(table, cells=bent),
        tail_grid(2.0**-33).astype(np.float32),
    )
    assert np.max(errors) > 1e-6
