"""Images of one's own, from README's example to the last notebook: few, in colour first, of three modalities, ..."""

import copy
import functools
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import yaml
from tiny import COMMITTED, ROOT, jobs_here, make_data, write_archives, write_project

from qmvae.data.checks import DataError
from qmvae.evaluate import cross_generation
from qmvae.model.gaussian import Gaussian
from qmvae.pipeline import artifacts, params
from qmvae.pipeline.stages import classifiers, data, evaluate, metrics, train
from qmvae.report import claims

NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if not path.stem.startswith(("10", "12"))]
EXAMPLE = re.search(r"\*\*Your own images.*?```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


OTHER = {  # than the committed values: each switch of Q-MVAE
    "objective": "printed",
    "likelihood": {"all": {"family": "bernoulli", "weight": 1.0}},
    "prior_expert": False,
    "unimodal_elbos": False,
    "quadruplet": ["first"],
    "metric": "within",
    "negatives": {"policy": "random", "start": 1.0, "distinct": True, "labels": False},
    "test_time": "sample",
}


def write_own(folder: Path, lines: str, seeds=(0,), qmvae=None, **archives) -> None:
    """Write a project: the committed params.yaml, `lines` in it, short training, and archives of these modalities.

    qmvae: other values of Q-MVAE.
    """
    document = copy.deepcopy(COMMITTED) | yaml.safe_load(lines)
    preset = document["presets"][document["preset"]]
    preset["training"] |= {"seeds": list(seeds), "steps": 6, "batch_size": 16, "precision": "float32"}
    preset["training"] |= {"checkpoint_every": 4, "log_every": 2}
    for changes in preset["overrides"].values():
        for key in ("steps", "seeds"):
            changes.pop(key, None)
    preset["overrides"]["qmvae"] |= qmvae or {}
    preset["classifiers"] |= {"epochs": 1, "strong_steps": 3, "batch_size": 32}
    preset["evaluation"] |= {"conditions": 100, "probe_pairs": 200}
    (folder / "params.yaml").write_text(yaml.safe_dump(document | {"device": "cpu"}, sort_keys=False))
    write_archives(folder / document["folder"], **archives)


def run_stages(monkeypatch) -> None:
    """Run all stages up to metrics.json in this process."""
    monkeypatch.setattr(params, "load", functools.cache(params.load))  # the file stays the same
    jobs_here(monkeypatch)
    run = params.load()
    data.run(run)
    classifiers.run(run)
    train.run(run, run.models)
    evaluate.run(run, run.models)
    metrics.run(run)


def run_notebook(path: Path, preset: str, folder: Path, monkeypatch) -> None:
    """Run the cells of a notebook in this process, in a folder `notebooks` as the runner does."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    source = re.sub(r'(?m)^preset = "\w+"', f'preset = "{preset}"', "\n".join(cells))
    (folder / "notebooks").mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.chdir(folder / "notebooks")
        patch.setattr(Gaussian, "rsample", Gaussian.rsample)  # notebook 02 replaces it
        exec(compile(source, path.name, "exec"), {"__name__": path.stem})
    plt.close("all")


def run_all(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    run_stages(monkeypatch)
    for path in NOTEBOOKS:
        run_notebook(path, params.load().preset, folder, monkeypatch)


def test_readmes_example_runs_to_the_last_notebook(tmp_path, monkeypatch, one_thread, capsys):
    lines = yaml.safe_load(EXAMPLE)
    assert len(EXAMPLE.splitlines()) == 3 and list(lines) == ["preset", "folder", "modalities"]
    shapes = dict(zip(lines["modalities"], [(24, 16, 3), (18, 20)], strict=True))
    write_own(tmp_path, EXAMPLE, seeds=(0, 1), shapes=shapes, train=60, test=9, classes=(2, 0, 30))
    committed = ROOT / "reports" / "subset"  # which stay in a checkout, and are about other images
    for name in ("printed.json", "ablations.json"):
        (tmp_path / "reports" / "subset").mkdir(parents=True, exist_ok=True)
        shutil.copy(committed / name, tmp_path / "reports" / "subset" / name)
    run_all(tmp_path, monkeypatch)
    reports = params.load().reports
    table = (reports / "tables" / "table1.md").read_text()
    assert (
        "photo → sketch (ours)" in table
        and "(the paper)" not in table
        and "The paper:" not in table
        and "MNIST" not in table
    )
    listed = (reports / "tables" / "claims.md").read_text()
    assert "paper: by" not in listed and "as printed" not in listed and "aligns" not in listed
    printed = capsys.readouterr().out
    assert "does not hold" in printed and "images and settings of the committed results: no" in printed
    assert "this notebook shows the first two" not in printed


def test_three_modalities_of_26_classes_with_one_test_image_each(tmp_path, monkeypatch, one_thread, capsys):
    shapes = {"left_half": (20, 17), "photo": (16, 24, 3), "type_face": (16, 16)}
    lines = "preset: subset\nfolder: .\nmodalities: {left_half: {net: mlp}, photo: {net: conv}, type_face: {net: mlp}}"
    write_own(tmp_path, lines, qmvae=OTHER, shapes=shapes, train=70, test=26, classes=range(-13, 13))
    for name in shapes:  # sorted by class, as folders of images often are
        arrays = dict(np.load(tmp_path / f"{name}.npz"))
        for part in ("train", "test"):
            order = arrays[f"{part}_labels"].argsort(kind="stable")
            arrays |= {key: arrays[key][order] for key in (f"{part}_images", f"{part}_labels")}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    run_all(tmp_path, monkeypatch)
    run = params.load()
    report = artifacts.metrics(run)
    directions = {f"{a}_to_{b}" for a in shapes for b in shapes if a != b}
    assert all(set(model["cross"]) == directions for model in report["models"].values())
    assert set(report["models"]["qmvae"]["linear"]) == {*shapes, "both"}
    header = (run.reports / "tables" / "table1.csv").read_text().splitlines()[0]
    assert all(f"{direction}_ours_mean" in header for direction in directions) and "paper" not in header
    said = "Of 3 modalities, this notebook shows the first two: left_half and photo."
    assert capsys.readouterr().out.count(said) == 5  # notebooks 01, 02, 04, 05 and 06


def test_requirements_of_training_are_checked_with_the_images(tmp_path):
    write_project(tmp_path, batch_size=3601)
    with pytest.raises(DataError, match=r"training pairs: found 3,600, expected 3,601 at least; .*tiny.training.batch"):
        make_data(tmp_path)
    document = yaml.safe_load((tmp_path / "params.yaml").read_text())
    document["presets"]["tiny"]["classifiers"]["batch_size"] = 121
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(DataError, match=r"mnist.npz: train_images: found 120, expected 121 .*classifiers.batch_size"):
        make_data(tmp_path)
    assert not (tmp_path / "artifacts").exists()


def test_a_rare_class_is_never_missing_from_a_sample():
    labels = torch.tensor([3] * 500 + [5, 5, 4])
    assert cross_generation.with_every_class(torch.arange(3), labels).tolist() == [0, 1, 2, 502, 500]
    everything = torch.arange(len(labels))
    assert torch.equal(cross_generation.with_every_class(everything, labels), everything)


def test_titles_have_letters_that_figures_can_show(tmp_path):
    write_project(tmp_path)
    document = yaml.safe_load((tmp_path / "params.yaml").read_text())
    document["presets"]["tiny"]["images"]["titles"] = {"mnist": "Ziffern, ‚čísla‘, цифры", "svhn": "照片"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(
        DataError, match=r"presets.tiny.images.titles.svhn: the font of the figures has no 照 片, expect"
    ):
        make_data(tmp_path)


def test_the_committed_settings_are_those_of_the_claims():
    for preset, digest in claims.SETTINGS.items():
        found = claims.settings(params.load(preset, ROOT))
        assert found == digest, f"params.yaml has changed: remake the results, then SETTINGS[{preset!r}] = {found!r}"


def test_claims_must_hold_for_the_committed_results_only(tmp_path, monkeypatch, capsys):
    run = make_data(write_project(tmp_path))
    dataset = artifacts.load_dataset(run)
    claims.Claims(dataset, run).check("one is two", False)
    assert capsys.readouterr().out.endswith("one is two: does not hold\n")
    monkeypatch.setitem(claims.COMMITTED, claims.checksum(dataset), "quick")
    assert claims.Claims(dataset, run).preset is None  # other settings
    assert claims.Claims(dataset, run.model_copy(update={"preset": "published"})).preset == "quick"
    monkeypatch.setitem(claims.SETTINGS, "quick", claims.settings(run))
    known = claims.Claims(dataset, run)
    known.check("one is one", True)
    assert known.preset == "quick" and capsys.readouterr().out == "one is one: holds\n"
    with pytest.raises(AssertionError, match="one is two"):
        known.check("one is two", False)
    for tensor in (dataset.test.images["svhn"], dataset.train.labels["mnist"], dataset.test.pairs):
        tensor[3] += 1
        assert claims.Claims(dataset, run).preset is None
        tensor[3] -= 1
    assert claims.Claims(dataset, run).preset == "quick"
