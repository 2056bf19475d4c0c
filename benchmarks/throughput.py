"""Pairs trained on a second: our models and MultiVae's, by the same clock, in the same rounds.

`make bench` installs MultiVae, the library that one would use otherwise, beside the environment and runs this. In each
round every contender trains for some seconds, one after the other, with all threads, the same encoders and decoders,
batches, images and likelihoods. Ours train in float32 and bfloat16, MultiVae's in float32. The clock counts steps only:
neither the start nor the end of a run. The loops are ours (`qmvae.train`) and MultiVae's (`BaseTrainer`).

Every ratio in a table is the quotient of the two rates that the table prints, to two digits. The range beside it is
that of the single rounds. Writes throughput-<device>.md, and the rates of each round as .csv.
"""

import argparse
import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from timing import (
    LEAST,
    at_once,
    compared,
    describe,
    images,
    markdown,
    number,
    on,
    save,
    seconds,
    step_seconds,
    training,
    warm,
)
from torch.utils.flop_counter import FlopCounterMode

from qmvae.data.dataset import Split
from qmvae.evaluate.classifiers import CLASSIFIERS
from qmvae.evaluate.cross_generation import cross_generation
from qmvae.model.networks import Encoder
from qmvae.pipeline import checkpoint, datasets, files, params
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.jobs import workers
from qmvae.pipeline.schema import Params
from qmvae.report.tables import MODELS
from qmvae.train import resolve_precision

PRECISIONS = ("float32", "bfloat16")
BATCH, ROWS, CONDITIONS = 128, 10_000, 60_000
K = 30  # Shi et al.'s number of samples
PASSES = {"two passes": 1e-6, "one pass": 0.0}  # epsilon
THEIRS = {"mvae": "MultiVae's MVAE", "mmvae": f"MultiVae's MMVAE, K = {K}"}
Contender = Callable[[float], float]  # trains for so many seconds and returns the seconds a step


def ours(run: Params, name: str, split: Split, precision: str, config: dict | None = None) -> Contender:
    """Return our training; it goes on where the last round stopped."""
    steps = warm(training(run, name, split, config, precision=precision, batch_size=BATCH))
    return partial(step_seconds, steps)


def multivae(run: Params, name: str, split: Split, folder: Path) -> Contender:
    """Return MultiVae's training of its MVAE or MMVAE; it goes on where the last round stopped.

    MultiVae has our encoders and decoders, and the likelihoods of the parameters `run`, with their weights. Its images
    are floats in memory.
    """
    from multivae import models
    from multivae.data.datasets import MultimodalBaseDataset
    from multivae.models.nn.base_architectures import BaseDecoder, BaseEncoder
    from multivae.trainers import BaseTrainer, BaseTrainerConfig
    from multivae.trainers.base.callbacks import TrainingCallback
    from pythae.models.base.base_utils import ModelOutput

    logging.disable(logging.INFO)
    section, kind = getattr(run, name), name.upper()
    shapes = {m: tuple(x.shape[1:]) for m, x in split.images.items()}

    class TheirEncoder(BaseEncoder):
        def __init__(self, network):
            super().__init__()
            self.network, self.latent_dim = network, section.shared

        def forward(self, x):
            first, second = Encoder.forward(self.network, x)  # of the mean and of the scale, as its models take them
            return ModelOutput(embedding=first, log_covariance=second)

    class TheirDecoder(BaseDecoder):
        def __init__(self, network):
            super().__init__()
            self.network, self.latent_dim = network, section.shared

        def forward(self, z):
            return ModelOutput(reconstruction=self.network(z))

    class Enough(Exception):
        """The seconds of this round are over."""

    class Clock(TrainingCallback):
        duration = start = 0.0
        count = -1  # the first step is not timed

        def on_train_step_end(self, *_, **__):
            self.count += 1
            self.now = time.perf_counter()  # MultiVae has read the loss, so that a GPU has finished the step
            if self.count == 0:
                self.start = self.now
            elif self.count >= LEAST and self.now - self.start >= self.duration:
                raise Enough

    model = checkpoint.build_model(name, section, shapes, run.networks)
    likelihoods = model.config.likelihood  # with weights in numbers
    description = getattr(models, f"{kind}Config")(
        n_modalities=len(shapes),
        latent_dim=section.shared,
        input_dims=shapes,
        decoders_dist={m: likelihood.family for m, likelihood in likelihoods.items()},
        decoder_dist_params={m: {"scale": likelihood.scale} for m, likelihood in likelihoods.items()},
        uses_likelihood_rescaling=True,
        rescale_factors={m: likelihood.weight for m, likelihood in likelihoods.items()},
        **({"warmup": 1} if name == "mvae" else {"K": K}),
    )
    theirs = getattr(models, kind)(
        description,
        encoders={m: TheirEncoder(network) for m, network in model.shared_encoders.items()},
        decoders={m: TheirDecoder(network) for m, network in model.decoders.items()},
    )
    rows = MultimodalBaseDataset({m: x.cpu().float() / 255 for m, x in split.images.items()})  # it moves them to a GPU
    settings = BaseTrainerConfig(output_dir=str(folder), per_device_train_batch_size=BATCH, learning_rate=1e-3)
    clock = Clock()
    with quiet():
        trainer = BaseTrainer(theirs, rows, training_config=settings, callbacks=[clock])

    def train(duration: float) -> float:
        torch.backends.cudnn.deterministic = False  # our training sets it
        clock.duration, clock.count = duration, -1
        with quiet(), contextlib.suppress(Enough):
            while True:
                trainer.train_step(1)  # an epoch
        return (clock.now - clock.start) / clock.count

    train(0.0)
    return train


