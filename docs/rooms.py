"""Draws rooms.png, what imports what in qmvae/, from the code itself: python docs/rooms.py."""

import ast
import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "qmvae"


def room(module: str) -> str:
    """`qmvae.data.checks` is in the room data; `qmvae` itself has none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports() -> dict[str, list[str]]:
    """By room, the rooms that it imports, sorted; also what is imported within functions."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        here = room(".".join(["qmvae", *path.relative_to(PACKAGE).with_suffix("").parts]))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "qmvae":
                names = [f"qmvae.{a.name}" for a in node.names] if node.module == "qmvae" else [node.module]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.startswith("qmvae.")]
            found.setdefault(here, set()).update(room(name) for name in names)
    rooms = set(found) - {"__init__", ""}
    return {here: sorted((found[here] & rooms) - {here}) for here in sorted(rooms)}


def depth(graph: dict[str, list[str]], here: str) -> int:
    """How many imports lie below a room, on the longest way. Raises RecursionError where imports go in a circle."""
    return 1 + max((depth(graph, other) for other in graph[here]), default=-1)


def below(graph: dict[str, list[str]], here: str) -> set[str]:
    """All rooms that a room imports, at first hand or not."""
    return set(graph[here]).union(*(below(graph, other) for other in graph[here]))


def draw(graph: dict[str, list[str]]) -> plt.Figure:
    """An import that one further down implies is left out."""
    graph = {
        here: [one for one in others if not any(one in below(graph, other) for other in others)]
        for here, others in graph.items()
    }
    levels: dict[int, list[str]] = {}
    for here in graph:
        levels.setdefault(depth(graph, here), []).append(here)
    place = {}
    for level, members in levels.items():
        for i, here in enumerate(members):
            place[here] = ((i + 0.5) / len(members) * 10 + 0.35 * (level % 2), level)
    figure, axes = plt.subplots(figsize=(7, 0.75 * len(levels)), layout="constrained")
    for here, others in graph.items():
        for other in others:
            style = {"arrowstyle": "-|>", "color": "0.6", "shrinkA": 14, "shrinkB": 14, "linewidth": 0.8}
            axes.annotate("", place[other], place[here], arrowprops=style)
    for here, (x, y) in place.items():
        box = {"boxstyle": "round", "fc": "#fbe3c0", "ec": "0.4"}
        axes.text(x, y, here, ha="center", va="center", fontsize=9, bbox=box)
    axes.set(xlim=(-0.3, 10.7), ylim=(-0.5, max(levels) + 0.5))
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    edges = imports()
    draw(edges).savefig(HERE / "rooms.png", dpi=130, metadata={"Software": None, "Description": json.dumps(edges)})
