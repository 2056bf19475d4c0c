"""`make repro`: `dvc repro`, one at a time in a checkout, with half-written files of DVC restored after a kill.

DVC itself refuses a second run, but only after params.yaml was switched under the first one. It writes dvc.lock and
its list of running processes in place, so that a kill can leave half of them. DVC then stops with an error.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from qmvae.data.sources import files_read
from qmvae.pipeline import files, params, surroundings
from qmvae.pipeline.schema import Params

LOCKS = ("dvc.lock", "ablations/dvc.lock")


def restore(root: Path) -> None:
    """Restore the files of DVC that a kill can leave half-written; keep a copy of each dvc.lock that is complete.

    Raises FileError on a dvc.lock with conflicts of a merge, which stays as it is.
    """
    processes = root / ".dvc" / "tmp" / "rwlock"
    if processes.exists() and not is_running(processes):
        time.sleep(0.5)  # unless a `dvc` of another shell is writing it right now
        if not is_running(processes):
            processes.unlink(missing_ok=True)
    for name in LOCKS:
        lock, copy = root / name, root / ".dvc" / "tmp" / f"{name.replace('/', '-')}.whole"
        if lock.exists() and re.search(rb"^<<<<<<< ", lock.read_bytes(), re.MULTILINE):
            cure = f"take one side, `git checkout --ours {name}` or `--theirs`, then `make repro`"
            raise files.FileError(f"{lock}: has conflicts of a merge; {cure}")
        if is_complete(lock):
            shutil.copyfile(lock, copy)
        elif lock.exists() and is_complete(copy):
            shutil.copyfile(copy, lock)
            print(f"{name}: incomplete after the last run; restored from a copy, so some stages run again")
        elif lock.exists():
            lock.unlink()
            print(f"{name}: incomplete, so it was removed; `git checkout {name}` restores the committed file")


def is_running(processes: Path) -> bool:
    """Return whether a process in DVC's list is a `dvc` that lives.

    DVC itself also waits for a process that ended but is still listed, and for an unrelated one with the same number.
    """
    try:
        modes = json.loads(processes.read_text(encoding="utf-8"))
        entries = [*modes.get("write", {}).values(), *(e for some in modes.get("read", {}).values() for e in some)]
        numbers = {entry["pid"] for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
    for number in numbers:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            if process.status() != psutil.STATUS_ZOMBIE and any("dvc" in word for word in process.cmdline()):
                return True
    return False


def is_complete(path: Path) -> bool:
    """Return whether the file is a dvc.lock to its last line: every stage with its command, every path with its hash.

    A cut within `md5: 6e10...` leaves a number, or a hash that is too short.
    """
    try:
        document = params.parse(path)
        stages = list(document["stages"].values())
        entries = [entry for stage in stages for kind in ("deps", "outs") for entry in stage.get(kind, [])]
        return bool(stages) and document["schema"] == "2.0" and all(
            isinstance(stage["cmd"], str) and all(isinstance(p, dict) for p in dict(stage.get("params", {})).values())
            for stage in stages
        ) and all(
            isinstance(entry["path"], str)
            and re.fullmatch(r"[0-9a-f]{32}(\.dir)?", entry["md5"])
            and entry["hash"] == "md5"
            and isinstance(entry["size"], int)
            for entry in entries
        )  # fmt: skip
    except (params.ParamsError, KeyError, TypeError, ValueError, AttributeError):
        return False


def plan(preset: str | None = None, data: str | None = None) -> Params:
    """Check these values, write them into params.yaml, print what will be trained, and return the parameters.

    data: the folder of the image files; those that the preset reads must be there. Raises ParamsError and DataError.
    """
    root = params.find_root()
    for name in ("artifacts", "reports"):
        if not (place := (root / name).resolve()).is_relative_to(root.resolve()):
            fault = f"a link to {place}, but DVC has no outputs outside the repository"
            raise params.ParamsError(f"{root / name}: {fault}; remove it, and clone the repository to that disk")
    values = {"preset": preset, "folder": data and os.path.expanduser(data)}
    run = params.load(preset or None, root)
    folder = root / (values["folder"] or run.data)
    where = f"{root / 'params.yaml'}: folder"
    if data or run.images.source != "builtin":
        if not os.path.isdir(folder):  # Path.is_dir raises on a name that no folder can have
            raise params.ParamsError(
                f"{where}: there is no {folder}; name the folder that holds the image files "
                "(data/README.md says which), or `folder: data`, which is always there"
            )
        if folder.resolve().is_relative_to((root / "artifacts").resolve()):
            raise params.ParamsError(f"{where}: runs delete files in {folder}; move the image files to another folder")
    files_read(run.images.source, folder, run.modalities)
    params.switch(root, **{key: value for key, value in values.items() if value})
    run = params.load(root=root)
    for name in run.models:
        training = run.training[name]
        print(
            f"preset {run.preset}: {name} on {' and '.join(run.images.titles.values())}, "
            f"{len(training.seeds)} seed(s), {training.steps:,} steps of {training.batch_size} pairs",
            flush=True,
        )
    return run


def notebook_stages(root: Path) -> list[str]:
    """Return the stages of dvc.yaml that run a notebook. They depend on other stages only, not on each other."""
    document = params.parse(root / "dvc.yaml")
    return [name for name, stage in document["stages"].items() if " notebook " in stage["cmd"]]


def commands(root: Path, targets: list[str]) -> list[list[list[str]]]:
    """Return the arguments of `dvc` in groups: the commands of one group run at the same time.

    The classifiers and the models need the images only, and each of these stages leaves a core idle at its end. A
    notebook computes little and uses one core. So these run in two processes. The last command runs all other stages,
    and checks that all results are up to date.
    """
    names = notebook_stages(root)
    if targets not in ([], ["metrics"]) or len(names) < 2:
        return [[["repro", *targets]]]
    once = ["--wait-for-lock", "repro", "--single-item"]
    numbers = [[["repro", "data"]], [[*once, "classifiers"], [*once, "train"]], [["repro", "metrics"]]]
    return numbers if targets else [*numbers, [[*once, *names[i::2]] for i in (0, 1)], [["repro"]]]


def run_group(root: Path, group: list[list[str]], lock: int) -> tuple[int, bool]:
    """Run `dvc` with each list of arguments at the same time. Return the first failing exit status, and if it stopped.

    SIGTERM and SIGHUP, which reach this process only, end what DVC runs.
    lock: the file descriptor of the lock on the checkout, which the processes hold, too.
    """
    stopped = terminated = False

    def terminate(*_: Any) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:  # such as SIGHUP under `nohup`
            signal.signal(number, terminate)
    with surroundings.own_settings():
        environment = surroundings.for_dvc(root)
        processes = [
            subprocess.Popen([sys.executable, "-m", "dvc", *words], cwd=root, env=environment, pass_fds=[lock])
            for words in group
        ]
        statuses = []
        for process in processes:
            while True:
                try:
                    statuses.append(process.wait(0.5 if terminated else None))
                    break
                except KeyboardInterrupt:  # the terminal sent it to all processes; let DVC finish its files
                    stopped = True
                except subprocess.TimeoutExpired:  # DVC ends after the stage that it runs
                    end_stages(processes)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return next((status for status in statuses if status), 0), stopped


def end_stages(processes: Iterable[subprocess.Popen]) -> None:
    """Terminate all that these processes of DVC have started."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.terminate()


