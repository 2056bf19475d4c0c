"""Tables 1 and 2's numbers on models whose true score is known, and what becomes of them on the way to the tables."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import write_archives, write_project

from qmvae import data, evaluation, figures, files, judges, params, tables, training
from qmvae.gaussian import Gaussian
from qmvae.models import MultimodalVAE

TITLES = {"mnist": "MNIST", "svhn": "SVHN subset"}


def digit_of(images):
    """These test images are flat: a digit d is the grey 25 d / 255."""
    return (images.flatten(1).mean(dim=1) * 255 / 25).round().long()


class Oracle(MultimodalVAE):
    """Reads the digit off an image, but SVHN's digits 0-4 as one too many, and draws what it read."""

    def __init__(self):
        config = SimpleNamespace(shared=2, private=1, test_time="mean")
        super().__init__({"mnist": (1, 8, 8), "svhn": (3, 8, 8)}, {"mnist": "mlp", "svhn": "mlp"}, config)

    def shared(self, images):
        ((name, x),) = images.items()
        digit = digit_of(x)
        digit = digit + (digit < 5) if name == "svhn" else digit
        angle = digit * 2 * math.pi / 10
        return Gaussian(torch.stack([angle.cos(), angle.sin()], dim=1), torch.full((len(x), 2), -20.0))

    def decode(self, name, z, h):
        digit = (torch.atan2(z[:, 1], z[:, 0]) * 10 / (2 * math.pi)).round().remainder(10)
        return (digit * 25 / 255).view(-1, 1, 1, 1).expand(-1, *self.shapes[name])


class Reader(torch.nn.Module):
    classes = torch.nn.Identity()

    def features(self, images):
        return torch.nn.functional.one_hot(digit_of(images), 10).float()

    def predict(self, images):
        return digit_of(images)


class Off(Reader):
    """Reads 0, 1 and 2 as one too many."""

    def predict(self, images):
        return digit_of(images) + (digit_of(images) < 3)


@pytest.fixture
def dataset():
    labels = torch.arange(10).repeat(20)
    images = {
        "mnist": labels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8),
        "svhn": labels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8),
    }
    pairs = data.pair([labels, labels], 3, torch.Generator().manual_seed(0))
    split = data.Split({m: (25 * x).byte() for m, x in images.items()}, {m: labels for m in images}, pairs)
    return data.Dataset(split, split, TITLES)


def test_cross_generation_judges_each_direction_with_its_own_condition_and_judge(dataset):
    rows = torch.arange(len(dataset.test.pairs))
    score = {
        (a, b): evaluation.cross_generation(Oracle(), Reader(), Off(), dataset.test, a, b, rows, seed=0)
        for a, b in (("mnist", "svhn"), ("svhn", "mnist"))
    }
    assert score["mnist", "svhn"].accuracy == 1.0 and score["mnist", "svhn"].strong == 0.7
    assert score["svhn", "mnist"].accuracy == 0.5  # the digits 0-4 are taken for 1-5


def test_the_strong_judge_sees_an_even_share_of_the_conditions(dataset, monkeypatch):
    monkeypatch.setattr(evaluation, "STRONG", 200)  # of 600, which lie class after class
    rows = torch.arange(len(dataset.test.pairs))
    score = evaluation.cross_generation(Oracle(), Reader(), Off(), dataset.test, "mnist", "svhn", rows, seed=0)
    assert score.strong == pytest.approx(0.7, abs=0.01)


def test_linear_probe_learns_from_fused_codes_and_is_tested_on_each_kind(dataset, monkeypatch):
    monkeypatch.setattr(Oracle, "fuse", lambda self, posteriors: posteriors["mnist"])
    score, calibration = evaluation.linear_probe(Oracle(), dataset, torch.arange(600))
    assert score == {"mnist": 1.0, "svhn": 0.5, "both": 1.0}
    assert calibration == pytest.approx({"mnist": 0, "svhn": 0.5, "both": 0}, abs=0.05)  # sure, and half of it wrong


def test_calibration_error():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = torch.tensor([True, True, True, False, True, False])
    expected = 4 / 6 * abs(0.95 - 0.75) + 2 / 6 * abs(0.55 - 0.5)
    assert evaluation.calibration_error(confidence, right) == pytest.approx(expected)
    assert evaluation.calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0


def test_the_fused_code_of_a_pair_is_made_of_that_pairs_images(dataset):
    model = Oracle()
    codes = evaluation.encode(model, dataset.train)
    i, j = dataset.train.pairs[17].tolist()
    one = {"mnist": dataset.train.images["mnist"][i : i + 1].float() / 255}
    torch.testing.assert_close(codes["mnist"].mean[i : i + 1], model.shared(one).mean)
    assert dataset.train.labels["mnist"][i] == dataset.train.labels["svhn"][j]


def test_a_model_without_fused_codes_has_no_both(dataset, monkeypatch):
    monkeypatch.setattr(Oracle, "fused", False)
    score, _ = evaluation.linear_probe(Oracle(), dataset, torch.arange(600))
    assert set(score) == {"mnist", "svhn"}


