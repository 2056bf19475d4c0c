"""Training: batches, the log, and runs that are killed and go on to the same bytes."""

import csv
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from types import SimpleNamespace

import psutil
import pytest
import torch
from test_models import make
from tiny import ROOT, environment, make_data, write_archives, write_params, write_project

from qmvae.data.dataset import Split
from qmvae.pipeline import artifacts, checkpoint, files, jobs, params, tensor_files, threads, training
from qmvae.pipeline.device import TrainingError, resolve_device
from qmvae.pipeline.sections import MODELS
from qmvae.pipeline.stages import train as stage
from qmvae.pipeline.training import Log
from qmvae.train import (
    BatchSampler,
    check_terms,
    lr_scale,
    make_optimizer,
    resolve_precision,
    training_steps,
    wants_compile,
)


@pytest.fixture
def project(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(write_project(tmp_path))
    make_data(tmp_path)
    return tmp_path


def train(run, name="qmvae"):
    """Train in this process, seed by seed, then do what the stage does with finished seeds."""
    for seed in run.training[name].seeds:
        training.train_one(run, name, seed)
    stage.run(run, [name])


def outcome(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_batches_visit_every_example_once_before_they_are_shuffled_again():
    sampler = BatchSampler(10, 4, seed=0, device="cpu")
    seen = torch.cat([sampler.sample(step) for step in range(5)])  # two epochs; the third batch lies in both
    assert seen[:10].sort().values.tolist() == seen[10:].sort().values.tolist() == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    in_order = [BatchSampler(10, 4, seed=0, device="cpu").sample(step).tolist() for step in range(8)]
    resumed = BatchSampler(10, 4, seed=0, device="cpu")
    assert [resumed.sample(step).tolist() for step in (7, 2, 5)] == [in_order[i] for i in (7, 2, 5)]
    assert BatchSampler(10, 4, seed=1, device="cpu").sample(0).tolist() != in_order[0]


def test_the_learning_rate_falls_linearly_over_the_cooldown():
    assert [lr_scale(p, 0.4) for p in (0.0, 0.6, 0.8, 1.0)] == pytest.approx([1, 1, 0.5, 0])
    assert lr_scale(0.99, 0.0) == 1


def test_the_log_averages_its_windows():
    log = Log(every=2)
    closed = [log.add(i, {"loss": torch.tensor(float(i)), "kl": torch.tensor(2.0 * i)}, last=i == 3) for i in (1, 2, 3)]
    assert closed == [False, True, True]
    assert log.csv() == "step,loss,kl\n2,1.5,3\n3,3,6\n"


def test_a_loss_that_is_no_number_names_step_and_term():
    log = Log(every=3)
    log.add(1, {"loss": torch.tensor(1.0), "kl": torch.tensor(1.0)})
    log.add(2, {"loss": torch.tensor(1.0), "kl": torch.tensor(float("nan"))})
    with pytest.raises(TrainingError, match="step 2: kl = nan$"):
        log.add(3, {"loss": torch.tensor(float("inf")), "kl": torch.tensor(1.0)})


def test_a_diverging_run_stops_and_leaves_no_model(project):
    write_params(project, lr=1e9, steps=200)
    cure = "try a smaller `lr` under presets.tiny.overrides.qmvae or, without one there, presets.tiny.training$"
    with pytest.raises(TrainingError, match=rf"qmvae, seed 0: step .*(nan|inf); {cure}"):
        train(params.load())
    assert not list(project.rglob("model.safetensors"))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (torch.zeros(()), "`loss`; got Tensor"),
        ({"elbo": torch.zeros(())}, "`loss`; got elbo"),
        ({"loss": torch.zeros(()), "kl": torch.zeros(16)}, r"the term `kl` has shape \(16,\); take its mean"),
        ({"loss": torch.zeros(1)}, r"the term `loss` has shape \(1,\); take its mean"),
        ({"loss": torch.zeros(()), "kl": 0.5}, "the term `kl` has float"),
    ],
)
def test_what_an_objective_must_return_is_named(terms, message):
    with pytest.raises(ValueError, match=f"GAN.objective: expected scalar tensors by name, .*{message}"):
        check_terms("GAN", terms)


