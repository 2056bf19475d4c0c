"""The committed models: they load, notebooks run on them without training, and the card says what metrics.json says."""

import ast
import json
import re
import shutil
import sys
import tomllib

import nbformat
import numpy as np
import pytest
import torch
import yaml
from tiny import ROOT, write_archives, write_params

import qmvae
from qmvae.data import official
from qmvae.data.checks import DataError
from qmvae.evaluate.classifiers import CLASSIFIERS
from qmvae.pipeline import artifacts, checkpoint, code, files, notebooks, params, published, tensor_files
from tools import svhn_subset

FOLDER = ROOT / "reports" / "subset" / "checkpoint"
COMMITTED = [path.parent for path in sorted(FOLDER.rglob("model.json"))]
SHAPES = {"mnist": (28, 28), "svhn": (32, 32, 3)}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_committed_models_load_and_generate():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 25e6
    assert FOLDER in COMMITTED  # Q-MVAE
    for folder in COMMITTED:
        about = json.loads((folder / "model.json").read_text())
        assert folder == params.published_folder(FOLDER, about["model"]) and about["preset"] == "subset"
        model = qmvae.load(folder)
        x = torch.rand(4, 1, 28, 28)
        first = model.cross_generate({"mnist": x}, target="svhn", seed=0)
        assert first.shape == (4, 3, 32, 32) and 0 <= first.min() and first.max() <= 1
        assert torch.equal(first, model.cross_generate({"mnist": x}, target="svhn", seed=0))
    z = qmvae.load(FOLDER).shared({"mnist": x, "svhn": first})
    assert z.mean.shape == z.logvar.shape == (4, 20)


def test_the_card_says_what_was_measured():
    card = re.sub(r"<!--.*?-->", "", (FOLDER / "README.md").read_text())
    found = json.loads((ROOT / "reports" / "subset" / "metrics.json").read_text())["models"]["qmvae"]
    about = json.loads((FOLDER / "model.json").read_text())
    assert about["seed"] == 0 and about["preset"] == "subset" and f"{about['steps']:,} steps" in card
    for part in ("cross", "cross_strong", "linear"):
        for value in found[part].values():
            assert f"{100 * value['seeds']['0']:.1f} %" in card


