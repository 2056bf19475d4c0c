"""Tuning on held-out training images, and the rows of tuning.csv."""

import csv
import json

import pytest
import torch
from tiny import ROOT, make_data, write_project

from ablations import ablate, tune
from qmvae.data.dataset import Dataset, Split, hold_out, pair_by_class
from qmvae.pipeline import artifacts, files, params
from qmvae.pipeline.stages import classifiers


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


def test_a_class_whose_only_image_would_be_held_out_is_refused():
    whole = Dataset(numbered(60, 0), numbered(9, 1), {"a": "A", "b": "B"})
    whole.train.labels["a"][0] = 3
    whole.train.labels["b"][:9] = 3
    run, chosen = params.load("subset", ROOT), tune.load(ROOT).validation
    with pytest.raises(params.ParamsError, match=r"part: 0.1: leaves no training image of a of the classes \[3\]"):
        tune.split(whole, run, chosen)


def test_a_run_of_another_seed_does_not_continue_from_a_checkpoint(tmp_path, monkeypatch):
    """A folder or a digest must have the seed, or seed 1 has the weights of seed 0."""
    run = make_data(write_project(tmp_path))
    monkeypatch.chdir(tmp_path)
    seen, validation = [], tune.load(ROOT).validation

    class Trained(Exception):
        pass

    def train_seed(run, model, seed, dataset, folder, digest):
        seen.append((folder, digest))
        raise Trained

    monkeypatch.setattr(tune.training, "train_seed", train_seed)
    for seed in (0, 1):
        entry = tune.Entry(model="qmvae", steps=6, seed=seed, changes={})
        with pytest.raises(Trained):
            tune.tune(run, tune.Tuning(validation=validation, runs={"x": entry}), "x", artifacts.load_dataset(run))
        changed = run.model_copy(update={"ablations": run.ablations.model_copy(update={"seed": seed})})
        with pytest.raises(Trained):
            ablate.ablate(changed, "as_it_is")
    assert len(set(seen)) == 4


def test_every_entry_of_the_committed_file_fits_the_parameters():
    run = params.load("subset", ROOT)
    tuning = tune.load(run.root)
    for name, entry in tuning.runs.items():
        changed = tune.with_entry(run, name, entry)
        assert changed.training[entry.model].steps == entry.steps
        assert all(set(v) == set(run.modalities) for _, v in getattr(changed, entry.model) if isinstance(v, dict))


def test_faults_of_an_entry_name_their_place(tmp_path):
    run = params.load("subset", ROOT)
    wrong = tune.Entry(model="qmvae", steps=1, seed=0, changes={"betta": 1.0})
    with pytest.raises(ValueError, match=r"tuning.yaml: runs.x.changes.betta: unknown key"):
        tune.with_entry(run, "x", wrong)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("steps: 4000", "steps: none", "runs.qmvae_18_22.steps: .*found 'none'"),
        ("conditions: 10000", "conditions: 1", "validation.conditions: .*10 .*found 1"),
        ("probe_pairs: 20000", "probe_pairs: 1", "validation.probe_pairs: .*10 .*found 1"),
        ("part: 0.1 ", "part: 1.0 ", "validation.part: .*less than 1"),
        ("part: 0.1 ", "part: 0.0 ", "validation.part: .*greater than 0"),
        ("changes: {}", "changes: {steps: 5}", "runs.dmvae_100_50.changes: steps: .*set the entry's own steps"),
    ],
)
def test_faults_of_the_file_name_their_key(tmp_path, old, new, message):
    text = (ROOT / tune.FILE).read_text()
    assert old in text
    (tmp_path / "ablations").mkdir()
    (tmp_path / tune.FILE).write_text(text.replace(old, new, 1))
    with pytest.raises(params.ParamsError, match=rf"tuning.yaml cannot be used:\n  {message}") as error:
        tune.load(tmp_path)
    assert "pydantic" not in str(error.value)


def row(name, model="qmvae", changes="{}", **more):
    return {"name": name, "model": model, "steps": "4000", "seed": "0", "changes": changes} | more


def test_rows_are_added_with_the_columns_that_they_need(tmp_path):
    path = tmp_path / "tuning.csv"
    tune.add_row(path, row("one", a="1"), tmp_path)
    tune.add_row(path, row("two", b="2"), tmp_path)
    assert list(csv.DictReader(path.open())) == [row("one", a="1", b=""), row("two", a="", b="2")]


CSV = """name,model,steps,seed,changes,style.a_slant,active.a
one,qmvae,4000,0,"{""lr"": 0.1}",0.9,20
two,mvae,4000,0,{},,
"""


