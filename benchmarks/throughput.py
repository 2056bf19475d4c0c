"""Pairs trained on a second: our four models in both precisions, MultiVae's MVAE in float32, which is what it has on a
CPU, and the share of the machine's peak that each reaches; then what all seeds of the preset `paper` take.

`make bench` installs MultiVae (the library that one would take instead) beside the environment and runs this. All
contenders take turns within one run, on one device, with the same networks, batches, random images and settings of the
memory allocator (`data.keep_memory`, which speeds MultiVae up too); each time is the difference between a long and a
short training run, so that neither start nor end counts. Only the ratios mean anything on another machine.
"""

import argparse
import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from qmvae import checkpoint, data, evaluation, files, judges, params, tables, training

SHORT = 10  # steps of the run that is subtracted; on a GPU the steps are recorded within it
PRECISIONS = ("float32", "bfloat16")
SEEDS = 5  # trained at once, or one after another on a CPU
THEIRS = "MultiVae's MVAE"
Training = Callable[[int], object]  # trains for so many steps


def random_images(modalities: list[str], rows: int, device: torch.device) -> data.Dataset:
    """A data set of noise, for speed alone: `rows` images of each modality, and as many pairs."""
    data.keep_memory()  # as data.load does
    generator = torch.Generator().manual_seed(0)
    shapes = {m: (1, 28, 28) if m.startswith("mnist") else (3, 32, 32) for m in modalities}
    images = {
        m: torch.randint(256, (rows, *shape), generator=generator, dtype=torch.uint8) for m, shape in shapes.items()
    }
    labels = (torch.arange(rows) % 10).to(device)
    pairs = torch.arange(rows, dtype=torch.int32, device=device)[:, None].repeat(1, len(modalities))
    split = data.Split({m: x.to(device) for m, x in images.items()}, dict.fromkeys(modalities, labels), pairs)
    return data.Dataset(split, split, titles={m: m for m in modalities})


def trainer(
    run: params.Params, name: str, dataset: data.Dataset, batch_size: int, seeds: int = 1, **settings
) -> Training:
    """Our training loop as it is, checkpoints left out. settings: of `training`, in place of the preset's."""

    def train(steps: int) -> None:
        changes = {"steps": steps, "batch_size": batch_size, "checkpoint_every": 10**9} | settings
        run.training[name] = run.training[name].model_copy(update=changes)
        with tempfile.TemporaryDirectory() as folder:
            training.train(run, name, {seed: Path(folder) / str(seed) for seed in range(seeds)}, dataset, "")

    return train


def multivae(run: params.Params, dataset: data.Dataset, batch_size: int) -> Training:
    """MultiVae's own trainer on its MVAE, with our encoders and decoders, likelihoods and float images in memory."""
    from multivae.data.datasets import MultimodalBaseDataset
    from multivae.models import MVAE, MVAEConfig
    from multivae.models.nn.base_architectures import BaseDecoder, BaseEncoder
    from multivae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.models.base.base_utils import ModelOutput

    logging.disable(logging.INFO)
    config = run.mvae
    floats = {m: x.cpu().float() / 255 for m, x in dataset.train.images.items()}  # its trainer takes them to a GPU
    shapes, nets = dataset.shapes, {m: modality.net for m, modality in run.modalities.items()}

    class Encoder(BaseEncoder):
        def __init__(self, net):
            super().__init__()
            self.net, self.latent_dim = net, config.shared

        def forward(self, x):
            q = self.net(x)
            return ModelOutput(embedding=q.mean, log_covariance=q.logvar)

    class Decoder(BaseDecoder):
        def __init__(self, net):
            super().__init__()
            self.net, self.latent_dim = net, config.shared

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    def train(steps: int) -> None:
        torch.backends.cudnn.deterministic = False  # which our training asks for
        model = checkpoint.build("mvae", config, shapes, nets)
        description = MVAEConfig(
            n_modalities=len(shapes),
            latent_dim=config.shared,
            input_dims=shapes,
            warmup=1,
            decoders_dist={m: likelihood.family for m, likelihood in config.likelihood.items()},
            decoder_dist_params={m: {"scale": likelihood.scale} for m, likelihood in config.likelihood.items()},
            uses_likelihood_rescaling=True,
            rescale_factors={m: likelihood.weight for m, likelihood in config.likelihood.items()},
        )
        theirs = MVAE(
            description,
            encoders={m: Encoder(net) for m, net in model.shared_encoders.items()},
            decoders={m: Decoder(net) for m, net in model.decoders.items()},
        )
        rows = MultimodalBaseDataset({m: x[: steps * batch_size] for m, x in floats.items()})
        with tempfile.TemporaryDirectory() as folder, quiet():
            settings = BaseTrainerConfig(
                output_dir=folder, per_device_train_batch_size=batch_size, num_epochs=1, learning_rate=1e-3
            )
            BaseTrainer(theirs, rows, training_config=settings).train()

    return train


@contextlib.contextmanager
def quiet():
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


