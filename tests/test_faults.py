"""A whole `make repro` that is killed, stopped, starved of disk, or started twice. Minutes long: `make test-faults`.

QMVAE_FAULTS_SEED=<number> chooses other random moments than the usual ones; what failed once fails again with its seed.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny import ROOT, write_archives, write_params

from qmvae.pipeline import files, tensor_files

pytestmark = pytest.mark.faults
SEED = int(os.environ.get("QMVAE_FAULTS_SEED", "0"))
KILLS = 25
MADE = (
    "artifacts/tiny/models",
    "artifacts/tiny/classifiers",
    "artifacts/tiny/evaluation",
    "artifacts/tiny/data",
    "reports",
)
NOTEBOOKS = {"model": "02_model", "table1": "07_table1_cross_generation"}  # one of each kind, for the time they take


def write_pipeline(folder: Path, **changes) -> Path:
    """A checkout with what `make repro` needs, but for one tiny model, few images and two of the notebooks."""
    folder.mkdir(exist_ok=True)
    write_params(folder, steps=120, checkpoint_every=10, seeds=[0])
    document = yaml.safe_load((folder / "params.yaml").read_text())
    tiny = document["presets"]["tiny"]
    tiny["evaluation"] |= {"conditions": "all", "probe_pairs": "all"}
    tiny["classifiers"] |= {"epochs": 20, "batch_size": 16}
    document["presets"]["other"] = yaml.safe_load(yaml.safe_dump(tiny))
    (folder / "params.yaml").write_text(yaml.safe_dump(document | changes, sort_keys=False))
    write_archives(folder / "data", train=400, test=200)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    kept = ("code", "inputs", "data", "classifiers", "train", "evaluate", "metrics", *NOTEBOOKS)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {name: stages[name] for name in kept}}))
    shutil.copytree(ROOT / "qmvae", folder / "qmvae", ignore=shutil.ignore_patterns("__pycache__"))
    for place in ("notebooks", "ablations"):
        (folder / place).mkdir()
    for name in ("ablate", "collect", "three_modalities"):
        shutil.copy(ROOT / "ablations" / f"{name}.py", folder / "ablations")
    for name in NOTEBOOKS.values():
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
    for name in ("Makefile", ".dvcignore", ".gitignore", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"  # the environment that runs pytest, where make looks for its own
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "installed").touch()
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    return folder


def surroundings(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(folder), "DVC_SITE_CACHE_DIR": f"{folder}-site"}


def start(folder: Path, *arguments: str, command=("make", "repro"), **environment) -> subprocess.Popen:
    """`make repro` in a group of its own, as a terminal starts it; its output goes to `said` in the folder above."""
    return subprocess.Popen(
        [*command, *arguments], cwd=folder, env=surroundings(folder) | environment, start_new_session=True,
        stdout=open(said(folder), "w"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where pytest runs in the background
    )  # fmt: skip


def said(folder: Path) -> Path:
    return Path(f"{folder}.said")


def repro(folder: Path, *arguments: str, **environment) -> tuple[int, str]:
    status = start(folder, *arguments, **environment).wait()
    return status, said(folder).read_text()


def finish(folder: Path) -> dict[str, bytes]:
    """Run to the end, and give all that was made."""
    status, text = repro(folder)
    assert status == 0, text
    return made(folder)


def made(folder: Path) -> dict[str, bytes]:
    files = [path for place in MADE for path in sorted((folder / place).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def forget(folder: Path) -> None:
    """As if nothing had been run yet."""
    for place in ("artifacts", "reports", ".dvc/cache", ".dvc/tmp", "dvc.lock"):
        path = folder / place
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(f"{folder}-site", ignore_errors=True)


def stage_at_work(text: str) -> str:
    stages = re.findall(r"Running stage '(\w+)", text)
    return stages[-1] if stages else "start"


def wait_for(process: subprocess.Popen, folder: Path, stage: str) -> None:
    """Until this stage has begun, or the run is over."""
    while process.poll() is None and stage_at_work(said(folder).read_text()) != stage:
        time.sleep(0.05)


def whole(folder: Path) -> None:
    """Every file in its place can be read, whatever happened."""
    for path in folder.rglob("*.safetensors"):
        tensor_files.load(path)
    for path in [*(folder / "artifacts").rglob("*.json"), *(folder / "reports").rglob("*.json")]:
        files.load_json(path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The project's folder, what an undisturbed run makes, and how many seconds that takes."""
    folder = write_pipeline(tmp_path_factory.mktemp("faults") / "project")
    began = time.monotonic()
    result = finish(folder)
    assert {Path(name).suffix for name in result} >= {".safetensors", ".json", ".csv", ".md", ".tex", ".png", ".ipynb"}
    return folder, result, time.monotonic() - began


