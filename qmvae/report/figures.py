"""Figures made of images, and the style of all figures."""

import string
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

WIDTH, COLUMN = 7.0, 3.4  # inches: a page's text width, and one of its two columns

# Okabe and Ito's colours, for colour-blind readers. Each line has its own dashes too, for black and white.
LINES = plt.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000"])
DASHES: list[Any] = ["-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1))]
LINES += plt.cycler(linestyle=DASHES)
# Ten colours for classes. Every two are at least 0.19 apart in OKLab, and 0.13 for readers without red or green cones.
CLASSES = "#003399 #80e600 #661a4d #ff8099 #66ccff #809900 #6600ff #806680 #1a6600 #9980ff".split()
# The colours of docs/architecture.svg: shared and private codes (face, edge), the pair and its negatives in Eq. 19.
SHARED, PRIVATE, PAIR, NEGATIVE = ("#fcebc8", "#9a6400"), ("#c3def2", "#0072b2"), "#00795a", "#c24e00"
STYLE: dict[Any, Any] = {  # of every figure, also those of a notebook's own code; sizes as printed, at WIDTH or COLUMN
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
    """Return images (..., C, H, W) in [0, 1], C = 1 or 3, as (..., side, side, 3), with a black margin if smaller.

    Raises ValueError for other channels and for images larger than `side`.
    """
    *_, channels, height, width = images.shape
    if channels not in (1, 3) or max(height, width) > side:
        raise ValueError(f"images {channels}x{height}x{width}: expected 1 or 3 channels and sides up to {side}")
    top, left = (side - height) // 2, (side - width) // 2
    margins = [(0, 0)] * (images.ndim - 2) + [(top, side - height - top), (left, side - width - left)]
    images = np.moveaxis(np.pad(images, margins), -3, -1)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def tile(cells: np.ndarray, gap: int = 2) -> np.ndarray:
    """Return cells (rows, columns, side, side, 3) as one picture (height, width, 3) with white gaps of `gap` pixels."""
    margins = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
    cells = np.pad(cells, margins, constant_values=1.0)
    rows, columns, height, width, _ = cells.shape
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return picture[:-gap, :-gap]


def under_conditions(conditions: np.ndarray, generated: np.ndarray, references: np.ndarray | None = None) -> np.ndarray:
    """Return one panel of Figs. 3 and 4, (height, width, 3): the conditions, and the generated images below them.

    conditions: (n, C, H, W). generated: (rows, n, C, H, W). references: (rows, C, H, W), the first column if given.
    A wider gap separates conditions and references from generated images.
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
    """Draw pictures (height, width, 3) in rows of `columns`, each below its title and, if several, its letter."""
    rows, lines = -(-len(pictures) // columns), max(title.count("\n") + 1 for title in pictures)
    height, width, _ = next(iter(pictures.values())).shape
    size = (WIDTH, rows * (WIDTH / columns * height / width + 0.1 + 0.135 * lines))  # a title's line has 0.135 inches
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, letter, (title, picture) in zip(axes.flat, string.ascii_lowercase, pictures.items(), strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(f"({letter}) {title}" if len(pictures) > 1 else title)
    return figure


def swap(pictures: dict[str, np.ndarray], classes: tuple[str, str]) -> Figure:
    """Draw the paper's aim: the shared code of x and the private code of y give a new image of y's modality.

    pictures: `x`, `y` and `result`, (side, side, 3) each. classes: of x and of y.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    titles = {"x": f"$x$, class {classes[0]}", "y": f"$y$, class {classes[1]}"}
    titles["result"] = f"class {classes[0]}, style of $y$"
    corners = {"x": (0.3, 1.3), "y": (0.3, 0.05), "result": (5.75, 0.7)}
    for name, (left, bottom) in corners.items():
        axis.imshow(pictures[name], interpolation="nearest", extent=(left, left + 0.95, bottom, bottom + 0.95))
        axis.text(left + 0.475, bottom + 0.99, titles[name], ha="center", va="bottom", fontsize=8)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "linewidth": 1}

    def code(text: str, colours: tuple[str, str], image: float, middle: float, used: bool) -> None:
        face, edge = (colours[0], colours[1]) if used else ("white", "0.7")
        axis.add_patch(Rectangle((2.0, middle - 0.18), 1.9, 0.36, facecolor=face, edgecolor=edge))
        axis.text(2.95, middle, text, ha="center", va="center", color="black" if used else "0.5")
        axis.annotate("", (1.97, middle), (1.3, image), arrowprops=arrow | {"color": "0.3" if used else "0.75"})
        if used:
            axis.annotate("", (4.47, 1.175), (3.93, middle), arrowprops=arrow | {"color": edge})

    code(f"shared code $z$ of $x$: class {classes[0]}", SHARED, 1.775, 2.02, used=True)
    code("private code $h_x$: not used", PRIVATE, 1.775, 1.5, used=False)
    code("shared code $z$ of $y$: not used", SHARED, 0.525, 0.77, used=False)
    code("private code $h_y$: the style of $y$", PRIVATE, 0.525, 0.25, used=True)
    axis.add_patch(Rectangle((4.5, 0.95), 0.85, 0.45, facecolor="#e8e8e8", edgecolor="#444"))
    axis.text(4.925, 1.175, "decoder of\n$y$'s modality", ha="center", va="center")
    axis.annotate("", (5.72, 1.175), (5.38, 1.175), arrowprops=arrow | {"color": "0.3"})
    axis.set(xlim=(0, WIDTH), ylim=(0, 2.5))
    return figure


def quadruplets(rows: dict[str, np.ndarray], classes: dict[str, list]) -> Figure:
    """Draw Fig. 2: in each column a quadruplet, with the class below each image.

    rows: by symbol, cells (columns, side, side, 3): x and y, which get a green frame, then their negatives, which get a
    dashed orange one. classes: of each row's cells.
    """
    columns = len(next(iter(rows.values())))
    size = (WIDTH, len(rows) * (WIDTH / columns + 0.12) + 0.2)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout="constrained")
    looks: dict[str, tuple[str, Any]] = {
        "a pair: one class": (PAIR, "-"),
        "its negatives: other classes": (NEGATIVE, (0, (2, 1))),
    }
    for i, (line, (symbol, cells)) in enumerate(zip(axes, rows.items(), strict=True)):
        colour, dashes = list(looks.values())[i > 1]
        for axis, cell, label in zip(line, cells, classes[symbol], strict=True):
            axis.imshow(cell, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color=colour, linestyle=dashes, linewidth=2, capstyle="butt")
            axis.set_xlabel(str(label), fontsize=8, labelpad=2)
        line[0].set_ylabel(symbol, rotation=0, fontsize=10, ha="right", va="center")
    frames = [Patch(facecolor="white", edgecolor=c, linestyle=d, linewidth=2, label=n) for n, (c, d) in looks.items()]
    figure.legend(handles=frames, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def traversals(
    pictures: dict[str, np.ndarray],
    meanings: dict[str, pd.DataFrame],
    ends: tuple[float, float],
    starts: Mapping[str, np.ndarray],
) -> Figure:
    """Draw Fig. 5: in each panel a row of images for each private dimension, and its correlations beside it.

    pictures: by title, cells (dimensions, steps, side, side, 3). meanings: by title, a frame with a row a dimension.
    Its first column is the KL term in nats, the others are correlations, drawn as a heat map. A dimension whose KL term
    is below 0.05 nats is inactive, and its row has no colour. ends: the first and the last step's value. starts: by
    title, the code that the rows start from. In each row a frame marks the image whose value is nearest to that code's.
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
        steps = np.linspace(*ends, cells.shape[1])
        for row, start in enumerate(starts[title][: len(frame)]):
            corner = (steps[abs(steps - start).argmin()] - half, row - 0.5)
            images.add_patch(Rectangle(corner, 2 * half, 1, fill=False, edgecolor="#D55E00", linewidth=1.5))
        images.set_title(f"({letter}) {title}")
        values = frame.iloc[:, 1:].to_numpy()
        inactive = frame.iloc[:, :1].to_numpy() < 0.05
        colours = np.where(inactive, 0.0, values)
        heat.imshow(colours, vmin=-1, vmax=1, cmap="PuOr", aspect="auto", interpolation="nearest")
        for (row, column), value in np.ndenumerate(values):
            ink = "0.6" if inactive[row] else "white" if abs(value) > 0.7 else "black"
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