def test_the_preset_has_the_settings_of_the_models_that_are_there():
    run = params.load("published", ROOT)
    subset = params.load("subset", ROOT)
    assert (run.preset, run.images) == ("published", subset.images)
    assert all(run.training[name].seeds == subset.training[name].seeds[:1] for name in subset.training)
    assert (run.artifacts, run.reports) == (ROOT / "artifacts" / "published", ROOT / "reports" / "published")
    assert {params.published_folder(FOLDER, name) for name in run.models} <= {*COMMITTED}
    assert run.models == [name for name in subset.models if name in run.models]
    assert run.qmvae == qmvae.load(FOLDER).config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project whose preset `subset` has untrained models and classifiers in the places of trained ones."""
    root = tmp_path_factory.mktemp("trained")
    write_params(root)
    document = yaml.safe_load((root / "params.yaml").read_text())
    tiny = document["presets"]["tiny"] | {"models": ["qmvae", "mvae", "dmvae"]}
    document |= {"preset": "subset", "presets": {"subset": tiny}}
    (root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    run = params.load(root=root)
    shapes = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
    torch.manual_seed(0)
    for name in run.models:
        model = checkpoint.build_model(name, getattr(run, name), shapes, run.networks)
        checkpoint.save_model(run.model_folder(name, 0), model, name, run.networks, {"seed": 0, "steps": 7})
        files.save_text(run.model_folder(name, 0) / "log.csv", "step,loss\n")
    for m, shape in shapes.items():
        for kind, build in CLASSIFIERS.items():
            path = run.artifacts / "classifiers" / f"{m}-{kind}.safetensors"
            tensor_files.save(path, build(shape, 10).state_dict())
    files.save_json(
        run.artifacts / "classifiers" / "accuracy.json",
        dict.fromkeys((*CLASSIFIERS, "supervised"), {"mnist": 0.1, "svhn": 0.1}),
    )
    files.save_json(run.reports / "metrics.json", {"preset": "subset"})
    return root


@pytest.fixture
def clone(trained, tmp_path):
    """A copy of the project as a reader has it: the published folder, archives of other images, and no artifacts."""
    root = tmp_path / "clone"
    published.publish(params.load(root=trained))
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("artifacts"))
    write_archives(root / "data", shapes=SHAPES)
    return root


def test_what_is_published_is_what_a_notebook_loads(trained, clone):
    of_subset, run = params.load(root=trained), params.load("published", clone)
    assert run.models == ["qmvae", "mvae", "dmvae"] and run.training["dmvae"].steps == 7
    dataset = artifacts.load_dataset(run)
    assert dataset.describe() == "MNIST 120/40 + SVHN subset 120/40"
    for name in run.models:
        before, after = artifacts.load_model(of_subset, name), artifacts.load_model(run, name)
        assert all(tensor.dtype == torch.float32 for tensor in after.state_dict().values())
        for key, tensor in before.state_dict().items():
            torch.testing.assert_close(after.state_dict()[key], tensor.half().float(), rtol=0, atol=0)
        assert (run.model_folder(name, 0) / "log.csv").read_text() == "step,loss\n"
    half, _ = tensor_files.load(clone / "reports/subset/checkpoint/model.safetensors")
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    for kind in CLASSIFIERS:
        network = artifacts.load_classifiers(run, dataset, kind)["svhn"]
        assert {t.dtype for t in network.state_dict().values()} <= {torch.float32, torch.int64}
        assert len(network.predict(torch.rand(2, 3, 32, 32))) == 2
    assert artifacts.classifier_accuracy(run) == artifacts.classifier_accuracy(of_subset)
    assert artifacts.metrics(run) == {"preset": "subset"}


def test_what_is_up_to_date_is_kept_and_what_is_stale_is_made_again(clone, monkeypatch):
    made, fill = [], published.fill
    monkeypatch.setattr(published, "fill", lambda *arguments: (made.append(1), fill(*arguments)))
    run = params.load("published", clone)
    artifacts.load_dataset(run)
    artifacts.load_model(run, "mvae")
    assert len(made) == 1
    (clone / "reports/published/metrics.json").unlink()
    assert artifacts.metrics(run) == {"preset": "subset"} and len(made) == 2
    write_archives(clone / "data", train=130, shapes=SHAPES)
    assert len(artifacts.load_dataset(run).train.labels["mnist"]) == 130 and len(made) == 3
    shutil.rmtree(clone / "reports/subset/checkpoint/mvae")
    run = params.load("published", clone)
    assert run.models == ["qmvae", "dmvae"]
    artifacts.load_dataset(run)
    assert not (run.artifacts / "models" / "mvae").exists() and len(made) == 4


def test_what_a_killed_process_left_is_made_again(clone, monkeypatch):
    run = params.load("published", clone)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(published.datasets, "save_dataset", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        artifacts.load_model(run, "qmvae")
    assert (run.model_folder("qmvae", 0) / "model.json").exists()
    assert len(artifacts.load_dataset(run).train.labels["mnist"]) == 120


def test_archives_are_used_if_both_are_there_else_built_in_images(clone, monkeypatch, capsys):
    def builtin(name, seed):
        with np.load(clone / "other" / f"{name}.npz") as archive:
            return name, dict(archive)

    monkeypatch.setattr("qmvae.data.builtin.read", builtin)  # rendering them takes seconds
    write_archives(clone / "other", train=50, shapes=SHAPES)
    published.say.cache_clear()
    run = params.load("published", clone)
    assert artifacts.load_dataset(run).describe() == "MNIST 120/40 + SVHN subset 120/40"
    assert capsys.readouterr().out == ""
    (clone / "data" / "svhn.npz").unlink()
    for _ in range(2):
        assert artifacts.load_dataset(run).describe() == "built-in handwriting 50/40 + built-in street numbers 50/40"
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "no svhn.npz" in said and "python tools/svhn_subset.py" in said
    assert artifacts.load_dataset(run).test.pairs.shape[1] == 2


def weights(change):
    """Return a function that changes the tensors of a published model."""
    return lambda path: tensor_files.save(path, change(tensor_files.load(path)[0]))


@pytest.mark.parametrize(
    "name, spoil, message",
    [
        ("model.json", lambda path: path.unlink(), "model.json: file not found"),
        ("model.safetensors", lambda path: path.write_bytes(b"cut"), "not a complete safetensors file"),
        ("dmvae/model.safetensors", weights(lambda t: {k: v.double() for k, v in t.items()}), "float64"),
        ("mvae/model.safetensors", weights(lambda t: {k: v[..., :1] for k, v in t.items()}), "does not fit model.json"),
        (
            "classifiers/svhn-strong.safetensors",
            lambda path: path.unlink(),
            "strong.safetensors: file not found; restore",
        ),
        ("classifiers/accuracy.json", lambda path: path.unlink(), "accuracy.json: file not found; restore"),
        ("../metrics.json", lambda path: path.unlink(), "metrics.json: file not found; restore"),
    ],
)
def test_a_wrong_file_is_named(clone, name, spoil, message):
    path = clone / "reports" / "subset" / "checkpoint" / name
    spoil(path)
    with pytest.raises(files.FileError, match=message) as error:
        artifacts.load_dataset(params.load("published", clone))
    assert f"{path.parent.resolve()}/{path.name}" in str(error.value)


def test_a_published_model_that_is_none_and_classifiers_of_other_images_are_named(clone):
    run = params.load("published", clone)
    dataset = artifacts.load_dataset(run)
    with pytest.raises(files.FileError, match=r"mnist-standard.safetensors: does not fit a standard classifier"):
        path = run.artifacts / "classifiers" / "mnist-standard.safetensors"
        tensor_files.save(path, {k: t[:1] for k, t in tensor_files.load(path)[0].items()})
        artifacts.load_classifiers(run, dataset)
    (clone / "reports/subset/checkpoint/mvae/model.json").write_text('{"config": {"shared": "20"}}')
    with pytest.raises(params.ParamsError, match="mvae/model.json: does not describe a model: .*; restore"):
        params.load("published", clone)


def test_modalities_of_ones_own_are_refused(clone):
    text = (clone / "params.yaml").read_text().replace("  svhn:\n    net: conv", "  photo:\n    net: conv")
    (clone / "params.yaml").write_text(text)
    with pytest.raises(files.FileError, match="modalities: found mnist, photo; the committed models have mnist, svhn"):
        artifacts.load_dataset(params.load("published", clone))


def test_results_of_ones_own_are_not_shown_beside_the_committed_models(clone):
    path = clone / "reports/subset/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": "photo 60/9"}))
    with pytest.raises(
        files.FileError, match=r"metrics.json: images: found .*photo 60/9; the committed models have .*; `git"
    ):
        artifacts.load_dataset(params.load("published", clone))


def test_the_same_images_may_have_new_titles(clone):
    """A kept model's model.json has the titles of its training, metrics.json has those of today."""
    for file, title in (("metrics.json", "house numbers"), ("checkpoint/model.json", "SVHN subset")):
        path = clone / "reports/subset" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"images": f"MNIST 120/40 + {title} 120/40"}))
    assert artifacts.load_dataset(params.load("published", clone)).shapes.keys() == {"mnist", "svhn"}


