"""A project small enough for tests: archives of a few random images, and parameters that train in a second."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from qmvae import __main__ as command
from qmvae.pipeline import params
from qmvae.pipeline.stages import classifiers, data, evaluate, train

ROOT = Path(__file__).parents[1]
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
SHAPES = {"mnist": (16, 16), "svhn": (16, 16, 3)}


def write_archives(
    folder: Path, train: int = 120, test: int = 40, shapes: Mapping[str, tuple[int, ...]] = SHAPES, classes=range(10)
) -> None:
    """Write an archive for each modality in the documented form; a class is a bright square at its place, with noise.

    shapes: by modality (height, width) or (height, width, 3), at least 16 pixels each. classes: the labels, 32 at most.
    """
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in shapes.items():
        arrays = {}
        for split, count in (("train", train), ("test", test)):
            chosen = random.permutation(np.arange(count) % len(classes))
            images = random.integers(0, 60, (count, *shape))
            for image, k in zip(images, chosen, strict=True):
                row, column = divmod(int(k) % 16, 4)
                image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 180 if k < 16 else 90
            arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": np.array(classes)[chosen]}
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def write_params(folder: Path, **training) -> None:
    """Write params.yaml: the committed one, with `tiny` as its only preset, and a small MMVAE and DMVAE."""
    document = copy.deepcopy(COMMITTED)
    subset = document["presets"]["subset"]
    subset["training"] = dict(
        seeds=[0, 1], steps=30, batch_size=16, lr=0.001, precision="float32", compile="off", cooldown=0.5,
        checkpoint_every=10, log_every=5,
    ) | training  # fmt: skip
    subset |= {"overrides": {}, "models": ["qmvae"]}
    subset["classifiers"] |= {"epochs": 1, "strong_steps": 5, "batch_size": 32}
    subset["evaluation"] |= {"conditions": 100, "probe_pairs": 100}
    document["mmvae"]["samples"], document["dmvae"]["discriminator"] = 3, 64
    document |= {"preset": "tiny", "folder": "data", "device": "cpu", "presets": {"tiny": subset}}
    (folder / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def write_project(folder: Path, **training) -> Path:
    write_params(folder, **training)
    write_archives(folder / "data")
    return folder


def make_data(folder: Path):
    """Write the images and pairs of the project in `folder`, and return its parameters."""
    run = params.load(root=folder)
    data.run(run)
    return run


def jobs_here(monkeypatch) -> None:
    """Let the stages run their jobs in this process, where imports cost nothing, not in processes side by side."""

    def here(jobs: list[list[str]]) -> None:
        for job in jobs:
            command.run(command.parser().parse_args(job))

    for stage in (classifiers, train, evaluate):
        monkeypatch.setattr(stage, "side_by_side", here)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, in which other folders find the package, too."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | more
