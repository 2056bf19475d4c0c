"""What `make repro` runs: `dvc repro`, alone in its checkout, told how to go on, and mended after a kill.

`python -m qmvae.repro [--preset NAME] [--data FOLDER] [TARGET ...]` takes the switches of `python -m qmvae.params`.
DVC refuses a second run by itself, but only after params.yaml was switched under the first one. It writes dvc.lock and
its notes on who works on what in place, so that a kill at the wrong moment leaves half of them, and then DVC stops.
"""

import argparse
import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from dvc.exceptions import DvcException
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils import strictyaml

from qmvae import params


def mend(root: Path) -> None:
    """Put back the files of DVC that a kill can leave half-written; keep a copy of each dvc.lock that is whole."""
    notes = root / ".dvc" / "tmp" / "rwlock"
    if notes.exists() and not at_work(notes):
        time.sleep(0.5)  # unless a `dvc` of another shell is writing it right now
        if not at_work(notes):
            notes.unlink(missing_ok=True)
    for name in ("dvc.lock", "ablations/dvc.lock", "site/dvc.lock"):
        lock, copy = root / name, root / ".dvc" / "tmp" / f"{name.replace('/', '-')}.whole"
        if is_lock(lock):
            shutil.copyfile(lock, copy)
        elif lock.exists() and is_lock(copy):
            shutil.copyfile(copy, lock)
            print(f"{name}: cut short by the last run's end, put back as it was before that; some stages run again")
        elif lock.exists():
            lock.unlink()
            print(f"{name}: cut short, removed; `git checkout {name}` brings the committed one back")


def at_work(notes: Path) -> bool:
    """Whether a process in DVC's notes is a `dvc` that lives.

    DVC itself waits for a dead one that its parent has not asked for yet, and for a stranger with the same number.
    """
    try:
        modes = json.loads(notes.read_text(encoding="utf-8"))
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


def is_lock(path: Path) -> bool:
    """Whether DVC, which reads `md5: 6e1` as a number, will take the file for a dvc.lock with something in it."""
    try:
        return bool(strictyaml.load(str(path), COMPILED_LOCKFILE_SCHEMA)[0])
    except (FileNotFoundError, DvcException):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.repro", description=__doc__)
    parser.add_argument("targets", nargs="*", help="stages of dvc.yaml; all if none is given")
    parser.add_argument("--preset", help="write this preset into params.yaml")
    parser.add_argument("--data", help="write this data folder into params.yaml")
    arguments = parser.parse_args()
    try:
        root = params.find_root()
    except params.ParamsError as error:
        raise SystemExit(str(error)) from None
    (root / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    with open(root / ".dvc" / "tmp" / "repro.lock", "w") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{root}: another `make repro` is running here; wait for it or stop it first") from None
        params.plan(arguments.preset, arguments.data)
        mend(root)
        command = [sys.executable, "-m", "dvc", "repro", *arguments.targets]
        run = subprocess.Popen(command, cwd=root, pass_fds=[alone.fileno()])  # who holds the lock as long as it lives
        stopped = False
        while True:
            try:
                status = run.wait()
                break
            except KeyboardInterrupt:  # the terminal sent it to the whole family; let DVC put its things in order
                stopped = True
    if stopped:
        print("\nstopped; `make repro` goes on from here, a model from its last checkpoint", file=sys.stderr)
    raise SystemExit(130 if stopped else status)


if __name__ == "__main__":
    main()
