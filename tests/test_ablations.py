"""Ablations change what they name and nothing else, and their measures are collected as they were found."""

import pytest
import yaml
from tiny import jobs_here, make_data, write_project

from ablations import ablate, collect, printed, three_modalities, tune
from qmvae.pipeline import files, params
from qmvae.pipeline.stages import classifiers


@pytest.fixture
def project(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(write_project(tmp_path))
    jobs_here(monkeypatch)
    path = tmp_path / "params.yaml"
    document = yaml.safe_load(path.read_text())
    changes = ("as_it_is", "printed_objective", "no_quadruplet_loss", "hardest_negatives")
    every = document["ablations"]["changes"]
    document["ablations"] |= {"steps": 20, "changes": {name: every[name] for name in changes}}
    document["presets"]["tiny"]["classifiers"]["batch_size"] = 16
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return tmp_path


def test_an_ablation_changes_what_it_names_and_keeps_the_rest(project):
    run = params.load()
    changed = ablate.with_change(run, "hardest_negatives")
    assert changed.qmvae.negatives == run.qmvae.negatives.model_copy(update={"policy": "hardest"})
    assert changed.qmvae.model_copy(update={"negatives": run.qmvae.negatives}) == run.qmvae
    assert changed.training["qmvae"] == run.training["qmvae"].model_copy(update={"steps": 20, "seeds": [0]})
    assert ablate.with_change(run, "as_it_is").qmvae == run.qmvae
    with pytest.raises(params.ParamsError, match="no 'nothing'; expected one of as_it_is, printed_objective"):
        ablate.with_change(run, "nothing")


def test_the_printed_objective_is_trained_as_the_paper_says(project):
    run = params.load()
    changed = printed.as_printed(run)
    assert changed.qmvae == run.qmvae.model_copy(update={"objective": "printed"})
    found = changed.training["qmvae"]
    assert (found.steps, found.batch_size, found.lr, found.cooldown) == (131_410, 128, 1e-4, 0.0)


@pytest.mark.parametrize("script", [ablate, collect, printed, three_modalities, tune])
def test_ctrl_c_is_one_message(monkeypatch, script):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(params, "load", stop)
    monkeypatch.setattr("sys.argv", ["script", "as_it_is"])
    with pytest.raises(SystemExit, match="stopped; the same command continues from here"):
        script.main()


def test_unknown_and_wrong_changes_are_refused_when_params_yaml_is_read(project):
    path = project / "params.yaml"
    text = path.read_text()
    for wrong, message in (
        ("objective: prinetd", r"ablations.changes.printed_objective.objective: .*found 'prinetd'"),
        ("objectiv: printed", r"ablations.changes.printed_objective.objectiv: unknown key; expected one of alpha1"),
    ):
        path.write_text(text.replace("objective: printed", wrong))
        with pytest.raises(params.ParamsError, match=message):
            params.load()


def test_from_training_to_the_report(project, capsys):
    run = make_data(project)
    classifiers.run(run)
    for name in run.ablations.changes:
        ablate.ablate(run, name)
    tables = {"cross": {"mnist_to_svhn": {"std": 0.01}}, "linear": {"both": {"std": 0.02}}}
    files.save_json(run.reports / "metrics.json", {"models": {"qmvae": tables}})
    collect.collect(run)
    report = files.load_json(run.reports / "ablations.json")
    assert report["spread"] == {"cross": {"mnist_to_svhn": 0.01}, "linear": {"both": 0.02}}
    assert report["steps"] == 20 and report["changes"]["printed_objective"] == {"objective": "printed"}
    for name, found in report["ablations"].items():
        assert found == files.load_json(run.artifacts / "ablations" / f"{name}.json")
        assert set(found["cross"]) == {"mnist_to_svhn", "svhn_to_mnist"} and "svhn_private_digit" in found["probes"]
    assert (run.reports / "figures" / "leak.png").exists()
    before = (run.artifacts / "ablations" / "as_it_is.json").read_bytes()
    capsys.readouterr()
    ablate.ablate(run, "as_it_is")
    assert "kept, trained earlier" in capsys.readouterr().out
    assert (run.artifacts / "ablations" / "as_it_is.json").read_bytes() == before
