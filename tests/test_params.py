"""params.yaml: the committed file is valid, and every kind of fault ends in one message that names the key."""

import copy
import subprocess
import sys

import pytest
import yaml
from tiny import COMMITTED, ROOT, environment

import qmvae
from ablations.ablate import with_change
from qmvae.pipeline.files import FileError
from qmvae.pipeline.params import ParamsError, find_root, load, switch


@pytest.mark.parametrize("preset", ["quick", "subset", "paper"])
def test_every_preset_of_the_committed_file_loads(preset):
    params = load(preset, ROOT)
    assert params.preset == preset
    assert params.reports == ROOT / "reports" / preset


def test_the_paper_preset_has_the_papers_settings():
    params = load("paper", ROOT)
    assert (params.qmvae.alpha1, params.qmvae.alpha2, params.qmvae.beta, params.qmvae.shared) == (2, 0.8, 1500, 20)
    ours = params.training["qmvae"]
    assert (ours.batch_size, ours.lr, len(ours.seeds)) == (128, 1e-4, 5)
    assert ours.steps == 131_410  # 10 epochs of 1,682,040 pairs in batches of 128
    assert params.pairs.multiplier == 30


def edited(tmp_path, edit):
    document = copy.deepcopy(COMMITTED)
    edit(document)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return tmp_path


@pytest.mark.parametrize("folder, place", [("~/images", "home/images"), ("~nobody_here/images", "~nobody_here/images")])
def test_the_folder_may_begin_with_the_users_home(tmp_path, monkeypatch, folder, place):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load(root=edited(tmp_path, lambda d: d.update(folder=folder))).data == tmp_path / place
    with pytest.raises(FileError, match=f"{place}/model.json"):
        qmvae.load(folder)