def seconds(task: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def training_seconds(train: Training, steps: int, device: torch.device) -> float:
    """What `steps` steps take: a long run less a short one, so that neither start nor end counts."""
    return seconds(lambda: train(SHORT + steps), device) - seconds(lambda: train(SHORT), device)


def describe(device: torch.device) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def peak(device: torch.device, precision: str) -> float:
    """What a matrix product reaches in this precision, in GFLOP/s: the best of ten."""
    size = 8192 if device.type == "cuda" else 2048
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as convolutions in float32 have it
    a, b = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(10)) / 1e9


def flops(model, dataset: data.Dataset, batch_size: int) -> float:
    """Floating-point operations of a step, forward and backward, for each pair: matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        rows = torch.arange(batch_size, device=dataset.train.pairs.device)
        model.loss(*dataset.train.batch(rows), progress=1.0)["loss"].backward()
    return counter.get_total_flops() / batch_size


def protocol(steps: int, device: torch.device) -> str:
    """What the preset `paper` takes, from some steps of all its seeds of each model: a table and a sentence."""
    run = params.load("paper")
    size, count = run.training["qmvae"].batch_size, len(run.seeds)
    dataset = random_images(list(run.modalities), (SHORT + steps) * size, device)
    rows = {}
    for name in run.models:
        whole = run.training[name].steps
        step = training_seconds(trainer(run, name, dataset, size, count), steps, device) / steps
        rows[tables.MODELS[name]] = {"ms for a step of all": 1000 * step, "hours for all steps": whole * step / 3600}
    table = pd.DataFrame(rows).T
    return (
        f"The preset `paper`, {count} seeds of {whole:,} steps, from {steps} steps of each:\n\n"
        f"{table.to_markdown(floatfmt=('', '.3g', '.3g'))}\n\n"
        f"All four: {table.iloc[:, 1].sum():.3g} hours.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="steps of a timed run (default: 30, on a GPU 2,000)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    run = params.load("subset")
    device, batch_size = training.device_of(run), 128
    steps = arguments.steps or (2000 if device.type == "cuda" else 30)
    dataset = random_images(list(run.modalities), (SHORT + steps) * batch_size, device)
    nets = {m: modality.net for m, modality in run.modalities.items()}
    where = {"device": device, "memory_format": torch.channels_last}  # as an evaluation has its networks
    models = {m: checkpoint.build(m, getattr(run, m), dataset.shapes, nets).to(**where) for m in run.models}
    source, target = run.modalities
    panel = [kind(dataset.shapes[target]).to(**where).eval() for kind in judges.KINDS.values()]
    test = random_images(list(run.modalities), 10_000, device).test
    rows = torch.arange(10_000, device=device).repeat(6)  # as many conditions as subset has

    def judged() -> None:
        evaluation.cross_generation(models["qmvae"].eval(), *panel, test, source, target, rows, 0)

    entries = {f"{tables.MODELS[name]}, {p}": (name, p) for name in run.models for p in PRECISIONS}
    contenders = {title: trainer(run, name, dataset, batch_size, precision=p) for title, (name, p) in entries.items()}
    contenders[THEIRS] = multivae(run, dataset, batch_size)
    together = trainer(run, "qmvae", dataset, batch_size, seeds=SEEDS)
    found = []  # a row a round
    for _ in range(arguments.rounds):
        row = {p: peak(device, p) for p in PRECISIONS} | {"judged": len(rows) / seconds(judged, device)}
        for title, train in contenders.items():
            row[title] = steps * batch_size / training_seconds(train, steps, device)
        row["together"] = steps * batch_size / training_seconds(together, steps, device)
        found.append(row)
    rounds = pd.DataFrame(found)
    rate = rounds.median()

    table = pd.DataFrame({"pairs/s": rate[list(contenders)].round().astype(int)})
    work = pd.Series({title: flops(models[name], dataset, batch_size) for title, (name, _) in entries.items()})
    peaks = pd.Series({title: rounds[p].max() for title, (_, p) in entries.items()})
    table["MFLOP a pair"] = (work / 1e6).round(1)
    table["of the peak"] = (work * rate / peaks / 1e9).map("{:.0%}".format, na_action="ignore")
    ratios = rounds[list(contenders)].div(rounds[THEIRS], axis=0).median()
    table[f"against {THEIRS}"] = ratios.map("{:.2f} x".format)
    reached = " and ".join(f"{rounds[p].max():,.0f} GFLOP/s in {p}" for p in PRECISIONS)
    alone = f"{tables.MODELS['qmvae']}, {run.training['qmvae'].precision}"
    fastest = max(entries, key=lambda title: rate[title] if entries[title][0] == "qmvae" else 0.0)
    text = (
        f"{describe(device)}, batches of {batch_size}; a matrix product reaches {reached}; medians of {len(rounds)} "
        f"rounds.\n\n{table.fillna('').to_markdown()}\n\n"
        f"Q-MVAE's cross-generation, generated and read by both judges: {rate.judged:,.0f} conditions/s, "
        f"{(rounds.judged / rounds[fastest]).median():.1f} times the pairs/s of its training ({entries[fastest][1]}). "
        f"{SEEDS} seeds of it take {(rounds[alone] / rounds.together).median():.2f} times as long as one.\n\n"
        f"{protocol(steps, device)}"
    )
    print(text)
    files.save_text(run.root / "reports" / "bench" / f"throughput-{device.type}.md", text)


if __name__ == "__main__":
    main()
