"""`pip install .` alone, without the extras, is enough for the models and for a published checkpoint."""

import shutil
import subprocess
import sys

import pytest
from tiny import ROOT

CODE = """if True:
    import importlib.util, sys, torch, qmvae
    model = qmvae.load(sys.argv[1])
    images = torch.rand(2, 1, 28, 28)
    assert model.cross_generate({"mnist": images}, target="svhn", seed=0).shape == (2, 3, 32, 32)
    from qmvae.baselines.dmvae import DMVAE
    from qmvae.baselines.mmvae import MMVAE
    from qmvae.baselines.mvae import MVAE
    print("missing:", *(name for name in ("sklearn", "matplotlib", "dvc") if not importlib.util.find_spec(name)))
"""


@pytest.mark.faults
def test_the_core_dependencies_are_enough_for_the_models(tmp_path):
    shutil.copytree(ROOT / "qmvae", tmp_path / "qmvae", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", tmp_path], check=True)
    command = [python, "-c", CODE, ROOT / "reports" / "subset" / "checkpoint"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "missing: sklearn matplotlib dvc\n"
