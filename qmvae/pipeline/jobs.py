"""The jobs of a stage side by side: one process and one thread each, so that no thread waits for another.

On a CPU, two processes of one thread do more work than one process of two, and a busy core slows them in proportion.
In float32 the last bits of a gradient depend on the number of threads. With one thread they are the same everywhere.
"""

import os
import subprocess
import sys
import threading
import time

import psutil

MEMORY = 1.5 * 2**30  # bytes that a job may need


class JobError(RuntimeError):
    """A job failed; the message names it. Its own message came before."""


def workers() -> int:
    """Return how many jobs run at once: our cores divided by the threads of a job, fewer if memory is short.

    At least one. A job has as many threads as OMP_NUM_THREADS says, or one.
    """
    jobs = len(own_cores()) // (claimed_threads() or 1)
    return max(1, min(jobs, int(psutil.virtual_memory().available / MEMORY)))


def own_cores() -> set[int]:
    """Return the indices of the cores that this process may use: on a cluster, often a part of the machine's."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def claimed_threads() -> int:
    """Return how many threads OMP_NUM_THREADS asks for; 0 if it is unset, empty, or no number, as OpenMP reads it."""
    claimed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(claimed) if claimed.isdecimal() else 0


def one_thread() -> dict[str, str]:
    """Return the variable that gives a new process one thread; empty where the user asks for another number."""
    return {} if claimed_threads() else {"OMP_NUM_THREADS": "1"}


def side_by_side(jobs: list[list[str]]) -> None:
    """Run `python -m qmvae ...` for each list of arguments, in order, as many at once as `workers` says.

    The first job that fails ends the others. Raises JobError.
    """
    waiting = list(jobs)
    running: dict[subprocess.Popen, list[str]] = {}
    environment = os.environ | one_thread() | {"TQDM_DISABLE": "1", "QMVAE_JOB": "1"}
    room = workers()
    alive, ours = os.pipe()  # jobs see its other end closed when this process ends, see end_with_parent
    try:
        while waiting or running:
            while waiting and len(running) < room:
                job = waiting.pop(0)
                command = [sys.executable, "-m", "qmvae", *job]
                running[subprocess.Popen(command, env=environment, stdin=alive)] = job
            time.sleep(0.05)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                if process.returncode:
                    raise JobError(f"`python -m qmvae {' '.join(job)}` failed with exit status {process.returncode}")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        os.close(alive)
        os.close(ours)


def end_with_parent() -> None:
    """End this process when the one that started it as a job ends, however that happens."""

    def wait() -> None:
        os.read(0, 1)  # returns when the other end of the pipe is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
