"""Which code a stage runs, from the imports of its module, and a hash of it without docstrings and comments.

`python -m qmvae code` writes a hash for each stage, and DVC's stages depend on these files. So a changed statement
makes every result stale that it can change, and a changed docstring or comment makes none.
"""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # of the repository
# The first three turn params.yaml into values; DVC and the fingerprints of training hash the values themselves. The
# last two print errors and choose the stage.
EXEMPT = {f"qmvae/pipeline/{name}.py" for name in ("sections", "schema", "params", "messages")} | {"qmvae/__main__.py"}


def closure(root: Path, sources: Iterable[str]) -> list[str]:
    """Return these files and every file of the package that they import, directly or not: sorted paths below `root`.

    sources: .py files or notebooks, as paths below `root`. Imports within functions count, too. Without EXEMPT.
    """
    found: set[str] = set()
    waiting = list(sources)
    while waiting:
        path = waiting.pop()
        if path not in found and path not in EXEMPT:
            found.add(path)
            waiting += imports(root, path) | packages(root, path.split("/")[:-1])
    return sorted(found)


def imports(root: Path, path: str) -> set[str]:
    """Return the files of the package that one file imports: paths below `root`, packages' __init__.py included."""
    found: set[str] = set()
    modules, _ = read(root / path)
    for module in modules:
        parts = module.split(".")
        own = "/".join(parts) + ".py"
        found |= packages(root, parts) | ({own} if (root / own).is_file() else set())
    return found


def packages(root: Path, parts: list[str]) -> set[str]:
    """Return the __init__.py of a module and of all packages around it, where there are any."""
    files = ("/".join([*parts[:n], "__init__.py"]) for n in range(1, len(parts) + 1))
    return {file for file in files if (root / file).is_file()}


def parse(path: Path, text: str) -> ast.Module:
    """Return the syntax tree of a module, or of all code cells of a notebook. text: the file's text."""
    if path.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", "\n".join(cells))  # IPython's own syntax
    return ast.parse(text, str(path))


def read(path: Path) -> tuple[list[str], str]:
    """Return the modules of qmvae that a file imports, packages and names among them, and its canonical code."""
    return _read(path, path.read_text(encoding="utf-8"))


@functools.cache  # the fingerprints of all seeds and models parse the same files
def _read(path: Path, text: str) -> tuple[list[str], str]:
    tree, names = parse(path, text), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]  # a module or a name
    return [name for name in names if name.split(".")[0] == "qmvae"], repr(canonical(tree))


def canonical(node: Any) -> Any:
    """Return a syntax tree as nested tuples without positions, docstrings, and fields that are empty.

    What is left does not depend on the version of Python, as ast.dump does.
    """
    if isinstance(node, list):
        return tuple(canonical(item) for item in node)
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    body = fields.get("body")
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(body, list):
        fields["body"] = body[1:] if ast.get_docstring(node, clean=False) is not None else body
    return type(node).__name__, tuple((name, canonical(value)) for name, value in fields.items())


def code_hash(root: Path, sources: Iterable[str]) -> str:
    """Return the SHA-256, in hexadecimal, of the code that these files run."""
    digest = hashlib.sha256()
    for path in closure(root, sources):
        _, text = read(root / path)
        digest.update(f"({path!r}, {text})".encode())
    return digest.hexdigest()


def model_file(name: str) -> str:
    """Return the path of a model's own file, which checkpoint.model_class imports by name."""
    return f"qmvae/{'model' if name == 'qmvae' else 'baselines'}/{name}.py"


def model_names(root: Path) -> list[str]:
    """Return the names of all models: Q-MVAE, then the others in alphabetical order."""
    return ["qmvae", *sorted(p.stem for p in (root / "qmvae/baselines").glob("*.py") if p.stem != "__init__")]


def stage_sources(root: Path) -> dict[str, list[str]]:
    """Return for each stage, by the name of its hash file, the files that its command starts from."""
    stages = "qmvae/pipeline/stages"
    sources = {name: [f"{stages}/{name}.py"] for name in ("data", "classifiers", "metrics")}
    loaded = [model_file(name) for name in model_names(root)]  # by name, as checkpoint.model_class does
    sources |= {name: [f"{stages}/{name}.py", *loaded] for name in ("train", "evaluate")}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        sources[f"notebook-{path.stem}"] = [f"notebooks/{path.name}", f"{stages}/notebook.py", *loaded]
    for name in ("ablate", "collect", "three_modalities"):  # the scripts of ablations/dvc.yaml
        sources[f"ablations-{name}"] = [f"ablations/{name}.py", *loaded]
    return sources