@contextlib.contextmanager
def quiet():
    """Suppress what a library prints."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


def peak(device: torch.device, precision: str) -> float:
    """Return the speed of a matrix product in this precision, in GFLOP/s: the best of ten."""
    size = 8192 if device.type == "cuda" else 2048
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as convolutions in float32 have it
    a, b = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(10)) / 1e9


def mflops(model, split: Split) -> float:
    """Return the MFLOP of a pair's forward and backward pass: matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        model.loss(*split.batch(torch.arange(BATCH, device=split.pairs.device)), progress=1.0)["loss"].backward()
    return number(counter.get_total_flops() / BATCH / 1e6)


def protocol(duration: float, device: torch.device) -> str:
    """Return how long all seeds of the preset `paper` take, from some seconds of each model: a table and a sentence.

    On a CPU as many seeds at once as `qmvae.pipeline.jobs` runs, one thread each; on a GPU one after another.
    """
    run = params.load("paper")
    seeds = {name: len(run.training[name].seeds) for name in run.models}
    jobs = min(workers(), sum(seeds.values())) if device.type == "cpu" else 1
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        datasets.save_dataset(images(list(run.modalities), ROWS), Path(folder))
        for name in run.models:
            task = run, name, Path(folder), run.training[name].batch_size
            step = at_once(jobs, *task, torch.get_num_threads() if jobs == 1 else 1, duration)
            whole = run.training[name].steps * seeds[name] * step / jobs
            rows[MODELS[name]] = {"ms a step": number(1000 * step), "hours, all seeds": number(whole / 3600)}
    table = pd.DataFrame(rows).T
    return (
        f"The preset `paper` has {len(run.training['qmvae'].seeds)} seeds of {run.training['qmvae'].steps:,} steps. "
        f"{jobs} train at once. From {duration:g} seconds of each model:\n\n{markdown(table.map('{:.10g}'.format))}\n"
        f"All models: {table.iloc[:, 1].sum():.3g} hours.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a contender in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    run = params.load("subset")
    # MultiVae's Bernoulli likelihood refuses grey values, so MVAE has MMVAE's Laplace likelihood in both packages
    run = run.model_copy(update={"mvae": run.mvae.model_copy(update={"likelihood": run.mmvae.likelihood})})
    device = resolve_device(run)
    dataset = images(list(run.modalities), ROWS)
    split = on(dataset.train, device)

    configs = {MODELS[name]: (name, {}) for name in run.models if name != "mmvae"}
    configs["MMVAE, K = 1"] = ("mmvae", {"samples": 1})
    several = {f"MMVAE, K = {K}, {title}": ("mmvae", {"samples": K, "epsilon": e}) for title, e in PASSES.items()}
    entries = {f"{title}, {p}": (*entry, p) for title, entry in (configs | several).items() for p in PRECISIONS}
    channels_last = {"device": device, "memory_format": torch.channels_last}
    qmvae = checkpoint.build_model("qmvae", run.qmvae, dataset.shapes, run.networks).to(**channels_last).eval()
    source, target = run.modalities
    classifiers = [kind(dataset.shapes[target]).to(**channels_last).eval() for kind in CLASSIFIERS.values()]
    test = type(dataset)(split, split, dataset.titles)
    conditions = torch.arange(CONDITIONS, device=device) % ROWS  # as many as subset has

    def evaluate() -> None:
        cross_generation(qmvae, *classifiers, test, source, target, conditions, 0)

    with tempfile.TemporaryDirectory() as folder:
        contenders = {title: ours(run, name, split, p, config) for title, (name, config, p) in entries.items()}
        contenders |= {title: multivae(run, name, split, Path(folder)) for name, title in THEIRS.items()}
        found = []
        for i in range(arguments.rounds):
            row = {p: peak(device, p) for p in PRECISIONS} | {"evaluation": CONDITIONS / seconds(evaluate)}
            row |= {title: BATCH / train(arguments.seconds) for title, train in contenders.items()}
            found.append(row)
            print(f"round {i + 1} of {arguments.rounds}: {row}", flush=True)
    rounds = pd.DataFrame(found)

    peaks = {p: number(rounds[p].max()) for p in PRECISIONS}
    tables = {}
    for name, theirs in THEIRS.items():
        titles = [title for title in entries if (f"K = {K}" in title) == (name == "mmvae")]
        tables[name] = compared(rounds[[*titles, theirs]], theirs, "pairs/s")
    rate = rounds.median().map(number)
    for title in tables["mvae"].index.intersection(list(entries)):
        name, config, p = entries[title]
        model = checkpoint.build_model(name, getattr(run, name).model_copy(update=config), dataset.shapes, run.networks)
        work = mflops(model.to(**channels_last), split)
        tables["mvae"].loc[title, "MFLOP a pair"] = f"{work:g}"
        tables["mvae"].loc[title, "of the peak"] = f"{work * rate[title] / peaks[p] / 1000:.0%}"
    passes = [f"MMVAE, K = {K}, {title}, float32" for title in PASSES]
    precision = resolve_precision(run.training["qmvae"].precision, device)
    alone = f"{MODELS['qmvae']}, {precision}"
    reached = " and ".join(f"{value:,g} GFLOP/s in {p}" for p, value in peaks.items())
    save(
        f"throughput-{device.type}.md",
        f"{describe(device)}; batches of {BATCH}; medians of {len(rounds)} rounds of {arguments.seconds:g} seconds for "
        f"each row; a matrix product reaches {reached}.\n\n{markdown(tables['mvae'].fillna(''))}\n"
        f"{markdown(tables['mmvae'])}\nMMVAE with K = {K} in float32 trains {rate[passes[0]] / rate[passes[1]]:.2f} "
        f"times as many pairs a second in two passes as in one. "
        f"Q-MVAE's cross-generation with both classifiers: {rate.evaluation:,g} conditions/s, "
        f"{rate.evaluation / rate[alone]:.1f} times the pairs/s of its training in {precision}."
        f"\n\n{protocol(arguments.seconds, device)}",
    )
    csv = rounds.rename_axis("round").to_csv(float_format="%.6g")
    files.save_text(run.root / "reports" / "bench" / f"throughput-{device.type}.csv", csv)


if __name__ == "__main__":
    main()
