"""Tuning on held-out training images, and the rows of tuning.csv."""

import csv

import pytest
import torch

from ablations import tune
from qmvae.data.dataset import Dataset, Split, hold_out, pair_by_class
from qmvae.pipeline import params


def numbered(count, seed):
    """A split of two modalities whose pixels carry each image's number, so that an image can be recognised."""
    labels = {m: torch.arange(count) % 3 for m in ("a", "b")}
    images = {m: torch.arange(count).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).to(torch.uint8) for m in labels}
    return Split(images, labels, pair_by_class(labels, 2, torch.Generator().manual_seed(seed)))


def test_held_out_images_are_a_part_of_every_class_and_of_no_other_split():
    whole = Dataset(numbered(60, 0), numbered(9, 1), {"a": "A", "b": "B"})
    cut = hold_out(whole, 0.1, multiplier=4, seed=0, redraw=True)
    for m in ("a", "b"):
        kept, held = (set(split.images[m][:, 0, 0, 0].tolist()) for split in (cut.train, cut.test))
        assert kept | held == set(range(60)) and not kept & held
        assert cut.test.labels[m].bincount().tolist() == [2, 2, 2]
        assert (cut.test.images[m][:, 0, 0, 0] % 3 == cut.test.labels[m]).all()
    for split in (cut.train, cut.test):
        rows = [split.labels[m][split.pairs[:, i].long()] for i, m in enumerate(split.images)]
        assert (rows[0] == rows[1]).all() and len(split.pairs) == 4 * len(split.labels["a"])
    again, other = (hold_out(whole, 0.1, 4, seed, True) for seed in (0, 1))
    assert (again.test.images["a"] == cut.test.images["a"]).all()
    assert (other.test.images["a"] != cut.test.images["a"]).any()


def test_a_class_of_few_images_keeps_one_for_validation():
    cut = hold_out(Dataset(numbered(6, 0), numbered(6, 1), {"a": "A", "b": "B"}), 0.01, 1, 0, False)
    assert sorted(cut.test.labels["a"].tolist()) == [0, 1, 2]


def test_every_entry_of_the_committed_file_fits_the_parameters():
    run = params.load("subset")
    tuning = tune.load(run.root)
    for name, entry in tuning.runs.items():
        changed = tune.with_entry(run, name, entry)
        assert changed.training[entry.model].steps == entry.steps
        assert all(set(v) == set(run.modalities) for _, v in getattr(changed, entry.model) if isinstance(v, dict))


def test_faults_of_an_entry_name_their_place(tmp_path):
    run = params.load("subset")
    wrong = tune.Entry(model="qmvae", steps=1, seed=0, changes={"betta": 1.0})
    with pytest.raises(ValueError, match=r"tuning.yaml: runs.x.changes.betta: unknown key"):
        tune.with_entry(run, "x", wrong)
    (tmp_path / "ablations").mkdir()
    text = (run.root / "ablations" / "tuning.yaml").read_text().replace("steps: 4000", "steps: none", 1)
    (tmp_path / "ablations" / "tuning.yaml").write_text(text)
    with pytest.raises(params.ParamsError, match=r"tuning.yaml cannot be used"):
        tune.load(tmp_path)


def test_rows_are_added_with_the_columns_that_they_need(tmp_path):
    path = tmp_path / "tuning.csv"
    tune.add_row(path, {"name": "one", "a": "1"}, tmp_path)
    tune.add_row(path, {"name": "two", "b": "2"}, tmp_path)
    assert list(csv.DictReader(path.open())) == [{"name": "one", "a": "1", "b": ""}, {"name": "two", "a": "", "b": "2"}]


def test_the_tradeoff_has_runs_of_other_kl_weights_only_and_marks_what_the_protocol_selects():
    run = params.load("subset")
    rows = tune.read_rows(run.root / "reports" / "subset" / "tuning.csv")
    frame = tune.tradeoff(rows, run, {"mnist": "MNIST", "svhn": "SVHN"})
    assert {*frame[frame.model == "DMVAE, 4,000 steps"].weight} == {300, 150, 100, 50, 30, 15, 10, 5, 3, 2}
    assert dict(frame.model.value_counts() // 2) == {
        "Q-MVAE, 4,000 steps": 6,
        "DMVAE, 4,000 steps": 5,
        "DMVAE, 8,000 steps": 3,
    }
    by_name = {row["name"]: row for row in rows}
    for model, name in (
        ("Q-MVAE, 4,000 steps", "qmvae_8_4"),
        ("DMVAE, 4,000 steps", "dmvae_100_50"),
        ("DMVAE, 8,000 steps", "dmvae_100_50_8000"),
    ):
        chosen = frame[(frame.model == model) & frame.chosen]
        expected = [100 * float(by_name[name][f"cross_strong.{key}"]) for key in ("mnist_to_svhn", "svhn_to_mnist")]
        assert chosen.accuracy.tolist() == pytest.approx(expected)
    assert tune.tradeoff([], run, {"mnist": "MNIST", "svhn": "SVHN"}).empty
