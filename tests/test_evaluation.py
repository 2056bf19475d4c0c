"""Tables 1 and 2's numbers on models whose true score is known, and a run from images to metrics.json."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny import ROOT, jobs_here, make_data, write_archives, write_project

from qmvae.data.dataset import Dataset, Split, pair_by_class
from qmvae.evaluate import cross_generation, evaluator, linear_probe
from qmvae.evaluate.evaluator import Evaluator
from qmvae.model.base import MultimodalVAE
from qmvae.model.gaussian import Gaussian, product_of_experts
from qmvae.pipeline import checkpoint, files, params, tensor_files
from qmvae.pipeline.sections import MODELS
from qmvae.pipeline.stages import evaluate as stage
from qmvae.report import tables

NAMES = ("mnist", "svhn")
LABELS = {10: range(10), 3: (2, 5, 9), 26: range(100, 126)}  # by number of classes, as the data have them


def level(classes: int) -> int:
    """These test images are flat: the class with index k is the grey level(classes) * k / 255."""
    return 250 // classes


def index_of(images, classes=10):
    return (images.flatten(1).mean(dim=1) * 255 / level(classes)).round().long()


class Encoder(torch.nn.Module):
    """Gives a point on the circle for each class; `turned`, the next class's point for the first half of classes."""

    def __init__(self, classes, turned):
        super().__init__()
        self.classes, self.turned = classes, turned

    def forward(self, x):
        index = index_of(x, self.classes)
        index = index + (index < self.classes // 2) if self.turned else index
        angle = index * 2 * math.pi / self.classes
        return Gaussian(torch.stack([angle.cos(), angle.sin()], dim=1), torch.full((len(x), 2), -20.0))


class Oracle(MultimodalVAE):
    """Encodes the class of an image, but that of SVHN's first half of classes as the next one, and decodes it."""

    def __init__(self, classes=10, names=NAMES):
        config = SimpleNamespace(shared=2, private=1, test_time="mean")
        shapes = {name: (1, 8, 8) if name == "mnist" else (3, 8, 8) for name in names}
        super().__init__(shapes, dict.fromkeys(names, "mlp"), config)
        self.classes = classes
        self.shared_encoders = torch.nn.ModuleDict({name: Encoder(classes, name == "svhn") for name in names})

    def fuse(self, posteriors):
        return product_of_experts(list(posteriors.values())) if len(posteriors) > 1 else next(iter(posteriors.values()))

    def decode(self, name, z, h):
        index = (torch.atan2(z[:, 1], z[:, 0]) * self.classes / (2 * math.pi)).round().remainder(self.classes)
        return (index * level(self.classes) / 255).view(-1, 1, 1, 1).expand(-1, *self.shapes[name])


class Reader(torch.nn.Module):
    classes = torch.nn.Identity()

    def __init__(self, count=10):
        super().__init__()
        self.count = count

    def features(self, images):
        return torch.nn.functional.one_hot(index_of(images, self.count), self.count).float()

    def predict(self, images):
        return index_of(images, self.count)


class Off(Reader):
    """Gives the next class for the first three."""

    def predict(self, images):
        return super().predict(images) + (super().predict(images) < 3)


def flat_dataset(classes=10, names=NAMES):
    """Return 20 flat images of each class and modality, in 60 pairs a class."""
    index = torch.arange(classes).repeat(20)
    images = {
        name: (level(classes) * index.view(-1, 1, 1, 1).expand(-1, 1 if name == "mnist" else 3, 8, 8)).byte()
        for name in names
    }
    labels = {name: torch.tensor(LABELS[classes])[index] for name in names}
    split = Split(images, labels, pair_by_class(list(labels.values()), 3, torch.Generator().manual_seed(0)))
    return Dataset(split, split, {name: name.upper() for name in names})


@pytest.fixture
def dataset():
    return flat_dataset()


@pytest.mark.parametrize("classes", LABELS)
def test_cross_generation_uses_the_condition_and_the_classifier_of_each_direction(classes):
    dataset, model, networks = flat_dataset(classes), Oracle(classes), (Reader(classes), Off(classes))
    indices = torch.arange(len(dataset.test.pairs))
    score = {
        (a, b): cross_generation.cross_generation(model, *networks, dataset, a, b, indices, seed=0)
        for a, b in (("mnist", "svhn"), ("svhn", "mnist"))
    }
    assert score["mnist", "svhn"].accuracy == 1.0
    assert score["mnist", "svhn"].strong == pytest.approx(1 - 3 / classes)
    assert score["svhn", "mnist"].accuracy == pytest.approx(1 - classes // 2 / classes)  # encoded as the next class


def test_the_strong_classifier_gets_an_even_share_of_the_conditions(dataset, monkeypatch):
    monkeypatch.setattr(cross_generation, "STRONG", 200)  # of 600, which lie class after class
    indices = torch.arange(len(dataset.test.pairs))
    networks = Reader(), Off()
    score = cross_generation.cross_generation(Oracle(), *networks, dataset, "mnist", "svhn", indices, seed=0)
    assert score.strong == pytest.approx(0.7, abs=0.01)


def test_contrast_is_the_ratio_of_the_deviations_of_grey_levels(dataset, monkeypatch):
    half = torch.zeros(2, 3, 4, 4)
    half[0, :, :2] = 1  # grey levels 0 and 1, eight each
    half[1, 0], half[1, 1] = torch.eye(4), -torch.eye(4)  # two channels that cancel
    deviation = 0.5 * math.sqrt(16 / 15)
    assert cross_generation.contrast(half).tolist() == pytest.approx([deviation, 0])
    images = dataset.test.images["svhn"]
    striped = images.clone().zero_()
    striped[:, :, ::2] = 200
    split = Split(dataset.test.images | {"svhn": striped}, dataset.test.labels, dataset.test.pairs)
    monkeypatch.setattr(Oracle, "decode", lambda self, name, z, h: (striped[: len(z)] // 4).float() / 255)
    score = cross_generation.cross_generation(
        Oracle(), Reader(), Reader(), Dataset(split, split, {}), "mnist", "svhn", torch.arange(200), seed=0
    )
    assert score.contrast == pytest.approx(0.25)


@pytest.mark.parametrize("classes", LABELS)
def test_the_linear_probe_is_fitted_to_fused_codes_and_tested_on_each_kind(classes, monkeypatch):
    dataset = flat_dataset(classes)
    monkeypatch.setattr(Oracle, "fuse", lambda self, posteriors: next(iter(posteriors.values())))  # MNIST's of a pair
    score, calibration = linear_probe.linear_probe(Oracle(classes), dataset, torch.arange(60 * classes))
    wrong = classes // 2 / classes
    assert score == pytest.approx({"mnist": 1.0, "svhn": 1 - wrong, "both": 1.0})
    if classes == 10:  # confident, and half of it wrong
        assert calibration == pytest.approx({"mnist": 0, "svhn": 0.5, "both": 0}, abs=0.05)


def test_expected_calibration_error():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = torch.tensor([True, True, True, False, True, False])
    expected = 4 / 6 * abs(0.95 - 0.75) + 2 / 6 * abs(0.55 - 0.5)
    assert linear_probe.expected_calibration_error(confidence, correct) == pytest.approx(expected)
    assert linear_probe.expected_calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_fused_code_of_a_pair_is_that_of_the_pairs_images(dataset, name):
    run = params.load("subset", ROOT)
    torch.manual_seed(0)
    model = checkpoint.build_model(name, getattr(run, name), dataset.shapes, run.networks)
    if not (model.has_shared and model.is_fused):
        pytest.skip("no fused code")
    split, pairs = dataset.train, dataset.train.pairs[[17, 200, 400]]
    found = linear_probe.fused_posterior(model, split, pairs, linear_probe.encode_experts(model, split))
    expected = model.shared(split.batch(torch.tensor([17, 200, 400]))[0])
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.logvar, expected.logvar)


def test_a_model_without_fused_codes_has_no_both(monkeypatch):
    monkeypatch.setattr(Oracle, "is_fused", False)
    names = ("mnist", "left_half")  # both with the class of the image itself
    score, _ = linear_probe.linear_probe(Oracle(10, names), flat_dataset(10, names), torch.arange(600))
    assert score == {"mnist": 1.0, "left_half": 1.0}


def test_each_measure_is_of_the_test_images_and_each_fit_to_the_training_images(dataset):
    """Blank images are all of one class. Where nothing is fitted, the training images have no part."""
    networks = dict.fromkeys(NAMES, Reader()), {"mnist": Reader(), "svhn": Off()}
    model, split = Oracle(), dataset.test
    blank = Split({name: torch.zeros_like(x) for name, x in split.images.items()}, split.labels, split.pairs)
    usual, untrained, blind = (
        Evaluator(Dataset(*splits, dataset.titles), *networks, "all", "all", seed=0).evaluate(model)
        for splits in ((split, split), (blank, split), (split, blank))
    )
    fitted = {"linear", "calibration", "probes"}
    assert all(untrained[part] == usual[part] for part in usual.keys() - fitted)
    assert usual["linear"]["mnist"] > 0.8 and set(blind["linear"].values()) == {0.1}
    assert {v for key, v in blind["probes"].items() if key.endswith(("digit", "digit_mlp"))} == {0.1}
    for part in ("cross", "translated"):
        assert usual[part] == {"mnist_to_svhn": 1.0, "svhn_to_mnist": 0.5}
        assert usual[f"{part}_strong"] == pytest.approx({"mnist_to_svhn": 0.7, "svhn_to_mnist": 0.5})
    assert usual["frechet"]["mnist_to_svhn"] == pytest.approx(0, abs=1e-4) and usual["frechet"]["svhn_to_mnist"] > 0.01
    assert usual["coherence"] == {"joint": 1.0}  # by Shi et al.'s classifiers


def test_contrast_is_that_of_the_target(dataset, monkeypatch):
    def generated(_model, _classifiers, _stronger, _split, _source, target, *_):
        return cross_generation.CrossGeneration(0.0, 0.0, 0.0, NAMES.index(target))

    monkeypatch.setattr(evaluator, "cross_generation", generated)
    networks = [dict.fromkeys(NAMES, Reader())] * 2
    assert Evaluator(dataset, *networks, 40, 40, seed=0).evaluate(Oracle())["contrast"] == {"mnist": 0, "svhn": 1}


def test_both_ways_to_decode_the_shared_code_are_measured(dataset, monkeypatch):
    real = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, x: Gaussian(real(self, x).mean, torch.full((len(x), 2), 2.0)))
    networks = [dict.fromkeys(NAMES, Reader())] * 2
    found = {}
    for how in ("mean", "sample"):
        model = Oracle()
        model.config.test_time = how
        found[how] = Evaluator(dataset, *networks, "all", 40, seed=0).evaluate(model)
        assert found[how]["cross"] == found[how][f"cross_{how}"] and model.config.test_time == how
    for part in ("cross_mean", "cross_sample"):
        assert found["mean"][part] == found["sample"][part]
    assert found["mean"]["cross_mean"] == {"mnist_to_svhn": 1.0, "svhn_to_mnist": 0.5}
    assert all(0.1 < value < 0.4 for value in found["mean"]["cross_sample"].values())  # samples that cover all classes


def test_the_calibration_is_that_of_samples(dataset, monkeypatch):
    real = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, x: Gaussian(real(self, x).mean, torch.full((len(x), 2), 2.0)))
    monkeypatch.setattr(Oracle, "fuse", lambda self, posteriors: next(iter(posteriors.values())))
    score, calibration = linear_probe.linear_probe(Oracle(), dataset, torch.arange(600))
    assert score["mnist"] == 1.0 and calibration["mnist"] > 0.05  # a mean's class is sure, a sample's is not


def test_frechet_distance_against_scipy():
    from scipy.linalg import sqrtm

    random = np.random.default_rng(0)
    a, b = random.normal(size=(500, 4)) @ random.normal(size=(4, 4)), random.normal(size=(300, 4)) + 0.5
    A, B = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * sqrtm(A @ B).real)
    a, b = torch.tensor(a), torch.tensor(b)
    assert cross_generation.frechet_distance(a, b) == pytest.approx(expected)
    assert cross_generation.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_no_two_chunks_and_no_two_seeds_share_private_codes(dataset, monkeypatch):
    seen, real = [], Oracle.cross_generate

    def recorded(self, images, target, seed=None, private=None):
        seen.append(seed)
        return real(self, images, target, seed, private)

    monkeypatch.setattr(Oracle, "cross_generate", recorded)
    monkeypatch.setattr(cross_generation, "chunk_size", lambda *shapes: 10)
    for seed in (0, 1):
        indices = torch.arange(40)
        cross_generation.cross_generation(Oracle(), Reader(), Reader(), dataset, "mnist", "svhn", indices, seed)
    assert len(seen) == len(set(seen)) == 8


