"""What the benchmarks share: the images, the training steps of a model, clocks, and tables whose numbers divide."""

import copy
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from qmvae.data.checks import ARRAYS
from qmvae.data.dataset import Dataset, Split
from qmvae.data.sources import read
from qmvae.pipeline import checkpoint, datasets, files, params
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import Params
from qmvae.pipeline.training import Log
from qmvae.train import make_optimizer, training_steps

ENDLESS = 10**9  # steps of a training run whose benchmark stops earlier
WARM_UP = 10  # steps before the first time is taken
LEAST = 3  # steps that are timed even if they take longer than asked for


def describe(device: torch.device) -> str:
    """Return the device, its threads and torch's version in one line."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def save(name: str, text: str) -> None:
    """Print a report and write it to reports/bench/`name`."""
    print(text)
    files.save_text(params.find_root() / "reports" / "bench" / name, text)


@functools.cache
def rendered(name: str) -> Mapping[str, Any]:
    """Return the arrays of the built-in images of one modality. Rendering takes seconds."""
    return read("builtin", Path(), ["mnist", "svhn"], 0)[name][1]


def images(modalities: list[str], rows: int) -> Dataset:
    """Return `rows` built-in images of each modality; image i of all modalities is of class i % 10 and is pair i.

    A digit at the end of a modality's name does not count: `mnist2` has the images of `mnist`. There are about 1,000
    images a class. They repeat where `rows` needs more.
    """
    datasets.keep_freed_memory()  # for all contenders of a benchmark
    classes, found = torch.arange(rows) % 10, {}
    for name in modalities:
        pictures, labels = (torch.tensor(rendered(name.rstrip("0123456789"))[key]) for key in ARRAYS[:2])
        members = [torch.nonzero(labels == digit).squeeze(1) for digit in range(10)]
        chosen = [members[i % 10][i // 10 % len(members[i % 10])] for i in range(rows)]
        pictures = pictures[torch.stack(chosen)]
        found[name] = (pictures[:, None] if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2)).contiguous()
    pairs = torch.arange(rows, dtype=torch.int32)[:, None].repeat(1, len(modalities))
    train = Split(found, {name: classes.clone() for name in modalities}, pairs)
    test = copy.deepcopy(train)  # a file of tensors cannot hold one twice
    return Dataset(train, test, titles={name: name for name in modalities})


def on(split: Split, device: torch.device) -> Split:
    """Return the split on a device."""
    move = {key: {name: t.to(device) for name, t in getattr(split, key).items()} for key in ("images", "labels")}
    return Split(**move, pairs=split.pairs.to(device))


def training(run: Params, name: str, split: Split, config: dict | None = None, **settings) -> Iterator[None]:
    """Train a model of the run without end; each `next` is one step of training.

    config, settings: values of the model's section and of `training` that replace those of the run.
    """
    section = getattr(run, name).model_copy(update=config or {})
    chosen = run.training[name].model_copy(update={"steps": ENDLESS, **settings})
    shapes: Any = {m: tuple(x.shape[1:]) for m, x in split.images.items()}
    torch.backends.cudnn.deterministic = True
    torch.manual_seed(0)
    model = checkpoint.build_model(name, section, shapes, run.networks)
    model = model.to(device=split.pairs.device, memory_format=torch.channels_last)
    log = Log(chosen.log_every)
    for step, terms in training_steps(model, make_optimizer(model, chosen.lr), split, chosen, seed=0):
        log.add(step, terms)
        yield


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(task: Callable[[], object]) -> float:
    """Return the seconds that a task takes."""
    synchronize()
    start = time.perf_counter()
    task()
    synchronize()
    return time.perf_counter() - start


def step_seconds(steps: Iterator, duration: float) -> float:
    """Return the seconds a step, the mean over `duration` seconds and at least LEAST steps; one more comes before."""
    next(steps)
    synchronize()
    start, count = time.perf_counter(), 0
    while count < LEAST or time.perf_counter() - start < duration:
        next(steps)
        count += 1
    synchronize()
    return (time.perf_counter() - start) / count


def warm(steps: Iterator) -> Iterator:
    """Return the iterator after WARM_UP steps."""
    for _ in range(WARM_UP):
        next(steps)
    return steps


def job(run: Params, name: str, folder: Path, batch_size: int, threads: int, duration: float) -> float:
    """Return the seconds a step in this process, with the images of the folder and so many threads."""
    torch.set_num_threads(threads)
    dataset = datasets.load_dataset(folder, run.modalities, resolve_device(run))
    return step_seconds(warm(training(run, name, dataset.train, batch_size=batch_size)), duration)


def at_once(processes: int, *task) -> float:
    """Return the seconds a step, the mean over several processes that each run the same `job` at once."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for start in [pool.submit(torch.get_num_threads) for _ in range(processes)]:  # all have imported torch
            start.result()
        return sum(future.result() for future in [pool.submit(job, *task) for _ in range(processes)]) / processes


def number(value: float) -> float:
    """Return the value with the four digits that tables print."""
    return float(f"{value:.4g}")


def compared(rounds: pd.DataFrame, reference: str, unit: str) -> pd.DataFrame:
    """Return a row for each column of `rounds`, which has a row for each round.

    The row has the median of the rounds, the quotient of the printed medians of this column and of `reference`, and
    the least and the greatest of the rounds' own quotients.
    """
    medians, own = rounds.median().map(number), rounds.div(rounds[reference], axis=0)
    return pd.DataFrame(
        {
            unit: medians.map("{:,.10g}".format),
            f"divided by {reference}": (medians / medians[reference]).map("{:.2f}".format),
            "in single rounds": own.min().map("{:.2f} to ".format) + own.max().map("{:.2f}".format),
        }
    )


def markdown(table: pd.DataFrame, index: bool = True) -> str:
    """Return the table in Markdown with its texts as they are: the first column on the left, others on the right."""
    columns = table.shape[1] - (not index)
    return table.to_markdown(index=index, disable_numparse=True, colalign=["left", *["right"] * columns]) + "\n"
