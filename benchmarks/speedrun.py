"""Time to accuracy of Q-MVAE on the images of `subset`: what it reaches in runs of more and more steps.

Each run is a whole one with its own cooldown. Some steps of the paper's own protocol, with its constant learning rate
1e-4, stand beside them. Needs images and classifiers: `make repro PRESET=subset DATA=...` first. The minutes are
processor time of all threads, so that other work on the machine does not count; on a GPU they are wall time.

Writes reports/bench/speedrun-<device>.csv after each run, continues where it was stopped, and writes the table as .md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from timing import markdown, save

from qmvae.data.dataset import Dataset
from qmvae.evaluate.cross_generation import cross_generation, sample_indices
from qmvae.pipeline import artifacts, checkpoint, files, params
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import Params
from qmvae.pipeline.sections import Training
from qmvae.pipeline.training import train_seed

RUNS = ["500x128", "1000x64", "2000x32", "1000x128", "2000x64", "4000x32", "2000x128", "4000x64"]
COLUMNS = ["protocol", "steps", "batch", "learning rate", "minutes", "MNIST to SVHN", "SVHN to MNIST", "threads"]


def measure(run: Params, protocol: str, settings: Training, dataset: Dataset) -> dict:
    """Train with these settings and return the row: minutes of training, accuracies in per cent in both directions."""
    run = run.model_copy(update={"training": run.training | {"qmvae": settings}})
    device = dataset.train.pairs.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        train_seed(run, "qmvae", run.training["qmvae"].seeds[0], dataset, Path(folder), fingerprint="")
        minutes = (clock() - began) / 60
        model = checkpoint.load_model(folder, device)
    standard, strong = (artifacts.load_classifiers(run, dataset, kind, device) for kind in ("standard", "strong"))
    seed, (first, second) = run.evaluation.seed, list(dataset.shapes)[:2]
    conditions = sample_indices(len(dataset.test.pairs), run.evaluation.conditions, seed, device)
    scores = [
        100 * cross_generation(model, standard[b], strong[b], dataset, a, b, conditions, seed).accuracy
        for a, b in ((first, second), (second, first))
    ]
    about = [protocol, settings.steps, settings.batch_size, settings.lr, minutes]
    return dict(zip(COLUMNS, [*about, *scores, torch.get_num_threads()], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="subset", help="whose images and classifiers (default: %(default)s)")
    parser.add_argument(
        "--runs", nargs="+", default=RUNS, help="our runs, as <steps>x<batch size> (default: %(default)s)"
    )
    parser.add_argument("--paper-steps", type=int, default=2000, help="of the paper's protocol (default: %(default)s)")
    parser.add_argument("--lr", type=float, help="the learning rate of our runs; the preset's if not given")
    arguments = parser.parse_args()
    run = params.load(arguments.preset)
    device = resolve_device(run)
    dataset = artifacts.load_dataset(run, device)
    usual = run.training["qmvae"]
    paper = usual.model_copy(update={"lr": 1e-4, "batch_size": 128, "cooldown": 0.0, "steps": arguments.paper_steps})
    plan = [("the paper's", paper)]
    for steps, batch_size in (map(int, text.split("x")) for text in arguments.runs):
        changes = {"steps": steps, "batch_size": batch_size, "lr": arguments.lr or usual.lr}
        plan.append(("this preset's", usual.model_copy(update=changes)))
    path = run.root / "reports" / "bench" / f"speedrun-{device.type}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    # the libraries start with the first steps
    measure(run, "warm-up", usual.model_copy(update={"steps": 20}), dataset)
    for protocol, settings in plan:
        key = [protocol, settings.steps, settings.batch_size, settings.lr]
        if key not in ([row[column] for column in COLUMNS[:4]] for row in rows):
            rows.append(measure(run, protocol, settings, dataset))
            files.save_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).sort_values(["protocol", "minutes"])
    save(f"speedrun-{device.type}.md", markdown(table.map(lambda x: f"{x:.4g}" if isinstance(x, float) else x), False))


if __name__ == "__main__":
    main()
