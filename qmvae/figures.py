"""Pictures from arrays and numbers: nothing here knows a model or reads a file."""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from qmvae.files import replacing

WIDTH, COLUMN = 7.0, 3.4  # inches: a page's text width, and one of its two columns

# Okabe and Ito's colours, which colour-blind readers tell apart; each line has its own dashes too, for black and white.
LINES = plt.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000"])
DASHES: list[Any] = ["-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1))]
LINES += plt.cycler(linestyle=DASHES)
# Ten colours for digits, chosen by Petroff (2021) for colour-blind readers.
DIGITS = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()
STYLE: dict[Any, Any] = {  # of every figure and of what notebooks draw themselves; sizes as printed, at WIDTH or COLUMN
    "figure.dpi": 140,  # on the screen
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "lines.linewidth": 1,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": LINES,
    "pdf.fonttype": 42,  # letters stay letters, and searchable
}
plt.rcParams.update(STYLE)


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
        axis.set_title(f"({letter}) {title}" if len(pictures) > 1 else title)
    return figure


def curves(
    log: Mapping[str, np.ndarray],
    groups: dict[str, tuple[str, dict[str, str]]],
    marks: dict[str, float],
    columns: int = 3,
) -> Figure:
    """Terms of the objective over the steps of training, one panel a group; a scale from 0 is not forced.

    log: columns by name, `step` among them. groups: title of a panel -> its unit, and the columns that it draws with
    what to call each. marks: what changes on the way -> at which step; a grey line in every panel.
    """
    rows = -(-len(groups) // columns)
    size = (WIDTH, 2.1 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharex=True)
    for axis, letter, (title, (unit, names)) in zip(axes.flat, string.ascii_lowercase, groups.items(), strict=False):
        for name, label in names.items():
            axis.plot(log["step"], log[name], label=label)
        for step in sorted(set(marks.values())):
            axis.axvline(step, color="0.6", linewidth=0.6, linestyle="-", zorder=0)
        axis.set_title(f"({letter}) {title}", pad=16)
        axis.set_ylabel(unit)
        beside = {"ncols": len(names), "columnspacing": 0.8, "handlelength": 2, "handletextpad": 0.4, "borderpad": 0}
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), **beside)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    lines = [(step, [name for name, at in marks.items() if at == step]) for step in sorted(set(marks.values()))]
    note = "; ".join(f"from step {step:,.0f} on: {', '.join(names)}" for step, names in lines)
    if note:
        figure.supxlabel(f"Grey line, {note}", fontsize=7, color="0.3")
    return figure


def changes(table: pd.DataFrame, band: float, x: str) -> Figure:
    """What each row changes, a marker a column; nearer to zero than `band`, shaded, it may be chance. x: the unit.

    Linear up to twice the band and logarithmic beyond, so that a few large changes do not hide the others.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 0.2 * len(table) + 0.7), layout="constrained")
    axis.axvspan(-band, band, color="0.93", zorder=0)
    axis.axvline(0, color="0.6", linewidth=0.6, linestyle="-", zorder=0)
    for (name, column), marker in zip(table.items(), "osD^v<>", strict=False):
        axis.plot(column, range(len(table)), marker=marker, markersize=4, linestyle="", label=name)
    axis.set_yticks(range(len(table)), table.index)
    axis.set_xscale("symlog", linthresh=2 * band)
    ticks = [t for t in (-50, -20, -10, -5, -2, 0, 2, 5, 10) if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel(x)
    axis.grid(axis="y", color="0.9", linewidth=0.5)
    axis.invert_yaxis()
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(table.columns))
    return figure


def densities(curves: dict[str, np.ndarray], grid: np.ndarray, x: str) -> Figure:
    """Densities over one grid, the last one set off in black. x: what the grid is."""
    figure, axis = plt.subplots(figsize=(COLUMN, 1.8), layout="constrained")
    for i, (title, values) in enumerate(curves.items()):
        look: dict[str, Any] = {"linewidth": 2, "color": "0.1", "linestyle": "-"} if i == len(curves) - 1 else {}
        axis.plot(grid, values, label=title, **look)
    axis.set(xlabel=x, ylabel="density", ylim=(0, None))
    axis.legend(handlelength=3)
    return figure


def plane(points: dict[str, tuple[float, float]], distances: list[tuple[str, str]]) -> Figure:
    """Points in the plane and the distances of Eq. 19 between them, the first one dark, each with its length."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")
    for i, (a, b) in enumerate(distances):
        ends = np.array([points[a], points[b]])
        axis.plot(*ends.T, color="0.1" if i == 0 else "0.75", linestyle="-", zorder=0)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        length = f"{np.linalg.norm(ends[0] - ends[1]):.3f}"
        axis.annotate(length, ends.mean(axis=0), ha="center", va="center", fontsize=6, bbox=box)
    for name, place in points.items():
        first = name.startswith("x")
        axis.plot(*place, "o" if first else "s", color="#0072B2" if first else "#D55E00")
        axis.annotate(f"${name}$", place, textcoords="offset points", xytext=(5, 4), fontsize=9)
    axis.set_aspect("equal")
    axis.set(xlabel="first dimension of $\\mu$", ylabel="second dimension of $\\mu$")
    axis.margins(0.15)
    return figure


