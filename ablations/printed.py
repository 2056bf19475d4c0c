"""Train Q-MVAE exactly as the paper prints it, and evaluate it on the way: reports/subset/printed.json.

The objective is Eq. 20 with all weights 1, the learning rate 1e-4 without a cooldown, the length 10 epochs of the
paper's 1,682,040 pairs, which are 131,410 steps of 128 (section 4.1). `python ablations/printed.py`, hours on a CPU.
"""

from pathlib import Path

from qmvae.data.dataset import Dataset
from qmvae.pipeline import artifacts, checkpoint, files, messages, params, training
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.stages.evaluate import make_evaluator

SEED, STEPS = 0, 131_410
KEPT = 4_000, 16_000, 65_000  # steps at which the model is evaluated, too
SETTINGS = {"steps": STEPS, "batch_size": 128, "lr": 1e-4, "cooldown": 0.0, "seeds": [SEED]}
INTERVALS = {"checkpoint_every": 1000, "log_every": 500}


def as_printed(run: params.Params) -> params.Params:
    """Return the run with the objective and the training of the paper's text."""
    section = run.qmvae.changed("qmvae", {"objective": "printed"})
    settings = run.training["qmvae"].changed("training", SETTINGS | INTERVALS)
    return run.model_copy(update={"qmvae": section, "training": run.training | {"qmvae": settings}})


def train(run: params.Params, dataset: Dataset, folder: Path) -> None:
    """Train from the last checkpoint on. Raises TrainingError and FileError."""
    folder.mkdir(parents=True, exist_ok=True)
    training.train_seed(run, "qmvae", SEED, dataset, folder, training.fingerprint(run, "qmvae", SEED), KEPT)


def evaluate(run: params.Params, dataset: Dataset, folder: Path) -> None:
    """Write the measures of the models that `train` kept, by step. Raises FileError."""
    device = dataset.train.pairs.device
    evaluator = make_evaluator(run, dataset, run.evaluation)
    folders = {step: folder / f"step-{step}" for step in KEPT} | {STEPS: folder}
    found = {str(step): evaluator.evaluate(checkpoint.load_model(path, device)) for step, path in folders.items()}
    about = {"preset": run.preset, "images": dataset.describe(), "settings": SETTINGS}
    files.save_json(run.reports / "printed.json", about | {"steps": found})


def main() -> None:
    with messages.one_message("printed objective", "the same command"):
        run = as_printed(params.load(params.SOURCE))
        dataset = artifacts.load_dataset(run, resolve_device(run))
        folder = run.artifacts / "progress" / "printed"
        train(run, dataset, folder)
        evaluate(run, dataset, folder)


if __name__ == "__main__":
    main()
