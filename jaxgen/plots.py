"""Figures that several experiments draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # figures go to files; no window system is needed
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np

# Okabe & Ito (2008): told apart by every kind of colour vision, and in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def image_rows(
    rows: Sequence[tuple[str, np.ndarray]], shape: tuple[int, int], max_value: float, title: str
) -> matplotlib.figure.Figure:
    """Draw labelled rows of images.

    Args:
      rows: label and images `[N, H·W]` of each row; NaN pixels are drawn in blue, as unknown.
      shape: (H, W).
      max_value: the grey level drawn black; 0 is white.
      title: the figure's title.
    """
    num_columns = max(len(images) for _, images in rows)
    figure, axes = plt.subplots(
        len(rows),
        num_columns,
        figsize=(0.55 * num_columns + 1.2, 0.58 * len(rows) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    ink = matplotlib.colormaps["Greys"].with_extremes(bad=COLORS[5])
    for axis in axes.flat:
        axis.axis("off")
    for (label, images), row_axes in zip(rows, axes, strict=True):
        for image, axis in zip(images, row_axes, strict=False):
            axis.imshow(image.reshape(shape), cmap=ink, vmin=0, vmax=max_value)
        row_axes[0].text(
            -0.25, 0.5, label, transform=row_axes[0].transAxes, ha="right", va="center", fontsize=9
        )
    figure.suptitle(title, fontsize=10)
    return figure


def learning_curves(
    curves: Mapping[str, tuple[Sequence[dict[str, Any]], int]], unit: str
) -> matplotlib.figure.Figure:
    """Draw training and validation curves side by side, one panel a model.

    Args:
      curves: for each model its logged rows (`step`, `loss`, sometimes `validation`) and the step
        whose parameters were kept.
      unit: unit of the losses.
    """
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.2 * len(curves), 3.2), squeeze=False, layout="constrained"
    )
    for (name, (rows, best_step)), axis in zip(curves.items(), axes[0], strict=True):
        for key, label, color in (
            ("loss", "training", COLORS[0]),
            ("validation", "validation (averaged weights)", COLORS[1]),
        ):
            points = [(row["step"], row[key]) for row in rows if key in row]
            axis.plot(*zip(*points, strict=True), label=label, color=color)
        axis.axvline(best_step, color=COLORS[6], linewidth=0.8, linestyle=":", label="kept")
        # The first steps are far above all that matters.
        late = [row[k] for row in rows for k in ("loss", "validation") if k in row][
            len(rows) // 8 :
        ]
        axis.set_ylim(min(late) - 0.03 * (max(late) - min(late)), max(late))
        axis.set(xlabel="step", ylabel=unit, title=name)
        axis.legend(fontsize=8)
    return figure
