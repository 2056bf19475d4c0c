"""Run the notebooks and take their outputs into git. `python tools/notebook_outputs.py`, after `make repro` of `quick`.

notebooks/ has the copies of the preset `published`, so that a reader sees real images. 09 and 10 read numbers only, and
have those of `subset`. tests/notebooks has the code cells of the copies of `quick`, without pictures: on any machine,
nbval compares their texts with a new run.
"""

from pathlib import Path

import nbformat

from qmvae.pipeline import files, notebooks, params

ROOT = Path(__file__).parents[1]
SUBSET = "09", "10"
NOT_QUICK = "09", "10", "12"  # what they show does not depend on a run of `quick`


def committed_preset(stem: str) -> str:
    """Return the preset whose outputs notebooks/<stem>.ipynb has."""
    return params.SOURCE if stem.startswith(SUBSET) else params.PUBLISHED


def executed(root: Path, preset: str, path: Path) -> nbformat.NotebookNode:
    """Return the copy that a run of the preset left. Raises FileError if it is missing, or if its code differs."""
    done = root / "reports" / preset / "notebooks" / path.name
    cure = f"run `python -m qmvae notebook --preset {preset} {path.stem}`"
    if not done.is_file():
        raise files.FileError(f"{done}: file not found; {cure}")
    notebook = nbformat.read(done, as_version=4)
    if code(notebook) != code(nbformat.read(path, as_version=4)):
        raise files.FileError(f"{done}: of another version of {path.name}; {cure}")
    return notebook


def code(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the sources of all code cells but the one that has the preset."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if not notebooks.has_parameters(cell)]


def for_nbval(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove text cells and pictures, in place, and return the notebook."""
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for output in (output for cell in notebook.cells for output in cell.outputs):
        for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
            del output.data[kind]
    return notebook


def main(root: Path = ROOT) -> None:
    """Run the notebooks and write both folders. Raises FileError, and leaves both as they were, if one fails."""
    texts = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebooks.execute(params.load(committed_preset(path.stem), root), path.stem)
        texts[path] = executed(root, committed_preset(path.stem), path)
        if not path.stem.startswith(NOT_QUICK):
            texts[root / "tests" / "notebooks" / path.name] = for_nbval(executed(root, "quick", path))
    for path, notebook in texts.items():
        files.save_text(path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