AIMED = ["data", "train", "evaluate", "table1"]  # one of each kind of stage, at a random moment of it
MOMENTS = [random.Random(SEED * 1000 + i).uniform(0, 0.95) for i in range(KILLS - len(AIMED))]  # of the whole run


@pytest.mark.parametrize("moment", [*AIMED, *MOMENTS], ids=lambda m: m if isinstance(m, str) else f"{m:.4f}")
def test_killed_at_a_random_moment(undisturbed, moment):
    folder, expected, seconds = undisturbed
    for _ in range(5):
        forget(folder)
        process, began = start(folder), time.monotonic()
        if isinstance(moment, str):
            wait_for(process, folder, moment)
            time.sleep(random.Random(f"{SEED} {moment}").random())
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment * seconds)
                seconds = time.monotonic() - began  # over before its moment: the machine is faster than it was
        if process.poll() is None:
            break
        assert process.returncode == 0, said(folder).read_text()
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before the kill"
    print(f"KILLED at {moment} of the run, in {stage_at_work(said(folder).read_text())}")
    whole(folder)
    assert finish(folder) == expected


def test_killed_again_and_again_while_checkpoints_are_written(tmp_path):
    folder = write_pipeline(tmp_path / "project")
    document = yaml.safe_load((folder / "params.yaml").read_text())
    document["presets"]["tiny"]["training"] |= {"steps": 10**6, "checkpoint_every": 1, "log_every": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    subprocess.run([sys.executable, "-m", "qmvae", "data"], cwd=folder, check=True, capture_output=True)
    state = folder / "artifacts" / "tiny" / "progress" / "qmvae" / "seed-0" / "checkpoint.safetensors"
    steps, moments = [0], random.Random(SEED)
    for _ in range(10):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(folder, command=(sys.executable, "-m", "qmvae", "train", "qmvae"))
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(moments.random())
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, said(folder).read_text()
        steps.append(int(tensor_files.load(state)[1]["step"]))
        assert steps[-2] == 0 or f"continues from step {steps[-2]:,} of" in said(folder).read_text()
    assert steps == sorted(set(steps))


def test_ctrl_c_in_every_stage(undisturbed):
    folder, expected, _ = undisturbed
    forget(folder)
    moments = random.Random(SEED)
    finish(folder)
    stages = list(dict.fromkeys(re.findall(r"Running stage '(\w+)", said(folder).read_text())))
    assert set(stages) == {"code", "data", "classifiers", "train", "evaluate", "metrics", *NOTEBOOKS}
    forget(folder)
    for stage in stages:
        process = start(folder)
        wait_for(process, folder, stage)
        time.sleep(moments.uniform(0.3, 2.5))  # amid the imports, or past them
        assert process.poll() is None, f"{stage} was over too soon"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() != 0
        text = said(folder).read_text()
        assert "stopped; `make repro` continues from here" in text and "Traceback" not in text, f"{stage}: {text}"
        whole(folder)
    assert finish(folder) == expected


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock"])
@pytest.mark.parametrize("part", [0.0, 0.6])
def test_half_a_file_of_dvc(undisturbed, name, part):
    """DVC writes both in place, so that a kill may leave a part of them: here each for certain."""
    folder, expected, _ = undisturbed
    finish(folder)
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    status, text = repro(folder)
    assert status == 0 and made(folder) == expected, text
    assert path.read_bytes() == content


def test_two_at_once(undisturbed):
    folder, expected, _ = undisturbed
    forget(folder)
    parameters = (folder / "params.yaml").read_bytes()
    process = start(folder)
    wait_for(process, folder, "train")
    for command, message in (
        (["make", "repro"], "another `make repro` is running here; wait for it or stop it first"),
        (["make", "repro", "PRESET=other"], "another `make repro` is running here"),
        ([sys.executable, "-m", "dvc", "repro"], "busy|another"),
    ):
        second = subprocess.run(command, cwd=folder, env=surroundings(folder), capture_output=True, text=True)
        assert second.returncode != 0 and re.search(message, second.stdout + second.stderr), second
        assert process.poll() is None, "the first was over before the second began"
    assert (folder / "params.yaml").read_bytes() == parameters
    assert process.wait() == 0 and made(folder) == expected
    assert not (folder / "artifacts" / "other").exists()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A folder on a disk of its own, whose size can be changed."""
    place = tmp_path_factory.mktemp("disk") / "mount"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def with_room(place: Path, expected: dict[str, bytes]) -> Path:
    """The project on the small disk, which has room again and all its results."""
    folder = place / "project"
    resize(place, 400 * 2**20)
    if not folder.exists():
        write_pipeline(folder)
    assert finish(folder) == expected
    return folder


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_disk_that_gets_full(undisturbed, small_disk, share):
    _, expected, _ = undisturbed
    folder = with_room(small_disk, expected)
    full = shutil.disk_usage(small_disk).used
    forget(folder)
    empty = shutil.disk_usage(small_disk).used
    resize(small_disk, int(empty + share * (full - empty)) // 4096 * 4096 + 8192)
    status, text = repro(folder, PYTHONDONTWRITEBYTECODE="1")
    print(f"FULL at {share:.2f}, in {stage_at_work(text)}: {text[-600:]}")
    resize(small_disk, 400 * 2**20)
    assert status != 0 and re.search("No space left on device|disk is full", text) and "Traceback" not in text, text
    whole(folder)
    assert finish(folder) == expected


def test_a_full_disk_keeps_the_results_of_the_last_run(undisturbed, small_disk):
    """New parameters, then a disk that is full: each file is the old one or the new one, and nothing between."""
    _, expected, _ = undisturbed
    folder = with_room(small_disk, expected)
    for stage, *arguments in (["train", "qmvae"], ["metrics"], ["notebook", NOTEBOOKS["table1"]]):
        if stage == "train":
            shutil.rmtree(folder / "artifacts" / "tiny" / "progress")
        resize(small_disk, shutil.disk_usage(small_disk).used // 4096 * 4096)
        process = start(folder, *arguments, command=(sys.executable, "-m", "qmvae", stage), PYTHONDONTWRITEBYTECODE="1")
        status, text = process.wait(), said(folder).read_text()
        resize(small_disk, 400 * 2**20)
        assert status != 0 and "No space left on device" in text and "Traceback" not in text, text
        assert made(folder) == expected, stage


def train(folder: Path, **environment) -> dict[str, bytes]:
    shutil.rmtree(folder / "artifacts" / "tiny" / "progress", ignore_errors=True)
    process = start(folder, command=(sys.executable, "-m", "qmvae", "train", "qmvae"), **environment)
    assert process.wait() == 0, said(folder).read_text()
    return {path.name: path.read_bytes() for path in (folder / "artifacts/tiny/models/qmvae/seed-0").iterdir()}


@pytest.fixture(scope="module")
def with_images(tmp_path_factory):
    folder = write_pipeline(tmp_path_factory.mktemp("threads") / "project")
    subprocess.run([sys.executable, "-m", "qmvae", "data"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_twice_the_same_bytes(with_images, threads, precision):
    path = with_images / "params.yaml"
    before = path.read_text()
    document = yaml.safe_load(before)
    document["presets"]["tiny"]["training"]["precision"] = precision
    path.write_text(yaml.safe_dump(document))
    try:
        first, again = (train(with_images, OMP_NUM_THREADS=threads) for _ in range(2))
    finally:
        path.write_text(before)
    assert first == again


# What another processor may do to a run's log over 120 steps, as a share of each term's size: sums in another order, of
# other width. Here the vector instructions are taken away, which changes more than the step from one model to the next.
ACROSS_MACHINES = 0.01


def test_another_processor_stays_within_the_tolerance(with_images):
    here = train(with_images)
    plain = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    there = train(with_images, OMP_NUM_THREADS="1", **plain)
    assert here["model.safetensors"] != there["model.safetensors"], "the other processor computed the same bits"
    ours, theirs = (
        torch.tensor([[float(cell) for cell in row.split(",")] for row in log.decode().splitlines()[1:]])
        for log in (here["log.csv"], there["log.csv"])
    )
    apart = ((ours - theirs).abs() / ours.abs().clamp(min=1)).max().item()
    print(f"APART by {apart:.2e}")
    assert apart < ACROSS_MACHINES


def may_not_write(folder: Path) -> list[str]:
    """What to put before a command so that a folder without rights is one for root, too."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv to change that")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


