"""How the time of a training step grows with the batch, the modalities, the images and the seeds, on a log plot.

Seeds are trained at the same time, and the time is that of a step of all of them: on a GPU in one process, as training
does it, on a CPU each in a process of its own, which share the threads.

`make bench` runs this after throughput.py, whose way of timing it shares. Writes scaling-<device>.csv, .png and .pdf.
"""

import argparse
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from throughput import random_images, trainer, training_seconds

from qmvae import figures, files, params, tables, training
from qmvae.params import Params

AXES = {
    "batch": [16, 32, 64, 128, 256, 512, 1024],
    "modalities": [2, 3, 4, 6],
    "images": [1_000, 10_000, 60_000],
    "seeds": [1, 2, 3, 5],
}
USUAL = {"batch": 128, "modalities": 2, "images": 10_000, "seeds": 1}


def with_modalities(run: Params, name: str, count: int) -> Params:
    """The parameters for `count` modalities: the paper's two, then those two again under other names."""
    names = [*run.modalities, *(f"{m}{i}" for i in range(2, count) for m in run.modalities)][:count]
    original = {new: new.rstrip("0123456789") for new in names}
    section = getattr(run, name)
    changes = {
        key: {new: value[old] for new, old in original.items()} for key, value in section if isinstance(value, dict)
    }
    modalities = {new: run.modalities[old] for new, old in original.items()}
    return run.model_copy(update={name: section.model_copy(update=changes), "modalities": modalities})


def milliseconds(name: str, at: dict, seeds: int, steps: int, threads: int) -> float:
    """What a step takes with the batch, modalities and images of `at`, for so many seeds in this process."""
    torch.set_num_threads(threads)
    run = with_modalities(params.load("subset"), name, at["modalities"])
    device = training.device_of(run)
    dataset = random_images(list(run.modalities), at["images"], device)
    return 1000 * training_seconds(trainer(run, name, dataset, at["batch"], seeds), steps, device) / steps


def measurements(name: str, steps: int, device: torch.device) -> Iterator[dict]:
    for axis, values in AXES.items():
        for value in values:
            at = USUAL | {axis: value}
            processes = 1 if device.type == "cuda" else at["seeds"]
            with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
                for count in (1, steps):  # the first time, all processes start
                    threads = max(1, torch.get_num_threads() // processes)
                    task = (milliseconds, name, at, at["seeds"] // processes, count, threads)
                    found = [future.result() for future in [pool.submit(*task) for _ in range(processes)]]
            yield {"model": name, "axis": axis, "value": value, "milliseconds a step": sum(found) / processes}


def draw(frame: pd.DataFrame, folder: Path, name: str) -> None:
    frame = frame.replace({"model": tables.MODELS})
    with sns.axes_style("ticks"), sns.color_palette("colorblind"):
        figure, panels = plt.subplots(1, len(AXES), figsize=(figures.WIDTH, 2.6), layout="constrained", sharey=True)
        for panel, (axis, values) in zip(panels, AXES.items(), strict=True):
            part = frame[frame.axis == axis]
            sns.lineplot(part, x="value", y="milliseconds a step", hue="model", style="model", markers=True, ax=panel)
            panel.set(xscale="log", yscale="log", xlabel=axis)
            ticks = values[::3] if len(values) > 4 else values
            panel.set_xticks(ticks, [f"{value:,}" for value in ticks])
            panel.set_xticks([], minor=True)
            panel.get_legend().remove()
        panels[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        sns.despine(figure)
    figures.save(figure, folder, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="steps of a timed run (default: 20, on a GPU 500)")
    arguments = parser.parse_args()
    run = params.load("subset")
    device = training.device_of(run)
    steps = arguments.steps or (500 if device.type == "cuda" else 20)
    frame = pd.DataFrame(row for name in run.models for row in measurements(name, steps, device))
    folder = run.root / "reports" / "bench"
    files.save_text(folder / f"scaling-{device.type}.csv", frame.to_csv(index=False, float_format="%.2f"))
    draw(frame, folder, f"scaling-{device.type}")


if __name__ == "__main__":
    main()