def test_archives_of_other_sizes_are_refused(clone):
    write_archives(clone / "data")
    with pytest.raises(files.FileError, match=r"model.json: made for images .*\(1, 28, 28\).* are .*\(1, 16, 16\)"):
        artifacts.load_dataset(params.load("published", clone))


def test_weights_that_float16_has_not_are_not_published(trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "copy")
    run = params.load(root=root)
    weights(lambda t: {k: v * 1e6 for k, v in t.items()})(run.model_folder("mvae", 0) / "model.safetensors")
    with pytest.raises(files.FileError, match="mvae/seed-0/model.safetensors: .* beyond the range of float16"):
        published.publish(run)


def test_models_that_the_preset_no_longer_has_are_removed_and_the_card_stays(trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "copy")
    folder = root / "reports" / "subset" / "checkpoint"
    for name in ("README.md", "jmvae/model.json"):
        files.save_text(folder / name, "{}")
    published.publish(params.load(root=root))
    assert (folder / "README.md").exists() and not (folder / "jmvae").exists()


def test_a_notebook_runs_on_published_models(clone):
    (clone / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "05_fig4_translation.ipynb", clone / "notebooks")
    notebooks.execute(params.load("published", clone), "05_fig4_translation")
    done = nbformat.read(clone / "reports/published/notebooks/05_fig4_translation.ipynb", as_version=4)
    assert [cell.source for cell in done.cells if "parameters" in cell.metadata.get("tags", [])] == [
        'preset = "published"'
    ]
    assert (clone / "reports/published/figures/fig4.png").exists()


