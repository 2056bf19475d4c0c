"""Charts of numbers: curves, densities, scatter plots."""

import math
import string
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from qmvae.report.figures import CLASSES, COLUMN, LINES, NEGATIVE, PAIR, WIDTH


def curves(
    log: Mapping[str, np.ndarray],
    groups: dict[str, tuple[str, dict[str, str]]],
    marks: dict[str, float],
    columns: int = 3,
) -> Figure:
    """Draw terms of the objective over the steps of training, one panel a group.

    log: columns by name, `step` among them. groups: for each panel's title its unit, and the label of each of its
    columns. marks: for each change during training its step, a grey line in every panel.
    """
    rows = -(-len(groups) // columns)
    size = (WIDTH, 2.1 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharex=True)
    for axis, letter, (title, (unit, names)) in zip(axes.flat, string.ascii_lowercase, groups.items(), strict=False):
        for name, label in names.items():
            axis.plot(log["step"], log[name], label=label)
        for step in sorted(set(marks.values())):
            axis.axvline(step, color="0.6", linewidth=0.6, linestyle="-", zorder=0)
        axis.set_title(f"({letter}) {title}", pad=8 + 8 * math.ceil(len(names) / 3))
        axis.set_ylabel(unit)
        beside = {"columnspacing": 0.8, "handlelength": 2, "handletextpad": 0.4, "borderpad": 0}
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=min(3, len(names)), **beside)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    lines = [(step, [name for name, at in marks.items() if at == step]) for step in sorted(set(marks.values()))]
    note = "; ".join(f"from step {step:,.0f} on: {', '.join(names)}" for step, names in lines)
    if note:
        figure.supxlabel(f"Grey line, {note}", fontsize=7, color="0.3")
    return figure


def changes(table: pd.DataFrame, band: float, x: str) -> Figure:
    """Draw the change that each row makes, with a marker for each column. x: the unit.

    Changes within +-band, which is shaded, may be chance. The scale is linear up to twice the band and logarithmic
    beyond, so that a few large changes do not hide the others.
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
    """Draw densities over one grid, the last one in black. x: the grid's label."""
    figure, axis = plt.subplots(figsize=(COLUMN, 1.8), layout="constrained")
    for i, (title, values) in enumerate(curves.items()):
        look: dict[str, Any] = {"linewidth": 2, "color": "0.1", "linestyle": "-"} if i == len(curves) - 1 else {}
        axis.plot(grid, values, label=title, **look)
    axis.set(xlabel=x, ylabel="density", ylim=(0, None))
    axis.legend(handlelength=3)
    return figure


