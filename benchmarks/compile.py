"""A training step with and without torch.compile, and the time of compilation, for each model.

Each model is built twice and compiled with an empty cache. The compilation time is that of a whole run of a few steps,
so that every value of a schedule (Q-MVAE's two ways to choose negatives) is compiled, less that of as many later steps.
Then the plain and the compiled one train in turns. Batches and precision are those of the preset; the images are the
built-in ones. Writes compile.md.
"""

import argparse
import os
import tempfile
from collections import deque

import pandas as pd
import torch
from timing import (
    WARM_UP,
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

from qmvae.pipeline import params
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import Params
from qmvae.report.tables import MODELS
from qmvae.train import resolve_precision


def measure(run: Params, name: str, split, config: dict, duration: float, rounds: int) -> dict:
    """Return the row of one model."""
    torch._dynamo.reset()
    cold = training(run, name, split, config, compile="on", steps=WARM_UP)
    first = seconds(lambda: deque(cold, maxlen=0))
    steps = {choice: warm(training(run, name, split, config, compile=choice)) for choice in ("off", "on")}
    found = [{choice: 1000 * step_seconds(of, duration) for choice, of in steps.items()} for _ in range(rounds)]
    table = compared(pd.DataFrame(found), "off", "ms a step")
    plain, fast = (number(pd.DataFrame(found)[choice].median()) for choice in ("off", "on"))
    compilation = number(max(first - WARM_UP * fast / 1000, 0.0))
    return {
        "plain, ms a step": table.loc["off"].iloc[0],
        "compiled, ms a step": table.loc["on"].iloc[0],
        "compiled / plain": table.loc["on"].iloc[1],
        "in single rounds": table.loc["on"].iloc[2],
        "compilation, s": f"{compilation:g}",
        "pays after, steps": f"{1000 * compilation / (plain - fast):,.0f}" if fast < plain else "never",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["quick", "subset"], help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a row's half in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, help="as a float32 job: 1 (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    rows = {}
    for preset in arguments.presets:
        run = params.load(preset)
        split = on(images(list(run.modalities), 10_000).train, resolve_device(run))
        entries = {MODELS[name]: (name, {}) for name in run.models}
        if "mmvae" in run.models:
            del entries[MODELS["mmvae"]]
            entries |= {f"MMVAE, K = {k}": ("mmvae", {"samples": k}) for k in (1, 30)}
        for title, (name, config) in entries.items():
            settings = run.training[name]
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
                precision = resolve_precision(settings.precision, split.pairs.device)
                title = f"{title}, {precision}, {settings.batch_size} pairs"
                rows[title] = measure(run, name, split, config, arguments.seconds, arguments.rounds)
            print(title, rows[title], flush=True)
    text = f"{describe(torch.device(resolve_device(run)))}; medians of {arguments.rounds} rounds."
    save("compile.md", f"{text}\n\n{markdown(pd.DataFrame(rows).T)}")


if __name__ == "__main__":
    main()