def repro(targets: list[str], preset: str | None, data: str | None) -> int:
    """Run `dvc repro`; return its status, 130 after Ctrl-C. Raises ParamsError, DataError; SystemExit if one runs."""
    root = params.find_root()
    (root / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    with open(root / ".dvc" / "tmp" / "repro.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{root}: another `make repro` is running here; wait for it or stop it first") from None
        run = plan(preset, data)
        if any(target.startswith("ablations") for target in targets) and {*run.modalities} != {"mnist", "svhn"}:
            cure = "for your own run `python ablations/ablate.py <name>` for each of ablations.changes"
            fault = f"found {', '.join(run.modalities)}; `make ablations` is about mnist and svhn"
            raise params.ParamsError(f"params.yaml: modalities: {fault}; {cure}")
        if not targets and "qmvae" not in run.models:  # all figures and notebooks read it
            cure = "add it, or make the numbers only: `python -m qmvae repro metrics`"
            raise params.ParamsError(f"presets.{run.preset}.models: {run.models} lacks qmvae; {cure}")
        restore(root)
        for group in commands(root, targets):
            status, stopped = run_group(root, group, lock.fileno())
            if status or stopped:
                break
    if stopped:
        print("\nstopped; `make repro` continues from here, a model from its last checkpoint", file=sys.stderr)
    return 130 if stopped else status