def test_frechet_distance_against_scipy():
    from scipy.linalg import sqrtm

    random = np.random.default_rng(0)
    a, b = random.normal(size=(500, 4)) @ random.normal(size=(4, 4)), random.normal(size=(300, 4)) + 0.5
    A, B = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * sqrtm(A @ B).real)
    a, b = torch.tensor(a), torch.tensor(b)
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected)
    assert evaluation.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_joint_coherence_counts_agreement(dataset):
    model = Oracle()
    assert evaluation.joint_coherence(model, {"mnist": Reader(), "svhn": Reader()}, 200, 0) == 1.0
    drawn = digit_of(model.generate(200, seed=0)["mnist"])
    expected = (drawn >= 3).float().mean().item()
    assert evaluation.joint_coherence(model, {"mnist": Reader(), "svhn": Off()}, 200, 0) == pytest.approx(expected)


def test_the_paired_test_is_scipys():
    from scipy.stats import ttest_rel

    text = metrics()
    assert "needs" in tables.runner_up(text, "cross")
    rival = copy.deepcopy(text["models"]["qmvae"])
    rival["cross"]["mnist_to_svhn"] |= {"mean": 0.85, "seeds": [0.84, 0.87]}
    text["models"]["dmvae"] = rival
    p = ttest_rel([0.89, 0.91], [0.84, 0.87]).pvalue
    assert f"mnist_to_svhn +10.1 points over DMVAE (p = {p:.3g})" in tables.runner_up(text, "cross")


def test_some_rows():
    rows = evaluation.some_rows(100, 30, 0, "cpu")
    assert len(rows.unique()) == 30 and rows.max() < 100
    assert evaluation.some_rows(100, "all", 0, "cpu").tolist() == list(range(100))
    assert len(evaluation.some_rows(100, 500, 0, "cpu")) == 100


def test_summary_is_mean_and_sample_deviation():
    values = [0.7, 0.8, 0.75, 0.9]
    got = evaluation.summary(values)
    assert got["mean"] == pytest.approx(np.mean(values)) and got["std"] == pytest.approx(np.std(values, ddof=1))
    assert evaluation.summary([0.5])["std"] == 0


def test_a_tiny_project_from_images_to_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(write_project(tmp_path, steps=60))
    write_archives(tmp_path / "data", train=1000, test=200)
    run = params.load()
    longer = {"epochs": 40, "strong_steps": 60, "lr": 0.005}
    run = run.model_copy(update={"judges": run.judges.model_copy(update=longer)})
    data.save(data.make(run), run)
    judges.run(run)
    training.run(run, "qmvae")
    evaluation.evaluate(run, "qmvae")
    evaluation.collect(run)
    metrics = files.load_json(run.reports / "metrics.json")
    assert metrics["preset"] == "tiny" and metrics["seeds"] == [0, 1]
    linear = files.load_json(run.reports / "scores.json")["qmvae"]["both"]
    assert linear == pytest.approx(100 * metrics["models"]["qmvae"]["linear"]["both"]["mean"], abs=0.05)
    assert metrics["images"] == "MNIST 1,000/200 + SVHN subset 1,000/200"
    for kind in ("judges", "strong_judges", "twins"):  # squares in ten places are easy to tell apart
        assert all(value > 0.9 for value in metrics[kind].values()), (kind, metrics[kind])
    assert metrics["models"]["qmvae"]["steps"] == 60
    for part, keys in {"cross": {"mnist_to_svhn", "svhn_to_mnist"}, "linear": {"mnist", "svhn", "both"}}.items():
        numbers = metrics["models"]["qmvae"][part]
        assert set(numbers) == keys
        assert all(len(n["seeds"]) == 2 and 0 <= n["mean"] <= 1 for n in numbers.values())
    assert all(n["mean"] > 0.9 for n in metrics["models"]["qmvae"]["linear"].values())
    assert metrics["models"]["qmvae"]["probes"]["svhn_shared_digit"]["mean"] > 0.9
    assert set(metrics["models"]["qmvae"]["cross_strong"]) == {"mnist_to_svhn", "svhn_to_mnist"}


def test_judges_say_which_images_are_too_small():
    with pytest.raises(ValueError, match="judges need images of at least 16x16, not 8x12"):
        judges.Judge((1, 8, 12))


def metrics():
    number = {"mean": 0.9, "std": 0.01, "seeds": [0.89, 0.91]}
    qmvae = {
        "cross": {"mnist_to_svhn": number | {"mean": 0.951}, "svhn_to_mnist": number | {"mean": 0.642}},
        "cross_strong": {"mnist_to_svhn": number | {"mean": 0.94}, "svhn_to_mnist": number},
        "linear": {"mnist": number | {"mean": 0.98}, "svhn": number | {"mean": 0.81}, "both": number | {"mean": 0.99}},
        "steps": 10000,
        "batch_size": 128,
        "codes": {"shared": 20, "private": 10},
    }
    return {
        "preset": "subset", "images": "MNIST 60,000/10,000 + SVHN subset 10,434/2,000", "device": "cpu",
        "seeds": [0, 1], "steps": 10000, "judges": {"mnist": 0.99, "svhn": 0.85},
        "strong_judges": {"mnist": 0.995, "svhn": 0.92}, "models": {"qmvae": qmvae},
    }  # fmt: skip


