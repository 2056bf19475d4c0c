"""A training step of Q-MVAE alone, beside one busy process, and beside a second training process.

The steps are those of `quick` and `subset` (batch and precision) on the built-in images. There are three choices of
threads:
  one       what `qmvae.pipeline.jobs` gives a float32 job, and each of several jobs side by side
  all       torch's default
  adapting  `FreeThreads("bfloat16")`, which follows the load of other processes
Each measured job is a fresh process, since torch takes its thread settings when it starts. It trains WARM seconds
before its clock starts, so that adapting threads have adapted. All choices take turns in each round. Every ratio is the
quotient of the two times that the table prints. Run it on a quiet machine. Writes contention.md and the rounds as csv.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from timing import compared, describe, images, markdown, save, training

from qmvae.pipeline import datasets, files, params
from qmvae.pipeline.threads import FreeThreads
from qmvae.train import resolve_precision

WARM = 4.0  # seconds; FreeThreads looks at the load every two seconds
PRESETS = ("quick", "subset")
THREADS = ("one", "all", "adapting")
NEIGHBOURS = ("alone", "beside one busy process", "two training processes")
REFERENCE = "alone, all threads"


def job(preset: str, threads: str, folder: Path, duration: float) -> None:
    """Train, and print the milliseconds a step over the last `duration` seconds.

    Waits for a line on standard input first, so that two jobs start at once.
    """
    run = params.load(preset)
    if threads == "one":
        torch.set_num_threads(1)
    dataset = datasets.load_dataset(folder, run.modalities)
    steps = training(run, "qmvae", dataset.train)
    next(steps)
    print("ready", flush=True)
    sys.stdin.readline()
    adapting = FreeThreads("bfloat16") if threads == "adapting" else None
    begin, start, count = time.perf_counter(), 0.0, 0
    while not start or time.perf_counter() - start < duration:
        next(steps)
        count += 1
        if adapting:
            adapting.adapt()
        if not start and time.perf_counter() - begin >= WARM:
            start, count = time.perf_counter(), 0
    print(1000 * (time.perf_counter() - start) / count, flush=True)


@contextlib.contextmanager
def busy(count: int):
    """Keep `count` cores busy, each with a process that loops until this process ends or leaves the block."""
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(preset: str, threads: str, neighbour: str, folder: Path, duration: float) -> float:
    """Return the milliseconds a step in one choice of threads beside one kind of neighbour."""
    command = [sys.executable, __file__, "--job", preset, threads, str(folder), str(duration)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    count = 2 if neighbour == "two training processes" else 1
    jobs = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        for process in jobs:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"contention: {' '.join(command)} failed")
        with busy(neighbour == "beside one busy process"):
            for process in jobs:
                process.stdin.write("\n")
                process.stdin.flush()
            return sum(float(process.stdout.readline()) for process in jobs) / count
    finally:
        for process in jobs:
            process.kill()
            process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="timed in each cell (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        preset, threads, where, duration = arguments.job
        return job(preset, threads, Path(where), float(duration))
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        datasets.save_dataset(images(list(params.load("quick").modalities), 10_000), Path(folder))
        for i in range(arguments.rounds):
            for preset in PRESETS:
                for neighbour in NEIGHBOURS:
                    for threads in THREADS:
                        step = measure(preset, threads, neighbour, Path(folder), arguments.seconds)
                        name = f"{threads} thread{'' if threads == 'one' else 's'}"
                        rows.append({"round": i, "preset": preset, "case": f"{neighbour}, {name}", "ms a step": step})
                        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    about = f"{describe(torch.device('cpu'))}; load average before {load:.1f}"
    text = f"{about}; medians of {arguments.rounds} rounds of {arguments.seconds:g} seconds."
    for preset in PRESETS:
        settings = params.load(preset).training["qmvae"]
        order = list(dict.fromkeys(frame["case"]))
        rounds = frame[frame.preset == preset].pivot(index="round", columns="case", values="ms a step")[order]
        rounds = rounds.add_prefix(f"{preset}: ")
        precision = resolve_precision(settings.precision, torch.device("cpu"))
        text += f"\n\nQ-MVAE, as in `{preset}`: batches of {settings.batch_size}, {precision}\n\n"
        text += markdown(compared(rounds, f"{preset}: {REFERENCE}", "ms a step")).rstrip()
    files.save_text(params.find_root() / "reports" / "bench" / "contention.csv", frame.to_csv(index=False))
    return save("contention.md", text + "\n")


if __name__ == "__main__":
    main()