@pytest.mark.parametrize("source", ["archive", "torchvision"])
def test_a_data_folder_that_is_read_only(with_images, source):
    folder = with_images
    parameters = (folder / "params.yaml").read_text()
    document = yaml.safe_load(parameters)
    document["presets"]["tiny"]["images"] |= {"source": source}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    (folder / "data").chmod(0o555)
    before = {path: path.read_bytes() for path in (folder / "artifacts").rglob("*") if path.is_file()}
    try:
        command = [*may_not_write(folder / "data"), sys.executable, "-m", "qmvae", "data"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    finally:
        (folder / "data").chmod(0o755)
        (folder / "params.yaml").write_text(parameters)
    assert "Traceback" not in run.stderr
    if source == "archive":
        assert run.returncode == 0, run.stderr  # it only reads
    else:
        assert run.returncode == 1 and "Permission denied" in run.stderr and "make repro PRESET=quick" in run.stderr
    assert before == {path: path.read_bytes() for path in (folder / "artifacts").rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["artifacts", "reports"])
def test_results_that_cannot_be_written(undisturbed, place):
    folder, expected, _ = undisturbed
    forget(folder)
    (folder / place).write_text("a file where the folder should be")
    status, text = repro(folder)
    assert status != 0 and "Traceback" not in text and place in text, text
    (folder / place).unlink()
    assert finish(folder) == expected
