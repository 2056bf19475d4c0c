"""Draws rooms.png, what imports what in qmvae/, from the code itself: python docs/rooms.py."""

import ast
import json
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from grandalf.graphs import Edge, Graph, Vertex  # this comes with dvc, whose `dvc dag` it lays out
from grandalf.layouts import SugiyamaLayout, VertexViewer
from grandalf.routing import EdgeViewer

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
            if isinstance(node, ast.ImportFrom) and node.level:
                raise ValueError(f"{path}: line {node.lineno}: write this import with the package's name")
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "qmvae":
                names = [f"qmvae.{a.name}" for a in node.names] if node.module == "qmvae" else [node.module]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.startswith("qmvae.")]
            found.setdefault(here, set()).update(room(name) for name in names)
    rooms = set(found) - {"__init__", ""}
    return {here: sorted((found[here] & rooms) - {here}) for here in sorted(rooms)}


def stages() -> set[str]:
    """The rooms that a stage of DVC runs, as `python -m qmvae.<room>`."""
    paths = [HERE.parent / "dvc.yaml", *HERE.parent.glob("*/dvc.yaml")]
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]
    found = [stage.get("do", stage)["cmd"].split() for file in files for stage in file["stages"].values()]
    return {room(words[2]) for words in found}


def below(graph: dict[str, list[str]], here: str) -> set[str]:
    """All rooms that a room imports, at first hand or not."""
    return set(graph[here]).union(*(below(graph, other) for other in graph[here]))


def draw(graph: dict[str, list[str]], filled: set[str]) -> plt.Figure:
    """Arrows point down and go around the rooms. An import that one further down implies is left out."""
    figure, axes = plt.subplots(figsize=(12, 7.5), layout="constrained")
    rooms = {here: Vertex(here) for here in graph}
    for vertex in rooms.values():
        vertex.view = VertexViewer(w=110, h=34)
    arrows = []
    for here, others in graph.items():
        direct = [one for one in others if not any(one in below(graph, other) for other in others)]
        arrows += [Edge(rooms[here], rooms[other]) for other in direct]
    for arrow in arrows:
        arrow.view = EdgeViewer()
    (connected,) = Graph(list(rooms.values()), arrows).C
    layout = SugiyamaLayout(connected)
    layout.xspace, layout.yspace = 20, 44
    layout.init_all()
    layout.draw(30)  # sets each vertex's view.xy and each arrow's way; y points down

    boxes = {}
    for here, vertex in rooms.items():
        x, y = vertex.view.xy
        box = {"boxstyle": "round,pad=0.45", "fc": "#fbd9a0" if here in filled else "white", "ec": "0.3"}
        boxes[here] = axes.text(x, -y, here, ha="center", va="center", fontsize=11, bbox=box, zorder=2)
    ways = [point for arrow in arrows for point in arrow.view._pts]  # they go around the outermost rooms, too
    xs, ys = zip(*(vertex.view.xy for vertex in rooms.values()), *ways, strict=True)
    axes.set(xlim=(min(xs) - 80, max(xs) + 80), ylim=(-max(ys) - 25, -min(ys) + 25))
    axes.set_axis_off()
    figure.canvas.draw()  # so that boxes have the sizes at which arrows end
    for arrow in arrows:
        way = [(x, -y) for x, y in arrow.view._pts]
        end = boxes[arrow.v[1].data].get_bbox_patch()
        style = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 0, "shrinkB": 0, "lw": 1.2, "patchB": end}
        axes.plot(*zip(*way[:-1], strict=True), color="0.4", lw=1.2, zorder=1)
        axes.annotate("", way[-1], way[-2], arrowprops=style, zorder=1)
    return figure


def shown() -> dict:
    """What the picture shows; it keeps this within itself, for the test that compares it with the code."""
    return {"imports": imports(), "stages": sorted(stages())}


if __name__ == "__main__":
    picture = draw(imports(), stages())
    picture.savefig(HERE / "rooms.png", dpi=110, metadata={"Software": None, "Description": json.dumps(shown())})