FAULTS = {
    "unknown top-level key": (lambda d: d.update(colour="red"), "colour: unknown key"),
    "unknown key in a preset": (
        lambda d: d["presets"]["quick"]["training"].update(epochs=3),
        "training.epochs: unknown",
    ),
    "missing key": (lambda d: d["qmvae"].pop("alpha1"), "qmvae.alpha1: missing"),
    "wrong type": (lambda d: d["presets"]["quick"]["training"].update(steps="many"), "training.steps.*'many'"),
    "a float for a count": (lambda d: d["presets"]["quick"]["training"].update(steps=10.5), "training.steps"),
    "a truth value for a number": (lambda d: d["qmvae"].update(beta=True), "qmvae.beta"),
    "negative margin": (lambda d: d["qmvae"].update(alpha1=-2.0), "qmvae.alpha1.*greater than or equal to 0.*-2.0"),
    "zero steps": (lambda d: d["presets"]["paper"]["training"].update(steps=0), "presets.paper.training.steps"),
    "no shared code": (lambda d: d["qmvae"].update(shared=0), "qmvae.shared.*greater than 0.*found 0"),
    "a private code too large": (lambda d: d["qmvae"].update(private=5000), "qmvae.private.*than or equal to 4096"),
    "a batch of one": (lambda d: d["presets"]["quick"]["training"].update(batch_size=1), "batch_size.*found 1"),
    "infinite weight": (lambda d: d["qmvae"].update(beta=float("inf")), "qmvae.beta.*finite"),
    "NaN": (lambda d: d["qmvae"].update(kl_shared=float("nan")), "qmvae.kl_shared"),
    "unknown model": (
        lambda d: d["presets"]["subset"].update(models=["qmvae", "gan"]),
        r"presets.subset.models.1: model 'gan': unknown; expected one of qmvae, translated, .*mmvaeplus$",
    ),
    "a name in capitals": (
        lambda d: d["modalities"].update(Photo={"net": "conv"}),
        r"modalities\.Photo: expected lower-case letters, digits and underscores, the first a letter \(found 'Photo'\)",
    ),
    "a model twice": (lambda d: d["presets"]["subset"].update(models=["qmvae", "qmvae"]), "repeats a model"),
    "no model": (lambda d: d["presets"]["subset"].update(models=[]), "models"),
    "unknown preset": (lambda d: d.update(preset="tiny"), "'tiny' is not one of quick, subset, paper"),
    "unknown device": (lambda d: d.update(device="tpu"), "device.*'tpu'"),
    "unknown network": (lambda d: d["modalities"]["svhn"].update(net="gpt"), "modalities.svhn.net.*'gpt'"),
    "unknown source": (lambda d: d["presets"]["quick"]["images"].update(source="web"), "images.source.*'web'"),
    "unknown policy": (lambda d: d["qmvae"]["negatives"].update(policy="easy"), "qmvae.negatives.policy.*'easy'"),
    "start beyond the end": (lambda d: d["qmvae"]["negatives"].update(start=1.5), "negatives.start.*1.5"),
    "one modality": (lambda d: d.update(modalities={"mnist": {"net": "mlp"}}), "modalities.*at least 2"),
    "a weight for no modality": (
        lambda d: d["qmvae"]["kl_private"].update(audio=1.0),
        r"qmvae.kl_private.audio: expected a modality, a kind or all: mnist, svhn, mlp, conv, all",
    ),
    "a modality without weight": (
        lambda d: d["qmvae"]["kl_private"].pop("conv"),
        "qmvae.kl_private: no entry for the modality svhn",
    ),
    "a modality named like a result": (
        lambda d: d["modalities"].update({"a_to_b": {"net": "mlp"}}),
        "modalities: 'a_to_b' would be mistaken for another key; rename it",
    ),
    "a modality named like an end of a result": (
        lambda d: d["modalities"].update({"a_to": {"net": "mlp"}}),
        "modalities: 'a_to' would be mistaken for another key; rename it",
    ),
    "a modality without braces": (lambda d: d["modalities"].update(svhn="conv"), "modalities.svhn: expected a mapping"),
    "a modality named like a path": (lambda d: d["modalities"].update({"../x": {"net": "mlp"}}), "modalities"),
    "a preset named like a path": (lambda d: d.update(preset="../x"), "preset"),
    "a preset named like the committed models": (
        lambda d: d["presets"].update(published=d["presets"]["subset"]),
        "presets.published: this name is for the committed models; rename the preset",
    ),
    "a preset named like the hashes": (
        lambda d: d["presets"].update(code=d["presets"]["subset"]),
        "presets.code: artifacts/code has the hashes of the code; rename the preset",
    ),
    "a preset named like the website": (
        lambda d: d["presets"].update(site=d["presets"]["subset"]),
        "presets.site: reports/site is the website; rename the preset",
    ),
    "ablations without one that notebooks read": (
        lambda d: d["ablations"]["changes"].pop("printed_objective"),
        "ablations: changes: printed_objective is missing; notebooks 09 and 10 compare with it, so keep it",
    ),
    "a title like a column of Table 2": (
        lambda d: d["presets"]["quick"]["images"].update(titles={"mnist": "both"}),
        "presets.quick.images.titles: 'both' is a column of Table 2; give another title",
    ),
    "repeated seeds": (lambda d: d["presets"]["quick"]["training"].update(seeds=[1, 1]), r"seeds \[1, 1\] repeat"),
    "no seeds": (lambda d: d["presets"]["quick"]["training"].update(seeds=[]), "training.seeds"),
    "negative seed": (lambda d: d["presets"]["quick"]["training"].update(seeds=[-1]), "training.seeds.0"),
    "a section that is a list": (lambda d: d.update(qmvae=[1]), "qmvae"),
    "two modalities with one title": (
        lambda d: d["presets"]["quick"]["images"].update(titles={"mnist": "digits", "svhn": "digits"}),
        r"presets.quick.images.titles: \['digits', 'digits'\] repeats a title; tables need different ones",
    ),
    "a title of two lines": (
        lambda d: d["presets"]["quick"]["images"].update(titles={"mnist": "digits\nof hands"}),
        "presets.quick.images.titles.mnist: expected one line of text without \\$, the first character no space",
    ),
    "a title in TeX": (lambda d: d["presets"]["quick"]["images"]["titles"].update(svhn="a $x_{"), "text without \\$"),
    "a term of Eq. 19 twice": (
        lambda d: d["qmvae"].update(quadruplet=["first", "first"]),
        r"quadruplet: \['first', 'first'\] repeats a term; give each term once",
    ),
    "one pair for Table 1": (lambda d: d["presets"]["quick"]["evaluation"].update(conditions=1), "conditions.*10"),
    "one pair for Table 2": (lambda d: d["presets"]["quick"]["evaluation"].update(probe_pairs=1), "probe_pairs.*10"),
    "a family without its scale": (
        lambda d: d["presets"]["quick"]["overrides"].update(
            mvae={"likelihood": {"all": {"family": "laplace", "weight": 1.0}}}
        ),
        "likelihood.*scale: missing; the family laplace needs one",
    ),
    "an override for no model": (
        lambda d: d["presets"]["quick"]["overrides"].update(gan={}),
        r"presets.quick.overrides.gan: model 'gan': unknown; expected one of qmvae",
    ),
    "an override of no key": (
        lambda d: d["presets"]["paper"]["overrides"]["mvae"].update(sample=3),
        "presets.paper.overrides.mvae.sample: unknown key; mvae and training have .*steps",
    ),
    "an override out of range": (
        lambda d: d["presets"]["quick"]["overrides"]["mmvae"].update(samples=0),
        "presets.quick.overrides.mmvae.samples: .*greater than 0.*found 0",
    ),
    "an override that repeats a seed": (
        lambda d: d["presets"]["quick"]["overrides"]["mmvae"].update(seeds=[3, 3]),
        r"overrides.mmvae.*seeds \[3, 3\] repeat",
    ),
    "an override without the first seed": (
        lambda d: d["presets"]["quick"]["overrides"]["mmvae"].update(seeds=[1, 0]),
        r"overrides.mmvae.seeds: \[1, 0\]: expected 0 first, as in presets.quick.training.seeds; correct",
    ),
    "an override without a seed": (
        lambda d: d["presets"]["quick"]["overrides"]["mmvae"].update(seeds=[]),
        "overrides.mmvae.seeds: .*at least 1",
    ),
    "an override for no modality": (
        lambda d: d["presets"]["quick"]["overrides"].update(qmvae={"kl_private": {"audio": 1.0}}),
        "presets.quick.overrides.qmvae.kl_private.audio: expected a modality, a kind or all",
    ),
    "an ablation for no modality": (
        lambda d: d["ablations"]["changes"].update(less={"kl_private": {"audio": 1.0}}),
        "ablations.changes.less.kl_private.audio: expected a modality, a kind or all",
    ),
    "a log that does not divide the checkpoints": (
        lambda d: d["presets"]["quick"]["training"].update(checkpoint_every=100, log_every=30),
        "checkpoint_every: 100 is not a multiple of log_every, 30",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tmp_path, fault):
    edit, message = FAULTS[fault]
    with pytest.raises(ParamsError, match=message) as error:
        load(root=edited(tmp_path, edit))
    assert str(tmp_path / "params.yaml") in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected a mapping"),
        ("[1, 2]", "expected a mapping"),
        ("preset: [", "not valid YAML"),
        ("preset: quick\npreset: paper\n", "found duplicate key"),
        ("a: !!python/object/apply:os.system [exit]", "not valid YAML"),
        ("\0", "not valid YAML"),
        ("? [a]\n: b", "Keys should be strings"),
    ],
)
def test_files_that_are_no_parameters(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load(root=tmp_path)


def test_all_faults_come_in_one_message(tmp_path):
    def two(d):
        d["qmvae"].update(alpha1=-1.0)
        d["device"] = "tpu"

    with pytest.raises(ParamsError, match="(?s)qmvae.alpha1.*device"):
        load(root=edited(tmp_path, two))


def test_the_root_is_found_from_below_and_its_absence_is_said(tmp_path):
    assert find_root(ROOT / "notebooks") == ROOT
    with pytest.raises(ParamsError, match="no params.yaml in .* or above it"):
        find_root(tmp_path)


def test_switch_changes_one_line_and_keeps_the_comments(tmp_path):
    before = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    switch(tmp_path, preset="subset", folder="../some where: else")
    after = (tmp_path / "params.yaml").read_text()
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert [line.split("#")[0].strip() for line in changed] == ["preset: subset", "folder: '../some where: else'"]
    assert all("#" in line for line in changed)
    assert load(root=tmp_path).data == tmp_path / "../some where: else"


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("preset: quick ", 'preset:   "quick" ').replace("folder: data ", "'folder': 'a''s' "),
        lambda text: text.replace("preset: quick           # quick", "preset: quick# no comment\n# quick"),
    ],
)
def test_switch_changes_no_other_character(tmp_path, edit):
    path = tmp_path / "elsewhere.yaml"
    before = edit((ROOT / "params.yaml").read_text())
    path.write_bytes(before.encode())
    path.chmod(0o600)
    (tmp_path / "params.yaml").symlink_to(path)
    switch(tmp_path, preset="subset", folder="C:\\x # 'y'")
    after = path.read_bytes().decode()
    assert (tmp_path / "params.yaml").is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(after) == yaml.safe_load(before) | {"preset": "subset", "folder": "C:\\x # 'y'"}
    pairs = zip(before.splitlines(keepends=True), after.splitlines(keepends=True), strict=True)
    changed = [(old, new) for old, new in pairs if old != new]
    assert len(changed) == 2 and "# the image files" in changed[1][1]