def test_joint_coherence_counts_agreement():
    model = Oracle()
    assert cross_generation.joint_coherence(model, {"mnist": Reader(), "svhn": Reader()}, 200, 0) == 1.0
    generated = index_of(model.generate(200, seed=0)["mnist"])
    expected = (generated >= 3).float().mean().item()
    found = cross_generation.joint_coherence(model, {"mnist": Reader(), "svhn": Off()}, 200, 0)
    assert found == pytest.approx(expected)


def test_sample_indices():
    indices = cross_generation.sample_indices(100, 30, 0, "cpu")
    assert len(indices.unique()) == 30 and indices.max() < 100
    assert cross_generation.sample_indices(100, "all", 0, "cpu").tolist() == list(range(100))
    assert len(cross_generation.sample_indices(100, 500, 0, "cpu")) == 100
    samples = [cross_generation.sample_indices(1000, 30, seed, "cpu").tolist() for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2] and max(samples[0]) > 500


@pytest.mark.parametrize("classes", [3, 26])
def test_the_evaluator_has_every_part_for_any_names_and_numbers_of_classes_and_modalities(classes):
    names = ("mnist", "svhn", "left_half")
    dataset = flat_dataset(classes, names)
    networks = [{name: kind(classes) for name in names} for kind in (Reader, Off)]
    found = Evaluator(dataset, *networks, 40, "all", seed=0).evaluate(Oracle(classes, names))
    directions = {f"{a}_to_{b}" for a in names for b in names if a != b}
    for part in ("cross", "cross_strong", "cross_mean", "cross_sample", "frechet", "translated", "translated_strong"):
        assert found[part].keys() == directions, part
    assert found["cross"]["mnist_to_left_half"] == 1.0 and found["cross"]["svhn_to_mnist"] < 0.9
    assert found["contrast"].keys() == set(names) and found["linear"].keys() == {*names, "both"}
    assert found["style"].keys() == {"mnist_thickness", "mnist_slant", "svhn_background", "left_half_background"}
    assert found["nats"].keys() == found["active"].keys() == {f"{n}_{c}" for n in names for c in ("shared", "private")}
    assert found["probes"]["left_half_shared_digit"] == 1.0
    assert all(math.isfinite(value) for values in found.values() for value in values.values())


