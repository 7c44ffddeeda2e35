"""Deterministic integrals: the references that sampling is checked against."""

from typing import NamedTuple

import numpy as np

from jaxgen.core._checks import check_count


class Rule(NamedTuple):
    """Nodes and weights of a quadrature rule: ∫ f(x) dx ≈ Σ_i weights_i f(nodes_i).

    Attributes:
      nodes: float64, `[N]`, or `[N, D]` in D dimensions.
      weights: float64, `[N]`.
    """

    nodes: np.ndarray
    weights: np.ndarray


def gauss_legendre(lower: float, upper: float, num_nodes: int, num_panels: int = 1) -> Rule:
    """Build the Gauss-Legendre rule on [lower, upper], exact up to degree 2·num_nodes − 1.

    Args:
      lower: left end, finite.
      upper: right end, finite and greater than `lower`.
      num_nodes: nodes in each panel.
      num_panels: equal panels that the interval is cut into.

    Returns:
      A `Rule` of `num_nodes * num_panels` float64 nodes, made with NumPy and so usable in a trace.

    >>> rule = gauss_legendre(0.0, 1.0, 3)
    >>> round(float((rule.weights * rule.nodes**5).sum()), 12)
    0.166666666667
    """
    check_count("num_nodes", num_nodes)
    check_count("num_panels", num_panels)
    if not (np.isfinite(lower) and np.isfinite(upper) and lower < upper):
        raise ValueError(f"lower and upper must be finite and in order, got {lower} and {upper}")
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    edges = np.linspace(lower, upper, num_panels + 1)
    centers, halves = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    return Rule(
        (centers[:, None] + halves[:, None] * nodes).ravel(),
        (halves[:, None] * weights).ravel(),
    )


def gauss_hermite(num_nodes: int) -> Rule:
    """Build the rule for expectations under a standard normal: E[f(z)] ≈ Σ_i weights_i f(nodes_i).

    >>> rule = gauss_hermite(5)
    >>> round(float((rule.weights * rule.nodes**4).sum()), 12)
    3.0
    """
    check_count("num_nodes", num_nodes)
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return Rule(nodes, weights / weights.sum())


def product_rule(first: Rule, second: Rule) -> Rule:
    """Combine two one-dimensional rules: nodes `[N·M, 2]`, weights `[N·M]`.

    >>> rule = product_rule(gauss_legendre(0.0, 1.0, 2), gauss_legendre(0.0, 2.0, 2))
    >>> rule.nodes.shape, round(float(rule.weights.sum()), 6)
    ((4, 2), 2.0)
    """
    x, y = np.meshgrid(first.nodes, second.nodes, indexing="ij")
    weights = np.outer(first.weights, second.weights).ravel()
    return Rule(np.stack([x.ravel(), y.ravel()], axis=1), weights)
