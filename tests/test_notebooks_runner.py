"""The runner of the notebooks: same bytes twice, nothing of the machine, nothing half-written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny import ROOT, write_params

from qmvae.pipeline import notebooks
from qmvae.pipeline.files import FileError
from qmvae.pipeline.params import load
from tools import notebook_outputs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURE = re.compile('"image/')


def write_notebook(root: Path, *sources: str) -> None:
    write_params(root)
    parameters = nbformat.v4.new_code_cell('preset = "quick"', id="a", metadata={"tags": ["parameters"]})
    cells = [parameters, *(nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources))]
    (root / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "story.ipynb")


def run(root: Path, **exported: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | exported
    command = [sys.executable, "-m", "qmvae", "notebook", "story"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_twice_the_same_bytes_with_the_preset_of_params(tmp_path):
    fonts = "glob.glob(os.environ['MPLCONFIGDIR'] + '/fontlist*')"
    write_notebook(tmp_path, f"import glob, os\nprint(preset, os.path.basename(os.getcwd()), len({fonts}))", "1 + 1")
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
    assert cells[1].outputs[0].text == "tiny notebooks 1\n"
    assert [cell.execution_count for cell in cells] == [1, 2, 3]


def test_what_is_printed_in_pieces_is_kept_in_one():
    cell = nbformat.v4.new_code_cell("print(...)", id="a")
    pieces = [("stdout", "one\n"), ("stdout", "two\n"), ("stderr", "careful\n"), ("stdout", "three\n")]
    cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebooks.clean(notebook)
    kept = [(output.name, output.text) for output in notebook.cells[0].outputs]
    assert kept == [("stdout", "one\ntwo\n"), ("stderr", "careful\n"), ("stdout", "three\n")]


def test_what_the_kernel_says_of_its_sockets_is_not_shown_and_what_a_callback_raises_is(tmp_path):
    sockets = 'import logging\nlogging.getLogger("tornado.general").error("Socket operation on non-socket")'
    callback = "import asyncio, tornado.ioloop\ntornado.ioloop.IOLoop.current().add_callback(lambda: 1 / 0)"
    write_notebook(tmp_path, sockets, f"{callback}\nawait asyncio.sleep(0.1)")
    result = run(tmp_path)
    shown = result.stderr + (tmp_path / "reports" / "tiny" / "notebooks" / "story.ipynb").read_text()
    assert result.returncode == 0 and "ZeroDivisionError: division" in shown and "ERROR:tornado.general" not in shown


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


FIGURE = "import matplotlib.pyplot as plt\nfigure, _ = plt.subplots(figsize=(1, 1))\nplt.close()\nfigure"
WHAT_COUNTS = """
try:
    assert False
    print("no assertion counts")
except AssertionError:
    pass