def test_what_a_program_cannot_switch_is_said(tmp_path):
    text = (ROOT / "params.yaml").read_text().replace("preset: quick  ", "preset: >-\n  quick\n")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match="cannot be changed by a program; write preset: subset into it by hand"):
        switch(tmp_path, preset="subset")
    assert (tmp_path / "params.yaml").read_text() == text


def test_the_published_models_need_the_settings_of_subset(tmp_path):
    document = copy.deepcopy(COMMITTED)
    del document["presets"]["subset"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ParamsError, match="presets: has no subset, whose settings the preset published has"):
        load("published", tmp_path)


def test_a_switch_to_nonsense_leaves_the_file_alone(tmp_path):
    before = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    with pytest.raises(ParamsError, match="'huge' is not one of"):
        switch(tmp_path, preset="huge")
    assert (tmp_path / "params.yaml").read_text() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]


def test_overrides_change_one_model_of_one_preset():
    quick, paper = load("quick", ROOT), load("paper", ROOT)
    assert quick.mmvae.samples == 1 and paper.mmvae.samples == 30
    assert paper.training["mvae"].lr == 0.001 and paper.training["qmvae"].lr == 0.0001
    assert paper.training["mvae"].steps == paper.training["qmvae"].steps


@pytest.mark.parametrize("entries", [{"mnist": 3.0}, {"mlp": 3.0}, {"mlp": 3.0, "all": 5.0}, {"all": 3.0}])
@pytest.mark.parametrize("where", ["overrides", "ablations"])
def test_changes_by_modality_take_kinds_and_all_and_precede_the_section(tmp_path, where, entries):
    """The section has entries for `mlp` and `conv`. A change of `all` must not lose against them, nor be ignored."""
    document = copy.deepcopy(COMMITTED)
    before = load("subset", ROOT).qmvae.kl_private
    overrides = document["presets"]["subset"]["overrides"]
    (overrides if where == "overrides" else document["ablations"]["changes"])["qmvae"] = {"kl_private": entries}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    run = load("subset", tmp_path)
    found = run.qmvae if where == "overrides" else with_change(run, "qmvae").qmvae
    assert found.kl_private == {"mnist": 3.0, "svhn": entries.get("all", before["svhn"])}


def test_a_data_folder_that_is_not_there_is_said_before_any_work(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    command = [sys.executable, "-m", "qmvae", "plan", "--data", "/nowhere/at/all"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "folder: there is no /nowhere/at/all" in result.stderr


@pytest.mark.parametrize("written", ["1e-05", "1E-5", "1.0e-5", "1.e-5", "0.00001"])
def test_a_number_as_dvc_writes_it_is_a_number(tmp_path, written):
    """`dvc exp run -S presets.quick.training.lr=0.00001` leaves `lr: 1e-05`, which YAML 1.1 takes for text."""
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("lr: 0.001\n      precision", f"lr: {written}\n      precision"))
    assert load("quick", tmp_path).training["qmvae"].lr == 1e-5
