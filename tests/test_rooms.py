"""The import rules of pyproject.toml hold, and import-linter finds what breaks them; docs/rooms.png is up to date."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import ROOT

pytest.importorskip("importlinter", reason="to check the imports: pip install import-linter")

LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]


def lint(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(LINT, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of the package and of its import rules."""
    shutil.copytree(ROOT / "qmvae", tmp_path / "qmvae", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_package_keeps_the_rules():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


FORBIDDEN = [  # file, what is added to it, what import-linter says
    ("model/gaussian.py", "from qmvae.data import dataset", "qmvae.model is not allowed to import qmvae.data"),
    ("model/gaussian.py", "def late():\n    import qmvae.train", "qmvae.model is not allowed to import qmvae.train"),
    ("data/checks.py", "from qmvae.model import base", "qmvae.data is not allowed to import qmvae.model"),
    ("report/figures.py", "from qmvae.model import base", "qmvae.report is not allowed to import qmvae.model"),
    ("baselines/mvae.py", "from qmvae.data import dataset", "qmvae.baselines is not allowed to import qmvae.data"),
    ("baselines/mvae.py", "from qmvae import evaluate", "qmvae.baselines is not allowed to import qmvae.evaluate"),
    ("train.py", "from qmvae.pipeline import files", "qmvae.train is not allowed to import qmvae.pipeline"),
    ("train.py", "from qmvae.baselines import mvae", "qmvae.train is not allowed to import qmvae.baselines"),
    ("evaluate/evaluator.py", "import qmvae.pipeline.schema", "qmvae.evaluate is not allowed to import qmvae.pipeline"),
    (
        "evaluate/evaluator.py",
        "from qmvae.report import figures",
        "qmvae.evaluate is not allowed to import qmvae.report",
    ),
    ("model/gaussian.py", "from qmvae.model import qmvae", "No cycles are allowed in qmvae.model"),
    ("extra.py", "import json", "- qmvae.extra"),  # a file that belongs to no room
]


@pytest.mark.parametrize("path, line, message", FORBIDDEN)
def test_a_forbidden_import_is_found(copied, path, line, message):
    with open(copied / "qmvae" / path, "a") as file:
        file.write(f"\n{line}\n")
    done = lint(copied)
    assert done.returncode == 1 and message in done.stdout, done.stdout


def test_the_picture_is_up_to_date():
    from tools import import_graph

    saved = json.loads(Image.open(ROOT / "docs" / "rooms.png").info["Description"])
    assert saved == import_graph.rooms(), "run python tools/import_graph.py"