# The SVHN subset


def official_arrays(mnist, svhn):
    """Return a stand-in for `official.read`: the rows of the subset lie where the official sets have them."""
    cropped, tested = svhn_subset.CROPPED, svhn_subset.TESTED
    whole = {}
    for kind in ("images", "labels"):
        train, test = svhn[f"train_{kind}"], svhn[f"test_{kind}"]
        whole[f"train_{kind}"] = np.concatenate([train[:cropped], test[:50]])  # the official sets go on
        whole[f"test_{kind}"] = np.concatenate([train[cropped : cropped + tested], test, train[:50]])
    whole = {key: array.astype(np.int64) if "labels" in key else array for key, array in whole.items()}
    return lambda folder, name: (str(folder), mnist if name == "mnist" else whole)


def test_the_subset_of_other_images_is_cut_in_the_same_way_and_named(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    arrays = {}
    for name, train, test, shape in (("mnist", 40, 20, (16, 16)), ("svhn", 10434, 2000, (2, 2, 3))):
        for part, count in (("train", train), ("test", test)):
            images, labels = random.integers(0, 256, (count, *shape)), random.integers(0, 10, count)
            arrays[name, f"{part}_images"], arrays[name, f"{part}_labels"] = images.astype(np.uint8), labels
    mnist, svhn = ({key: array for (m, key), array in arrays.items() if m == name} for name in ("mnist", "svhn"))
    monkeypatch.setattr(official, "read", official_arrays(mnist, svhn))
    with pytest.raises(DataError, match="not as in the committed results: .*mnist.npz: test_labels from row 0 on"):
        svhn_subset.make(tmp_path)
    for name, expected in (("mnist", mnist), ("svhn", svhn)):
        with np.load(tmp_path / f"{name}.npz") as made:
            assert set(made) == set(expected) and all((made[key] == expected[key]).all() for key in made)
            assert all(made[key].dtype == np.uint8 for key in made)
    assert "svhn.npz: 10,434 training and 2,000 test images" in capsys.readouterr().out


def test_the_committed_results_images_are_recognised(tmp_path, monkeypatch, capsys):
    place = ROOT.parent / "shared" / "data"
    if not (place / "svhn.npz").exists():
        pytest.skip("the archives of the committed results are not in this repository")
    mnist, svhn = (dict(np.load(place / f"{name}.npz")) for name in ("mnist", "svhn"))
    monkeypatch.setattr(official, "read", official_arrays(mnist, svhn))
    monkeypatch.setattr(np, "savez_compressed", np.savez)  # compression takes seconds
    svhn_subset.make(tmp_path)
    assert "All other images and all labels are those of the committed results" in capsys.readouterr().out


# Binder and development containers


def imported(path):
    """Return the packages that a file of the project imports, by their names in Python."""
    names = set()
    for node in ast.walk(code.parse(path, path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_binder_installs_what_notebooks_import_with_the_bounds_of_the_project():
    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(p for extra in project["optional-dependencies"].values() for p in extra)]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\d.]+)", entry).groups() for entry in named)
    conda = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}
    found = dict(re.fullmatch(r"([\w.-]+) [>=]=?([\d.]+)", entry).groups() for entry in environment["dependencies"])
    found = {conda.get(name, name): bound for name, bound in found.items()}
    python = found.pop("python")
    assert f">={python}" >= project["requires-python"] and found.items() <= bounds.items()
    names = {"scikit-learn": "sklearn", "pillow": "PIL", "ruamel.yaml": "ruamel"}
    sources = [*(f"notebooks/{path.name}" for path in NOTEBOOKS), "qmvae/pipeline/published.py"]
    files_read = [*code.closure(ROOT, sources + [code.model_file(m) for m in code.model_names(ROOT)]), *code.EXEMPT]
    wanted = set().union(*(imported(ROOT / path) for path in files_read)) - {"qmvae", *sys.stdlib_module_names}
    assert wanted <= {names.get(name, name) for name in found} | {"IPython"}, "IPython comes with Binder's kernel"


def test_the_development_container_installs_as_make_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make .venv/installed"
    assert "$(VENV)/installed: " in (ROOT / "Makefile").read_text()
