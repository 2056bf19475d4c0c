"""Run numbered notebooks with papermill, and keep them free of all that belongs to one machine or one run.

The executed copy goes to reports/<preset>/notebooks. It holds no times, durations, paths or versions, so that a second
run writes the same bytes.
"""

import copy
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import papermill
from nbconvert.preprocessors import ClearMetadataPreprocessor, CoalesceStreamsPreprocessor

from qmvae.pipeline import files, jobs, surroundings
from qmvae.pipeline.schema import Params

# an absolute path that is not the end of a relative path or of a web address
PATH = re.compile(
    r"(?<![\w.~/-])/(home|Users|root|tmp|private|var|opt|mnt|media|srv|scratch)/[^\s'\"]*|\b[A-Z]:\\[\w.]\S*"
)
KEPT = {"tags", "jupyter", "alt"}  # of a cell's metadata: parameters, folded solutions, what a figure shows
NO_FIGURE = "promises a figure and has none: keep Matplotlib's backend, or clear `alt` and old output"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def clean(notebook: nbformat.NotebookNode) -> None:
    """Remove, in place, the metadata of papermill and of the run, and join text that was printed in pieces."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)  # it ends with its kernel
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in KEPT and value}
        )
    ClearMetadataPreprocessor(preserve_cell_metadata_mask=KEPT).preprocess(notebook, {})
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    notebook.metadata = nbformat.from_dict(KERNEL | {"language_info": {"name": "python"}})


def execute(params: Params, stem: str) -> None:
    """Run notebooks/<stem>.ipynb with the preset; its executed copy replaces the last one if every cell succeeds.

    Raises FileError that names the notebook, the cell and the error, also where a promised figure is missing.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    path = params.root / "notebooks" / f"{stem}.ipynb"
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.ipynb")))
        raise files.FileError(f"{path}: no such notebook; there are {names}") from None
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise files.FileError(f"{path}: cannot be read as a notebook: {' '.join(str(error).split())[:200]}") from None
    # The value goes into the cell itself, not into one more below it: executed copies look like the notebooks.
    cells = [cell for cell in notebook.cells if has_parameters(cell)]
    changed = [re.subn(r'(?m)^preset = "\w+"', f'preset = "{params.preset}"', cell.source) for cell in cells]
    if [count for _, count in changed] != [1]:
        raise files.FileError(f'{path}: expected one cell tagged `parameters` with one line preset = "..."')
    cells[0].source = changed[0][0]
    promised = [promises_figure(cell) for cell in notebook.cells]
    try:
        with surroundings.own_settings():
            surroundings.write_fonts()
            os.environ.update(jobs.one_thread())
            done = papermill.execute_notebook(
                notebook,
                None,
                cwd=path.parent,  # as in JupyterLab and nbval
                kernel_name="python3",
                progress_bar=False,
                iopub_timeout=60,  # seconds; a busy machine may need more than nbclient's 4 for a last output
            )
    except papermill.PapermillExecutionError as error:
        raise files.FileError(
            f"{path}: cell {error.cell_index} failed with {error.ename}: {error.evalue}\n{error.source}"
        ) from None
    except RuntimeError as error:  # killed, out of memory, or never started
        raise files.FileError(f"{path}: the notebook's Python process ended early: {error}") from None
    for index, (cell, promise) in enumerate(zip(done.cells, promised, strict=True)):
        if promise and not has_figure(cell):
            raise files.FileError(f"{path}: cell {index} {NO_FIGURE}")
    clean(done)
    files.save_text(params.reports / "notebooks" / path.name, nbformat.writes(done) + "\n")


def has_parameters(cell: nbformat.NotebookNode) -> bool:
    """Return whether a cell has papermill's tag `parameters`: it sets the preset."""
    return "parameters" in cell.metadata.get("tags", [])


def has_figure(cell: Mapping) -> bool:
    """Return whether an output of the cell is a picture."""
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def promises_figure(cell: nbformat.NotebookNode) -> bool:
    """Return whether a code cell must have a picture when it was run: it has one now, an `alt`, or a plt.show()."""
    shows = re.search(r"(?m)^[^#\n]*\bplt\.show\(", cell.source)
    return cell.cell_type == "code" and bool(shows or cell.metadata.get("alt") or has_figure(cell))


def faults(path: Path) -> list[str]:
    """Return the parts of a notebook that do not belong in git: metadata of a run, errors, paths of one machine."""
    notebook = nbformat.read(path, as_version=4)
    cleaned = copy.deepcopy(notebook)
    clean(cleaned)
    found = [] if cleaned == notebook else ["metadata of one machine or run; take the copy that `make notebooks` makes"]
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            found.append(f"cell {cell.id}: ended in an error; correct it and run it again")
        if promises_figure(cell) and not has_figure(cell):
            found.append(f"cell {cell.id}: {NO_FIGURE}")
        for match in map(PATH.search, texts(cell)):
            if match:
                found.append(f"cell {cell.id}: {match[0][:60]} is a path of one machine; make it relative")
    return [f"{path}: {fault}" for fault in found]


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """Return the texts of a cell: its source, and its outputs without pictures."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [data for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def check(root: Path) -> None:
    """Raise FileError with the faults of all notebooks, if there are any."""
    if found := [fault for path in sorted((root / "notebooks").glob("*.ipynb")) for fault in faults(path)]:
        raise files.FileError("\n".join(found))
