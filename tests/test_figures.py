"""Figures: what each draws, and that the same figure is the same bytes."""

import gc
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from qmvae.report import figures, plots


@pytest.fixture(autouse=True)
def closed():
    """No warning of text without room or without a glyph, and no figure that stays open."""
    gc.collect()  # now, so that no file which an earlier test left open warns within these
    with warnings.catch_warnings(action="error"):
        yield
    plt.close("all")


def test_curves_draw_every_column_and_mark_what_changes():
    steps = np.arange(10, 101, 10)
    log = {"step": steps, "a": steps * 2.0, "b": -steps, "c": steps + 1.0}
    groups = {"first": ("nats", {"a": "$A$", "b": "$B$"}), "second": ("", {"c": "$C$"})}
    figure = plots.curves(log, groups, {"one": 40, "another": 40, "third": 70}, columns=2)
    left, right = figure.axes
    assert [line.get_label() for line in left.lines[:2]] == ["$A$", "$B$"]
    assert left.lines[0].get_ydata().tolist() == log["a"].tolist()
    assert [line.get_xdata()[0] for line in right.lines[1:]] == [40, 70]
    assert (left.get_title(), left.get_ylabel(), right.get_xlabel()) == ("(a) first", "nats", "step")
    assert "from step 40 on: one, another; from step 70 on: third" in figure.get_supxlabel()
    looks = {(line.get_color(), line.get_linestyle()) for line in left.lines[:2]}
    assert len(looks) == 2 and len({dashes for _, dashes in looks}) == 2, "distinguished by colour alone"


def oklab(colours, seen):
    """Return colours "#rrggbb" in OKLab, (N, 3), as eyes with the matrix `seen` of linear RGB see them."""
    coded = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    to_lab = [
        [0.2104543, 0.7936178, -0.0040720],
        [1.9779985, -2.4285922, 0.4505937],
        [0.0259040, 0.7827718, -0.8086758],
    ]
    return np.cbrt(np.clip(linear @ np.transpose(seen), 0, 1) @ np.transpose(to_cones)) @ np.transpose(to_lab)


PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


@pytest.mark.parametrize("seen, least", [(np.eye(3), 0.19), (PROTANOPIA, 0.13), (DEUTERANOPIA, 0.13)])
def test_every_two_colours_of_classes_differ(seen, least):
    """The matrices are of Machado et al. (2009)."""
    places = oklab(figures.CLASSES, seen)
    distances = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(10, 1)]
    assert len(places) == 10 and distances.min() > least


