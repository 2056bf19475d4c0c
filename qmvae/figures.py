"""Pictures from arrays and numbers: nothing here knows a model or reads a file."""

import string
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from qmvae.files import replacing

WIDTH = 7.0  # inches, a page's text width


def rgb(images: np.ndarray, side: int) -> np.ndarray:
    """Images (..., C, H, W) in [0, 1], C = 1 or 3, as (..., side, side, 3), centred on black where they are smaller."""
    *_, channels, height, width = images.shape
    if channels not in (1, 3) or max(height, width) > side:
        raise ValueError(f"images {channels}x{height}x{width}: expected 1 or 3 channels and sides up to {side}")
    top, left = (side - height) // 2, (side - width) // 2
    margins = [(0, 0)] * (images.ndim - 2) + [(top, side - height - top), (left, side - width - left)]
    images = np.moveaxis(np.pad(images, margins), -3, -1)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def tile(cells: np.ndarray, gap: int = 2) -> np.ndarray:
    """Cells (rows, columns, side, side, 3) as one picture (height, width, 3) with white gaps of `gap` pixels."""
    margins = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
    cells = np.pad(cells, margins, constant_values=1.0)
    rows, columns, height, width, _ = cells.shape
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return picture[:-gap, :-gap]


def under_conditions(conditions: np.ndarray, generated: np.ndarray, references: np.ndarray | None = None) -> np.ndarray:
    """One panel of Figs. 3 and 4: the conditions as first row, the generated images under them, and, where `references`
    are given, these as first column. A wider gap sets off what was given from what was generated.

    conditions (n, C, H, W), generated (rows, n, C, H, W), references (rows, C, H, W). Returns (height, width, 3).
    """
    side = max(*conditions.shape[-2:], *generated.shape[-2:])
    cells = np.concatenate([rgb(conditions, side)[None], rgb(generated, side)])
    if references is not None:
        corner = np.ones((1, side, side, 3))
        cells = np.concatenate([np.concatenate([corner, rgb(references, side)])[:, None], cells], axis=1)
    picture = tile(cells)
    picture = np.insert(picture, [side] * 6, 1.0, axis=0)
    return picture if references is None else np.insert(picture, [side] * 6, 1.0, axis=1)


