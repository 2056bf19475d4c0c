"""What `make repro` does around `dvc repro`. The whole of it, killed and stopped, is in test_faults.py."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils import strictyaml
from test_faults import write_pipeline
from tiny import ROOT, environment, make_data, write_archives, write_params, write_project

from qmvae.data.checks import DataError
from qmvae.pipeline import artifacts, device, repro
from qmvae.pipeline.files import FileError
from qmvae.pipeline.params import ParamsError
from qmvae.pipeline.sections import MODELS
from qmvae.pipeline.stages import classifiers


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.lock", tmp_path)
    return tmp_path


def test_a_dvc_lock_cut_short_anywhere_is_put_back(checkout, capsys):
    whole = (checkout / "dvc.lock").read_text()
    put_back = 0
    amid_a_key = [match.end() for match in re.finditer("(hash|size|path|cmd):", whole)][::15]  # which YAML takes
    a_number = [match.end() for match in re.finditer(r"md5: \d+e\d+", whole)]  # to the YAML that DVC reads
    assert a_number
    no_params = [match.end() for match in re.finditer(r"params(\.yaml)?:\n", whole)][:4]  # a key without its mapping
    for length in [*range(0, len(whole), 2500), *amid_a_key, *a_number[:3], *no_params]:
        (checkout / "dvc.lock").write_text(whole)
        repro.restore(checkout)
        (checkout / "dvc.lock").write_text(whole[:length])
        repro.restore(checkout)
        text = (checkout / "dvc.lock").read_text()
        assert text in (whole, whole[:length])
        strictyaml.load(str(checkout / "dvc.lock"), COMPILED_LOCKFILE_SCHEMA)
        put_back += text == whole
    assert put_back and "incomplete after the last run; restored from a copy" in capsys.readouterr().out


def test_a_dvc_lock_that_was_never_whole_is_removed(checkout, capsys):
    (checkout / "dvc.lock").write_text("schema: '2.0'\nstages:\n  data")
    repro.restore(checkout)
    assert not (checkout / "dvc.lock").exists() and "git checkout dvc.lock" in capsys.readouterr().out


def test_a_dvc_lock_with_conflicts_of_a_merge_stays_as_it_is(checkout):
    repro.restore(checkout)
    whole = (checkout / "dvc.lock").read_text()
    ours = re.search(r"    - path.*\n      hash: md5\n", whole)[0]
    conflict = f"<<<<<<< HEAD\n{ours}=======\n{ours}>>>>>>> theirs\n"
    (checkout / "dvc.lock").write_text(text := whole.replace(ours, conflict, 1))
    with pytest.raises(FileError, match="dvc.lock: has conflicts of a merge; take one side"):
        repro.restore(checkout)
    assert (checkout / "dvc.lock").read_text() == text


@pytest.mark.parametrize("name", ["artifacts", "reports"])
def test_a_link_out_of_the_repository_is_refused_before_any_work(tmp_path, monkeypatch, name):
    project, scratch = tmp_path / "project", tmp_path / "scratch"
    project.mkdir()
    scratch.mkdir()
    write_project(project)
    monkeypatch.chdir(project)
    (project / "inner").mkdir()
    (project / name).symlink_to(project / "inner")
    repro.plan()
    (project / name).unlink()
    (project / name).symlink_to(scratch)
    with pytest.raises(
        ParamsError, match=f"{name}: a link to {re.escape(str(scratch))}, but DVC has no outputs outside"
    ):
        repro.plan(preset="tiny")


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "<&- 1>&- 2>&-"])
def test_a_closed_stream_is_no_traceback(tmp_path, closed):
    write_project(tmp_path)
    shell = f'exec "{sys.executable}" -m qmvae data {closed}'
    result = subprocess.run(["sh", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert {path.name for path in (tmp_path / "artifacts" / "tiny" / "data").iterdir()} == {
        "images.safetensors", "pairs.safetensors", "titles.json"}  # fmt: skip


def test_a_dvc_lock_that_is_not_there_stays_so(checkout):
    repro.restore(checkout)
    (checkout / "dvc.lock").unlink()
    repro.restore(checkout)
    assert not (checkout / "dvc.lock").exists()


@pytest.mark.parametrize("content", ["", '{"read": {"/x": [{"pi', "[]", "{}", '{"write": {"/x": {"pid": 1}}}'])
def test_notes_of_who_works_on_what_that_nobody_keeps_are_removed(checkout, content):
    (checkout / ".dvc" / "tmp" / "rwlock").write_text(content)
    repro.restore(checkout)
    assert not (checkout / ".dvc" / "tmp" / "rwlock").exists()


def test_notes_stay_as_long_as_a_dvc_lives_and_is_no_zombie(checkout):
    notes = checkout / ".dvc" / "tmp" / "rwlock"
    with subprocess.Popen([sys.executable, "-c", "input()", "dvc"], stdin=subprocess.PIPE) as process:
        notes.write_text(json.dumps({"read": {"/x": [{"pid": process.pid, "cmd": "dvc repro"}]}}))
        repro.restore(checkout)
        assert notes.exists()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked how it ended
        repro.restore(checkout)
        assert not notes.exists()


def test_the_second_is_told_so_before_params_yaml_is_touched(checkout):
    write_params(checkout)
    before = (checkout / "params.yaml").read_bytes()
    with open(checkout / ".dvc" / "tmp" / "repro.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "qmvae", "repro", "--preset", "tiny", "--data", "elsewhere"]
        run = subprocess.run(command, cwd=checkout, env=environment(), capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "another `make repro` is running here; wait for it or stop it first" in run.stderr
    assert (checkout / "params.yaml").read_bytes() == before


def test_classifiers_run_beside_the_models_and_each_notebook_in_one_of_two_processes():
    images, training, metrics, halves, last = repro.commands(ROOT, [])
    assert images == [["repro", "data"]] and metrics == [["repro", "metrics"]] and last == [["repro"]]
    once = ["--wait-for-lock", "repro", "--single-item"]
    assert training == [[*once, "classifiers"], [*once, "train"]] and [half[:3] for half in halves] == [once] * 2
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    run = [stages[name]["cmd"].split()[-1] for half in halves for name in half[3:]]
    in_pipeline = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if path.stem[:2] not in ("10", "12")]
    assert sorted(run) == sorted(in_pipeline)
    outs = {out for stage in stages.values() for o in stage["outs"] for out in (o if isinstance(o, dict) else [o])}
    of_notebooks = {next(iter(o)) for half in halves for name in half[3:] for o in stages[name]["outs"]}
    needed = {dep for half in halves for name in half[3:] for dep in stages[name]["deps"]}
    assert of_notebooks <= outs and not of_notebooks & needed  # no notebook waits for another one
    assert repro.commands(ROOT, ["metrics"]) == [images, training, metrics]
    assert repro.commands(ROOT, ["fig5"]) == [[["repro", "fig5"]]]
    for name in ("classifiers", "train"):  # these need the images only
        assert [dep for dep in stages[name]["deps"] if "/code/" not in dep] == ["artifacts/${item.preset}/data"]


FOLDERS = {  # what is wrong with a folder, and what is said then
    "nowhere": (ParamsError, "folder: there is no {}; name the folder"),
    "a\0b": (ParamsError, "folder: there is no"),
    "a file": (ParamsError, "folder: there is no {}; name the folder"),
    ".": (DataError, "mnist.npz: file not found, expected an archive with train_images, .*; put it there"),
    "reports": (DataError, "reports/mnist.npz: file not found, expected an archive"),
    "half": (DataError, "half/svhn.npz: file not found, expected an archive"),
    "artifacts/tiny/data": (ParamsError, "folder: runs delete files in {}; move the image files"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_data_folder_without_the_images_is_refused_before_params_yaml_is_touched(tmp_path, monkeypatch, name):
    write_project(tmp_path)
    for folder in ("reports", "half", "artifacts/tiny/data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a file").touch()
    shutil.copy(tmp_path / "data" / "mnist.npz", tmp_path / "half")
    write_archives(tmp_path / "artifacts" / "tiny" / "data")
    before = (tmp_path / "params.yaml").read_bytes()
    monkeypatch.chdir(tmp_path)
    kind, message = FOLDERS[name]
    with pytest.raises(kind, match=message.format(re.escape(str(tmp_path / name)))):
        repro.plan("tiny", name)
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_built_in_images_need_no_folder(tmp_path, monkeypatch):
    text = write_project(tmp_path).joinpath("params.yaml").read_text()
    text = text.replace("source: archive", "source: builtin").replace("folder: data", "folder: /nowhere")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert repro.plan().images.source == "builtin"
    with pytest.raises(ParamsError, match="folder: there is no /elsewhere"):
        repro.plan(data="/elsewhere")
    assert repro.plan(data="data").data == tmp_path / "data"


NAMELESS = """import pwd
def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = getpwuid
"""


def test_a_download_without_git_and_a_user_without_a_name(tmp_path):
    """And a `python` on the path that is another, a home that can't be written, files in the data folder of others."""
    folder = write_pipeline(tmp_path / "a project")
    shutil.rmtree(folder / ".git")
    for name, text, mode in (("sitecustomize.py", NAMELESS, 0o644), ("python", "#!/bin/sh\nexit 9\n", 0o755)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    nobody = {
        "HOME": "/dev/null/home",
        "PYTHONPATH": f"{tmp_path}:{folder}",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    named = {name: "" for name in ("LOGNAME", "USER", "LNAME", "USERNAME")}  # getpass takes them for absent
    os.mkfifo(folder / "data" / "endless")  # who reads it waits forever

    def run(*command: str) -> str:
        place = {"DVC_SITE_CACHE_DIR": f"{folder}-site"}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=environment(**nobody, **named, **place),
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run("qmvae", "repro", "data")
    assert "Running stage 'data@tiny'" in said and "pairs: " in said
    (folder / "data" / "others.npz").write_text("not among the modalities")
    assert "Stage 'data@tiny' didn't change" in run("qmvae", "repro", "data")
    # DVC alone, with git, a name, a home, and this interpreter on the path
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    nobody |= {"HOME": str(tmp_path), "PATH": f"{os.path.dirname(sys.executable)}:{nobody['PATH']}"}
    named["USER"] = "somebody"
    write_archives(folder / "data", train=410)
    assert "Running stage 'data@tiny'" in run("dvc", "repro", "data")


@pytest.mark.parametrize("stage", ["classifiers", "evaluate qmvae", "notebook 01_data"])
def test_ctrl_c_during_the_imports_of_a_stage_is_no_traceback(tmp_path, stage):
    write_params(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "qmvae", *stage.split()], cwd=tmp_path, text=True,
        stderr=subprocess.PIPE, env=environment(), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not re.search(r"\| +(torch|nbformat)\.", process.stderr.readline()):  # what is imported, as it is imported
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = [line for line in process.communicate()[1].splitlines() if not line.startswith("import time:")]
    assert process.returncode == 1 and said == ["", "stopped; `make repro` continues from here"]


def test_sigterm_ends_what_dvc_runs(tmp_path):
    """It reaches one process only, such as from a job scheduler."""
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: echo $$ > started; exec sleep 100}}")
    run = "from qmvae.pipeline import repro; print(repro.run_group(repro.Path(), [['repro']], 1))"
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, env=environment(), check=True)
    process = subprocess.Popen([sys.executable, "-c", run], cwd=tmp_path, text=True, stdout=-1, env=environment())
    while not (tmp_path / "started").exists() or not (stage := (tmp_path / "started").read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.communicate(timeout=60)[0].splitlines()[-1].endswith("True)")
    assert not psutil.pid_exists(int(stage))


@pytest.mark.parametrize("module", ["pipeline.repro", "pipeline.stages.inputs", "pipeline.stages.notebook"])
def test_processes_that_only_start_others_do_not_import_torch(module):
    """Its import takes one to three seconds, and a run starts two dozen of these processes."""
    code = f"import sys, qmvae.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


def test_without_qmvae_only_the_numbers_can_be_made(tmp_path, monkeypatch):
    write_project(tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("    - qmvae\n", "    - mvae\n"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"presets.tiny.models: \['mvae'\] lacks qmvae; add it, or make the numbers"):
        repro.repro([], None, None)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --seed 1", "--seed 1: expected a model before it"),
        ("train qmvae --seed 99", "--seed 99: expected one of qmvae's seeds: 0, 1"),
        ("train gan", f"train: model 'gan': expected one of {', '.join(MODELS)}"),
        ("classifiers audio", "modality 'audio': expected one of mnist, svhn"),
    ],
)
def test_what_a_command_does_not_know_is_named(tmp_path, command, message):
    write_params(tmp_path)
    command = [sys.executable, "-m", "qmvae", *command.split()]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_a_file_is_no_traceback(tmp_path):
    write_project(tmp_path)
    make_data(tmp_path)
    (tmp_path / "artifacts" / "tiny" / "progress").write_text("in the way")
    command = [sys.executable, "-m", "qmvae", "train", "qmvae"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("cannot continue: ") and "progress" in result.stderr


def test_classifiers_of_one_modality_bring_their_accuracies(tmp_path, one_thread):
    run = make_data(write_project(tmp_path))
    for name in run.modalities:
        classifiers.run(run, name)
    before = artifacts.classifier_accuracy(run)
    run = run.model_copy(update={"classifiers": run.classifiers.model_copy(update={"epochs": 40})})
    classifiers.run(run, "mnist")
    after = artifacts.classifier_accuracy(run)
    assert after["standard"]["mnist"] > before["standard"]["mnist"]
    assert after["standard"]["svhn"] == before["standard"]["svhn"]


def test_classifiers_whose_weights_are_not_finite_are_not_kept(tmp_path, one_thread):
    run = make_data(write_project(tmp_path))
    run = run.model_copy(update={"classifiers": run.classifiers.model_copy(update={"lr": 1e38})})
    with pytest.raises(device.TrainingError, match=r"not finite; make presets.tiny.classifiers.lr: 1e\+38 smaller"):
        classifiers.run(run, "mnist")
    assert not (run.artifacts / "classifiers").exists()


def test_classifiers_refuse_a_batch_larger_than_the_data(tmp_path):
    write_project(tmp_path)
    run = make_data(tmp_path)
    run = run.model_copy(update={"classifiers": run.classifiers.model_copy(update={"batch_size": 121})})
    message = "presets.tiny.classifiers.batch_size: 121 is more than the 120 training images of mnist; make it smaller"
    with pytest.raises(device.TrainingError, match=message):
        classifiers.run(run, "mnist")
    assert not (run.artifacts / "classifiers").exists()


def test_a_failure_of_any_process_of_a_group_counts(tmp_path):
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    group = [["--version"], ["no-such-command"]]
    with open(tmp_path / "lock", "w") as lock:
        assert repro.run_group(tmp_path, group, lock.fileno())[0]
        assert repro.run_group(tmp_path, group[::-1], lock.fileno())[0]
