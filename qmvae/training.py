"""The training loop, and what lets a killed run go on to the same bytes as one that was left alone.

`python -m qmvae.training MODEL` trains a model with every seed of the preset, into
artifacts/<preset>/models/MODEL/seed-<k>.
"""

import argparse
import csv
import fcntl
import hashlib
import io
import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from qmvae import checkpoint, data, files
from qmvae.graphs import Recorded, Turn
from qmvae.models import MultimodalVAE
from qmvae.params import Params, ParamsError, load

CODE = "gaussian.py", "graphs.py", "nets.py", "quadruplet.py", "training.py", "models/base.py"  # and the model's own


class TrainingError(RuntimeError):
    """Training can't start or go on; the message says why and what to do."""


class Deck:
    """Batches of rows dealt from an endless deck: every row once, shuffled anew each time the deck is through.

    `deal(step)` depends on nothing but the seed and the step, so that a resumed run deals the same batches.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, device: torch.device):
        self.rows, self.batch_size, self.seed, self.device = rows, batch_size, seed, device
        self.shuffled: dict[int, Tensor] = {}  # epoch -> permutation; the last two at most

    def deal(self, step: int) -> Tensor:
        """Rows of batch `step`, counted from 0: (batch_size,) int64 on the device."""
        epoch, start = divmod(step * self.batch_size, self.rows)
        batch = self.epoch(epoch)[start : start + self.batch_size]
        if len(batch) < self.batch_size:
            batch = torch.cat([batch, self.epoch(epoch + 1)[: self.batch_size - len(batch)]])
        return batch

    def epoch(self, epoch: int) -> Tensor:
        if epoch not in self.shuffled:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.shuffled = {e: p for e, p in self.shuffled.items() if e == epoch - 1}
            self.shuffled[epoch] = torch.randperm(self.rows, generator=generator).to(self.device)
        return self.shuffled[epoch]


def device_of(params: Params) -> torch.device:
    """The device that params.yaml asks for; `auto` takes a GPU where there is one. Raises TrainingError."""
    if params.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("params.yaml: device: cuda, but torch sees no GPU here; use `auto` or `cpu`")
    return torch.device("cuda" if params.device != "cpu" and torch.cuda.is_available() else "cpu")


def remaining(progress: float, cooldown: float) -> float:
    """What is left of the learning rate: 1, falling to 0 in a straight line over the last fraction `cooldown`."""
    return min(1.0, (1.0 - progress) / cooldown) if cooldown else 1.0


def update(
    model: MultimodalVAE, optimizer: torch.optim.Optimizer, split: data.Split, precision: str,
    rows: Tensor, lr: Any, **schedule: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """One step down the gradient of the objective on the pairs `rows` (B,). Returns the terms, as before the step."""
    images, labels = split.batch(rows)
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        terms = model.objective(images, labels, **schedule)
    optimizer.zero_grad()
    terms["loss"].backward()
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    return {name: term.detach() for name, term in terms.items()}


class SeedRun:
    """One seed of a model in training: all that its checkpoint holds."""

    def __init__(self, params: Params, name: str, seed: int, dataset: data.Dataset, folder: Path, fingerprint: str):
        self.title, self.folder, self.fingerprint = f"{name}, seed {seed}", folder, fingerprint
        self.settings, device = params.training[name], dataset.train.pairs.device
        nets = {m: modality.net for m, modality in params.modalities.items()}
        self.deck = Deck(len(dataset.train.pairs), self.settings.batch_size, seed, device)
        self.log = Log(self.settings.log_every)
        self.turn = Turn(seed, device)
        with self.turn:
            torch.manual_seed(seed)
            model = checkpoint.build(name, getattr(params, name), dataset.shapes, nets)
            self.model = model.to(device).to(memory_format=torch.channels_last)  # in which CPU and GPU convolve fastest
            weights, capturable = self.model.parameters(), device.type == "cuda"
            self.optimizer = torch.optim.Adam(weights, lr=self.settings.lr, fused=True, capturable=capturable)
            self.start = resume(self)
        plain = partial(update, self.model, self.optimizer, dataset.train, self.settings.precision)
        self.update = Recorded(plain, self.state, self.turn) if device.type == "cuda" else plain
        about = {"preset": params.preset, "images": dataset.describe(), "seed": seed, "steps": self.settings.steps}
        self.save = partial(checkpoint.save, folder, self.model, name, nets, about | {"fingerprint": fingerprint})

    def state(self) -> dict[str, list[Tensor]]:
        """What a step changes: the weights and Adam's moments."""
        state: dict[str, list[Tensor]] = {"weights": list(self.model.parameters())}
        for moments in self.optimizer.state.values():
            for name, value in moments.items():
                state.setdefault(name, []).append(value)
        return state

    def advance(self, step: int) -> None:
        """Make step number `step`, counted from 0, and what falls due after it: log and checkpoint."""
        settings, last = self.settings, step + 1 == self.settings.steps
        with self.turn:
            progress = step / settings.steps
            lr = settings.lr * remaining(progress, settings.cooldown)
            terms = self.update(rows=self.deck.deal(step), lr=lr, **self.model.schedule(progress))
            self.log.add(step + 1, terms, last)
            if (step + 1) % settings.checkpoint_every == 0 and not last:
                save_state(self, step + 1)

    def finish(self) -> None:
        with self.turn:
            files.save_text(self.folder / "log.csv", self.log.csv())
            self.save()
        (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)


