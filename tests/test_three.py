"""A third modality joins with its own images, pairs, judges and weights, and every set of the others draws each."""

import pytest
import torch
import yaml
from tiny import write_project

from qmvae import data, files, judges, params, three


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(write_project(tmp_path))
    path = tmp_path / "params.yaml"
    document = yaml.safe_load(path.read_text())
    document["ablations"]["steps"] = 20
    document["presets"]["tiny"]["judges"] |= {"batch_size": 16, "epochs": 2}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return tmp_path


def test_the_third_is_set_as_the_first_and_the_rest_is_kept(project):
    run = params.load()
    wide = three.widened(run)
    assert list(wide.modalities) == [*run.modalities, "handwriting"]
    assert wide.qmvae.kl_private == run.qmvae.kl_private | {"handwriting": run.qmvae.kl_private["mnist"]}
    assert wide.qmvae.likelihood["handwriting"] == run.qmvae.likelihood["mnist"]
    kept = {"likelihood": run.qmvae.likelihood, "kl_private": run.qmvae.kl_private}
    assert wide.qmvae.model_copy(update=kept) == run.qmvae
    with pytest.raises(params.ParamsError, match="mnist: mlp, svhn: conv, handwriting: mlp; three modalities need"):
        three.widened(wide)


def test_pairs_are_of_one_class_in_all_three(project):
    run = params.load()
    dataset = three.with_handwriting(data.make(run), three.widened(run))
    for split in (dataset.train, dataset.test):
        classes = [
            labels[column.long()] for labels, column in zip(split.labels.values(), split.pairs.unbind(1), strict=True)
        ]
        assert len(classes) == 3 and all(torch.equal(classes[0], other) for other in classes)


def test_from_training_to_the_report(project):
    run = params.load()
    data.save(data.make(run), run)
    judges.run(run)
    three.run(run)
    report = files.load_json(run.reports / "three.json")
    directions = set(report["cross"])
    assert len(directions) == 9 and directions == set(report["cross_strong"])
    assert {"mnist+svhn_to_handwriting", "mnist_to_svhn", "svhn+handwriting_to_mnist"} <= directions
    assert set(report["linear"]) == {"mnist", "svhn", "handwriting", "all"}
    assert report["judges"]["judge"]["handwriting"] > 0.8  # read by a judge that was trained, not by a fresh one
    assert "built-in handwriting 10,507/2,072" in report["images"]
    assert files.load_json(run.artifacts / "judges" / "accuracy.json").keys() == report["judges"].keys()
    assert "handwriting" not in files.load_json(run.artifacts / "judges" / "accuracy.json")["judge"]
