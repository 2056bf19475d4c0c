"""Run a numbered notebook with papermill: `python -m qmvae.notebooks 01_data`.

The executed copy goes to reports/<preset>/notebooks. It is stripped of all that differs between two runs of the same
thing or tells of the machine (times, durations, paths, versions), so that a second run changes nothing.
"""

import argparse
import logging
import re
import warnings

import nbformat
import papermill

from qmvae import files
from qmvae.params import Params, ParamsError, load


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep what a reader sees, in place: no papermill or timing metadata, no parameters cell that papermill adds."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()


def execute(params: Params, stem: str) -> None:
    """Run notebooks/<stem>.ipynb with the preset; its executed copy replaces the last one only if every cell went well.

    Raises FileError that names the notebook, the cell and the error.
    """
    path = params.root / "notebooks" / f"{stem}.ipynb"
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.ipynb")))
        raise files.FileError(f"{path}: no such notebook; there are {names}") from None
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(parameters) != 1:
        raise files.FileError(f"{path}: expected one cell tagged `parameters`, found {len(parameters)}")
    # The value goes into the cell itself, not into one more below it: executed copies read like the notebooks.
    parameters[0].source = re.sub(r'preset = "\w+"', f'preset = "{params.preset}"', parameters[0].source)
    output = params.reports / "notebooks" / f"{stem}.ipynb"
    with files.replacing(output) as partial:
        nbformat.write(notebook, partial)
        try:
            done = papermill.execute_notebook(
                partial, None, cwd=path.parent, kernel_name="python3", progress_bar=False, log_output=False
            )
        except papermill.PapermillExecutionError as error:
            raise files.FileError(
                f"{path}: cell {error.cell_index} failed with {error.ename}: {error.evalue}\n{error.source}"
            ) from None
        clean(done)
        nbformat.write(done, partial)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.notebooks", description=__doc__)
    parser.add_argument("notebook", help="its name without .ipynb")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="nbformat|papermill|traitlets|zmq")
    try:
        execute(load(), parser.parse_args().notebook)
    except (ParamsError, files.FileError) as error:
        raise SystemExit(f"notebook: {error}") from None


if __name__ == "__main__":
    main()
