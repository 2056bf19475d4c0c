"""Run a numbered notebook with papermill: `python -m qmvae.notebooks 01_data`.

The executed copy goes to reports/<preset>/notebooks. It is stripped of all that differs between two runs of the same
thing or tells of the machine (times, durations, paths, versions), so that a second run changes nothing.
"""

import argparse
import copy
import logging
import re
from pathlib import Path

import nbformat
import papermill

from qmvae import files
from qmvae.params import Params, ParamsError, find_root, load

# absolute, and not the end of a relative path or of a web address
PATH = re.compile(
    r"(?<![\w.~/-])/(home|Users|root|tmp|private|var|opt|mnt|media|srv|scratch)/[^\s'\"]*|\b[A-Z]:\\[\w.]\S*"
)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep what a reader sees, in place: no papermill or timing metadata, no parameters cell that papermill adds."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        metadata = ("tags", "jupyter", "alt")  # parameters, folded solutions, what a figure shows
        kept = {key: cell.metadata[key] for key in metadata if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
        merged: list = []
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)  # it ends with its kernel
            stream = output.output_type == "stream"
            if stream and merged and merged[-1].output_type == "stream" and merged[-1].name == output.name:
                merged[-1].text += output.text  # on a busy machine what is printed comes in more pieces
            else:
                merged.append(output)
        if "outputs" in cell:
            cell.outputs = merged


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
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise files.FileError(f"{path}: cannot be read as a notebook: {' '.join(str(error).split())[:200]}") from None
    # The value goes into the cell itself, not into one more below it: executed copies read like the notebooks.
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    changed = [re.subn(r'(?m)^preset = "\w+"', f'preset = "{params.preset}"', cell.source) for cell in cells]
    if [count for _, count in changed] != [1]:
        raise files.FileError(f'{path}: expected one cell tagged `parameters` with one line preset = "..."')
    cells[0].source = changed[0][0]
    try:
        done = papermill.execute_notebook(
            notebook,
            None,
            cwd=path.parent,  # as JupyterLab and nbval have it
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # it calls the end of the run an error
        )
    except papermill.PapermillExecutionError as error:
        raise files.FileError(
            f"{path}: cell {error.cell_index} failed with {error.ename}: {error.evalue}\n{error.source}"
        ) from None
    except RuntimeError as error:  # killed, out of memory, or never started
        raise files.FileError(f"{path}: the notebook's Python process ended early: {error}") from None
    clean(done)
    files.save_text(params.reports / "notebooks" / path.name, nbformat.writes(done) + "\n")


def faults(path: Path) -> list[str]:
    """What a notebook holds that does not belong into git: metadata of one machine or run, errors, paths of a home."""
    notebook = nbformat.read(path, as_version=4)
    cleaned = copy.deepcopy(notebook)
    clean(cleaned)
    found = [] if cleaned == notebook else ["metadata of one machine or run; take the copy that `make notebooks` makes"]
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            found.append(f"cell {cell.id}: ended in an error; mend it and run it again")
        for match in map(PATH.search, texts(cell)):
            if match:
                found.append(f"cell {cell.id}: {match[0][:60]} is a path of one machine; make it relative")
    return [f"{path}: {fault}" for fault in found]


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a person reads of a cell: its source, and its outputs but for pictures."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [data for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def check(root: Path) -> None:
    """Raise FileError with the faults of all notebooks, if there are any."""
    if found := [fault for path in sorted((root / "notebooks").glob("*.ipynb")) for fault in faults(path)]:
        raise files.FileError("\n".join(found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.notebooks", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("notebook", nargs="?", help="its name without .ipynb")
    what.add_argument("--check", action="store_true", help="look for what does not belong into git, in all of them")
    arguments = parser.parse_args()
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        check(find_root()) if arguments.check else execute(load(), arguments.notebook)
    except (ParamsError, files.FileError) as error:
        raise SystemExit(f"notebook: {error}") from None


if __name__ == "__main__":
    main()
