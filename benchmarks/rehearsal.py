"""A dress rehearsal of the preset `paper` at full size, without its images: the time and memory of each stage.

Images of noise in the official numbers (60,000 / 10,000 and 73,257 / 26,032, official class counts), so 1,682,040
training pairs and all 300,000 test pairs as conditions; some steps of each model instead of 131,410.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch
import yaml
from throughput import describe

from qmvae import data, files, params, training

COUNTS = {  # images of the digits 0 to 9
    ("train", "mnist"): [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    ("test", "mnist"): [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ("train", "svhn"): [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
    ("test", "svhn"): [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595],
}
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}


def noise(multiplier: int) -> data.Dataset:
    """A data set in the official numbers; its labels are in random order, its images say nothing."""
    generator = torch.Generator().manual_seed(0)
    splits = []
    for part in ("train", "test"):
        labels = {m: torch.repeat_interleave(torch.arange(10), torch.tensor(COUNTS[part, m])) for m in SHAPES}
        labels = {m: x[torch.randperm(len(x), generator=generator)] for m, x in labels.items()}
        images = {
            m: torch.randint(256, (len(labels[m]), *shape), generator=generator, dtype=torch.uint8)
            for m, shape in SHAPES.items()
        }
        splits.append(data.Split(images, labels, data.pair(labels, multiplier, generator)))
    return data.Dataset(*splits, titles={"mnist": "noise", "svhn": "noise"})


def write(root: Path) -> str:
    """Make the images of the rehearsal in `root`, and say what they are."""
    run = params.load("paper", root)
    dataset = noise(run.pairs.multiplier)
    data.save(dataset, run)
    size = sum(x.nbytes for split in (dataset.train, dataset.test) for x in split.images.values()) / 2**20
    counts = f"{len(dataset.train.pairs):,} training pairs, {len(dataset.test.pairs):,} test pairs"
    return f"{counts}; the images are {size:,.0f} MiB of uint8"


STAGE = """import runpy, sys, torch
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
open("gpu-memory", "w").write(str(torch.cuda.max_memory_reserved()))
"""


def measured(root: Path, *arguments: str) -> tuple[float, float, float]:
    """Run `python -m ...` in `root`: its seconds and the most memory that it held, the GPU's last, in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", STAGE, *arguments], cwd=root, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"rehearsal: python -m {' '.join(arguments)} failed")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_maxrss / 1024, int((root / "gpu-memory").read_text()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="training steps of a model (default: %(default)s)")
    parser.add_argument("--models", nargs="+", help="which models (default: those of params.yaml)")
    arguments = parser.parse_args()
    run = params.load("paper")
    document = yaml.safe_load((run.root / "params.yaml").read_text())
    models, device = arguments.models or run.models, training.device_of(run)
    seeds = run.seeds if device.type == "cuda" else [0]  # a CPU trains them one after another
    protocol = document["presets"]["paper"]
    protocol["training"] |= {"steps": arguments.steps, "seeds": seeds, "log_every": 10, "checkpoint_every": 100}
    protocol["judges"] |= {"epochs": 1, "strong_steps": arguments.steps}
    document |= {"preset": "paper", "models": models}

    columns = ["stage", "seconds", "memory, MiB", *(["GPU memory, MiB"] if device.type == "cuda" else [])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # Linux counts a parent's memory
            images = pool.submit(write, root).result()
        stages = [("qmvae.judges",), *((f"qmvae.{verb}", m) for m in models for verb in ("training", "evaluation"))]
        for stage in stages:
            rows.append([" ".join(stage), *(f"{number:,.0f}" for number in measured(root, *stage))][: len(columns)])
            print(*rows[-1], flush=True)
    steps = f"{arguments.steps} steps of {run.training['qmvae'].batch_size}, judges trained for one epoch"
    seeded = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    table = pd.DataFrame(rows, columns=columns)
    table = table.to_markdown(index=False, disable_numparse=True, colalign=["left", *["right"] * (len(columns) - 1)])
    text = f"{describe(device)}; {images}; {seeded}, {steps}\n\n{table}\n"
    files.save_text(run.root / "reports" / "bench" / f"rehearsal-{device.type}.md", text)


if __name__ == "__main__":
    main()
