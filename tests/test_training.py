"""Training: batches, the log, and runs that are killed and go on to the same bytes."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny import ROOT, write_params, write_project

from qmvae import checkpoint, data, files, params, training
from qmvae.training import Deck, Log, TrainingError


@pytest.fixture
def project(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(write_project(tmp_path))
    run = params.load()
    data.save(data.make(run), run)
    return tmp_path


def outcome(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_deck_deals_every_row_once_before_it_shuffles_again():
    deck = Deck(10, 4, seed=0, device="cpu")
    dealt = torch.cat([deck.deal(step) for step in range(5)])  # 20 rows: twice through, the third batch across the seam
    assert dealt[:10].sort().values.tolist() == dealt[10:].sort().values.tolist() == list(range(10))
    assert dealt[:10].tolist() != dealt[10:].tolist()


def test_a_deck_depends_on_seed_and_step_alone():
    deck = Deck(10, 4, seed=0, device="cpu")
    in_order = [deck.deal(step).tolist() for step in range(8)]
    assert [Deck(10, 4, seed=0, device="cpu").deal(step).tolist() for step in (7, 2, 5)] == [
        in_order[i] for i in (7, 2, 5)
    ]
    assert Deck(10, 4, seed=1, device="cpu").deal(0).tolist() != in_order[0]


def test_the_log_averages_its_windows():
    log = Log(every=2)
    closed = [log.add(i, {"loss": torch.tensor(float(i)), "kl": torch.tensor(2.0 * i)}, last=i == 3) for i in (1, 2, 3)]
    assert closed == [False, True, True]
    assert log.csv() == "step,loss,kl\n2,1.5,3\n3,3,6\n"


def test_a_loss_that_is_no_number_names_step_and_term():
    log = Log(every=3)
    log.add(1, {"loss": torch.tensor(1.0), "kl": torch.tensor(1.0)})
    log.add(2, {"loss": torch.tensor(1.0), "kl": torch.tensor(float("nan"))})
    with pytest.raises(TrainingError, match="step 2: kl = nan; try a smaller learning rate"):
        log.add(3, {"loss": torch.tensor(float("inf")), "kl": torch.tensor(1.0)})


def test_a_diverging_run_stops_and_leaves_no_model(project):
    write_params(project, lr=1e9, steps=200)
    with pytest.raises(TrainingError, match="step .*(nan|inf)"):
        training.run(params.load(), "qmvae")
    assert not list(project.rglob("model.safetensors"))


def test_training_lowers_the_loss_and_leaves_a_model_for_each_seed(project):
    write_params(project, steps=60)
    run = params.load()
    training.run(run, "qmvae")
    for seed in (0, 1):
        rows = list(csv.DictReader(open(run.model_folder("qmvae", seed) / "log.csv")))
        assert [int(row["step"]) for row in rows] == list(range(5, 61, 5))
        assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    first, second = (files.load_tensors(run.model_folder("qmvae", s) / "model.safetensors")[0] for s in (0, 1))
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", checkpoint.MODELS)
def test_seeds_side_by_side_end_in_the_bytes_of_each_alone(project, monkeypatch, name):
    """Side by side is how a GPU trains them; also where they were broken off, and one was further than the other."""
    write_params(project, steps=50, seeds=[0, 1])
    run = params.load()
    dataset = data.load(run)
    folders = {way: {seed: project / way / str(seed) for seed in (0, 1)} for way in ("alone", "beside")}
    for seed, folder in folders["alone"].items():
        training.train(run, name, {seed: folder}, dataset, "")

    class Stop(Exception):
        pass

    def stop_at(run, step, save=training.save_state):
        if (run.title, step) == (f"{name}, seed 1", 20):
            raise Stop  # seed 0 was saved after step 20, seed 1 after step 10
        save(run, step)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(training, "save_state", stop_at)
        training.side_by_side(run, name, folders["beside"], dataset, "")
    training.side_by_side(run, name, folders["beside"], dataset, "")
    assert outcome(project / "alone") == outcome(project / "beside")


@pytest.mark.parametrize("name", checkpoint.MODELS)
def test_bfloat16_follows_float32_and_its_weights_stay_float32(project, name):
    rows, run = {}, params.load()
    dataset = data.load(run)
    for precision in ("float32", "bfloat16"):
        run.training[name] = run.training[name].model_copy(update={"precision": precision})
        folder = project / precision
        training.train(run, name, {0: folder}, dataset, precision)
        rows[precision] = [float(row["loss"]) for row in csv.DictReader(open(folder / "log.csv"))]
    assert rows["bfloat16"] != rows["float32"], "the precision changed nothing"
    assert rows["bfloat16"] == pytest.approx(rows["float32"], rel=0.05)
    assert {t.dtype for t in files.load_tensors(folder / "model.safetensors")[0].values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_broken_off_anywhere_goes_on_to_the_same_bytes(project, monkeypatch, precision):
    write_params(project, precision=precision)
    run = params.load()
    training.run(run, "qmvae")
    undisturbed = outcome(run.artifacts / "models")
    real = data.Split.batch
    for stop in (3, 10, 17, 31, 44):  # batches until the power fails: within seed 0, at its end, within seed 1
        training.shutil.rmtree(run.artifacts / "progress")
        calls = iter(range(stop))

        def batch(split, rows, calls=calls):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(split, rows)

        monkeypatch.setattr(data.Split, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            training.run(run, "qmvae")
        monkeypatch.setattr(data.Split, "batch", real)
        training.shutil.rmtree(run.artifacts / "models")  # as DVC does before a stage
        torch.manual_seed(123)  # whatever the process did meanwhile
        training.run(run, "qmvae")
        assert outcome(run.artifacts / "models") == undisturbed, stop


def test_a_checkpoint_of_other_parameters_is_not_gone_on_from(project, monkeypatch, capsys):
    run = params.load()
    training.run(run, "qmvae")
    before = outcome(run.artifacts / "models")
    training.run(run, "qmvae")
    assert "kept" in capsys.readouterr().out
    write_params(project, lr=0.002)
    training.run(params.load(), "qmvae")
    assert "kept" not in capsys.readouterr().out
    assert outcome(run.artifacts / "models") != before


def test_sigkill_in_the_middle_then_on_to_the_same_bytes(project):
    write_params(project, steps=200, seeds=[0])
    run = params.load()
    command = [sys.executable, "-m", "qmvae.training", "qmvae"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.DEVNULL)
    state = run.artifacts / "progress" / "qmvae" / "seed-0" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (run.artifacts / "models").exists()
    said = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    assert "goes on from step" in said
    resumed = outcome(run.artifacts / "models")
    training.shutil.rmtree(run.artifacts / "progress")
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    assert outcome(run.artifacts / "models") == resumed


def test_two_at_once_the_second_is_told(project):
    import fcntl

    folder = project / "artifacts" / "tiny" / "progress" / "qmvae"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process is training qmvae"):
            training.run(params.load(), "qmvae")


@pytest.mark.parametrize(
    "arguments, changes, message",
    [
        (["qmvae"], {"batch_size": 5000}, "batch_size: 5000 is more than the .* training pairs; make it smaller"),
        (["gan"], {}, "invalid choice: 'gan'"),
    ],
)
def test_errors_of_the_command_are_one_message(project, arguments, changes, message):
    write_params(project, **changes)
    command = [sys.executable, "-m", "qmvae.training", *arguments]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr


def test_a_gpu_that_is_not_there(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="device: cuda, but torch sees no GPU here; use `auto` or `cpu`"):
        training.device_of(params.load().model_copy(update={"device": "cuda"}))


def test_a_saved_model_loads_to_the_same_outputs(project):
    run = params.load()
    training.run(run, "qmvae")
    import qmvae

    model = qmvae.load(run.model_folder("qmvae", 0))
    images = data.load(run).test.batch(torch.arange(6))[0]
    svhn = model.cross_generate({"mnist": images["mnist"]}, target="svhn", seed=0)  # the calls that the README shows
    assert svhn.shape == (6, 3, 16, 16)
    z = model.shared(images)
    assert z.mean.shape == z.logvar.shape == (6, 20)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "model.json").unlink(), "model.json: not there; give a folder"),
        (lambda f: (f / "model.json").write_text("{"), "model.json: cannot be read as JSON"),
        (lambda f: (f / "model.json").write_text('{"model": "gan"}'), "model.json: does not describe a model"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: not there"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n"), "not a whole safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "not a whole"),
        (lambda f: files.save_tensors(f / "model.safetensors", {"a": torch.ones(1)}), "does not fit model.json"),
    ],
)
def test_folders_that_are_no_model(tmp_path, damage, message):
    from test_qmvae import NETS, make

    model = make()[0].float()
    checkpoint.save(tmp_path, model, "qmvae", {m: NETS[m] for m in model.shapes}, {})
    checkpoint.load(tmp_path)
    damage(tmp_path)
    with pytest.raises(files.FileError, match=message):
        checkpoint.load(tmp_path)


def test_the_command_says_that_there_is_no_gpu(project):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda"))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qmvae.training", "qmvae"]
    run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and "params.yaml: device: cuda, but torch sees no GPU here" in run.stderr
    assert "Traceback" not in run.stderr