def plane(points: dict[str, tuple[float, float]], margins: dict[tuple[str, str], float]) -> Figure:
    """Draw points in the plane, the distances of Eq. 19 between them with their lengths, and its margins as circles.

    margins: by the names of two points, the margin of their distance. The first one, of the pair, has none. The circle
    of another has its first point as centre, and the pair's distance plus the margin as radius. So the distance's term
    of Eq. 19 is 0 if its second point is outside the circle.
    """
    figure, axis = plt.subplots(figsize=(0.7 * WIDTH, 3.4), layout="constrained")
    spans = {names: np.array([points[name] for name in names]) for names in margins}
    lengths = {names: float(np.linalg.norm(ends[0] - ends[1])) for names, ends in spans.items()}
    pair = next(iter(lengths))
    for (names, ends), look in zip(spans.items(), LINES, strict=False):
        colour = "0.1" if names == pair else look["color"]
        label = "$d({},\\ {})$".format(*names)
        if names != pair:
            radius = lengths[pair] + margins[names]
            axis.add_patch(Circle(ends[0], radius, fill=False, edgecolor=colour, linestyle=look["linestyle"]))
            label += f"; circle round ${names[0]}$, radius {lengths[pair]:.1f} + {margins[names]:.1f}"
        axis.plot(*ends.T, color=colour, linestyle="-" if names == pair else look["linestyle"], label=label, zorder=1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        below = (0, -7 if names == pair else 0)  # points; the pair's line is short
        where: dict[str, Any] = {"xytext": below, "textcoords": "offset points", "ha": "center", "va": "center"}
        axis.annotate(f"{lengths[names]:.3f}", ends.mean(axis=0), fontsize=6, bbox=box, **where)
    for name, place in points.items():
        axis.plot(*place, "o" if name.startswith("x") else "s", color=NEGATIVE if name.endswith("-") else PAIR)
        axis.annotate(f"${name}$", place, textcoords="offset points", xytext=(5, 4), fontsize=10)
    axis.set_aspect("equal")
    axis.set(xlabel="first dimension of $\\mu$", ylabel="second dimension of $\\mu$")
    axis.autoscale_view()
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Return places (n, 2) moved apart, each a little at a time, until every two are about `gap` apart at least."""
    turns = 2 * np.pi * np.arange(len(places)) / len(places)
    places = places + gap / 100 * np.stack([np.cos(turns), np.sin(turns)], axis=1)  # two equal places differ now
    for _ in range(300):
        apart = places[:, None] - places
        distance = np.linalg.norm(apart, axis=2) + np.eye(len(places))
        short = np.clip(gap - distance, 0, None) * (1 - np.eye(len(places)))
        places = places + (apart * (short / distance / 4)[:, :, None]).sum(axis=1)
    return places


def shared_space(spaces: dict[str, pd.DataFrame], x: str, y: str) -> Figure:
    """Draw codes in the plane, one panel a frame with the columns `1`, `2`, `class` (colour) and `images` (marker).

    images: the title of the code's modality. Codes of the first ten classes are drawn. Each class also stands at the
    mean of its codes, or beside it with a line to it where labels would overlap. x, y: the axes' labels.
    """
    import seaborn as sns  # late: it takes longer to import than all else here

    size = (WIDTH, WIDTH / len(spaces) + 0.2)
    figure, axes = plt.subplots(1, len(spaces), figsize=size, squeeze=False, layout="constrained")
    first = next(iter(spaces.values()))
    markers = dict(zip(first.images.unique(), "o^sDvP", strict=False))
    classes = sorted(first["class"].unique())[: len(CLASSES)]
    colours = {"hue": "class", "palette": CLASSES[: len(classes)], "hue_order": classes}
    shapes = {"style": "images", "markers": markers, "s": 14, "linewidth": 0, "alpha": 0.6}
    drawn = {title: frame[frame["class"].isin(classes)] for title, frame in spaces.items()}
    for axis, letter, (title, frame) in zip(axes.flat, string.ascii_lowercase, drawn.items(), strict=False):
        shuffled = frame.sample(frac=1, random_state=0)  # so that no class covers the others
        sns.scatterplot(shuffled, x="1", y="2", ax=axis, legend=False, **colours, **shapes)
        axis.set_title(f"({letter}) {title}")
        axis.set(xlabel=x, ylabel="", aspect="equal")
        axis.set_adjustable("datalim")
        axis.locator_params(nbins=5)
    axes.flat[0].set_ylabel(y)
    look: dict[str, Any] = {"color": "0.4", "linestyle": "", "markersize": 4}
    kinds = [Line2D([], [], marker=marker, label=title, **look) for title, marker in markers.items()]
    figure.legend(handles=kinds, loc="outside lower center", ncols=len(kinds), fontsize=7)
    figure.draw_without_rendering()  # fixes the limits, which the gap between labels and the next layout need
    for axis, frame in zip(axes.flat, drawn.values(), strict=True):
        means = frame.groupby("class")[["1", "2"]].mean()
        labels = spread(means.to_numpy(), 0.085 * np.ptp(axis.get_xlim()))
        for label, mean, place in zip(means.index, means.to_numpy(), labels, strict=True):
            colour = CLASSES[classes.index(label)]
            axis.plot(
                *np.stack([mean, place]).T, color="black", linestyle="-", linewidth=0.6, scalex=False, scaley=False
            )
            box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour, "linewidth": 1.2}
            axis.text(*place, str(label), ha="center", va="center", fontsize=6.5, weight="bold", bbox=box)
    return figure


def free_corners(points: np.ndarray) -> list[tuple[int, int]]:
    """Return on which side of each point, (1 right | -1 left, 1 up | -1 down), a label is farthest from all others.

    points: (N, 2), in units of the panel's width and height. A label covers about 0.1 by 0.04 of them.
    """
    taken, corners = list(points), []
    for x, y in points:
        middles = {(a, b): np.array([x + 0.08 * a, y + 0.025 * b]) for a in (1, -1) for b in (1, -1)}
        distance = {corner: min(np.hypot(*(m - p) * (1, 2)) for p in taken) for corner, m in middles.items()}
        corners.append(max(distance, key=lambda corner: distance[corner]))
        taken.append(middles[corners[-1]])
    return corners


def tradeoff(frame: pd.DataFrame) -> Figure:
    """Draw accuracy against style, one panel a direction, one line a model, with a ring round each chosen point.

    frame: a row for each trained model, with the columns `direction` and `model` (titles; a model with several lengths
    of training has several), `accuracy` (in %), `style` (the R2 of translations), `weight`, `weights` (the text beside
    the point), `chosen`, `final` and `on_line` (bool). Each line connects a model's points in the order of their
    weights. A star marks a final point.
    """
    directions = frame.direction.unique()
    looks = dict(zip(frame.model.unique(), zip(LINES, "osD^vP", strict=False), strict=False))
    size = (WIDTH, WIDTH / max(2, len(directions)))
    figure, axes = plt.subplots(1, len(directions), figsize=size, squeeze=False, layout="constrained")
    for axis, letter, direction in zip(axes.flat, string.ascii_lowercase, directions, strict=False):
        axis.set_title(f"({letter}) {direction}")
        axis.set(xlabel="style, $R^2$ of translations", ylabel="accuracy, %")
        panel = frame[frame.direction == direction]
        for model, (look, marker) in looks.items():
            points = panel[panel.model == model].sort_values("weight")
            line, chosen, final = points[points.on_line], points[points.chosen], points[points.final]
            axis.plot(line["style"], line.accuracy, marker=marker, markersize=4, label=model, **look)
            axis.scatter(chosen["style"], chosen.accuracy, s=80, facecolors="none", edgecolors=look["color"])
            axis.scatter(
                final["style"], final.accuracy, s=130, marker="*", color=look["color"], edgecolors="white", zorder=3
            )
        places = panel[["style", "accuracy"]].to_numpy()
        corners = free_corners((places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-9))
        for place, (right, up), weights, model in zip(places, corners, panel.weights, panel.model, strict=True):
            beside = {"ha": "left" if right > 0 else "right", "va": "center", "xytext": (7 * right, 5 * up)}
            axis.annotate(
                weights, place, textcoords="offset points", fontsize=6, color=looks[model][0]["color"], **beside
            )
    axes.flat[0].legend()
    return figure