def test_a_model_without_private_codes_has_no_style(dataset):
    model = Oracle()
    model.sizes["private"] = 0
    networks = [dict.fromkeys(NAMES, kind()) for kind in (Reader, Off)]
    found = Evaluator(dataset, *networks, 40, 40, seed=0).evaluate(model)
    assert not {"style", "translated", "translated_strong"} & found.keys()
    assert set(found["active"]) == {"mnist_shared", "svhn_shared"} and set(found["contrast"]) == set(NAMES)


def test_summary_is_mean_and_sample_deviation():
    from qmvae.pipeline.stages.metrics import summary

    values = [0.7, 0.8, 0.75, 0.9]
    got = summary(dict(zip("0125", values, strict=True)))
    assert got["mean"] == pytest.approx(np.mean(values)) and got["std"] == pytest.approx(np.std(values, ddof=1))
    assert summary({"3": 0.5})["std"] == 0


def test_a_tiny_project_from_images_to_metrics(tmp_path, monkeypatch, one_thread):
    from qmvae.pipeline import files
    from qmvae.pipeline.stages import classifiers, evaluate, metrics, train

    monkeypatch.chdir(write_project(tmp_path, steps=60))
    write_archives(tmp_path / "data", train=1000, test=200)
    document = yaml.safe_load((tmp_path / "params.yaml").read_text())
    document["presets"]["tiny"] |= {
        "models": ["qmvae", "mvae"],
        "overrides": {"mvae": {"seeds": [0, 2, 1], "steps": 2}},
    }
    document["presets"]["tiny"]["classifiers"] |= {"epochs": 12, "strong_steps": 60, "lr": 0.005}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    run = make_data(tmp_path)
    classifiers.run(run)  # with a process for each modality
    jobs_here(monkeypatch)
    train.run(run, run.models)
    evaluate.run(run, run.models)
    metrics.run(run)
    found = files.load_json(run.reports / "metrics.json")
    assert found["preset"] == "tiny"
    linear = files.load_json(run.reports / "scores.json")["qmvae"]["both"]
    assert linear == pytest.approx(100 * found["models"]["qmvae"]["linear"]["both"]["mean"], abs=0.05)
    assert found["images"] == "MNIST 1,000/200 + SVHN subset 1,000/200"
    for kind in ("judges", "strong_judges", "supervised"):  # squares in ten places are easy to tell apart
        assert all(value > 0.9 for value in found[kind].values()), (kind, found[kind])
    numbers = found["models"]["qmvae"]
    assert numbers["steps"] == 60 and numbers["precision"] == "float32"
    for part, keys in {"cross": {"mnist_to_svhn", "svhn_to_mnist"}, "linear": {"mnist", "svhn", "both"}}.items():
        assert set(numbers[part]) == keys
        assert all([*n["seeds"]] == ["0", "1"] and 0 <= n["mean"] <= 1 for n in numbers[part].values())
    assert all(n["mean"] > 0.9 for n in numbers["linear"].values())
    assert all([*n["seeds"]] == ["0", "2", "1"] for n in found["models"]["mvae"]["cross"].values())  # its own seeds
    assert numbers["probes"]["svhn_shared_digit"]["mean"] > 0.9
    assert set(numbers["cross_strong"]) == {"mnist_to_svhn", "svhn_to_mnist"}
    assert set(numbers["style"]) == {"mnist_thickness", "mnist_slant", "svhn_background"}
    assert set(numbers["contrast"]) == {"mnist", "svhn"} and "svhn_private" in numbers["active"]
    assert found["chance"] == dict.fromkeys(("mnist", "svhn", "both"), 0.1)
    first, second = (tables.table(found, part) for part in ("cross", "linear"))
    assert first.loc["chance level", ("svhn_to_mnist", "strong", "mean")] == pytest.approx(10)
    assert second.loc["Q-MVAE", ("both", "ours", "mean")] > 90 and len(tables.style(found, run.images.titles)) == 15

    kinds = {"standard": "judges", "strong": "strong_judges", "supervised": "supervised"}
    known = {kind: {"mnist": value, "svhn": value / 2} for kind, value in zip(kinds, (0.2, 0.4, 0.6), strict=True)}
    files.save_json(run.artifacts / "classifiers" / "accuracy.json", known)
    metrics.run(run)
    again = files.load_json(run.reports / "metrics.json")
    assert {kind: again[name] for kind, name in kinds.items()} == known

    longer = run.training["qmvae"].model_copy(update={"steps": 61})
    asked = run.model_copy(update={"training": run.training | {"qmvae": longer}})
    with pytest.raises(files.FileError, match="model.json: trained for 60 steps, params.yaml asks for 61; run `python"):
        evaluate.evaluate(asked, "qmvae")

    before, path = evaluate.fingerprint(run, "qmvae"), run.model_folder("qmvae", 1) / "model.json"
    path.write_text(path.read_text().replace('"test_time": "mean"', '"test_time": "sample"'))  # the weights stay
    assert evaluate.fingerprint(run, "qmvae") != before


