"""Files from somebody else: none can run code, leave its folder, or take memory that it does not fill."""

import ast
import json
import os
import pickle
import struct
import zipfile

import nbformat
import numpy as np
import pytest
import torch
from test_data_sources import Bomb, lay, paper, published  # noqa: F401  (a fixture)
from tiny import ROOT, make_data, write_project

from qmvae.data import official
from qmvae.data.checks import DataError
from qmvae.data.sources import read
from qmvae.pipeline import artifacts, checkpoint, files, notebooks, params, repro, tensor_files, training
from qmvae.pipeline.stages import metrics

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
LOADERS = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "yaml.unsafe_load", "yaml.full_load"}


def sources():
    yield from ((path, path.read_text()) for path in sorted((ROOT / "qmvae").rglob("*.py")))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        yield path, "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path, text", list(sources()), ids=lambda value: getattr(value, "name", ""))
def test_no_source_unpickles_or_evaluates(path, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
            assert not {name.split(".")[0] for name in names} & UNPICKLERS, ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in LOADERS | {"eval", "exec", "os.system"}, ast.unparse(node)
            words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert words.get("allow_pickle", "False") == "False" and "shell" not in words, ast.unparse(node)
            assert not ast.unparse(node.func).endswith(("extract", "extractall")), ast.unparse(node)


@pytest.fixture
def project(tmp_path):
    write_project(tmp_path, steps=10, seeds=[0])
    make_data(tmp_path)
    return tmp_path


def read_archives(run):
    return read("archive", run.data, run.modalities, 0)


def as_resume(path, run):
    training.train_seed(run, "qmvae", 0, artifacts.load_dataset(run), path.parent, "")


def as_classifier(path, run):
    artifacts.load_classifiers(run, artifacts.load_dataset(run))


TINY = "artifacts/tiny"
DOORS = {  # every file that the package reads, and what reads it
    "data/mnist.npz": lambda path, run: read_archives(run),
    f"{TINY}/data/images.safetensors": lambda path, run: artifacts.load_dataset(run),
    f"{TINY}/data/pairs.safetensors": lambda path, run: artifacts.load_dataset(run),
    f"{TINY}/data/titles.json": lambda path, run: artifacts.load_dataset(run),
    f"{TINY}/progress/qmvae/seed-0/checkpoint.safetensors": as_resume,
    f"{TINY}/progress/qmvae/seed-0/model.json": as_resume,
    f"{TINY}/progress/evaluation/qmvae.json": lambda path, run: files.has_fingerprint(path, ""),
    f"{TINY}/models/qmvae/seed-0/model.safetensors": lambda path, run: artifacts.load_model(run, "qmvae"),
    f"{TINY}/models/qmvae/seed-0/model.json": lambda path, run: artifacts.load_model(run, "qmvae"),
    f"{TINY}/classifiers/mnist-standard.safetensors": as_classifier,
    f"{TINY}/classifiers/accuracy.json": lambda path, run: artifacts.classifier_accuracy(run),
    f"{TINY}/evaluation/qmvae.json": lambda path, run: metrics.run(run),
    "reports/tiny/metrics.json": lambda path, run: artifacts.metrics(run),
    "params.yaml": lambda path, run: params.load(root=run.root),
    "notebooks/story.ipynb": lambda path, run: notebooks.execute(run, "story"),
}


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy"])
@pytest.mark.parametrize("door", DOORS)
def test_a_pickle_bomb_at_every_door(project, door, kind):
    run, path, went_off = params.load(root=project), project / door, project / "went_off"
    path.parent.mkdir(parents=True, exist_ok=True)
    if door.endswith("model.safetensors"):
        model = checkpoint.build_model("qmvae", run.qmvae, artifacts.load_dataset(run).shapes, run.networks)
        checkpoint.save_model(path.parent, model, "qmvae", run.networks, {})
    with open(path, "wb") as file:
        if kind == "pickle":
            pickle.dump(Bomb(went_off), file)
        elif kind == "torch":
            torch.save({"weight": Bomb(went_off)}, file)
        else:
            np.save(file, np.array([Bomb(went_off)]), allow_pickle=True)
    with pytest.raises((files.FileError, DataError, params.ParamsError)) as error:
        DOORS[door](path, run)
    assert str(path) in str(error.value) and not went_off.exists()
    if kind == "pickle":
        pickle.loads(path.read_bytes())
        assert went_off.exists(), "the bomb was no bomb"


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"numbers": {"cross": {"a": []}}}'])
@pytest.mark.parametrize("door", [door for door in DOORS if door.endswith((f"{TINY}/models/qmvae/seed-0/model.json",
    "accuracy.json", "evaluation/qmvae.json"))])  # fmt: skip