def test_a_file_that_excel_saved_has_the_same_rows(tmp_path):
    path = tmp_path / "tuning.csv"
    path.write_text(CSV)
    rows = tune.read_rows(path)
    path.write_bytes(CSV.replace("\n", "\r\n").encode("utf-8-sig"))
    assert tune.read_rows(path) == rows and [row["name"] for row in rows] == ["one", "two"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        (",style.a_slant,active.a\n", ",style.a\n", "line 2: found 7 cells, expected 6"),
        (CSV.splitlines(True)[0], "", "line 1: expected different columns"),
        (",", ";", "line 1: expected different columns"),
        ("style.a_slant", "active.a", "line 1: expected different columns"),
        ("{},,\n", "{},", "line 3: found 6 cells, expected 7"),
        (",,\n", ",,0.", "line 3: found no end of the line"),
        (",20\n", ",20,21\n", "line 2: found 8 cells, expected 7"),
        ('0.1}"', "0.1}", "line 3: unexpected end of data"),
        ("{}", "[]", "line 3: changes: expected a JSON mapping"),
        ("{}", "{", "line 3: changes: expected a JSON mapping"),
        ("mvae,4000", "mvae,4e3", "line 2: steps: expected a whole number"),
        (",20\n", ",twenty\n", "line 2: active.a: expected a number"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path, old, new, message):
    path = tmp_path / "tuning.csv"
    path.write_text(CSV.replace(old, new))
    before = path.read_bytes()
    with pytest.raises(files.FileError, match=rf"tuning.csv: {message}.*git checkout"):
        tune.add_row(path, row("three"), tmp_path)
    assert path.read_bytes() == before


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one entry, whose training fails the test."""
    make_data(write_project(tmp_path))
    (tmp_path / "ablations").mkdir()
    write_entry(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(params, "SOURCE", "tiny")
    monkeypatch.setattr("sys.argv", ["tune.py"])
    monkeypatch.setattr(tune, "tune", lambda *_: pytest.fail("trains"))
    (tmp_path / "reports" / "tiny").mkdir(parents=True)
    return tmp_path


def write_entry(folder, part=0.1, **changes):
    entry = {"model": "qmvae", "steps": 4000, "seed": 0, "changes": changes}
    validation = {"part": part, "seed": 0, "conditions": 10, "probe_pairs": 10}
    (folder / tune.FILE).write_text(json.dumps({"validation": validation, "runs": {"one": entry}}))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "reports/tiny/tuning.csv").write_bytes(CSV.encode("utf-16")), "csv: cannot be read"),
        (lambda folder: (folder / "reports/tiny/tuning.csv").mkdir(), "csv: cannot be read"),
        (lambda folder: (folder / "artifacts/tiny/progress").write_text(""), "Errno"),
        (lambda folder: write_entry(folder, part=0.99), "tuning.yaml: validation.part: 0.99: .*expected 10 pairs"),
        (lambda folder: write_entry(folder, batch_size=60000), "tuning.yaml: runs.one: batch_size: 60,000 is more"),
        (lambda folder: write_entry(folder, betta=1.0), "tuning.yaml: runs.one.changes.betta: unknown key"),
    ],
)
def test_faults_end_in_a_message_before_any_training(project, spoil, message):
    spoil(project)
    with pytest.raises(SystemExit, match=f"^tuning: .*{message}"):
        tune.main()


def test_a_row_of_other_settings_is_named_and_kept(project, capsys):
    (project / "reports" / "tiny" / "tuning.csv").write_text(CSV)
    write_entry(project, lr=0.1)
    tune.main()
    assert not capsys.readouterr().out
    write_entry(project, lr=0.2)
    tune.main()
    assert "tuning.yaml: runs.one: tuning.csv has a row" in capsys.readouterr().out
    assert (project / "reports" / "tiny" / "tuning.csv").read_text() == CSV


@pytest.mark.parametrize("other", [{"model": "dmvae"}, {"steps": "5"}, {"seed": "1"}, {"changes": '{"beta": -1.0}'}])
def test_an_entry_is_compared_with_its_row(other):
    run = params.load("subset", ROOT)
    entry = tune.Entry(model="qmvae", steps=4000, seed=0, changes={"kl_private": {"all": 3}})
    for same in ({}, {"kl_private": {"mnist": 3, "svhn": 3}}, {"a_setting_of_old": 1}):
        assert not tune.differs(run, "x", entry, row("x", changes=json.dumps(same)))
    assert tune.differs(run, "x", entry, row("x") | other)


def test_the_committed_rows_do_not_contradict_their_entries():
    run = params.load("subset", ROOT)
    entries, rows = tune.load(run.root).runs, tune.read_rows(run.root / "reports" / "subset" / "tuning.csv")
    pairs = [(row["name"], entries[row["name"]], row) for row in rows if row["name"] in entries]
    assert pairs and not [name for name, entry, row in pairs if tune.differs(run, name, entry, row)]


def test_without_the_program_git_a_row_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tune.commit() == ""


def test_the_tradeoff_keeps_modalities_apart_whose_names_begin_alike():
    run = params.load("subset", ROOT)
    own = run.qmvae.model_copy(update={"kl_private": {"mnist": 1.0, "mnist_m": 1.0}})
    modalities = dict.fromkeys(("mnist", "mnist_m"), run.modalities["mnist"])
    run = run.model_copy(update={"qmvae": own, "modalities": modalities})
    found = {"cross_strong.mnist_to_mnist_m": "0.5", "cross_strong.mnist_m_to_mnist": "0.5", "active.mnist_private": ""}
    found |= {"style.mnist_slant": "0.1", "style.mnist_thickness": "0.3", "style.mnist_m_background": "0.9"}
    rows = [row(str(i), changes=f'{{"kl_private": {{"all": {i}.0}}}}', **found) for i in range(5)]
    others = {3: {"kl_private": {"all": 3.0}}, 4: {"kl_private": {"all": 4.0}, "kl_shared": 1.0}}
    older = row("older", **dict.fromkeys(found, ""))
    entries = {
        str(i): tune.Entry(model="qmvae", steps=4000, seed=0, changes={"kl_shared": 5.0, "kl_private": {"all": i}})
        for i in range(3)
    }
    # two runs with another shared KL weight: the preset's, and one of their own
    entries |= {str(i): tune.Entry(model="qmvae", steps=4000, seed=0, changes=c) for i, c in others.items()}
    frame = tune.tradeoff([older, *rows], run, {"mnist": "A", "mnist_m": "B"}, entries)
    assert dict(frame.groupby("direction")["style"].max()) == pytest.approx({"A → B": 0.9, "B → A": 0.2})
    assert sorted(frame.weight) == [0, 0, 1, 1, 2, 2]


def test_the_tradeoff_has_runs_of_other_kl_weights_only_and_marks_what_the_protocol_selects():
    run = params.load("subset", ROOT)
    rows = tune.read_rows(run.root / "reports" / "subset" / "tuning.csv")
    entries = tune.load(run.root).runs
    whole = tune.tradeoff(rows, run, {"mnist": "MNIST", "svhn": "SVHN"}, entries)
    frame = whole[whole.on_line]
    assert {*frame[frame.model == "DMVAE, 4,000 steps"].weight} == {300, 150, 100, 50, 30, 15, 10, 5, 3, 2}
    counts = {"Q-MVAE, 4,000 steps": 6, "DMVAE, 4,000 steps": 5, "DMVAE, 8,000 steps": 5}
    assert dict(frame.model.value_counts() // 2) == counts
    by_name = {row["name"]: row for row in rows}
    for model, name in (
        ("Q-MVAE, 4,000 steps", "qmvae_8_4"),
        ("DMVAE, 4,000 steps", "dmvae_100_50"),
        ("DMVAE, 8,000 steps", "dmvae_100_50_8000"),
    ):
        chosen = frame[(frame.model == model) & frame.chosen]
        expected = [100 * float(by_name[name][f"cross_strong.{key}"]) for key in ("mnist_to_svhn", "svhn_to_mnist")]
        assert chosen.accuracy.tolist() == pytest.approx(expected)
    final = whole[whole.final & (whole.direction == "MNIST → SVHN")].set_index("model")
    names = {"Q-MVAE, 4,000 steps": "qmvae_8_4_shared_2", "DMVAE, 8,000 steps": "dmvae_100_50_8000"}
    for model, name in names.items():
        assert final.accuracy[model] == pytest.approx(100 * float(by_name[name]["cross_strong.mnist_to_svhn"]))
    assert final.weights.to_dict() == {"Q-MVAE, 4,000 steps": "8/4", "DMVAE, 8,000 steps": "100/50"}
    assert final.on_line.tolist() == [False, True]  # Q-MVAE's has another shared KL weight, too
    assert tune.tradeoff([], run, {"mnist": "MNIST", "svhn": "SVHN"}, entries).empty


@pytest.mark.faults
def test_an_entry_becomes_a_row_of_numbers_on_held_out_images(tmp_path, monkeypatch):
    run = make_data(write_project(tmp_path))
    monkeypatch.chdir(tmp_path)
    classifiers.run(run)
    validation = {"part": 0.2, "seed": 0, "conditions": 40, "probe_pairs": 100}
    entry = {"model": "qmvae", "steps": 6, "seed": 0, "changes": {"lr": 0.002}}
    tuning = tune.Tuning.model_validate({"validation": validation, "runs": {"one": entry}})
    held = tune.split(artifacts.load_dataset(run), run, tuning.validation)
    seen, real = [], tune.make_evaluator
    monkeypatch.setattr(
        tune, "make_evaluator", lambda run, data, chosen: (seen.append(data), real(run, data, chosen))[1]
    )
    row = tune.tune(run, tuning, "one", held)
    assert seen == [held]  # never the test images
    tune.add_row(tmp_path / "tuning.csv", row, tmp_path)
    [read] = tune.read_rows(tmp_path / "tuning.csv")
    assert [read[key] for key in tune.COLUMNS] == ["one", "qmvae", "6", "0", '{"lr": 0.002}']
    parts = {key.partition(".")[0] for key in read if "." in key}
    assert {"cross", "cross_strong", "linear", "style", "active"} <= parts and not parts & set(tune.LEFT_OUT)
    assert not tune.differs(run, "one", tuning.runs["one"], read)
