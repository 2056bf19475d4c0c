"""Pairs, batches, the built-in images, and their files. The other two sources: test_data_sources.py."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tiny import environment, make_data, write_archives, write_params, write_project

from qmvae.data import builtin
from qmvae.data.checks import DataError
from qmvae.data.dataset import Dataset, Split, build, pair_by_class
from qmvae.data.sources import files_read, read
from qmvae.pipeline import artifacts, files, tensor_files
from qmvae.pipeline import params as parameters
from qmvae.pipeline.datasets import load_dataset, save_dataset
from qmvae.pipeline.stages import data as stage

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
SVHN_TRAIN = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]  # "0" first
SVHN_TEST = [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595]


def shuffled_labels(counts, seed=0):
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("mnist", "svhn", "expected"), [(MNIST_TRAIN, SVHN_TRAIN, 1_682_040), (MNIST_TEST, SVHN_TEST, 300_000)]
)
def test_the_papers_counts_of_pairs(mnist, svhn, expected):
    labels = {"mnist": shuffled_labels(mnist), "svhn": shuffled_labels(svhn, seed=1)}
    pairs = pair_by_class(labels, 30, generator())
    assert pairs.shape == (expected, 2) and pairs.dtype == torch.int32
    assert (labels["mnist"][pairs[:, 0].long()] == labels["svhn"][pairs[:, 1].long()]).all()


@pytest.mark.parametrize("modalities", [2, 3])
def test_each_image_up_to_the_poorest_modality_is_paired_equally_often(modalities):
    counts = [[5, 9, 7] + [3] * 7, [8, 4, 7] + [6] * 7, [6, 5, 2] + [9] * 7][:modalities]
    labels = [shuffled_labels(c, seed) for seed, c in enumerate(counts)]
    pairs = pair_by_class(labels, 4, generator())
    poorest = [min(c) for c in zip(*counts, strict=True)]
    assert pairs.shape == (4 * sum(poorest), modalities)
    for column, of_modality in zip(pairs.long().T, labels, strict=True):
        times = torch.bincount(column, minlength=len(of_modality))
        for digit, n in enumerate(poorest):
            members = torch.nonzero(of_modality == digit).squeeze(1)
            assert (times[members[:n]] == 4).all() and (times[members[n:]] == 0).all()
        assert (of_modality[column] == labels[0][pairs[:, 0].long()]).all()


def test_a_redraw_shows_all_images_of_the_richer_modality():
    labels = [shuffled_labels([90] + [20] * 9), shuffled_labels([30] + [20] * 9, seed=1)]
    pairs = pair_by_class(labels, 30, generator(), redraw=True)
    assert len(pairs) == 30 * (30 + 9 * 20)  # as many as without
    assert set(pairs[:, 0].tolist()) == set(range(len(labels[0])))
    for of_a_round in pairs[: 30 * 30].split(30):  # the zeros: 30 of 90 beside all 30
        assert all(len(column.unique()) == 30 for column in of_a_round.T)
    assert (labels[0][pairs[:, 0].long()] == labels[1][pairs[:, 1].long()]).all()


def test_a_class_gives_at_most_ten_thousand_images():
    labels = [shuffled_labels([10_500] + [1] * 9), shuffled_labels([10_200] + [1] * 9)]
    assert len(pair_by_class(labels, 1, generator())) == 10_009


def test_pairs_depend_on_the_seed_and_partners_change():
    labels = [shuffled_labels([50] * 10), shuffled_labels([50] * 10, seed=1)]
    once = pair_by_class(labels, 2, generator(0))
    assert torch.equal(once, pair_by_class(labels, 2, generator(0)))
    assert not torch.equal(once, pair_by_class(labels, 2, generator(1)))
    first, second = (dict(half.tolist()) for half in once[:100].split(50))  # the two rounds of the class 0
    assert first.keys() == second.keys() and first != second


@pytest.mark.parametrize("classes", [(2, 5, 9), range(-13, 13), (-7, 10**12)])
@pytest.mark.parametrize("redraw", [False, True])
def test_any_labels_are_classes(classes, redraw):
    order = generator().manual_seed(0)
    labels = [
        torch.tensor(classes).repeat(times)[torch.randperm(times * len(classes), generator=order)] for times in (3, 4)
    ]
    pairs = pair_by_class(labels, 2, generator(), redraw).long()
    assert pairs.shape == (2 * 3 * len(classes), 2)
    shown = labels[0][pairs[:, 0]]
    assert torch.equal(shown, labels[1][pairs[:, 1]]) and torch.equal(shown, shown.sort().values)
    assert set(pairs[:, 0].tolist()) == set(range(3 * len(classes)))
    renumbered = [torch.searchsorted(torch.tensor(classes), of_modality) for of_modality in labels]
    assert torch.equal(pair_by_class(renumbered, 2, generator(), redraw).long(), pairs)  # the order of classes counts


def a_split():
    greys, white = torch.arange(3 * 4).view(3, 1, 2, 2) * 20, torch.full((2, 3, 2, 2), 255)
    images = {"mnist": greys.to(torch.uint8), "svhn": white.to(torch.uint8)}
    labels = {"mnist": torch.tensor([4, 7, 4]), "svhn": torch.tensor([7, 4])}
    return Split(images, labels, torch.tensor([[0, 1], [1, 0], [2, 1]], dtype=torch.int32))


def test_a_batch_holds_the_pairs_asked_for():
    split = a_split()
    images, labels = split.batch(torch.tensor([2, 1, 2, 0]))
    assert list(images) == ["mnist", "svhn"] and labels.tolist() == [4, 7, 4, 4] and labels.dtype == torch.int64
    assert images["mnist"].shape == (4, 1, 2, 2) and images["mnist"].dtype == torch.float32
    assert torch.equal(images["mnist"], split.images["mnist"][[2, 1, 2, 0]] / 255)
    assert torch.equal(images["svhn"], torch.ones(4, 3, 2, 2))
    assert split.images["svhn"].dtype == torch.uint8 and split.images["svhn"].min() == 255  # untouched


def test_examples_are_the_nth_image_of_each_class():
    labels = torch.arange(30) // 3
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1)
    split = Split({"mnist": images}, {"mnist": labels}, torch.zeros(1, 1, dtype=torch.int32))
    assert (255 * split.examples("mnist", nth=1)).round().flatten().tolist() == [3 * digit + 1 for digit in range(10)]


def test_examples_start_again_where_a_class_has_few_images():
    labels, images = torch.tensor([26, -1, 26, 7]), torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    split = Split({"photo": images}, {"photo": labels}, torch.zeros(1, 1, dtype=torch.int32))
    of = [(255 * split.examples("photo", nth)).round().flatten().tolist() for nth in range(4)]
    assert of == [[1, 3, 0], [1, 3, 2], [1, 3, 0], [1, 3, 2]]  # by class: -1, 7, 26
    dataset = Dataset(split, split, {"photo": "Photos"})
    assert dataset.classes.tolist() == [-1, 7, 26] and dataset.classes.dtype == torch.int64


@pytest.fixture
def few_street_numbers(monkeypatch):
    monkeypatch.setattr(builtin, "STREET_COUNTS", {"train": 300, "test": 100})


@pytest.fixture
def one_variant(monkeypatch):
    monkeypatch.setattr(builtin, "VARIANTS", 1)


@pytest.mark.parametrize("render", [builtin.handwriting, builtin.street_numbers])
def test_builtin_images_depend_on_the_seed_alone(render, few_street_numbers, one_variant):
    once, again, other = render(0), render(0), render(1)
    assert all(np.array_equal(once[key], again[key]) for key in once)
    assert not np.array_equal(once["train_images"], other["train_images"])


def test_no_scanned_digit_is_on_both_sides():
    labels = load_digits().target
    parts = builtin.split_originals(labels, seed=0)
    assert not set(parts["train"]) & set(parts["test"])
    assert sorted([*parts["train"], *parts["test"]]) == list(range(len(labels)))
    for part, share in (("train", 5 / 6), ("test", 1 / 6)):
        assert np.bincount(labels[parts[part]]) == pytest.approx(share * np.bincount(labels), abs=1)
    assert not np.array_equal(parts["test"], builtin.split_originals(labels, seed=1)["test"])


def test_variants_are_rendered_from_their_own_side(monkeypatch, one_variant):
    used, blank = [], np.zeros((28, 28), np.uint8)
    monkeypatch.setattr(builtin, "_variant", lambda scan, rng: used.append(scan.tobytes()) or blank)
    arrays = builtin.handwriting(0)
    train, test = set(used[: len(arrays["train_labels"])]), set(used[len(arrays["train_labels"]) :])
    assert len(train) + len(test) == 1797 and not train & test  # all scans differ


def test_the_quick_images(tmp_path, monkeypatch, capsys):
    assert builtin.STREET_COUNTS == {"train": 10_000, "test": 2_000}
    monkeypatch.setattr(builtin, "STREET_COUNTS", {"train": 1000, "test": 200})  # for the time it takes
    titles = {"mnist": "built-in handwriting", "svhn": "built-in street numbers"}
    dataset = build(read("builtin", tmp_path, titles, seed=0), titles, 30, 0, redraw=False)
    assert dataset.shapes == {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
    assert dataset.describe() == "built-in handwriting 10,507/2,072 + built-in street numbers 1,000/200"
    for split in (dataset.train, dataset.test):
        for name, images in split.images.items():
            assert images.dtype == torch.uint8 and split.labels[name].dtype == torch.int64
            assert len(images) == len(split.labels[name]) and split.labels[name].unique().tolist() == list(range(10))
    edge = dataset.train.images["mnist"].float()
    assert edge[:, :, [0, -1]].mean() < 5 and 20 < edge.mean() < 60  # white on black, with a margin, as MNIST
    assert dataset.train.images["svhn"].float().std(dim=(1, 2, 3)).min() > 2  # none is blank
    assert len(dataset.train.pairs) == 30 * 1000 and len(dataset.test.pairs) == 30 * 200  # the classes are balanced
    assert dataset.classes.tolist() == list(range(10)) and capsys.readouterr().err == ""  # no warning
    assert files_read("builtin", tmp_path, titles) == []


@pytest.mark.parametrize("source", ["builtin", "torchvision"])
def test_sources_of_two_modalities_have_no_others(source, tmp_path):
    for call in (
        lambda: files_read(source, tmp_path, ["mnist", "speech"]),
        lambda: read(source, tmp_path, ["speech"], 0),
    ):
        with pytest.raises(
            DataError, match="'speech': .* images are mnist and svhn; for others use .* source: archive"
        ):
            call()


def build_as(run):
    """Read and pair the images as the stage does."""
    found = read(run.images.source, run.data, run.modalities, run.images.seed)
    return build(found, run.images.titles, run.pairs.multiplier, run.pairs.seed, run.pairs.redraw)


def test_what_is_saved_is_loaded(tmp_path):
    write_project(tmp_path)
    run = parameters.load(root=tmp_path)
    dataset, folder = build_as(run), run.artifacts / "data"
    save_dataset(dataset, folder)
    loaded = load_dataset(folder, run.modalities)
    assert loaded.titles == dataset.titles and loaded.describe() == "MNIST 120/40 + SVHN subset 120/40"
    for before, after in ((dataset.train, loaded.train), (dataset.test, loaded.test)):
        assert torch.equal(before.pairs, after.pairs) and list(before.images) == list(after.images)
        for name in before.images:
            assert torch.equal(before.images[name], after.images[name]) and before.images[name].dtype == torch.uint8
            assert torch.equal(before.labels[name], after.labels[name])
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert written.keys() == {"images.safetensors", "pairs.safetensors", "titles.json"}
    save_dataset(build_as(run), folder)
    assert written == {path.name: path.read_bytes() for path in folder.iterdir()}  # DVC sees no change


def test_files_that_do_not_fit_are_named(tmp_path):
    write_project(tmp_path)
    run = parameters.load(root=tmp_path)
    folder = run.artifacts / "data"
    with pytest.raises(files.FileError, match="images.safetensors.*dvc repro"):
        load_dataset(folder, run.modalities)
    save_dataset(build_as(run), folder)
    with pytest.raises(files.FileError, match="speech.*dvc repro"):
        load_dataset(folder, [*run.modalities, "speech"])
    pairs = folder / "pairs.safetensors"
    tensors, _ = tensor_files.load(pairs)
    tensor_files.save(pairs, tensors | {"test": tensors["train"] + 40})
    with pytest.raises(files.FileError, match="test: the pairs are not of these images.*dvc repro"):
        load_dataset(folder, run.modalities)
    mixed = torch.stack([tensors["train"][:, 0], tensors["train"][:, 1].flip(0)], dim=1)
    tensor_files.save(pairs, tensors | {"train": mixed})
    with pytest.raises(files.FileError, match="train: the images of a pair are of two classes"):
        load_dataset(folder, run.modalities)
    pairs.write_bytes(pairs.read_bytes()[:-9])
    with pytest.raises(files.FileError, match="pairs.safetensors.*dvc repro"):
        load_dataset(folder, run.modalities)


def test_the_modalities_keep_their_order_when_params_yaml_changes_it(tmp_path):
    run = make_data(write_project(tmp_path))
    split = load_dataset(run.artifacts / "data", list(reversed(run.modalities))).train
    assert list(split.images) == ["mnist", "svhn"]  # DVC takes the two files for equal, so the pairs must stay right
    assert torch.equal(split.pair_labels, split.labels["svhn"][split.pairs[:, 1].long()])


def test_the_command_says_what_it_made(tmp_path, capsys):
    make_data(write_project(tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        "MNIST: 120 training images (120 in pairs) and 40 test images (40 in pairs), 1x16x16",
        "SVHN subset: 120 training images (120 in pairs) and 40 test images (40 in pairs), 3x16x16",
        "pairs: 3,600 for training and 1,200 for testing",
    ]


def test_the_command_fails_with_one_message(tmp_path):
    write_params(tmp_path)
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", "qmvae", "data"]
    run = subprocess.run(command, cwd=tmp_path, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == "" and "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 1 and str(tmp_path / "data" / "mnist.npz") in run.stderr
    assert not (tmp_path / "artifacts").exists()


def test_the_stage_redraws_and_seeds_the_pairs(tmp_path):
    write_project(tmp_path)
    write_archives(tmp_path / "data", train=240, shapes={"mnist": (16, 16)})  # twice as many as of SVHN
    run, found = make_data(tmp_path), set()
    for change in ({}, {"redraw": not run.pairs.redraw}, {"seed": 1}, {"multiplier": 2}):
        stage.run(run.model_copy(update={"pairs": run.pairs.model_copy(update=change)}))
        found.add((run.artifacts / "data" / "pairs.safetensors").read_bytes())
    assert len(found) == 4


def test_notebooks_take_the_first_two_modalities_and_their_pairs(tmp_path, monkeypatch):
    run = make_data(write_project(tmp_path))
    two = artifacts.load_dataset(run)

    def third(split):
        images, labels = (part | {"third": part["mnist"]} for part in (split.images, split.labels))
        return Split(images, labels, torch.cat([split.pairs, split.pairs[:, :1]], dim=1))

    three = Dataset(third(two.train), third(two.test), two.titles | {"third": "a third"})
    monkeypatch.setattr(artifacts, "load_dataset", lambda _: three)
    _, found = artifacts.first_two(run)
    assert torch.equal(found.train.pairs, two.train.pairs) and list(found.titles) == ["mnist", "svhn"]
