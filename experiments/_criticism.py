"""What experiments show of a criticism: a page of figures, and numbers for the table."""

from typing import Any

import numpy as np

import jaxgen as jg
from experiments import _plots as plots
from experiments._harness import Metric

_LOWEST = 1e-12
"""p-values below are drawn alike."""


def metrics(name: str, result: jg.criticism.Criticism, num_points: int) -> dict[str, Metric]:
    """Return how many findings fail, of how many, and what each failing conditional costs."""
    found = {
        f"{name}/findings": Metric(len(result.findings), None, num_points, "test"),
        f"{name}/failing": Metric(len(result.faults), None, num_points, "test"),
    }
    for fault in result.faults:
        if np.isfinite(fault.nats):
            key = f"{name}/{fault.name.replace(' ', '_')}_nats"
            found[key] = Metric(fault.nats, None, num_points, "test")
    return found


def page(result: jg.criticism.Criticism, shape: tuple[int, int], title: str) -> Any:
    """Draw the findings, the failing ones in color, and p-values by coordinate where there are.

    Args:
      result: the criticism.
      shape: (H, W), how coordinates are laid out.
      title: the title of the page.
    """
    num_dims = shape[0] * shape[1]
    maps = [f for f in result.findings if np.size(f.p_values) == num_dims][:4]
    figure, axes = plots.subplots(
        1,
        len(maps) + 1,
        figsize=(5.6 + 2.1 * len(maps), 0.26 * len(result.findings) + 0.9),
        width_ratios=[2.2] + [1.0] * len(maps),
        squeeze=False,
    )
    _draw_findings(axes[0, 0], result)
    for axis, finding in zip(axes[0, 1:], maps, strict=True):
        image = axis.imshow(
            -np.log10(np.maximum(finding.p_values, _LOWEST)).reshape(shape),
            cmap="Greys",
            vmin=0,
            vmax=-np.log10(_LOWEST),
        )
        axis.set(title=finding.name, xticks=[], yticks=[])
    if maps:
        figure.colorbar(image, ax=axes[0, 1:].tolist(), shrink=0.5, label=r"$-\log_{10} p$")
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_findings(axis: Any, result: jg.criticism.Criticism) -> None:
    findings = result.findings[::-1]
    heights = [-np.log10(max(f.p_value, _LOWEST)) for f in findings]
    colors = [plots.COLORS[1] if f in result.faults else plots.COLORS[0] for f in findings]
    axis.barh(range(len(findings)), heights, color=colors)
    for i, finding in enumerate(findings):
        if np.isfinite(finding.nats):
            axis.text(heights[i], i, f" {finding.nats:.2f} nats", va="center", fontsize=7)
    axis.axvline(
        -np.log10(result.level / len(findings)),
        color=plots.COLORS[6],
        linewidth=0.8,
        linestyle=":",
    )
    axis.set_yticks(range(len(findings)), [f.name for f in findings], fontsize=8)
    axis.set(xlabel=r"$-\log_{10} p$", xlim=(0, 1.25 * -np.log10(_LOWEST)))
