"""A third modality joins with its own images, pairs, classifiers and weights; each is generated from all others."""

import pytest
import torch
import yaml
from tiny import jobs_here, make_data, write_archives, write_project

from ablations import three_modalities
from qmvae.pipeline import artifacts, files, params
from qmvae.pipeline.stages import classifiers


@pytest.fixture
def project(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(write_project(tmp_path))
    jobs_here(monkeypatch)
    path = tmp_path / "params.yaml"
    document = yaml.safe_load(path.read_text())
    document["ablations"]["steps"] = 20
    document["presets"]["tiny"]["classifiers"] |= {"batch_size": 16, "epochs": 2}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return tmp_path


def test_the_third_is_set_as_the_first_and_the_rest_is_kept(project):
    run = params.load()
    wide = three_modalities.with_third(run)
    assert list(wide.modalities) == [*run.modalities, "handwriting"]
    assert wide.training["qmvae"].seeds == [run.ablations.seed] != run.training["qmvae"].seeds
    assert wide.qmvae.kl_private == run.qmvae.kl_private | {"handwriting": run.qmvae.kl_private["mnist"]}
    assert wide.qmvae.likelihood["handwriting"] == run.qmvae.likelihood["mnist"]
    kept = {"likelihood": run.qmvae.likelihood, "kl_private": run.qmvae.kl_private}
    assert wide.qmvae.model_copy(update=kept) == run.qmvae
    with pytest.raises(params.ParamsError, match="mnist: mlp, svhn: conv, handwriting: mlp; three modalities need"):
        three_modalities.with_third(wide)


def test_pairs_are_of_one_class_in_all_three(project):
    run = make_data(project)
    dataset = three_modalities.with_handwriting(artifacts.load_dataset(run), three_modalities.with_third(run))
    for split in (dataset.train, dataset.test):
        classes = [
            labels[column.long()] for labels, column in zip(split.labels.values(), split.pairs.unbind(1), strict=True)
        ]
        assert len(classes) == 3 and all(torch.equal(classes[0], other) for other in classes)


def test_images_of_other_classes_are_refused(project):
    write_archives(project / "data", classes=[0, 1])
    run = make_data(project)
    with pytest.raises(params.ParamsError, match="the images have the classes 0, 1; the third modality needs those of"):
        three_modalities.with_handwriting(artifacts.load_dataset(run), three_modalities.with_third(run))


def test_from_training_to_the_report(project):
    run = make_data(project)
    classifiers.run(run)
    three_modalities.train_and_evaluate(run)
    report = files.load_json(run.reports / "three.json")
    directions = set(report["cross"])
    assert len(directions) == 9 and directions == set(report["cross_strong"])
    assert {"mnist+svhn_to_handwriting", "mnist_to_svhn", "svhn+handwriting_to_mnist"} <= directions
    assert set(report["linear"]) == {"mnist", "svhn", "handwriting", "all"}
    assert report["classifiers"]["standard"]["handwriting"] > 0.8  # by a trained classifier, not by a fresh one
    assert "built-in handwriting 10,507/2,072" in report["images"]
    assert artifacts.classifier_accuracy(run).keys() == report["classifiers"].keys()
    assert "handwriting" not in artifacts.classifier_accuracy(run)["standard"]
