"""Training runs that survive a kill: `qmvae.train`'s loop with a log, a progress bar, checkpoints and fingerprints.

A killed run that continues from its checkpoint ends in the same bytes as a run that was never disturbed.
"""

import csv
import fcntl
import io
import json
import math
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from qmvae.data.dataset import Dataset
from qmvae.pipeline import checkpoint, code, datasets, files, tensor_files
from qmvae.pipeline.device import TrainingError, resolve_device
from qmvae.pipeline.schema import Params
from qmvae.pipeline.threads import FreeThreads
from qmvae.train import make_optimizer, resolve_precision, training_steps

KEPT = "kept, trained earlier with the same parameters, images and code"


class Log:
    """The terms of the objective, averaged over windows of `every` steps; each row is (step, term, term, ...).

    The terms of a window stay on the device, so that a GPU does not stop at each step for a number.
    """

    def __init__(self, every: int):
        self.every = every
        self.columns: list[str] = []
        self.rows: list[list[float]] = []
        self.window: list[Tensor] = []

    def add(self, step: int, terms: dict[str, Tensor], last: bool = False) -> bool:
        """Append the terms of `step`, counted from 1; return whether a window closed.

        Raises TrainingError on NaN or infinity, and names the step and the term.
        """
        self.columns = ["step", "loss", *(name for name in terms if name != "loss")]
        self.window.append(torch.stack([terms[name] for name in self.columns[1:]]))
        if step % self.every and not last:
            return False
        values = torch.stack(self.window).double().cpu()
        for i, row in enumerate(values):
            broken = [f"{c} = {v}" for c, v in zip(self.columns[1:], row.tolist(), strict=True) if not math.isfinite(v)]
            if broken:
                raise TrainingError(f"step {step - len(values) + i + 1:,}: {', '.join(broken)}")
        self.rows.append([step, *values.mean(dim=0).tolist()])
        self.window = []
        return True

    def latest(self, *names: str) -> dict[str, str]:
        """Return those of the named terms that the log has, averaged over the last window."""
        return {n: f"{self.rows[-1][self.columns.index(n)]:.2f}" for n in names if n in self.columns}

    def csv(self) -> str:
        """Return the log as CSV with 6 significant digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([step, *(f"{value:.6g}" for value in values)] for step, *values in self.rows)
        return text.getvalue()


def is_trained(folder: Path, fingerprint: str) -> bool:
    """Return whether the folder has a finished model with this fingerprint and whole weights."""
    if not files.has_fingerprint(folder / "model.json", fingerprint):
        return False
    try:
        tensor_files.load(folder / "model.safetensors")
    except files.FileError:
        return False
    return True


def train_seed(
    run: Params, name: str, seed: int, dataset: Dataset, folder: Path, fingerprint: str, keep: Collection[int] = ()
) -> None:
    """Train one model with one seed, and leave model.safetensors, model.json and log.csv in the folder.

    A finished model with the same fingerprint is kept. A checkpoint with it is resumed. A finished model with another
    fingerprint stays until this one is finished. Raises TrainingError on a loss or a weight that is not finite, and on
    images that do not fit a modality's network.

    keep: steps after which a copy of the model goes into the subfolder step-<n>.
    """
    settings, title = run.training[name], f"{name}, seed {seed}"
    if is_trained(folder, fingerprint):
        print(f"{title}: {KEPT}", flush=True)
        return
    if files.has_fingerprint(folder / "model.json", fingerprint):
        print(f"{title}: trained again, since {folder / 'model.safetensors'} is missing or incomplete", flush=True)
    device = dataset.train.pairs.device
    torch.backends.cudnn.deterministic = True  # two runs on one GPU give the same bytes
    torch.manual_seed(seed)
    try:
        model = checkpoint.build_model(name, getattr(run, name), dataset.shapes, run.networks).to(device)
    except ValueError as error:  # the images are older than a change of params.yaml
        raise TrainingError(f"{title}: {error}; or run the stage `data` again") from None
    model = model.to(memory_format=torch.channels_last)  # the fastest layout for convolutions, on CPU and GPU
    optimizer, log = make_optimizer(model, settings.lr), Log(settings.log_every)
    precision = resolve_precision(settings.precision, device)
    about = {"preset": run.preset, "images": dataset.describe(), "seed": seed, "precision": precision}
    path = folder / "checkpoint.safetensors"
    start, threads = resume(path, fingerprint, model, optimizer, log), FreeThreads(precision)
    if start:
        print(f"{title}: continues from step {start:,} of {settings.steps:,}", flush=True)
    steps = training_steps(model, optimizer, dataset.train, settings, seed, start)
    bar = tqdm(steps, title, settings.steps, initial=start, disable=None)
    preset = f"presets.{run.preset}"
    cure = f"try a smaller `lr` under {preset}.overrides.{name} or, without one there, {preset}.training"
    for step, terms in bar:
        threads.adapt()
        last = step == settings.steps
        try:
            closed = log.add(step, terms, last)
        except TrainingError as error:
            kept = ". The last checkpoint, from before, is kept" if path.is_file() else ""
            raise TrainingError(f"{title}: {error}; {cure}{kept}") from None
        if closed:
            bar.set_postfix(log.latest("loss", "elbo_joint", "quad"), refresh=False)
        if step in keep:
            checkpoint.save_model(folder / f"step-{step}", model, name, run.networks, about | {"steps": step})
        if step % settings.checkpoint_every == 0 and not last:
            save_state(path, fingerprint, model, optimizer, log, step)
            if bar.disable:
                print(f"{title}: step {step:,} of {settings.steps:,}, loss {log.latest('loss')['loss']}", flush=True)
    if broken := tensor_files.not_finite(model.state_dict()):
        raise TrainingError(f"{title}: after the last step {broken} is not finite; {cure}")
    (folder / "model.json").unlink(missing_ok=True)  # it names the earlier weights, which are replaced now
    files.save_text(folder / "log.csv", log.csv())
    about |= {"steps": settings.steps, "fingerprint": fingerprint}
    checkpoint.save_model(folder, model, name, run.networks, about)
    path.unlink(missing_ok=True)


def save_state(path: Path, fingerprint: str, model, optimizer, log: Log, step: int) -> None:
    """Write all that the rest of a run depends on: weights, Adam's moments, the random state and the log so far."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors |= {"random": torch.get_rng_state(), "log": torch.tensor(log.rows, dtype=torch.float64)}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensor_files.save(
        path, tensors, {"step": str(step), "fingerprint": fingerprint, "columns": json.dumps(log.columns)}
    )


