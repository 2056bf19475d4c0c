"""How the time of a training step grows with the batch, the modalities, the images and the seeds, on a log plot.

Seeds train at the same time, each in a process of its own; they share the threads. The time is that of one step of
each. A GPU trains seeds one after another, so that it has no such panel.

Writes scaling-<device>.csv, .png and .pdf.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from timing import at_once, images

from qmvae.pipeline import artifacts, datasets, files, params
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import Params
from qmvae.report import figures
from qmvae.report.tables import MODELS

AXES = {
    "batch": [16, 32, 64, 128, 256, 512, 1024],
    "modalities": [2, 3, 4, 6],
    "images": [1_000, 10_000, 60_000],
    "seeds": [1, 2, 3, 5],
}
USUAL = {"batch": 128, "modalities": 2, "images": 10_000, "seeds": 1}


def with_modalities(run: Params, name: str, count: int) -> Params:
    """Return the parameters for `count` modalities: the paper's two, then those two again under other names."""
    names = [*run.modalities, *(f"{m}{i}" for i in range(2, count) for m in run.modalities)][:count]
    original = {new: new.rstrip("0123456789") for new in names}
    section = getattr(run, name)
    changes = {
        key: {new: value[old] for new, old in original.items()} for key, value in section if isinstance(value, dict)
    }
    modalities = {new: run.modalities[old] for new, old in original.items()}
    return run.model_copy(update={name: section.model_copy(update=changes), "modalities": modalities})


def measurements(name: str, axes: dict[str, list[int]], duration: float) -> Iterator[dict]:
    """Yield the rows of one model."""
    for axis, values in axes.items():
        for value in values:
            at = USUAL | {axis: value}
            run = with_modalities(params.load("subset"), name, at["modalities"])
            threads = max(1, torch.get_num_threads() // at["seeds"])
            with tempfile.TemporaryDirectory() as folder:
                datasets.save_dataset(images(list(run.modalities), at["images"]), Path(folder))
                step = at_once(at["seeds"], run, name, Path(folder), at["batch"], threads, duration)
            yield {"model": name, "axis": axis, "value": value, "milliseconds a step": 1000 * step}


def draw(frame: pd.DataFrame, axes: dict[str, list[int]], folder: Path, name: str) -> None:
    """Draw one panel for each axis."""
    frame = frame.replace({"model": MODELS})
    with sns.axes_style("ticks"), sns.color_palette("colorblind"):
        figure, panels = plt.subplots(1, len(axes), figsize=(figures.WIDTH, 2.6), layout="constrained", sharey=True)
        for panel, (axis, values) in zip(panels, axes.items(), strict=True):
            part = frame[frame.axis == axis]
            sns.lineplot(part, x="value", y="milliseconds a step", hue="model", style="model", markers=True, ax=panel)
            panel.set(xscale="log", yscale="log", xlabel=axis)
            ticks = values[::3] if len(values) > 4 else values
            panel.set_xticks(ticks, [f"{value:,}" for value in ticks])
            panel.set_xticks([], minor=True)
            panel.get_legend().remove()
        panels[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        sns.despine(figure)
    artifacts.write_figure(figure, folder, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement (default: %(default)s)")
    parser.add_argument("--models", nargs="+", help="which models (default: those of params.yaml)")
    arguments = parser.parse_args()
    run = params.load("subset")
    device = resolve_device(run)
    axes = {axis: values for axis, values in AXES.items() if axis != "seeds" or device.type == "cpu"}
    models, rows = arguments.models or run.models, []
    for name in models:
        for row in measurements(name, axes, arguments.seconds):
            rows.append(row)
            print(row, flush=True)
    frame, folder = pd.DataFrame(rows), run.root / "reports" / "bench"
    files.save_text(folder / f"scaling-{device.type}.csv", frame.to_csv(index=False, float_format="%.2f"))
    draw(frame, axes, folder, f"scaling-{device.type}")


if __name__ == "__main__":
    main()