def train(params: Params, name: str, folders: dict[int, Path], dataset: data.Dataset, fingerprint: str) -> None:
    """Train one model with each seed of `folders`, and leave model.safetensors, model.json and log.csv in its folder.

    On a GPU all seeds are trained side by side. Checkpoints lie in the same folders until the end. If one is there with
    the same fingerprint, training goes on from it; a finished model with the same fingerprint is kept. Raises
    TrainingError on a loss that is not finite.
    """
    if dataset.train.pairs.is_cuda:
        torch.backends.cudnn.deterministic = True  # two runs, the same bytes
        side_by_side(params, name, folders, dataset, fingerprint)
    else:  # a CPU is full with one
        for seed, folder in folders.items():
            side_by_side(params, name, {seed: folder}, dataset, fingerprint)


def side_by_side(params: Params, name: str, folders: dict[int, Path], dataset: data.Dataset, fingerprint: str) -> None:
    """As `train`, each step of all seeds before the next."""
    runs: dict[int, SeedRun] = {}
    for seed, folder in folders.items():
        finished = folder / "model.json"
        if finished.exists() and files.load_json(finished)["fingerprint"] == fingerprint:
            print(f"{name}, seed {seed}: kept, made earlier from the same parameters, images and code", flush=True)
            continue
        finished.unlink(missing_ok=True)
        runs[seed] = SeedRun(params, name, seed, dataset, folder, fingerprint)
    if not runs:
        return
    settings, start = params.training[name], min(run.start for run in runs.values())
    title = f"{name}, seed {', '.join(map(str, runs))}"
    bar = tqdm(range(start, settings.steps), title, settings.steps, initial=start, disable=None)
    for step in bar:
        for run in runs.values():
            if step >= run.start:
                run.advance(step)
        if (step + 1) % settings.log_every == 0:
            bar.set_postfix(run.log.latest("loss", "elbo_joint", "quad"), refresh=False)
        if bar.disable and (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
            for run in runs.values():
                loss = run.log.latest("loss")["loss"]
                print(f"{run.title}: step {step + 1:,} of {settings.steps:,}, loss {loss}", flush=True)
    for run in runs.values():
        run.finish()


class Log:
    """The terms of the objective, averaged over windows of `every` steps; each row is (step, term, term, ...).

    The steps of a window wait on the device, so that a GPU is not stopped to read a number each time.
    """

    def __init__(self, every: int):
        self.every = every
        self.columns: list[str] = []
        self.rows: list[list[float]] = []
        self.window: list[Tensor] = []

    def add(self, step: int, terms: dict[str, Tensor], last: bool = False) -> bool:
        """Note the terms of `step`, counted from 1; True when a window closed. TrainingError on NaN or infinity."""
        self.columns = ["step", "loss", *(name for name in terms if name != "loss")]
        self.window.append(torch.stack([terms[name].detach() for name in self.columns[1:]]))
        if step % self.every and not last:
            return False
        values = torch.stack(self.window).double().cpu()
        for i, row in enumerate(values):
            broken = [f"{c} = {v}" for c, v in zip(self.columns[1:], row.tolist(), strict=True) if not math.isfinite(v)]
            if broken:
                raise TrainingError(
                    f"step {step - len(values) + i + 1:,}: {', '.join(broken)}; try a smaller learning rate "
                    "(presets.<preset>.training.lr). The last checkpoint, from before, is kept"
                )
        self.rows.append([step, *values.mean(dim=0).tolist()])
        self.window = []
        return True

    def latest(self, *names: str) -> dict[str, str]:
        return {n: f"{self.rows[-1][self.columns.index(n)]:.2f}" for n in names if n in self.columns}

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([step, *(f"{value:.6g}" for value in values)] for step, *values in self.rows)
        return text.getvalue()


def save_state(run: SeedRun, step: int) -> None:
    """All that the rest of the run depends on: weights, Adam's moments, the random state and the log so far."""
    tensors = {f"model.{key}": value for key, value in run.model.state_dict().items()}
    for i, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors |= {"random": run.turn.random(), "log": torch.tensor(run.log.rows, dtype=torch.float64)}
    about = {"step": str(step), "fingerprint": run.fingerprint, "columns": json.dumps(run.log.columns)}
    files.save_tensors(run.folder / "checkpoint.safetensors", tensors, about)


def resume(run: SeedRun) -> int:
    """Put the run back to where the checkpoint left it and return the step to go on from; 0 where there is none."""
    path = run.folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    tensors, about = files.load_tensors(path)
    if about.get("fingerprint") != run.fingerprint:
        print(f"{path}: from other parameters, images or code; training starts anew", flush=True)
        return 0
    run.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    weights = list(run.model.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            # fused Adam walks memory, so moments must lie as their weights do, channels last where those are
            like = value if name == "step" else torch.empty_like(weights[int(i)])
            state.setdefault(int(i), {})[name] = like.copy_(value)
    run.optimizer.load_state_dict({"state": state, "param_groups": run.optimizer.state_dict()["param_groups"]})
    run.turn.set_random(tensors["random"])
    run.log.columns = json.loads(about["columns"])
    run.log.rows = [[int(step), *values] for step, *values in tensors["log"].tolist()]
    print(f"{run.title}: goes on from step {int(about['step']):,} of {run.settings.steps:,}", flush=True)
    return int(about["step"])


def fingerprint_of(params: Params, name: str) -> str:
    """SHA-256 over what a seed's result depends on: parameters, images, pairs, code, versions and kind of device."""
    settings = params.training[name].model_dump(exclude={"seeds"})
    parts = [name, settings, getattr(params, name).model_dump(), params.model_dump()["modalities"]]
    digest = hashlib.sha256(json.dumps([*parts, torch.__version__, device_of(params).type], sort_keys=True).encode())
    package = Path(__file__).parent
    sources = [package / part for part in [*CODE, f"models/{name}.py"]]
    for path in sources + sorted((params.artifacts / "data").glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def run(params: Params, name: str) -> None:
    """Train every seed of the preset. What is under way lies in artifacts/<preset>/progress, where DVC doesn't reach;
    the stage's own output is filled at the end, with finished seeds only."""
    progress = params.artifacts / "progress" / name
    progress.mkdir(parents=True, exist_ok=True)
    with open(progress / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = f"{progress}: another process is training {name}; wait for it or stop it first"
            raise TrainingError(busy) from None
        dataset = data.load(params, device_of(params))
        batch_size = params.training[name].batch_size
        if len(dataset.train.pairs) < batch_size:
            raise TrainingError(
                f"presets.{params.preset}.training.batch_size: {batch_size} is more than the "
                f"{len(dataset.train.pairs)} training pairs; make it smaller"
            )
        fingerprint = fingerprint_of(params, name)
        train(params, name, {seed: progress / f"seed-{seed}" for seed in params.seeds}, dataset, fingerprint)
        output = params.artifacts / "models" / name
        shutil.rmtree(output, ignore_errors=True)
        for seed in params.seeds:
            shutil.copytree(progress / f"seed-{seed}", output / f"seed-{seed}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.training", description=__doc__)
    parser.add_argument("model", choices=checkpoint.MODELS)
    name = parser.parse_args().model
    try:
        run(load(), name)
    except (ParamsError, TrainingError, files.FileError) as error:
        raise SystemExit(f"training {name}: {error}") from None


if __name__ == "__main__":
    main()
