"""The set-up's files agree: one list of pins, one version of Python, a stage for each notebook."""

import json
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from tiny import ROOT

from qmvae.report.tables import MODELS, PAPER_MODELS, cell, mean_and_std
from tools.prose_numbers import markdown_tables

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = re.findall(r"(?m)^([a-z0-9._-]+)==\S+(?: ;[^\\\n]+)? \\\n    --hash=sha256:[0-9a-f]{64}", LOCK)


def test_every_requirement_is_pinned_with_hashes():
    requirements = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    direct = {re.match(r"[\w.-]+", requirement)[0].lower().replace(".", "-") for requirement in requirements}
    assert direct and direct <= set(PINS)
    starts = [line for line in LOCK.splitlines() if re.match(r"[^\s#]", line)]
    assert len(PINS) == len(starts)  # so that no line is an option, an address, or a package without a hash


def test_the_lock_names_no_index():
    assert not re.search(r"://|--index|--extra|--find-links|--trusted| @ ", LOCK)


def test_conda_installs_from_the_lock_with_a_fitting_python():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies[-1] == {"pip": ["-r requirements.lock"]}
    assert [re.sub(r"[\s=<>].*", "", d) for d in dependencies[:-1]] == ["python", "pip"]
    least = PROJECT["requires-python"].removeprefix(">=")
    assert re.fullmatch(rf"python *>?={re.escape(least)}", dependencies[0])


def test_each_notebook_has_its_stage_and_each_stage_its_notebook():
    files = (ROOT / "dvc.yaml", ROOT / "ablations" / "dvc.yaml")
    stages = {k: v for file in files for k, v in yaml.safe_load(file.read_text())["stages"].items() if "cmd" in v}
    run = [stage["cmd"].split()[-1] for stage in stages.values() if "qmvae notebook " in stage["cmd"]]
    assert sorted(run) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for stage in stages.values():
        if "qmvae notebook " in stage["cmd"]:
            assert f"notebooks/{stage['cmd'].split()[-1]}.ipynb" in stage["deps"]


def test_hooks_and_make_check_run_the_same_ruff():
    found = [
        re.findall(r"\bruff==([\d.]+)", (ROOT / name).read_text()) for name in ("Makefile", ".pre-commit-config.yaml")
    ]
    assert all(found) and len({version for versions in found for version in versions}) == 1


OTHERS = {"PRESET": "paper", "DATA": "/nowhere/data", "PYTHON": "/nowhere/python", "VENV": "/nowhere/venv"}


def make(*arguments: str, **exported: str) -> str:
    """Return what `make` prints, with the exported variables, and without those of a `make` around these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    kept = {name: value for name, value in kept.items() if name not in OTHERS}
    run = subprocess.run(["make", *arguments], cwd=ROOT, env=kept | exported, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("target", ["repro", "test", "ablations"])
def test_make_takes_its_variables_from_its_own_command_line(target):
    again = ["--dry-run", f"--what-if={ROOT / 'requirements.lock'}", target]  # with the installation
    assert make(*again, **OTHERS) == make(*again)
    given = make(*again, *(f"{name}={value}" for name, value in OTHERS.items()))
    assert "/nowhere/python -m venv /nowhere/venv" in given
    assert '/nowhere/venv/bin/python -m qmvae repro --preset "paper" --data "/nowhere/data"' in given


@pytest.mark.parametrize("venv", ["/nowhere/a/venv", ".venv-3.13"])
def test_make_puts_the_environment_first_on_the_path(venv):
    path = make("--eval=path: ; @echo $$PATH", "path", f"VENV={venv}")
    assert path.startswith(f"{ROOT / venv / 'bin'}:")


def test_dvc_does_not_call_home():
    config = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in config and "check_update = false" in config


def test_the_pages_show_the_committed_tables():
    """The README has some columns and rows of Table 1; they agree with metrics.json, too."""
    names = ("README.md", "docs/results.md", "docs/speed.md")
    readme, results, speed = (re.sub(r"<!--.*?-->", "", (ROOT / name).read_text()) for name in names)
    tables = {
        name: (ROOT / "reports" / "subset" / "tables" / f"{name}.md").read_text()
        for name in ("table1", "table2", "style", "claims")
    }
    assert tables["table1"] in results  # with its caption
    shown = [[header, body] for header, _, *body in markdown_tables(results)]
    for text in tables.values():
        ((header, _, *body),) = markdown_tables(text)
        assert len(body) > 5 and [header, body] in shown
    models = json.loads((ROOT / "reports" / "subset" / "metrics.json").read_text())["models"]
    for name in (*PAPER_MODELS, "translated", "cvae"):
        cells = [cell(*mean_and_std(number, 100)) for number in models[name]["cross"].values()]
        row = rf"(?m)^\| {re.escape(MODELS[name])} \| {cells[0]} \| [^|]* \| {cells[1]} \| [^|]* \|$"
        assert re.search(row, readme), row
    assert (paths := list((ROOT / "reports" / "bench").glob("*.md")))
    assert all(path.read_text() in speed for path in paths)