@pytest.mark.parametrize("count", [3, 10, 26])
def test_shared_space_writes_at_most_ten_classes_where_they_are(count):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(count) + 5, 4)
    frame = pd.DataFrame({"1": labels * 3.0, "2": rng.normal(size=len(labels)), "class": labels})
    frame["images"] = ["m", "s"] * (len(labels) // 2)
    figure = plots.shared_space({"before": frame, "after": frame}, "one", "two")
    before, after = figure.axes
    drawn = min(count, 10)
    for axis in (before, after):
        assert [text.get_text() for text in axis.texts] == [str(5 + k) for k in range(drawn)]
        near = [text.get_position()[0] for text in axis.texts]
        np.testing.assert_allclose(near, [3.0 * (5 + k) for k in range(drawn)], atol=3)
    assert len(after.collections[0].get_offsets()) == 4 * drawn
    assert (before.get_xlabel(), before.get_ylabel()) == ("one", "two")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["m", "s"]


def test_labels_that_would_overlap_are_moved_apart_and_others_stay():
    places = np.array([[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [9.0, 9.0]])
    moved = plots.spread(places, 1.0)
    distances = np.linalg.norm(moved[:, None] - moved, axis=2)[np.triu_indices(4, 1)]
    assert distances.min() > 0.99
    np.testing.assert_allclose(moved[3], places[3], atol=0.02)
    np.testing.assert_allclose(moved[:3], 0, atol=1.1)


def test_swap_names_what_is_used_and_quadruplets_have_labels_and_frames():
    picture = np.zeros((4, 4, 3))
    axis = figures.swap({"x": picture, "y": picture, "result": picture}, ("6", "7")).axes[0]
    texts = {text.get_text() for text in axis.texts}
    assert {"$x$, class 6", "$y$, class 7", "class 6, style of $y$", "private code $h_x$: not used"} <= texts
    assert len(axis.images) == 3
    rows = {symbol: np.zeros((2, 4, 4, 3)) for symbol in ("x", "y", "x-", "y-")}
    labels = {"x": [1, 2], "y": [1, 2], "x-": [3, 3], "y-": [0, 3]}
    figure = figures.quadruplets(rows, labels)
    assert [axis.get_xlabel() for axis in figure.axes] == ["1", "2", "1", "2", "3", "3", "0", "3"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == list(rows)
    frames = [axis.spines["left"] for axis in figure.axes]
    assert len({frame.get_edgecolor() for frame in frames[:4]} | {frames[4].get_edgecolor()}) == 2
    assert [frame.get_linestyle() == "-" for frame in frames] == [True] * 4 + [False] * 4


def test_traversals_put_rows_beside_their_meanings():
    cells = np.random.default_rng(0).random((3, 5, 8, 8, 3))
    meaning = pd.DataFrame({"KL, nats": [1.0, 0.01, 0.2], "slant": [0.9, 0.8, -0.04]})
    figure = figures.traversals(
        {"to there": cells}, {"to there": meaning}, ends=(-5, 5), starts={"to there": np.array([0.4, -4.0, 9.0])}
    )
    images, heat = figure.axes
    assert images.get_ylim() == heat.get_ylim() == (2.5, -0.5)
    top, bottom = images.get_position(), heat.get_position()
    assert (top.y0, top.y1) == pytest.approx((bottom.y0, bottom.y1))
    assert images.images[0].get_extent() == [-6.25, 6.25, 2.5, -0.5]  # five images, their middles from -5 to 5
    frames = [(frame.get_x(), frame.get_y(), frame.get_width()) for frame in images.patches]
    assert frames == [(-1.25, -0.5, 2.5), (-6.25, 0.5, 2.5), (3.75, 1.5, 2.5)]  # round the nearest of -5, -2.5, 0, ...
    np.testing.assert_allclose(images.images[0].get_array(), figures.tile(cells))
    assert heat.images[0].get_array().tolist() == [[0.9], [0.0], [-0.04]]  # a dimension that is off has no colour
    assert [text.get_text() for text in heat.texts] == ["0.9", "0.8", "0.0", "1.00", "0.01", "0.20", "KL, nats"]


def test_changes_puts_each_row_at_its_change():
    table = pd.DataFrame({"up": [0.5, -40.0], "down": [-3.0, 8.0]}, index=["a", "b"])
    axis = plots.changes(table, band=2.0, x="points").axes[0]
    zero, *columns = axis.lines
    assert [(line.get_xdata().tolist(), list(line.get_ydata())) for line in columns] == [
        ([0.5, -40.0], [0, 1]),
        ([-3.0, 8.0], [0, 1]),
    ]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"] and axis.yaxis_inverted()
    assert {"-20", "0", "+5"} <= {text.get_text() for text in axis.get_xticklabels()}


def test_plane_writes_lengths_and_draws_margins_as_circles_and_densities_set_off_the_last():
    points = {"x": (0.0, 0.0), "y": (3.0, 4.0), "y_-": (0.0, 6.0)}
    axis = plots.plane(points, {("x", "y"): 0.0, ("x", "y_-"): 2.0}).axes[0]
    assert [text.get_text() for text in axis.texts] == ["5.000", "6.000", "$x$", "$y$", "$y_-$"]
    assert [(*circle.center, circle.radius) for circle in axis.patches] == [(0.0, 0.0, 7.0)]  # 5 and the margin
    assert axis.get_xlim()[1] > 7 and axis.get_ylim()[0] < -7, "a circle is cut off"
    grid = np.linspace(0, 1, 5)
    lines = plots.densities({"q": grid, "product": grid**2}, grid, "$z$").axes[0].lines
    assert lines[1].get_linewidth() > lines[0].get_linewidth()


def test_tiles_lie_where_they_should():
    conditions = np.arange(3).reshape(3, 1, 1, 1) / 10 * np.ones((3, 1, 4, 4))
    generated = np.stack([conditions + 0.3, conditions + 0.6])
    generated = np.repeat(np.pad(generated, [(0, 0)] * 3 + [(1, 1)] * 2), 3, axis=2)  # RGB, 6x6
    picture = figures.under_conditions(conditions, generated)
    middles = picture[3::, 3::, 0]  # the middle of the first condition, and so on in steps of a cell
    np.testing.assert_allclose(middles[0, ::8], [0.0, 0.1, 0.2])
    np.testing.assert_allclose(middles[14, ::8], [0.3, 0.4, 0.5])  # side 6 + gap 2 + 6 pixels between
    np.testing.assert_allclose(middles[22, ::8], [0.6, 0.7, 0.8])


def test_tradeoff_connects_a_models_points_by_weight_and_rings_the_chosen_ones():
    rows = [("a to b", "Q", 90.0, 0.2, 18.0, False), ("a to b", "Q", 80.0, 0.5, 1.5, True)]
    rows += [("a to b", "Q", 85.0, 0.9, 3.0, False), ("a to b", "D", 70.0, 0.6, 1.0, True)]
    rows += [("b to a", "D", 60.0, 0.1, 1.0, True), ("b to a", "Q", 50.0, 0.3, 3.0, False)]
    frame = pd.DataFrame(rows, columns=["direction", "model", "accuracy", "style", "weight", "chosen"])
    frame["weights"], frame["on_line"], frame["final"] = [f"{w:g}/1" for w in frame.weight], True, False
    star = {"direction": "a to b", "model": "Q", "accuracy": 88.0, "style": 0.4, "weight": 2.0, "weights": "2/1"}
    frame.loc[len(frame)] = star | {"chosen": False, "on_line": False, "final": True}
    left, right = plots.tradeoff(frame).axes
    assert [axis.get_title() for axis in (left, right)] == ["(a) a to b", "(b) b to a"]
    points = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in left.lines}
    assert points == {"Q": ([0.5, 0.9, 0.2], [80.0, 85.0, 90.0]), "D": ([0.6], [70.0])}
    assert {text.xy: text.get_text() for text in left.texts}[0.5, 80.0] == "1.5/1"
    rings, stars = left.collections[::2], left.collections[1::2]
    assert [ring.get_offsets().tolist() for ring in rings] == [[[0.5, 80.0]], [[0.6, 70.0]]]
    assert [star.get_offsets().tolist() for star in stars] == [[[0.4, 88.0]], []]
    assert [ring.get_offsets().tolist() for ring in right.collections[::2]] == [[], [[0.1, 60.0]]]
    colours = [[(line.get_label(), line.get_color()) for line in axis.lines] for axis in (left, right)]
    assert colours[0] == colours[1], "a model has one colour in all panels"


def test_labels_of_near_points_go_to_different_sides():
    corners = plots.free_corners(np.array([[0.5, 0.5], [0.5, 0.52], [0.5, 0.54], [0.0, 0.0]]))
    assert len(set(corners[:3])) == 3 and corners[0][1] == -1 and corners[2][1] == 1


def test_every_image_is_drawn_where_it_belongs():
    def shades(*values):
        return np.stack([np.full((4, 4, 3), value) for value in values])

    def drawn(axes):
        return [image.get_array()[0, 0, 0] for axis in axes for image in axis.images]

    pictures = dict(zip(("x", "y", "result"), shades(0.1, 0.2, 0.3), strict=True))
    assert drawn(figures.swap(pictures, ("6", "7")).axes) == [0.1, 0.2, 0.3]
    assert drawn(figures.panels(pictures, columns=3).axes) == [0.1, 0.2, 0.3]
    rows = {symbol: shades(i / 10, i / 10 + 0.05) for i, symbol in enumerate(("x", "y", "x-", "y-"))}
    expected = [cell[0, 0, 0] for cells in rows.values() for cell in cells]
    assert drawn(figures.quadruplets(rows, {symbol: [1, 2] for symbol in rows}).axes) == expected


def test_references_stand_beside_their_rows():
    conditions, references = np.zeros((3, 1, 4, 4)), np.stack([np.full((1, 4, 4), value) for value in (0.2, 0.4)])
    picture = figures.under_conditions(conditions, np.zeros((2, 3, 1, 4, 4)), references)
    np.testing.assert_allclose(picture[[2, 2 + 12, 2 + 18], 2, 0], [1, 0.2, 0.4])


def test_the_same_figure_is_the_same_bytes_in_png_and_pdf(tmp_path):
    from qmvae.pipeline.artifacts import write_figure

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        picture = figures.tile(figures.rgb(np.linspace(0, 1, 2 * 3 * 16).reshape(2, 3, 1, 4, 4), 4))
        write_figure(figures.panels({"a": picture, "b": picture}, columns=2), tmp_path / folder, "figure")
    for suffix in (".png", ".pdf"):
        first, second = ((tmp_path / folder / f"figure{suffix}").read_bytes() for folder in ("one", "two"))
        assert first == second and b"CreationDate" not in first and b"Software" not in first