def resume(path: Path, fingerprint: str, model, optimizer, log: Log) -> int:
    """Restore what `save_state` wrote and return its step; 0 where there is no checkpoint with this fingerprint."""
    if not path.exists():
        return 0
    tensors, about = tensor_files.load(path)
    if about.get("fingerprint") != fingerprint:
        print(f"{path}: made with other parameters, images or code; training starts from step 0", flush=True)
        return 0
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    weights = list(model.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            # fused Adam walks memory, so moments must have the layout of their weights, channels last for convolutions
            like = value if name == "step" else torch.empty_like(weights[int(i)])
            state.setdefault(int(i), {})[name] = like.copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    log.columns = json.loads(about["columns"])
    log.rows = [[int(step), *values] for step, *values in tensors["log"].tolist()]
    return int(about["step"])


def fingerprint(run: Params, name: str, seed: int) -> str:
    """Return the SHA-256 over all that a seed's result depends on.

    These are the seed, its parameters, with the precision that `auto` stands for here, images and pairs, the code
    without docstrings and comments, torch's version and the kind of device.
    """
    settings, device = run.training[name].model_dump(exclude={"seeds", "checkpoint_every"}), resolve_device(run)
    settings["precision"] = resolve_precision(settings["precision"], device)
    parts = [name, seed, settings, getattr(run, name).model_dump(), run.networks]
    sources = ["qmvae/pipeline/training.py", code.model_file(name)]
    parts += [torch.__version__, device.type, code.code_hash(code.ROOT, sources)]
    return files.fingerprint(parts, sorted((run.artifacts / "data").glob("*.safetensors")))


def progress_folder(run: Params, name: str, seed: int) -> Path:
    """Return where a seed is trained. DVC does not touch this folder, so that a checkpoint survives a broken stage."""
    return run.artifacts / "progress" / name / f"seed-{seed}"


def train_one(run: Params, name: str, seed: int) -> None:
    """Train one seed of a model in its progress folder. Raises TrainingError."""
    folder = progress_folder(run, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = f"{folder}: another process is training {name}; wait for it or stop it first"
            raise TrainingError(busy) from None
        dataset = datasets.load_dataset(run.artifacts / "data", run.modalities, resolve_device(run))
        batch_size = run.training[name].batch_size
        if len(dataset.train.pairs) < batch_size:
            raise TrainingError(
                f"a batch of {batch_size} is more than the {len(dataset.train.pairs)} training pairs; "
                f"make {run.batch_size_key(name)} smaller"
            )
        train_seed(run, name, seed, dataset, folder, fingerprint(run, name, seed))