def test_tables_put_each_number_in_its_place():
    first, second = (tables.table(metrics(), part) for part in ("cross", "linear"))
    assert list(first.index) == ["MVAE", "MMVAE", "DMVAE", "Q-MVAE"]
    assert first.loc["Q-MVAE", ("mnist_to_svhn", "ours", "mean")] == pytest.approx(95.1)
    assert first.loc["Q-MVAE", ("svhn_to_mnist", "ours", "mean")] == pytest.approx(64.2)
    assert first.loc["Q-MVAE", ("mnist_to_svhn", "strong", "mean")] == pytest.approx(94.0)
    assert first.loc["Q-MVAE", ("svhn_to_mnist", "paper", "mean")] == 81.3
    assert first.loc["MMVAE", ("mnist_to_svhn", "paper", "std")] == 0.5
    assert math.isnan(first.loc["MMVAE", ("mnist_to_svhn", "ours", "mean")])
    assert second.loc["Q-MVAE", ("svhn", "ours", "mean")] == pytest.approx(81.0)
    assert math.isnan(second.loc["MMVAE", ("both", "paper", "mean")])


def test_the_papers_numbers_are_those_of_its_text():
    paper = {
        "MVAE": "31.8 ± 1.4 57.1 ± 3.4 79.8 ± 3.8 65.1 ± 4.6 80.2 ± 3.6",
        "MMVAE": "86.4 ± 0.5 69.1 ± 2.5 91.3 ± 0.4 68.0 ± 0.6 n/a",
        "DMVAE": "91.6 ± 0.8 76.4 ± 0.4 95.0 ± 0.6 79.9 ± 1.4 92.9 ± 1.8",
        "Q-MVAE": "92.2 ± 0.3 81.3 ± 0.5 98.3 ± 0.1 80.2 ± 0.2 97.9 ± 0.1",
    }
    first, second = (tables.readable(tables.table(metrics(), part), TITLES) for part in ("cross", "linear"))
    for model, numbers in paper.items():
        cells = [frame.loc[model, c] for frame in (first, second) for c in frame.columns if "the paper" in c]
        assert " ".join(cells) == numbers


def test_tables_are_written_in_three_formats(tmp_path):
    frame = tables.table(metrics(), "cross")
    tables.save(frame, TITLES, tables.caption(metrics(), "Table 1"), tmp_path, "table1")
    numbers = (tmp_path / "table1.csv").read_text()
    assert "Q-MVAE,95.10,1.00,94.00,1.00,92.20,0.30,64.20,1.00,90.00,1.00,81.30,0.50" in numbers
    markdown = (tmp_path / "table1.md").read_text()
    assert "SVHN subset 10,434/2,000" in markdown and "over 2 seeds" in markdown
    assert "| Q-MVAE  | 95.1 ± 1.0" in markdown
    latex = (tmp_path / "table1.tex").read_text()
    assert (
        r"Q-MVAE & 95.1 $\pm$ 1.0 & 94.0 $\pm$ 1.0 & 92.2 $\pm$ 0.3" in latex
        and r"\toprule" in latex
        and "→" not in latex
        and "±" not in latex
    )


def test_one_seed_shows_no_deviation():
    one = metrics() | {"seeds": [0]}
    one["models"]["qmvae"]["cross"]["mnist_to_svhn"] = {"mean": 0.8, "std": 0.0, "seeds": [0.8]}
    words = tables.readable(tables.table(one, "cross"), TITLES)
    assert words.loc["Q-MVAE"].iloc[0] == "80.0" and "(one seed)" in tables.caption(one, "Table 1")


def test_tiles_lie_where_they_should():
    conditions = np.arange(3).reshape(3, 1, 1, 1) / 10 * np.ones((3, 1, 4, 4))
    generated = np.stack([conditions + 0.3, conditions + 0.6])
    generated = np.repeat(np.pad(generated, [(0, 0)] * 3 + [(1, 1)] * 2), 3, axis=2)  # RGB, 6x6
    picture = figures.under_conditions(conditions, generated)
    middles = picture[3::, 3::, 0]  # the middle of the first condition, and so on in steps of a cell
    np.testing.assert_allclose(middles[0, ::8], [0.0, 0.1, 0.2])
    np.testing.assert_allclose(middles[14, ::8], [0.3, 0.4, 0.5])  # side 6 + gap 2 + 6 pixels between
    np.testing.assert_allclose(middles[22, ::8], [0.6, 0.7, 0.8])


def test_figures_are_the_same_bytes_twice(tmp_path):
    for name in ("one", "two"):
        figures.save(figures.architecture("MNIST", "SVHN"), tmp_path, name)
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
