"""Time to accuracy: what Q-MVAE reaches on the images of `subset` in runs of more and more steps, each a whole run with
its own cooldown, and after some steps of the paper's own protocol (constant learning rate 1e-4).

Needs the images and judges: `make repro PRESET=subset DATA=...` first. CPU time of all threads is counted,
not time on the clock, so that other work on the machine does not count; on a GPU it is the clock. Writes
reports/bench/speedrun-<device>.csv after each run, goes on where it was stopped, and in the end the table as .md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from qmvae import checkpoint, data, files, params, training
from qmvae.evaluation import Examiner, cross_generation
from qmvae.params import Params

RUNS = ["500x128", "1000x64", "2000x32", "1000x128", "2000x64", "4000x32", "2000x128", "4000x64"]
COLUMNS = ["protocol", "steps", "batch", "learning rate", "minutes", "MNIST to SVHN", "SVHN to MNIST", "threads"]


def measure(run: Params, protocol: str, settings: params.Training, examiner: Examiner) -> dict:
    """Train with these settings and judge both directions; the minutes are of training alone."""
    run = run.model_copy(update={"training": run.training | {"qmvae": settings}})
    dataset, device = examiner.dataset, examiner.dataset.train.pairs.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        training.train(run, "qmvae", {run.seeds[0]: Path(folder)}, dataset, protocol)
        minutes = (clock() - began) / 60
        model = checkpoint.load(folder, str(device))
    names = list(dataset.shapes)
    scores = [
        cross_generation(
            model, examiner.judges[b], examiner.strong[b], dataset.test, a, b, examiner.conditions, run.evaluation.seed
        ).accuracy
        for a, b in (names[:2], names[1::-1])
    ]
    about = [protocol, settings.steps, settings.batch_size, settings.lr, minutes]
    return dict(zip(COLUMNS, [*about, *(100 * score for score in scores), torch.get_num_threads()], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="subset", help="whose images and judges (default: %(default)s)")
    parser.add_argument(
        "--runs", nargs="+", default=RUNS, help="our runs, as <steps>x<batch size> (default: %(default)s)"
    )
    parser.add_argument("--paper-steps", type=int, default=2000, help="of the paper's protocol (default: %(default)s)")
    parser.add_argument("--lr", type=float, help="the learning rate of our runs; the preset's if not given")
    arguments = parser.parse_args()
    run = params.load(arguments.preset)
    device = training.device_of(run)
    examiner = Examiner(run, data.load(run, device))
    usual = run.training["qmvae"]
    paper = usual.model_copy(update={"lr": 1e-4, "batch_size": 128, "cooldown": 0.0, "steps": arguments.paper_steps})
    plan = [("the paper's", paper)]
    for steps, batch_size in (map(int, text.split("x")) for text in arguments.runs):
        changes = {"steps": steps, "batch_size": batch_size, "lr": arguments.lr or usual.lr}
        plan.append(("this preset's", usual.model_copy(update=changes)))
    path = run.root / "reports" / "bench" / f"speedrun-{device.type}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    if device.type == "cuda":  # whose libraries start with the first steps
        measure(run, "warm-up", usual.model_copy(update={"steps": 20}), examiner)
    for protocol, settings in plan:
        key = [protocol, settings.steps, settings.batch_size, settings.lr]
        if key not in ([row[column] for column in COLUMNS[:4]] for row in rows):
            rows.append(measure(run, protocol, settings, examiner))
            files.save_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
            print(rows[-1], flush=True)
    text = pd.DataFrame(rows).sort_values(["protocol", "minutes"]).to_markdown(index=False, floatfmt=".3g") + "\n"
    print(text)
    files.save_text(path.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