print([name for name in dir() if "leak" in name], sorted(__import__("matplotlib").rcParams["text.color"]))
"""


@pytest.fixture
def personal(tmp_path):
    """Settings of Matplotlib, IPython, Jupyter and Python that a user may have, as environment variables."""
    home = tmp_path / "home"
    for name, text in {
        ".config/matplotlib/matplotlibrc": "backend: Agg\nfigure.facecolor: red\ntext.color: red\n",
        ".ipython/profile_default/startup/00.py": "leak_of_ipython = 1\n",
        ".ipython/profile_default/ipython_config.py": "c.InlineBackend.figure_formats = {'svg'}\n",
        ".local/share/jupyter/kernels/python3/kernel.json": '{"argv": ["false"], "display_name": "", "language": ""}',
        "startup.py": "leak_of_python = 1\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    exported = {
        "HOME": str(home),
        "MATPLOTLIBRC": str(home / ".config/matplotlib/matplotlibrc"),
        "MPLBACKEND": "nobodys",
    }
    exported |= {"MPLCONFIGDIR": str(home / ".config/matplotlib")}
    exported |= {"IPYTHONDIR": str(home / ".ipython"), "JUPYTER_PATH": str(home / ".local/share/jupyter")}
    return exported | {"PYTHONSTARTUP": str(home / "startup.py"), "PYTHONOPTIMIZE": "1", "PYTHONWARNINGS": "always"}


def test_personal_settings_change_nothing(tmp_path, personal):
    write_notebook(tmp_path, FIGURE, WHAT_COUNTS)
    executed = tmp_path / "reports" / "tiny" / "notebooks" / "story.ipynb"
    made = []
    for exported in ({}, personal, {"HOME": "/dev/null/nobody's"}):  # the last one can't be written, by root neither
        result = run(tmp_path, **exported)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        made.append(executed.read_bytes())
    assert made[0] == made[1] == made[2] and b"image/png" in made[0]
    matplotlib = "surroundings.write_fonts()\n    import matplotlib\n    print(matplotlib.rcParams['text.color'])"
    command = f"from qmvae.pipeline import surroundings\nwith surroundings.own_settings():\n    {matplotlib}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | personal
    said = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True).stdout
    assert said == "black\n"
    assert nbformat.reads(made[0], as_version=4).cells[2].outputs[0].text.startswith("[] ")


@pytest.mark.parametrize("promise", ["alt", "plt.show()", "a picture from before"])
def test_a_cell_without_the_figure_that_it_promises_is_named(tmp_path, promise):
    write_notebook(tmp_path, "import matplotlib\nmatplotlib.use('Agg')", FIGURE)
    path = tmp_path / "notebooks" / "story.ipynb"
    notebook = nbformat.read(path, as_version=4)
    if promise == "alt":
        notebook.cells[2].metadata.alt = "an empty square"
    elif promise == "plt.show()":
        notebook.cells[2].source += "\nplt.show()"
    else:
        notebook.cells[2].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "aaaa"})]
    nbformat.write(notebook, path)
    result = run(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "story.ipynb: cell 2 promises a figure and has none" in result.stderr
    assert not (tmp_path / "reports").exists()


def test_nbval_runs_notebooks_in_the_same_way(tmp_path, personal):
    write_notebook(tmp_path, FIGURE, WHAT_COUNTS)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    assert run(tmp_path).returncode == 0
    whole = nbformat.read(tmp_path / "reports" / "tiny" / "notebooks" / "story.ipynb", as_version=4)
    nbformat.write(whole, tmp_path / "notebooks" / "story.ipynb")
    whole.cells[1].source = f"import matplotlib\nmatplotlib.use('Agg')\n{FIGURE}"
    nbformat.write(whole, tmp_path / "notebooks" / "tale.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "notebooks"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | personal
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert re.search("1 failed, 5 passed", result.stdout), result.stdout + result.stderr
    assert "tale.ipynb::Cell 1" in result.stdout and "promises a figure and has none" in result.stdout


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
    preset = [cell.source for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert preset == [f'preset = "{notebook_outputs.committed_preset(path.stem)}"']
    before = nbformat.writes(committed)
    notebooks.clean(committed)
    assert nbformat.writes(committed) == before, "saved from JupyterLab? run `make repro`, then `make notebooks`"


def test_the_texts_that_nbval_compares_are_those_of_these_notebooks():
    """In tests/notebooks: run with `quick`, with the same code, without what nbval does not compare."""
    wanted = [path for path in NOTEBOOKS if not path.stem.startswith(notebook_outputs.NOT_QUICK)]
    found = sorted((ROOT / "tests" / "notebooks").glob("*.ipynb"))
    assert [path.name for path in found] == [path.name for path in wanted]
    for path, of in zip(found, wanted, strict=True):
        texts, notebook = (nbformat.read(p, as_version=4) for p in (path, of))
        assert notebook_outputs.code(texts) == notebook_outputs.code(notebook), "run `make notebooks`"
        assert [c.source for c in texts.cells if "parameters" in c.metadata.get("tags", [])] == ['preset = "quick"']
        assert all(cell.execution_count for cell in texts.cells)
        assert not PICTURE.search(path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_fits_on_a_screen_and_each_picture_is_described(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 30, cell.id
            pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            assert bool(pictures) == bool(cell.metadata.get("alt")), f"{cell.id}: `alt` says what its picture shows"


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
        (lambda notebook: notebook.cells[0].metadata.update(alt="a curve"), "cell a: promises a figure and has none"),
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