def panels(pictures: dict[str, np.ndarray], columns: int) -> Figure:
    """Pictures in rows of `columns`, lettered (a), (b), ... in order, each under its title."""
    rows = -(-len(pictures) // columns)
    height, width, _ = next(iter(pictures.values())).shape
    size = (WIDTH, rows * (WIDTH / columns * height / width + 0.3))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, letter, (title, picture) in zip(axes.flat, string.ascii_lowercase, pictures.items(), strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(f"({letter}) {title}" if len(pictures) > 1 else title, fontsize=8)
    return figure


def curves(log: dict[str, np.ndarray], groups: dict[str, list[str]]) -> Figure:
    """Terms of the objective over the steps of training, one panel a group; a scale from 0 is not forced.

    log: columns of log.csv, `step` among them. groups: title of a panel -> the columns that it draws.
    """
    with sns.axes_style("ticks"), sns.color_palette("colorblind"):
        figure, axes = plt.subplots(1, len(groups), figsize=(WIDTH, 2.6), layout="constrained")
        for axis, (title, names) in zip(axes, groups.items(), strict=True):
            for name in names:
                sns.lineplot(x=log["step"], y=log[name], ax=axis, linewidth=1, label=name, legend=False)
            axis.set_title(title, fontsize=8)
            axis.set_xlabel("step", fontsize=8)
            axis.set_ylabel("")
            axis.tick_params(labelsize=7)
            axis.legend(fontsize=6, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    sns.despine(figure)
    return figure


def shared_space(spaces: dict[str, pd.DataFrame]) -> Figure:
    """Codes in the plane, one panel a frame: columns `1` and `2`, `digit` (colour) and `images`, the modality (marker).

    Each digit is also written where its codes have their middle, for whoever can't tell ten colours apart.
    """
    with sns.axes_style("ticks"):
        size = (WIDTH, 0.55 * WIDTH)
        figure, axes = plt.subplots(1, len(spaces), figsize=size, squeeze=False, layout="constrained")
        for axis, letter, (title, frame) in zip(axes.flat, string.ascii_lowercase, spaces.items(), strict=False):
            style = {"hue": "digit", "style": "images", "palette": "tab10", "s": 9, "linewidth": 0, "alpha": 0.6}
            sns.scatterplot(frame, x="1", y="2", ax=axis, legend="full" if axis is axes.flat[-1] else False, **style)
            for digit, middle in frame.groupby("digit")[["1", "2"]].median().iterrows():
                axis.text(*middle, str(digit), ha="center", va="center", fontsize=9, weight="bold")
            axis.set_title(f"({letter}) {title}", fontsize=8)
            axis.set(xlabel="", ylabel="", xticks=[], yticks=[])
        sns.move_legend(axes.flat[-1], "center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, title="")
    sns.despine(figure)
    return figure


def correlations(frame: pd.DataFrame) -> Figure:
    """A heat map of correlations, -1 to 1: a row a private dimension, a column a measure of style."""
    size = (1.3 * len(frame.columns) + 0.5, 0.25 * len(frame) + 1)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    sns.heatmap(frame, vmin=-1, vmax=1, cmap="vlag", annot=True, fmt=".1f", annot_kws={"size": 7}, ax=axis, cbar=False)
    axis.set_ylabel("private dimension", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.tick_params("x", rotation=0)
    axis.tick_params("y", rotation=0)
    return figure


def architecture(x: str, y: str) -> Figure:
    """Fig. 1: the paths from two modalities through shared and private codes back to images. x, y: their titles."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    axes.set_xlim(0, 14)
    axes.set_ylim(0, 6.4)
    axes.set_axis_off()
    shared, private, image = "#fbe3c0", "#cfe3f5", "#e8e8e8"

    def box(left: float, middle: float, text: str, color: str, width: float = 1.9) -> tuple[float, float, float]:
        axes.add_patch(
            FancyBboxPatch((left, middle - 0.33), width, 0.66, boxstyle="round,pad=0.05", fc=color, ec="0.3")
        )
        axes.text(left + width / 2, middle, text, ha="center", va="center", fontsize=8)
        return left, left + width, middle

    def arrow(start, end, **style) -> None:
        ends = (start[1] + 0.07, start[2]), (end[0] - 0.07, end[2])
        axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color="0.25", **style))

    given = {"x": box(0.1, 5.0, f"$x$\n{x}", image, 2.3), "y": box(0.1, 1.4, f"$y$\n{y}", image, 2.3)}
    drawn = {"x": box(11.6, 5.0, r"$p_{\theta_x}(x\,|\,z,h_x)$", image, 2.3)}
    drawn["y"] = box(11.6, 1.4, r"$p_{\theta_y}(y\,|\,z,h_y)$", image, 2.3)
    fused = box(7.3, 3.2, "$q(z\\,|\\,x,y)$\nEq. 8", shared, 2.3)
    for m, outer, inner in (("x", 5.8, 4.2), ("y", 0.6, 2.2)):
        h = box(3.6, outer, rf"$q(h_{m}\,|\,{m})$", private, 2.2)
        z = box(3.6, inner, rf"$q(z\,|\,{m})$", shared, 2.2)
        arrow(given[m], h)
        arrow(given[m], z)
        arrow(z, fused)
        arrow(h, drawn[m])
        arrow(fused, drawn[m])
    axes.annotate(
        "",
        (4.7, 3.78),
        (4.7, 2.62),
        arrowprops=dict(arrowstyle="<|-|>", color="#c0392b", linestyle="--", linewidth=1.2),
    )
    axes.text(4.85, 3.2, "quadruplet loss\n(Eq. 19)", fontsize=8, color="#c0392b", va="center")
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.pdf, without dates, so that the same figure is the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with replacing(folder / f"{name}{suffix}") as partial:
            figure.savefig(partial, format=suffix[1:], dpi=200, metadata=metadata)