def test_training_lowers_the_loss_and_leaves_a_model_for_each_seed(project):
    write_params(project, steps=60)
    run = params.load()
    train(run)
    for seed in (0, 1):
        rows = list(csv.DictReader(open(run.model_folder("qmvae", seed) / "log.csv")))
        assert [int(row["step"]) for row in rows] == list(range(5, 61, 5))
        assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    first, second = (tensor_files.load(run.model_folder("qmvae", s) / "model.safetensors")[0] for s in (0, 1))
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_among_others_ends_in_the_bytes_of_the_seed_alone(project, name):
    write_params(project, steps=10)
    run = params.load()
    dataset = artifacts.load_dataset(run)
    for seed in (0, 1):
        training.train_seed(run, name, seed, dataset, project / "together" / str(seed), "")
    training.train_seed(run, name, 1, dataset, project / "alone", "")
    assert outcome(project / "together" / "1") == outcome(project / "alone")


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_follows_float32_and_its_weights_stay_float32(project, name):
    rows, run = {}, params.load()
    dataset = artifacts.load_dataset(run)
    for precision in ("float32", "bfloat16"):
        changes = {"precision": precision, "steps": 10}  # bfloat16 is slow on some processors
        run.training[name] = run.training[name].model_copy(update=changes)
        folder = project / precision
        training.train_seed(run, name, 0, dataset, folder, precision)
        rows[precision] = [float(row["loss"]) for row in csv.DictReader(open(folder / "log.csv"))]
    assert rows["bfloat16"] != rows["float32"], "the precision changed nothing"
    assert rows["bfloat16"] == pytest.approx(rows["float32"], rel=0.05)
    assert {t.dtype for t in tensor_files.load(folder / "model.safetensors")[0].values()} == {torch.float32}


def on_processor(monkeypatch, onednn=True, **has):
    """Let torch say that the processor has these instructions, and whether torch was built with oneDNN."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: has)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: onednn)


@pytest.mark.parametrize(
    "has, expected",
    [
        ({"avx2": True, "avx512_f": True}, "float32"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "bfloat16"),  # ARM
        ({"neon": True, "bf16": True, "onednn": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_on_a_processor_with_instructions_for_it(monkeypatch, has, expected):
    on_processor(monkeypatch, **has)
    assert resolve_precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize("native, expected", [(True, "bfloat16"), (False, "float32")])
def test_auto_is_float32_on_a_gpu_that_emulates_bfloat16(monkeypatch, native, expected):
    """As those before Ampere do."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("choice", ["float32", "bfloat16"])
@pytest.mark.parametrize("flag", [True, False])
def test_a_chosen_precision_is_kept_on_any_device(monkeypatch, device, choice, flag):
    on_processor(monkeypatch, avx512_bf16=flag)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: flag or including_emulation)
    assert resolve_precision(choice, torch.device(device)) == choice


@pytest.mark.parametrize("flag, precision", [(True, "bfloat16"), (False, "float32")])
def test_auto_trains_as_the_precision_that_it_stands_for(project, monkeypatch, flag, precision):
    """The same fingerprint and the same bytes, and model.json says which it was."""
    on_processor(monkeypatch, avx512_bf16=flag)
    found = {}
    for choice in ("auto", precision):
        write_params(project, precision=choice, steps=10, seeds=[0])
        run = params.load()
        shutil.rmtree(run.artifacts / "progress", ignore_errors=True)
        train(run)
        found[choice] = outcome(run.artifacts / "models")
    assert found["auto"] == found[precision]
    assert files.load_json(run.model_folder("qmvae", 0) / "model.json")["precision"] == precision


def test_a_fingerprint_has_the_precision_that_auto_stands_for(project, monkeypatch):
    """So a checkpoint of a processor with bfloat16 is not resumed on one without."""
    write_params(project, precision="auto")
    run = params.load()
    prints = set()
    for flag in (True, False):
        on_processor(monkeypatch, avx512_bf16=flag)
        prints.add(training.fingerprint(run, "qmvae", 0))
    assert len(prints) == 2