def test_the_probe_is_fitted_to_the_given_pairs_alone(monkeypatch):
    seen = []

    class Fit(linear_probe.LogisticRegression):
        def fit(self, x, y):
            seen.append(len(x))
            return super().fit(x, y)

    monkeypatch.setattr(linear_probe, "LogisticRegression", Fit)
    linear_probe.linear_probe(Oracle(), flat_dataset(), torch.arange(0, 600, 6))
    assert seen == [100]


def with_seed_7(run):
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"seed": 7})})


def test_the_numbers_of_a_model_are_stale_after_each_change(tmp_path):
    run = make_data(write_project(tmp_path))
    files.save_text(run.model_folder("qmvae", 0) / "model.json", "{}")
    more = run.training["qmvae"].model_copy(update={"seeds": [0, 1, 2]})
    others = [with_seed_7(run), run.model_copy(update={"training": run.training | {"qmvae": more}})]
    found = [stage.fingerprint(other, "qmvae") for other in (run, *others)]
    for place in ("models/qmvae/seed-0/model", "classifiers/mnist-strong"):
        tensor_files.save(run.artifacts / f"{place}.safetensors", {"a": torch.ones(1)})
        found.append(stage.fingerprint(run, "qmvae"))
    assert len(set(found)) == 5


def test_stale_numbers_are_computed_again(tmp_path, monkeypatch):
    run = make_data(write_project(tmp_path))
    files.save_text(run.model_folder("qmvae", 0) / "model.json", "{}")
    made = iter(range(9))
    monkeypatch.setattr(stage, "evaluate", lambda *_: {"number": next(made)})
    found = []
    for each in (run, run, with_seed_7(run)):
        stage.run(each, ["qmvae"])
        found.append(files.load_json(run.artifacts / "evaluation" / "qmvae.json")["number"])
    assert found == [0, 0, 1]
