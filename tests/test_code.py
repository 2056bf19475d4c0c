"""No stale result: each stage depends on all code that it runs, and on nothing of its wording."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from tiny import ROOT, environment, make_data, write_params, write_project

from qmvae.pipeline import code
from qmvae.pipeline.sections import MODELS, Section
from qmvae.pipeline.stages import code as stage

PIPELINES = [ROOT / "dvc.yaml", ROOT / "ablations" / "dvc.yaml"]


def hash_file(command: str) -> str:
    """Return the name of the hash file that a stage with this command must depend on."""
    if script := re.match(r"python ablations/(\w+)\.py", command):
        return f"ablations-{script[1]}"
    return "-".join(command.removeprefix("python -m qmvae ").split())


NEEDS = {  # what the stages without a notebook read of each other
    "data": {"inputs.json"},
    "classifiers": {"data"},
    "train": {"data"},
    "evaluate": {"data", "classifiers", "models"},
    "metrics": {"data", "classifiers", "evaluation"},
}


def test_every_stage_of_every_pipeline_depends_on_its_inputs_and_on_the_hash_of_its_code():
    made = set(code.stage_sources(ROOT))
    for path in PIPELINES:
        for name, entry in yaml.safe_load(path.read_text())["stages"].items():
            body = entry.get("do", entry)
            if re.search("qmvae (code|inputs)$", body["cmd"]):  # `inputs` runs always
                continue
            wanted = hash_file(body["cmd"].replace(" --preset published", ""))
            assert f"artifacts/code/{wanted}" in body["deps"] and wanted in made, f"{path.name}: {name}"
            assert {f"artifacts/${{item.preset}}/{need}" for need in NEEDS.get(name, ())} <= {*body["deps"]}


def test_every_notebook_that_loads_images_depends_on_them():
    """Their titles are in the folder, too, and a new title leaves models and classifiers as they are."""
    found = []
    for entry in yaml.safe_load(PIPELINES[0].read_text())["stages"].values():
        if stem := re.search(r"notebook (\w+)$", entry["cmd"]):
            if re.search(r"first_two\(|load_dataset\(", (ROOT / "notebooks" / f"{stem[1]}.ipynb").read_text()):
                found.append(stem[1])
                assert "artifacts/${item.preset}/data" in entry["deps"], stem[1]
    assert len(found) == 9


def test_ablations_and_notebooks_depend_on_the_models_that_they_load():
    for name, sources in code.stage_sources(ROOT).items():
        if name.startswith(("ablations", "notebook")):
            assert code.model_file("qmvae") in code.closure(ROOT, sources), name


def test_the_hash_files_are_those_of_all_stages(tmp_path):
    for folder in ("qmvae", "notebooks", "ablations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    stage.run(tmp_path)
    found = {path.name: path.read_text() for path in (tmp_path / "artifacts" / "code").iterdir()}
    assert found.keys() == code.stage_sources(ROOT).keys()
    assert all(re.fullmatch("[0-9a-f]{64}\n", text) for text in found.values())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("project"), seeds=[0])


TRACER = """if True:
    import json, sys
    from qmvae.__main__ import main
    for arguments in sys.argv[1:]:
        sys.argv = ["qmvae", *arguments.split()]
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
    files = {getattr(module, "__file__", None) or "" for name, module in sys.modules.items() if name[:5] == "qmvae"}
    print(json.dumps(sorted(files - {""})))