def test_json_of_another_form_is_refused_by_name(project, door, text):
    run, path = params.load(root=project), project / door
    files.save_text(path, text)
    if "progress" in door:
        assert DOORS[door](path, run) is False, "these numbers are made again"
        return
    with pytest.raises(files.FileError, match="does not describe|has not the") as error:
        DOORS[door](path, run)
    assert str(path) in str(error.value)


def test_an_old_torchvision_folder_with_pickles_is_not_opened(tmp_path, published):  # noqa: F811
    for name in ("training.pt", "test.pt"):  # torchvision's MNIST loads them before it looks for anything else
        path = tmp_path / "data" / "MNIST" / "processed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(Bomb(tmp_path / "went_off"), path)
    with pytest.raises(DataError, match="download failed"):
        paper(tmp_path)
    assert not (tmp_path / "went_off").exists()


@pytest.mark.parametrize("modality", ["mnist", "svhn"])
def test_a_pickle_bomb_in_the_place_of_published_files_is_not_opened(tmp_path, published, modality):  # noqa: F811
    lay(tmp_path / "data", dict.fromkeys(published, pickle.dumps(Bomb(tmp_path / "went_off"))))
    with pytest.raises(DataError):
        official.read(tmp_path / "data", modality)
    assert not (tmp_path / "went_off").exists()


def test_a_pickle_bomb_is_no_dvc_lock(tmp_path):
    (tmp_path / "dvc.lock").write_bytes(pickle.dumps(Bomb(tmp_path / "went_off")))
    assert not repro.is_complete(tmp_path / "dvc.lock") and not (tmp_path / "went_off").exists()


@pytest.mark.parametrize("name", ["../../evil.npy", "/evil-of-qmvae.npy", "train_images.npy/../../../evil.npy"])
def test_entries_that_point_out_of_an_archive_stay_in_it(project, name, monkeypatch):
    monkeypatch.chdir(project)
    path = project / "data" / "mnist.npz"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    before = {p for p in project.parent.rglob("*")}
    read_archives(params.load(root=project))
    assert {p for p in project.parent.rglob("*")} == before and not os.path.exists("/evil-of-qmvae.npy")


def claim(size: int, header: dict, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size < 0 else size) + text + body


FLOATS = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}


@pytest.mark.parametrize(
    "content",
    [
        claim(2**62, {}),
        claim(99_000_000, {}),
        claim(-1, FLOATS),
        claim(-1, {"a": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 4]}}, b"0000"),
        claim(-1, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"0000"),
        claim(-1, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": FLOATS["a"]}, b"0000"),
        claim(-1, {"__metadata__": [1]}),
        b"[" * 100_000,
        b"",
    ],
)
def test_a_header_that_asks_for_more_than_there_is(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(files.FileError, match="model.safetensors: not a complete safetensors file"):
        tensor_files.load(path)


@pytest.mark.parametrize(
    "asks",
    [
        {"shapes": {"mnist": [1024, 1024, 1024], "svhn": [3, 16, 16]}},  # 1.7 TB of weights
        {"shapes": {"mnist": [3, 1024, 1024], "svhn": [3, 16, 16]}},  # 10 GB
        {"shapes": {"mnist": [10**30, 1, 1], "svhn": [3, 16, 16]}},
        {"shapes": {"mnist": [True, 16, 16], "svhn": ["3", 16, float("nan")]}},
        {"shapes": {}},
        {"shapes": {"../../x": [1, 16, 16], "a.b": [1, 16, 16]}},
        {"nets": {"mnist": "__class__", "svhn": "conv"}},
        {"nets": 3},
        {"model": "__init__"},
        {"model": ["qmvae"]},
        {"config": {}},
    ],
)
def test_a_model_that_asks_for_more_than_its_weights(tmp_path, asks):
    nets = {"mnist": "mlp", "svhn": "conv"}
    shapes = {"mnist": (1, 16, 16), "svhn": (3, 16, 16)}
    model = checkpoint.build_model("qmvae", params.load(root=ROOT).qmvae, shapes, nets)
    checkpoint.save_model(tmp_path, model, "qmvae", nets, {})
    checkpoint.load_model(tmp_path)
    about = files.load_json(tmp_path / "model.json") | asks
    (tmp_path / "model.json").write_text(json.dumps(about))
    before = resident()
    with pytest.raises(files.FileError, match="model.json: does not describe|does not fit model.json"):
        checkpoint.load_model(tmp_path)
    assert resident() - before < 2**29, "memory was taken for what model.json asks"


def resident() -> int:
    """The most memory that this process ever held, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
