"""How the time of a training step grows with the batch, the modalities and the images, on a log plot.

`make bench` runs this after throughput.py, whose way of timing it shares. Writes scaling-<device>.csv, .png and .pdf.
"""

import argparse
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from throughput import random_images, trainer, training_seconds

from qmvae import figures, files, params, training
from qmvae.params import Params

AXES = {"batch": [16, 32, 64, 128, 256, 512, 1024], "modalities": [2, 3, 4, 6], "images": [1_000, 10_000, 60_000]}
USUAL = {"batch": 128, "modalities": 2, "images": 10_000}


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


def measurements(run: Params, name: str, steps: int, device) -> Iterator[dict]:
    for axis, values in AXES.items():
        for value in values:
            at = USUAL | {axis: value}
            here = with_modalities(run, name, at["modalities"])
            dataset = random_images(list(here.modalities), at["images"], device)
            train = trainer(here, name, dataset, at["batch"])
            spent = training_seconds(train, steps, device)
            yield {"model": name, "axis": axis, "value": value, "milliseconds a step": 1000 * spent / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps of a timed run (default: %(default)s)")
    arguments = parser.parse_args()
    run = params.load("subset")
    device = training.device_of(run)
    frame = pd.DataFrame(row for name in run.models for row in measurements(run, name, arguments.steps, device))
    folder = run.root / "reports" / "bench"
    files.save_text(folder / f"scaling-{device.type}.csv", frame.to_csv(index=False, float_format="%.2f"))

    with sns.axes_style("ticks"), sns.color_palette("colorblind"):
        figure, panels = plt.subplots(1, len(AXES), figsize=(figures.WIDTH, 2.6), layout="constrained", sharey=True)
        for panel, axis in zip(panels, AXES, strict=True):
            part = frame[frame.axis == axis]
            sns.lineplot(part, x="value", y="milliseconds a step", hue="model", style="model", markers=True, ax=panel)
            panel.set(xscale="log", yscale="log", xlabel=axis)
            panel.get_legend().remove()
        panels[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        sns.despine(figure)
    figures.save(figure, folder, f"scaling-{device.type}")


if __name__ == "__main__":
    main()
