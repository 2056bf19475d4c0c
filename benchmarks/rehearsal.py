"""A dress rehearsal of the preset `paper` at full size, without its images: the time and memory of each stage.

The images are noise in the official numbers (60,000 / 10,000 and 73,257 / 26,032, official class counts). That makes
1,682,040 training pairs, and all 300,000 test pairs are conditions. Each model trains some steps instead of 131,410. On
noise, MMVAE with K = 30 decodes about 9 samples with a gradient, on images about 3.
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
from ruamel.yaml import YAML
from timing import describe, markdown, save

from qmvae.data.dataset import Dataset, Split, pair_by_class
from qmvae.pipeline import datasets, params
from qmvae.pipeline.device import resolve_device

COUNTS = {  # images of the digits 0 to 9
    ("train", "mnist"): [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    ("test", "mnist"): [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ("train", "svhn"): [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
    ("test", "svhn"): [1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595],
}
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}


def noise(multiplier: int) -> Dataset:
    """Return a data set of noise in the official numbers, with labels in random order."""
    generator = torch.Generator().manual_seed(0)
    splits = []
    for part in ("train", "test"):
        labels = {m: torch.repeat_interleave(torch.arange(10), torch.tensor(COUNTS[part, m])) for m in SHAPES}
        labels = {m: x[torch.randperm(len(x), generator=generator)] for m, x in labels.items()}
        images = {
            m: torch.randint(256, (len(labels[m]), *shape), generator=generator, dtype=torch.uint8)
            for m, shape in SHAPES.items()
        }
        splits.append(Split(images, labels, pair_by_class(labels, multiplier, generator)))
    return Dataset(*splits, titles={"mnist": "noise", "svhn": "noise"})


def write(root: Path) -> str:
    """Write the images of the rehearsal in `root`, and return a description of them."""
    run = params.load("paper", root)
    dataset = noise(run.pairs.multiplier)
    datasets.save_dataset(dataset, run.artifacts / "data")
    size = sum(x.nbytes for split in (dataset.train, dataset.test) for x in split.images.values()) / 2**20
    counts = f"{len(dataset.train.pairs):,} training pairs, {len(dataset.test.pairs):,} test pairs"
    return f"{counts}; the images are {size:,.0f} MiB of uint8"


STAGE = """import runpy, torch
try:
    runpy.run_module("qmvae", run_name="__main__", alter_sys=True)
finally:
    open("gpu-memory", "w").write(str(torch.cuda.max_memory_reserved()))
"""


def measured(root: Path, *arguments: str) -> tuple[float, float, float]:
    """Run `python -m qmvae ...` in `root`.

    Return its seconds, and in MiB the most memory that one of its processes held and the most of the GPU's.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", STAGE, *arguments], cwd=root, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"rehearsal: python -m qmvae {' '.join(arguments)} failed")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_maxrss / 1024, int((root / "gpu-memory").read_text()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="training steps of a model (default: %(default)s)")
    parser.add_argument("--models", nargs="+", help="which models (default: those of params.yaml)")
    arguments = parser.parse_args()
    run = params.load("paper")
    yaml = YAML(typ="safe", pure=True)
    document = params.parse(run.root / "params.yaml", yaml)
    models, device = arguments.models or run.models, resolve_device(run)
    seeds = run.training["qmvae"].seeds if device.type == "cuda" else [0]
    protocol = document["presets"]["paper"]
    for changes in protocol["overrides"].values():
        changes.pop("seeds", None)
    protocol["training"] |= {"steps": arguments.steps, "seeds": seeds, "log_every": 10, "checkpoint_every": 100}
    protocol["classifiers"] |= {"epochs": 1, "strong_steps": arguments.steps}
    protocol["models"] = models
    document["preset"] = "paper"

    columns = ["stage", "seconds", "memory, MiB", *(["GPU memory, MiB"] if device.type == "cuda" else [])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yaml.dump(document, root / "params.yaml")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # Linux counts a parent's memory
            images = pool.submit(write, root).result()
        stages = [("classifiers",), *((verb, m) for m in models for verb in ("train", "evaluate"))]
        for stage in stages:
            rows.append([" ".join(stage), *(f"{number:,.0f}" for number in measured(root, *stage))][: len(columns)])
            print(*rows[-1], flush=True)
    steps = f"{arguments.steps} steps of {run.training['qmvae'].batch_size}, classifiers trained for one epoch"
    seeded = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    table = markdown(pd.DataFrame(rows, columns=columns), index=False)
    save(f"rehearsal-{device.type}.md", f"{describe(device)}; {images}; {seeded}, {steps}\n\n{table}")


if __name__ == "__main__":
    main()