@pytest.mark.parametrize("precision, stops", [("float32", (3, 10, 17, 31, 44)), ("bfloat16", (17,))])
def test_a_run_broken_off_anywhere_goes_on_to_the_same_bytes(project, monkeypatch, precision, stops):
    write_params(project, precision=precision)
    run = params.load()
    train(run)
    undisturbed = outcome(run.artifacts / "models")
    real = Split.batch
    for stop in stops:  # batches until the power fails: within seed 0, at its end, within seed 1
        shutil.rmtree(run.artifacts / "progress")
        calls = iter(range(stop))

        def batch(split, rows, calls=calls):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(split, rows)

        monkeypatch.setattr(Split, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train(run)
        monkeypatch.setattr(Split, "batch", real)
        shutil.rmtree(run.artifacts / "models")  # as DVC does before a stage
        torch.manual_seed(123)  # whatever the process did meanwhile
        train(run)
        assert outcome(run.artifacts / "models") == undisturbed, stop


def test_a_model_of_other_parameters_is_trained_again(project, capsys):
    run = params.load()
    training.train_one(run, "qmvae", 0)
    before = outcome(run.artifacts / "progress")
    training.train_one(run, "qmvae", 0)
    assert "kept" in capsys.readouterr().out
    write_params(project, lr=0.002)
    training.train_one(params.load(), "qmvae", 0)
    assert "kept" not in capsys.readouterr().out
    assert outcome(run.artifacts / "progress") != before


def test_a_checkpoint_of_other_parameters_is_not_resumed(project, monkeypatch, capsys):
    def stop(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = training.save_state
        patch.setattr(training, "save_state", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train_one(params.load(), "qmvae", 0)
    write_params(project, lr=0.002)
    training.train_one(params.load(), "qmvae", 0)
    said = capsys.readouterr().out
    assert "made with other parameters" in said and "continues from" not in said


def test_a_fingerprint_has_all_that_a_result_depends_on(project, monkeypatch):
    run = params.load()
    own, settings = run.qmvae.model_copy(update={"beta": 1.0}), run.training["qmvae"].model_copy(update={"lr": 0.5})
    changed = [
        run.model_copy(update={"qmvae": own}),
        run.model_copy(update={"modalities": dict.fromkeys(run.modalities, run.modalities["mnist"])}),
        run.model_copy(update={"training": {"qmvae": settings}}),
    ]
    found = [training.fingerprint(other, "qmvae", 0) for other in (run, *changed)]
    found.append(training.fingerprint(run, "qmvae", 1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0")
        found.append(training.fingerprint(run, "qmvae", 0))
    write_archives(project / "data", train=130)
    found.append(training.fingerprint(make_data(project), "qmvae", 0))
    assert len(set(found)) == 7


def test_a_kill_between_the_two_files_of_a_model_leaves_no_finished_one(project, monkeypatch):
    run = params.load()
    training.train_one(run, "qmvae", 0)
    folder, old = training.progress_folder(run, "qmvae", 0), training.fingerprint(run, "qmvae", 0)
    write_params(project, lr=0.002)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.files, "save_json", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train_one(params.load(), "qmvae", 0)
    assert not training.is_trained(folder, old)


def test_copies_of_the_model_are_kept_on_the_way(project):
    run, folder = params.load(), project / "kept"
    training.train_seed(run, "qmvae", 0, artifacts.load_dataset(run), folder, "", keep=(10, 20))
    assert files.load_json(folder / "step-20" / "model.json")["steps"] == 20
    first, last = (checkpoint.load_model(place).state_dict() for place in (folder / "step-10", folder))
    assert any(not torch.equal(first[key], last[key]) for key in first)


def test_a_run_with_another_value_that_is_stopped_loses_nothing_finished(project, capsys):
    run = params.load()
    train(run)
    before = outcome(run.artifacts / "models")
    write_params(project, lr=1e6)
    with pytest.raises(TrainingError):
        train(params.load())
    write_params(project)
    capsys.readouterr()
    train(params.load())
    assert "continues" not in (said := capsys.readouterr().out) and said.count("kept") == 4
    assert outcome(run.artifacts / "models") == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_model_without_whole_weights_is_trained_again(project, damage, capsys):
    write_params(project, seeds=[0])
    run = params.load()
    train(run)
    before = outcome(run.artifacts / "models")
    damage(training.progress_folder(run, "qmvae", 0) / "model.safetensors")
    train(run)
    assert "qmvae, seed 0: trained again, since" in capsys.readouterr().out
    assert outcome(run.artifacts / "models") == before


def test_a_new_title_trains_nothing_again(project, capsys):
    write_params(project, seeds=[0])
    run = params.load()
    train(run)
    text = (project / "params.yaml").read_text()
    assert text.count("svhn: SVHN subset") == 1
    (project / "params.yaml").write_text(text.replace("svhn: SVHN subset", "svhn: house numbers"))
    capsys.readouterr()
    run = make_data(project)
    train(run)
    assert "qmvae, seed 0: kept" in capsys.readouterr().out
    assert artifacts.load_dataset(run).titles["svhn"] == "house numbers"


def test_weights_that_the_last_step_broke_are_no_model(project, monkeypatch):
    write_params(project, seeds=[0], steps=1)
    real = training.training_steps

    def broken(model, *rest):
        for step, terms in real(model, *rest):
            yield step, terms
            torch.nn.init.constant_(next(model.parameters()), torch.nan)

    monkeypatch.setattr(training, "training_steps", broken)
    with pytest.raises(TrainingError, match="qmvae, seed 0: after the last step .* is not finite; try a smaller `lr`"):
        train(params.load())
    assert not (project / "artifacts" / "tiny" / "models").exists()


def test_sigkill_in_the_middle_then_on_to_the_same_bytes(project):
    write_params(project, steps=80, seeds=[0])
    run = params.load()
    command = [sys.executable, "-m", "qmvae", "train", "qmvae"]
    process = subprocess.Popen(command, cwd=project, env=environment(), stderr=subprocess.DEVNULL)
    state = run.artifacts / "progress" / "qmvae" / "seed-0" / "checkpoint.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (run.artifacts / "models").exists()
    said = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=True).stdout
    assert "continues from step" in said
    resumed = outcome(run.artifacts / "models")
    shutil.rmtree(run.artifacts / "progress")
    train(run)
    assert outcome(run.artifacts / "models") == resumed


def test_two_at_once_the_second_is_told(project):
    import fcntl

    folder = project / "artifacts" / "tiny" / "progress" / "qmvae"
    folder.mkdir(parents=True)
    with open(folder / "seed-0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process is training qmvae"):
            train(params.load())


@pytest.mark.parametrize(
    "arguments, changes, message",
    [
        (
            ["qmvae"],
            {"batch_size": 5000},
            "a batch of 5000 is more than the .* training pairs; make presets.tiny.training.batch_size, "
            "or overrides.qmvae.batch_size where it has one, smaller",
        ),
    ],
)
def test_errors_of_the_command_are_one_message(project, arguments, changes, message):
    write_params(project, **changes)
    command = [sys.executable, "-m", "qmvae", "train", *arguments]
    result = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr


def test_a_gpu_that_is_not_there(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="device: cuda, but torch sees no GPU here; use `auto` or `cpu`"):
        resolve_device(params.load().model_copy(update={"device": "cuda"}))


def test_a_saved_model_loads_to_the_same_outputs(project):
    run = params.load()
    train(run)
    import qmvae

    model = qmvae.load(run.model_folder("qmvae", 0))
    images = artifacts.load_dataset(run).test.batch(torch.arange(6))[0]
    svhn = model.cross_generate({"mnist": images["mnist"]}, target="svhn", seed=0)  # the calls that the README shows
    assert svhn.shape == (6, 3, 16, 16)
    z = model.shared(images)
    assert z.mean.shape == z.logvar.shape == (6, 20)


def broken_weights(folder):
    weights, _ = tensor_files.load(folder / "model.safetensors")
    weights["decoders.mnist.0.bias"][3] = torch.nan
    tensor_files.save(folder / "model.safetensors", weights)


def of_another_version(folder):
    about = files.load_json(folder / "model.json")
    about["config"]["gamma"] = 1.0
    files.save_json(folder / "model.json", about)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_is_loaded_whatever_the_default_dtype(dtype):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        model = checkpoint.load_model(ROOT / "reports" / "subset" / "checkpoint")
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_file_that_cannot_be_opened_is_not_called_missing(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise FileNotFoundError(path)  # so does safetensors for a file without permission

    monkeypatch.setattr(tensor_files.safetensors, "safe_open", refuse)
    with pytest.raises(files.FileError, match="a.safetensors: file not found"):
        tensor_files.load(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(files.FileError, match="a.safetensors: cannot be opened; change its permissions or"):
        tensor_files.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "model.json").unlink(), "model.json: file not found; give a folder"),
        (lambda f: (f / "model.json").write_text("{"), "model.json: cannot be read as JSON"),
        (lambda f: (f / "model.json").write_text('{"model": "gan"}'), "model.json: does not describe a model"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: file not found"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n"),
            "not a complete safetensors file",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            "not a complete safetensors file",
        ),
        (lambda f: tensor_files.save(f / "model.safetensors", {"a": torch.ones(1)}), "does not fit model.json"),
        (broken_weights, "decoders.mnist.0.bias has values that are not finite; give a folder"),
        (of_another_version, "model.json: does not describe a model of this version of qmvae: config.gamma: .*; give"),
    ],
)
def test_folders_that_are_no_model(tmp_path, damage, message):
    run = params.load(root=ROOT)
    model = checkpoint.build_model("qmvae", run.qmvae, {"mnist": (1, 16, 16), "svhn": (3, 16, 16)}, run.networks)
    checkpoint.save_model(tmp_path, model, "qmvae", run.networks, {})
    checkpoint.load_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(files.FileError, match=message):
        checkpoint.load_model(tmp_path)


def test_the_command_says_that_there_is_no_gpu(project):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda"))
    command = [sys.executable, "-m", "qmvae", "train", "qmvae"]
    run = subprocess.run(command, cwd=project, env=environment(CUDA_VISIBLE_DEVICES=""), capture_output=True, text=True)
    assert run.returncode == 1 and "params.yaml: device: cuda, but torch sees no GPU here" in run.stderr
    assert "Traceback" not in run.stderr


EVERY_KERNEL = [pytest.param("inductor", name, marks=pytest.mark.faults) for name in MODELS]


@pytest.mark.parametrize("backend, name", [("aot_eager", "qmvae"), *EVERY_KERNEL])
def test_a_compiled_objective_leads_where_the_plain_one_leads(project, monkeypatch, backend, name):
    """Same random numbers, sums in another order: close after some steps, though not to the byte.

    `aot_eager` traces the objective and its gradient as `inductor` does, without a minute in a compiler of C++.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    run, ends = params.load(), {}
    dataset = artifacts.load_dataset(run)
    for choice in ("off", "on"):
        torch.manual_seed(0)
        model = checkpoint.build_model(name, getattr(run, name), dataset.shapes, run.networks)
        settings = run.training[name].model_copy(update={"steps": 10, "compile": choice})
        steps = training_steps(model, make_optimizer(model, settings.lr), dataset.train, settings, seed=0)
        losses = [terms["loss"].item() for _, terms in islice(steps, 3)]  # one policy of negatives, so one compilation
        ends[choice] = torch.cat([p.detach().flatten() for p in model.parameters()]), losses
    assert ends["on"][1] == pytest.approx(ends["off"][1], rel=1e-4)
    assert (ends["on"][0] - ends["off"][0]).norm() < 1e-2 * 3 * settings.lr * len(ends["on"][0]) ** 0.5


def test_seeds_side_by_side_end_in_the_bytes_of_each_alone(project, capsys):
    """As the stage trains them on a CPU: a process for each seed."""
    run = params.load()
    train(run)
    alone = outcome(run.artifacts / "models")
    shutil.rmtree(run.artifacts / "progress")
    command = [sys.executable, "-m", "qmvae", "train", "qmvae"]
    said = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=True).stdout
    assert "step 20 of 30" in said and outcome(run.artifacts / "models") == alone
    capsys.readouterr()
    stage.run(run, ["qmvae"])
    assert capsys.readouterr().out.count("kept") == 2


def test_a_failed_seed_ends_the_stage_with_its_message(project):
    write_params(project, lr=1e9, steps=200)
    command = [sys.executable, "-m", "qmvae", "train", "qmvae"]
    run = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr and not list(project.rglob("model.safetensors"))
    assert "try a smaller `lr`" in run.stderr
    assert re.search(r"train: `python -m qmvae train qmvae --seed \d` failed with exit status 1", run.stderr)


def still_runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended; a process without a parent may stay as a zombie in a container."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_jobs_end_with_the_process_that_started_them(project):
    write_params(project, steps=10**6)
    command = [sys.executable, "-m", "qmvae", "train", "qmvae"]
    stage = subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.DEVNULL)
    jobs = []
    try:
        while not list(project.rglob("checkpoint.safetensors")):
            assert stage.poll() is None
            time.sleep(0.05)
        jobs = psutil.Process(stage.pid).children()
        stage.kill()
        stage.wait()
        assert jobs
        deadline = time.monotonic() + 30
        while any(map(still_runs, jobs)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stage.kill()
        for job in jobs:
            if still_runs(job):
                job.kill()


def test_threads_follow_the_load_in_bfloat16_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    count = torch.get_num_threads()
    try:
        monkeypatch.setattr(threads, "DEFAULT", 4)
        free = threads.FreeThreads("bfloat16")
        for busy, expected in ((0.0, 4), (1.0, 3), (9.0, 1), (0.2, 4)):
            monkeypatch.setattr(free, "read", lambda busy=busy: (free.last[0] + 1, free.last[1] + busy))
            free.adapt(every=-1e9)
            assert torch.get_num_threads() == expected
        threads.FreeThreads("float32").adapt(every=-1e9)
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        torch.set_num_threads(3)
        assert not threads.FreeThreads("float32").adapts and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(count)


def test_the_load_of_cores_that_are_not_ours_does_not_count(monkeypatch):
    monkeypatch.setattr(threads, "own_cores", lambda: {1})
    times = type(psutil.cpu_times())
    cores = [times(*(value for _ in times._fields)) for value in (1000.0, 7.0, 500.0)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: cores)
    busy = threads.FreeThreads("float32").read()[1]
    assert busy == pytest.approx(3 * 7.0 - time.process_time(), abs=0.5)  # user, nice and system of the second core


@pytest.mark.parametrize(
    ("value", "threads"), [(None, 0), ("", 0), (" ", 0), ("two", 0), ("0", 0), ("3", 3), ("2,1", 2)]
)
def test_a_setting_that_openmp_ignores_counts_as_none(monkeypatch, value, threads):
    """An empty OMP_NUM_THREADS gave each of two jobs two threads, which made them six times slower."""
    monkeypatch.setenv("OMP_NUM_THREADS", value) if value is not None else monkeypatch.delenv("OMP_NUM_THREADS", False)
    assert jobs.claimed_threads() == threads
    assert jobs.one_thread() == ({} if threads else {"OMP_NUM_THREADS": "1"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_trains_and_resumes(project, name):
    """With everything that `auto` switches on there: the GPU and torch.compile."""
    write_params(project, seeds=[0], compile="auto")
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda"))
    run = params.load()
    training.train_one(run, name, 0)
    rows = list(csv.DictReader(open(training.progress_folder(run, name, 0) / "log.csv")))
    assert [int(row["step"]) for row in rows] == list(range(5, 31, 5))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def tiny_split(images, labels):
    pixels = {m: x.mul(255).byte() for m, x in images.items()}
    return Split(pixels, dict.fromkeys(images, labels), torch.arange(len(labels))[:, None].expand(-1, 2).int())


def test_the_loop_gives_the_schedule_its_progress_and_checks_the_terms(monkeypatch):
    model, images, labels = make("dmvae")
    split = tiny_split(images, labels)
    settings = SimpleNamespace(steps=4, batch_size=len(labels), cooldown=0.0, precision="float32", compile="off")
    seen, real = [], model.schedule
    monkeypatch.setattr(model, "schedule", lambda progress: (seen.append(progress), real(progress))[1])
    list(training_steps(model, make_optimizer(model, 0.01), split, settings, 0))
    assert seen == [0, 0.25, 0.5, 0.75]
    monkeypatch.setattr(model, "objective", lambda *_, **__: {"elbo": torch.zeros(())})
    with pytest.raises(ValueError, match="expected scalar tensors by name"):
        next(training_steps(model, make_optimizer(model, 0.01), split, settings, 0))
    assert type(make_optimizer(model, 0.01)) is torch.optim.Adam


def test_the_epochs_of_neighbouring_seeds_differ_and_few_are_kept():
    first, second = (BatchSampler(10, 10, seed=seed, device="cpu") for seed in (0, 1))
    assert first.sample(1).tolist() != second.sample(0).tolist()
    for step in range(5):
        first.sample(step)
    assert len(first.permutations) <= 2


def test_which_settings_compile():
    found = {(c, d): wants_compile(c, torch.device(d)) for c in ("on", "off", "auto") for d in ("cpu", "cuda")}
    assert [key for key, value in found.items() if value] == [("on", "cpu"), ("on", "cuda"), ("auto", "cuda")]
