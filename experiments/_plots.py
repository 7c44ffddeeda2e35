"""Figures that several experiments draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

# Okabe & Ito (2008): told apart by every kind of color vision, and in gray.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def subplots(
    num_rows: int = 1,
    num_columns: int = 1,
    *,
    figsize: tuple[float, float] | None = None,
    **kwargs: Any,
) -> tuple[matplotlib.figure.Figure, Any]:
    """Make a figure and its axes, like pyplot, but without a window or a global list of figures."""
    figure = matplotlib.figure.Figure(figsize, layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, **kwargs)


def image_rows(
    rows: Sequence[tuple[str, np.ndarray]], shape: tuple[int, ...], max_value: float, title: str
) -> matplotlib.figure.Figure:
    """Draw labelled rows of images.

    Args:
      rows: label and images `[N, H·W]` of each row; NaN pixels are drawn in blue, as unknown.
      shape: (H, W), or (H, W, 3) of colors.
      max_value: the gray level drawn black, and 0 is white; of colors, the level of full light.
      title: the figure's title.
    """
    num_columns = max(len(images) for _, images in rows)
    height, width, *channels = shape
    gap = max(height, width) // 8
    # One picture: an axis for each image takes most of an experiment's smoke run.
    size = (len(rows) * (height + gap) - gap, num_columns * (width + gap) - gap, *channels)
    canvas = np.full(size, 1.0 if channels else 0.0)
    tops = [i * (height + gap) for i in range(len(rows))]
    for top, (_, images) in zip(tops, rows, strict=True):
        for j, image in enumerate(images):
            left = j * (width + gap)
            place = canvas[top : top + height, left : left + width]
            place[:] = np.reshape(image, shape) / max_value
    figure, axis = subplots(figsize=(0.55 * num_columns + 1.2, 0.58 * len(rows) + 0.5))
    ink = matplotlib.colormaps["Greys"].with_extremes(bad=COLORS[5])
    axis.imshow(canvas, cmap=ink, vmin=0, vmax=1)
    axis.set_yticks([top + (height - 1) / 2 for top in tops], [label for label, _ in rows])
    axis.tick_params(length=0, labelsize=9)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


def learning_curves(
    curves: Mapping[str, tuple[Sequence[dict[str, Any]], int]],
    unit: str,
    parts: Mapping[str, str] | None = None,
) -> matplotlib.figure.Figure:
    """Draw training and validation curves side by side, one panel a model.

    Args:
      curves: for each model its logged rows (`step`, `loss`, sometimes `validation`) and the step
        whose parameters were kept.
      unit: unit of the losses.
      parts: labels of what else was logged, by name; a last panel shows it for the last model.
    """
    num_panels = len(curves) + bool(parts)
    figure, axes = subplots(1, num_panels, figsize=(4.2 * num_panels, 3.2), squeeze=False)
    for (name, (rows, best_step)), axis in zip(curves.items(), axes[0, : len(curves)], strict=True):
        for key, label, color in (
            ("loss", "training", COLORS[0]),
            ("validation", "validation (averaged weights)", COLORS[1]),
        ):
            points = [(row["step"], row[key]) for row in rows if key in row]
            axis.plot(*zip(*points, strict=True), label=label, color=color)
        axis.axvline(best_step, color=COLORS[6], linewidth=0.8, linestyle=":", label="kept")
        # The first steps are far above all that matters.
        losses = [row[k] for row in rows for k in ("loss", "validation") if k in row]
        lowest, highest = (f(losses[len(rows) // 8 :]) for f in (min, max))
        if lowest < highest:
            axis.set_ylim(lowest - 0.03 * (highest - lowest), highest)
        axis.set(xlabel="step", ylabel=unit, title=name)
        axis.legend(fontsize=8)
    for (key, label), color in zip((parts or {}).items(), COLORS[2:], strict=False):
        points = [(row["step"], row[key]) for row in rows[len(rows) // 8 :]]
        axes[0, -1].plot(*zip(*points, strict=True), label=label, color=color)
    if parts:
        axes[0, -1].set(xlabel="step", ylabel=unit, ylim=(0, None), title="parts of the loss")
        axes[0, -1].legend(fontsize=8, loc="center right")
    return figure
