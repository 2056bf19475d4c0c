"""Draw docs/rooms.png: the subpackages, their files, and their imports. `python tools/import_graph.py`

The rows are the layers of pyproject.toml's import rules; files and arrows come from the code. It needs import-linter.
"""

import json
import textwrap
import tomllib
from pathlib import Path

import grimp
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]


def rooms() -> dict[str, dict[str, list[str]]]:
    """Return what the picture shows: for each room its `files` and the rooms that it `imports`, both sorted."""
    graph = grimp.build_graph("qmvae", cache_dir=None)
    names = {module: module.split(".")[1] for module in graph.modules - {"qmvae", "qmvae.__main__"}}
    found: dict[str, dict[str, list[str]]] = {}
    for room in sorted(set(names.values())):
        modules = [module for module, name in names.items() if name == room]
        others = {names.get(other, room) for m in modules for other in graph.find_modules_directly_imported_by(m)}
        files = {m.split(".")[2] for m in modules if m.count(".") > 1}
        found[room] = {"files": sorted(files), "imports": sorted(others - {room})}
    return found


def layers() -> list[list[str]]:
    """Return the rooms of each layer of the import rules, the highest first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [layer.split(" | ") for layer in contract["layers"]]


def below(found: dict[str, dict[str, list[str]]], room: str) -> set[str]:
    """Return all rooms that a room imports, directly or not."""
    imported = found[room]["imports"]
    return set(imported).union(*(below(found, other) for other in imported))


def draw(found: dict[str, dict[str, list[str]]], rows: list[list[str]]) -> Figure:
    """Return the picture. An import that a path of other arrows implies has no arrow."""
    figure, axes = plt.subplots(figsize=(9, 1.35 * len(rows)), layout="constrained")
    boxes = {}
    for y, row in enumerate(rows):
        for i, room in enumerate(row):
            text = "\n".join([rf"$\bf{{{room}}}$", *textwrap.wrap(", ".join(found[room]["files"]), 34)])
            x = 3.1 * (i - (len(row) - 1) / 2)
            style = {"boxstyle": "round,pad=0.6", "fc": "#fff1d6" if room == "model" else "white", "ec": "0.3"}
            boxes[room] = axes.text(x, y, text, ha="center", va="center", size=9, bbox=style, zorder=2), y
    for room, parts in found.items():
        implied = set().union(*(below(found, other) for other in parts["imports"]))
        for other in set(parts["imports"]) - implied:
            (box, y), (other_box, other_y) = boxes[room], boxes[other]
            bend = "angle,angleA=0,angleB=90,rad=20" if other_y - y > 1 else "arc3"  # around the row between them
            ends = {"patchA": box.get_bbox_patch(), "patchB": other_box.get_bbox_patch(), "shrinkA": 0, "shrinkB": 0}
            line = {"arrowstyle": "-|>", "color": "0.4", "lw": 1.2, "connectionstyle": bend}
            axes.annotate("", other_box.get_position(), box.get_position(), arrowprops=ends | line, zorder=1)
    axes.set(xlim=(-4.7, 4.7), ylim=(len(rows) - 0.5, -0.55))
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    about = {"Software": None, "Description": json.dumps(rooms())}
    draw(rooms(), layers()).savefig(ROOT / "docs" / "rooms.png", dpi=110, metadata=about)