def shared_space(spaces: dict[str, pd.DataFrame]) -> Figure:
    """Codes in the plane, one panel a frame: columns `1` and `2`, `digit` (colour) and `images`, the modality (marker).

    In the last panel each digit also stands where its codes have their middle, for whoever cannot tell the colours.
    """
    size = (WIDTH, WIDTH / len(spaces))
    figure, axes = plt.subplots(1, len(spaces), figsize=size, squeeze=False, layout="constrained")
    markers = dict(zip(next(iter(spaces.values())).images.unique(), "o^sDvP", strict=False))
    for axis, letter, (title, frame) in zip(axes.flat, string.ascii_lowercase, spaces.items(), strict=False):
        last = axis is axes.flat[-1]
        colours = {"hue": "digit", "palette": DIGITS, "hue_order": range(10)}
        shapes = {"style": "images", "markers": markers, "s": 16, "linewidth": 0, "alpha": 0.7}
        shown = frame.sample(frac=1, random_state=0)  # in no order, so that no digit covers the others
        sns.scatterplot(shown, x="1", y="2", ax=axis, legend="full" if last else False, **colours, **shapes)
        middles = frame.groupby("digit")[["1", "2"]].median() if last else frame[["1", "2"]][:0]
        for digit, middle in middles.iterrows():
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            axis.text(*middle, str(digit), ha="center", va="center", fontsize=9, weight="bold", bbox=box)
        axis.set_title(f"({letter}) {title}")
        axis.set(xlabel="first principal component", ylabel="second principal component", aspect="equal")
        axis.set_adjustable("datalim")
        axis.locator_params(nbins=5)
    sns.move_legend(axes.flat[-1], "center left", bbox_to_anchor=(1.0, 0.5), title="")
    return figure


def traversals(pictures: dict[str, np.ndarray], meanings: dict[str, pd.DataFrame], ends: tuple[float, float]) -> Figure:
    """Fig. 5: in each panel a row of images for each private dimension, and beside it what the dimension goes with.

    pictures: title -> cells (dimensions, steps, side, side, 3). meanings: title -> a frame with a row a dimension; its
    first column is the KL term in nats, the others are correlations, drawn as a heat map; where the KL term is below
    0.05 the dimension is off, and its row has no colour. ends: the first and the last step's value.
    """
    left, wide, room, gap, heading, below = 0.4, 4.3, 1.65, 0.15, 0.45, 0.4  # inches
    heights = [wide * cells.shape[0] / cells.shape[1] for cells in pictures.values()]
    total = sum(heights) + (heading + below) * len(heights)
    figure = plt.figure(figsize=(WIDTH, total))
    top = total

    def place(x: float, width: float, height: float) -> Axes:
        return figure.add_axes((x / WIDTH, (top - heading - height) / total, width / WIDTH, height / total))

    for letter, (title, cells), height in zip(string.ascii_lowercase, pictures.items(), heights, strict=False):
        frame = meanings[title]
        dimensions = range(len(frame))
        images, heat = place(left, wide, height), place(left + wide + gap, room, height)
        half = (ends[1] - ends[0]) / (cells.shape[1] - 1) / 2  # an image's middle lies at its value
        extent = (ends[0] - half, ends[1] + half, len(frame) - 0.5, -0.5)
        images.imshow(tile(cells), interpolation="nearest", aspect="auto", extent=extent)
        images.set(xlabel="value of the private dimension", ylabel="private dimension", yticks=dimensions)
        images.set_title(f"({letter}) {title}")
        values = frame.iloc[:, 1:].to_numpy()
        off = frame.iloc[:, :1].to_numpy() < 0.05
        shown = np.where(off, 0.0, values)
        heat.imshow(shown, vmin=-1, vmax=1, cmap="PuOr", aspect="auto", interpolation="nearest")
        for (row, column), value in np.ndenumerate(values):
            ink = "0.6" if off[row] else "white" if abs(value) > 0.7 else "black"
            heat.text(column, row, f"{value:z.1f}", ha="center", va="center", fontsize=6, color=ink)
        for row, nats in enumerate(frame.iloc[:, 0]):
            heat.text(values.shape[1] - 0.4, row, f"{nats:.2f}", va="center", fontsize=6)
        heat.text(values.shape[1] - 0.4, -0.75, frame.columns[0], va="bottom", fontsize=6)
        heat.set(xticks=range(values.shape[1]), xticklabels=frame.columns[1:], yticks=[])
        heat.xaxis.tick_top()
        heat.tick_params(length=0)
        heat.spines[:].set_visible(False)
        heat.set_title("correlation with", pad=4)
        top -= heading + height + below
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

    given = {"x": box(0.1, 5.0, f"$x$\n{x}", image, 2.8), "y": box(0.1, 1.4, f"$y$\n{y}", image, 2.8)}
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
        arrowprops=dict(arrowstyle="<|-|>", color="#D55E00", linestyle="--", linewidth=1.2),
    )
    axes.text(4.85, 3.2, "quadruplet loss\n(Eq. 19)", fontsize=8, color="#D55E00", va="center")
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.pdf, without dates, so that the same figure is the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with replacing(folder / f"{name}{suffix}") as partial:
            figure.savefig(partial, format=suffix[1:], dpi=200, metadata=metadata)
