"""The runner of the notebooks: same bytes twice, nothing of the machine, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny import ROOT, write_params

from qmvae.pipeline import notebooks
from qmvae.pipeline.files import FileError
from qmvae.pipeline.params import load

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def write_notebook(root: Path, *sources: str) -> None:
    write_params(root)
    parameters = nbformat.v4.new_code_cell('preset = "quick"', id="a", metadata={"tags": ["parameters"]})
    cells = [parameters, *(nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources))]
    (root / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "story.ipynb")


def run(root: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qmvae", "notebook", "story"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_twice_the_same_bytes_with_the_preset_of_params(tmp_path):
    write_notebook(tmp_path, "import os\nprint(preset, os.path.basename(os.getcwd()))", "1 + 1")
    executed = tmp_path / "reports" / "tiny" / "notebooks" / "story.ipynb"
    result = run(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    first = executed.read_bytes()
    assert run(tmp_path).returncode == 0
    assert executed.read_bytes() == first
    assert str(tmp_path).encode() not in first and b"papermill" not in first and b"T0" not in first
    cells = nbformat.read(executed, as_version=4).cells
    assert [cell.id for cell in cells] == ["a", "c0", "c1"]
    assert cells[0].source == 'preset = "tiny"'
    assert cells[1].outputs[0].text == "tiny notebooks\n"
    assert [cell.execution_count for cell in cells] == [1, 2, 3]


def test_what_is_printed_in_pieces_is_kept_in_one():
    cell = nbformat.v4.new_code_cell("print(...)", id="a")
    pieces = [("stdout", "one\n"), ("stdout", "two\n"), ("stderr", "careful\n"), ("stdout", "three\n")]
    cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebooks.clean(notebook)
    kept = [(output.name, output.text) for output in notebook.cells[0].outputs]
    assert kept == [("stdout", "one\ntwo\n"), ("stderr", "careful\n"), ("stdout", "three\n")]


def test_a_failing_cell_is_named_and_the_last_good_copy_stays(tmp_path):
    write_notebook(tmp_path, "1 / 0")
    executed = tmp_path / "reports" / "tiny" / "notebooks" / "story.ipynb"
    executed.parent.mkdir(parents=True)
    executed.write_text("the last good copy")
    result = run(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "story.ipynb: cell 1 failed with ZeroDivisionError: division by zero" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in executed.parent.iterdir()] == ["story.ipynb"]
    assert executed.read_text() == "the last good copy"


def test_a_killed_kernel_is_said_to_be(tmp_path):
    write_notebook(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(FileError, match="ended early"):
        notebooks.execute(load(root=tmp_path), "story")
    assert not (tmp_path / "reports").exists()


def test_a_notebook_that_is_not_there_or_not_one(tmp_path):
    write_notebook(tmp_path)
    with pytest.raises(FileError, match="no such notebook; there are story"):
        notebooks.execute(load(root=tmp_path), "tale")
    for text, message in {"{": "cannot be read", "{}": "cannot be read|parameters"}.items():
        (tmp_path / "notebooks" / "story.ipynb").write_text(text)
        with pytest.raises(FileError, match=message):
            notebooks.execute(load(root=tmp_path), "story")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / "story.ipynb")
    with pytest.raises(FileError, match="expected one cell tagged `parameters`"):
        notebooks.execute(load(root=tmp_path), "story")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_executed_and_clean(path):
    """nbval compares nothing in a cell that was never run, and says nothing about it."""
    committed = nbformat.read(path, as_version=4)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run `make repro`, then `make notebooks`"
    )
    shown = "subset" if path.stem.startswith(("09", "10")) else "quick"  # what `make notebooks` takes
    assert [cell.source for cell in code if "parameters" in cell.metadata.get("tags", [])] == [f'preset = "{shown}"']
    before = nbformat.writes(committed)
    notebooks.clean(committed)
    assert nbformat.writes(committed) == before, "saved from JupyterLab? run `make repro`, then `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_fits_on_a_screen_and_each_picture_is_described(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 30, cell.id
            pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            assert not pictures or cell.metadata.get("alt"), f"{cell.id}: say under `alt` what the picture shows"


def test_the_check_names_what_does_not_belong_into_git(tmp_path):
    write_notebook(tmp_path, "1 + 1")
    path = tmp_path / "notebooks" / "story.ipynb"
    whole = nbformat.read(path, as_version=4)
    notebooks.clean(whole)
    nbformat.write(whole, path)
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    path_in_text = nbformat.v4.new_output("stream", name="stdout", text="read /home/somebody/data")
    path_in_value = nbformat.v4.new_output("execute_result", data={"text/plain": "PosixPath('/tmp/pytest-0/data')"})
    path_in_warning = nbformat.v4.new_output("stream", name="stderr", text="C:\\Users\\somebody\\x.py:3: UserWarning")
    harmless = nbformat.v4.new_output(  # a colon before a new line, a relative path, an address, a picture's letters
        "display_data",
        data={"text/plain": "MNIST:\n../data/tmp/x https://example.org/home/x", "image/png": "aaaa+/tmp/aaaa"},
    )
    whole.cells[1].outputs = [harmless]
    nbformat.write(whole, path)
    notebooks.check(tmp_path)
    for spoil, message in (
        (lambda notebook: notebook.metadata.update(papermill={}), "metadata of one machine or run"),
        (lambda notebook: notebook.cells[1].metadata.update(collapsed=True), "metadata of one machine or run"),
        (lambda notebook: notebook.cells[1].outputs.append(error), "cell c0: ended in an error"),
        (lambda notebook: notebook.cells[1].outputs.append(path_in_text), "/home/somebody/data is a path of one"),
        (lambda notebook: notebook.cells[1].outputs.append(path_in_value), "/tmp/pytest-0/data is a path of one"),
        (lambda notebook: notebook.cells[1].outputs.append(path_in_warning), r"C:\\Users\\somebody\\x.py:3: is a path"),
        (lambda notebook: notebook.cells[1].update(source="open('/mnt/disk/x')"), "/mnt/disk/x is a path of one"),
    ):
        spoiled = nbformat.read(path, as_version=4)
        spoil(spoiled)
        nbformat.write(spoiled, path)
        with pytest.raises(FileError, match=message):
            notebooks.check(tmp_path)
        nbformat.write(whole, path)


def test_folded_solutions_and_alt_texts_survive_the_cleaning():
    kept = {"tags": ["solution"], "jupyter": {"source_hidden": True}, "alt": "two curves"}
    cell = nbformat.v4.new_code_cell("1", metadata=kept | {"execution": {"iopub.status.busy": "now"}})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebooks.clean(notebook)
    assert notebook.cells[0].metadata == kept