"""


@pytest.mark.parametrize(
    "commands",
    [
        ["data"],
        ["classifiers mnist", "classifiers"],
        ["train qmvae --seed 0", "train mmvae --seed 0", "train qmvae"],
        ["evaluate qmvae"],
    ],
    ids=lambda commands: commands[0].split()[0],
)
def test_what_a_stage_loads_is_in_its_hash(project, commands):
    """The imports as they happen, against the imports as they are written."""
    process = subprocess.run(
        [sys.executable, "-c", TRACER, *commands], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    loaded = json.loads(process.stdout.splitlines()[-1])
    loaded = {file.removeprefix(f"{ROOT}/") for file in loaded}
    hashed = set(code.closure(ROOT, code.stage_sources(ROOT)[commands[0].split()[0]]))
    assert "qmvae/pipeline/datasets.py" in loaded and loaded - code.EXEMPT <= hashed


def test_only_values_without_effect_have_a_default():
    """What has a default could change with the sections, which no hash covers."""
    modules = [sys.modules[f"qmvae.pipeline.{name}"] for name in ("sections", "schema")]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    fields = {
        f"{kind.__name__}.{name}"
        for kind in kinds
        if issubclass(kind, Section)
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }
    assert fields == {"Likelihood.scale"}  # of the Bernoulli, which has none


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "qmvae", tmp_path / "qmvae", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edit(root, path, before, after, count=-1):
    text = (root / path).read_text()
    assert before in text
    (root / path).write_text(text.replace(before, after, count))


def trainings(root):
    """The hash of the stage, and for each model the one in its fingerprint."""
    sources = {name: ["qmvae/pipeline/training.py", code.model_file(name)] for name in code.model_names(root)}
    sources["train"] = code.stage_sources(root)["train"]
    return {name: code.code_hash(root, files) for name, files in sources.items()}


CHANGES = [  # file, before, after
    ("qmvae/data/dataset.py", "255", "256"),
    ("qmvae/train.py", "zero_grad()", "zero_grad(set_to_none=False)"),
    ("qmvae/model/gaussian.py", "0.5 * ", "0.25 * "),
    ("qmvae/pipeline/checkpoint.py", "networks, config.model_copy", "dict(networks), config.model_copy"),
]


@pytest.mark.parametrize("path, before, after", CHANGES)
def test_a_changed_statement_changes_the_hash_of_every_training(copy, path, before, after):
    old = trainings(copy)
    edit(copy, path, before, after)
    new = trainings(copy)
    assert old.keys() == {"train", *MODELS} and all(old[name] != new[name] for name in old)


def test_a_baseline_changes_its_own_training_alone(copy):
    old = trainings(copy)
    edit(copy, "qmvae/baselines/mvae.py", "return", "return None or", count=1)
    new = trainings(copy)
    assert {name for name in old if new[name] != old[name]} == {"train", "mvae"}


def test_wording_changes_no_hash(copy):
    sources = {name: files for name, files in code.stage_sources(copy).items() if (copy / files[0]).exists()}
    old = {name: code.code_hash(copy, s) for name, s in sources.items()}
    for path in (copy / "qmvae").rglob("*.py"):
        text = path.read_text()
        text = re.sub(r'^"""', '"""Other words. ', text)  # of the module
        text = re.sub(r'(?m)^(\s+)"""(\w)', r'\1"""Other words. \2', text)  # of classes and functions
        text = text.replace("  # ", "  # other words: ") + "\n# one more comment\n"
        path.write_text(text)
    assert {name: code.code_hash(copy, s) for name, s in sources.items()} == old


def test_cells_of_a_notebook_count_and_its_text_does_not(tmp_path):
    cell = {"cell_type": "code", "source": ["%matplotlib inline\n", "x = 1\n"]}
    notebook = {"cells": [{"cell_type": "markdown", "source": ["words"]}, cell]}
    path = tmp_path / "story.ipynb"

    def hashed():
        path.write_text(json.dumps(notebook))
        return code.code_hash(tmp_path, ["story.ipynb"])

    before = hashed()
    notebook["cells"][0]["source"] = ["other words"]
    assert hashed() == before
    cell["source"][1] = "x = 2\n"
    assert hashed() != before


def test_training_is_repeated_after_a_changed_statement_and_kept_after_changed_words(copy):
    write_project(copy, seeds=[0], steps=10)
    (copy / "qmvae").rename(copy / "package")
    (copy / "place").mkdir()
    (copy / "package").rename(copy / "place" / "qmvae")

    def run(*arguments):
        command = [sys.executable, "-m", "qmvae", *arguments]
        paths = environment(PYTHONPATH=str(copy / "place"), PYTHONDONTWRITEBYTECODE="1")
        process = subprocess.run(command, cwd=copy, env=paths, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    make_data(copy)
    assert "kept" not in run("train", "qmvae")
    edit(copy, "place/qmvae/data/dataset.py", '"""', '"""Other words. ', count=1)
    assert "kept" in run("train", "qmvae")
    edit(copy, "place/qmvae/data/dataset.py", "255", "256")
    assert "kept" not in run("train", "qmvae")
    write_params(copy, seeds=[0], steps=12)
    assert "kept" not in run("train", "qmvae")
