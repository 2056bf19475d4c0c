"""Train models on a part of the training images, and evaluate them on the rest: the rows of tuning.csv.

`python ablations/tune.py [NAME ...]` runs the named entries of ablations/tuning.yaml, or all, on the preset `subset`.
It skips those that have a row or that another process has begun. So two terminals share the work.
"""

import argparse
import contextlib
import csv
import fcntl
import io
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from pydantic import ValidationError

from qmvae.data.dataset import Dataset, hold_out
from qmvae.pipeline import artifacts, checkpoint, files, params, training
from qmvae.pipeline.schema import Count, Fraction, ModelName, Name, Section, Seed, with_changes
from qmvae.pipeline.stages.evaluate import make_evaluator
from qmvae.report import plots, tables
from qmvae.train import resolve_precision

LEFT_OUT = "calibration", "coherence"  # parts of Evaluator.evaluate that tuning.csv does not keep


class Validation(Section):
    part: Fraction
    seed: Seed
    conditions: Count
    probe_pairs: Count


class Entry(Section):
    model: ModelName
    steps: Count
    seed: Seed
    changes: dict[str, Any]  # of `training` or of the model's section


class Tuning(Section):
    validation: Validation
    runs: dict[Name, Entry]


def load(root: Path) -> Tuning:
    """Return the entries of ablations/tuning.yaml. Raises ParamsError."""
    path = root / "ablations" / "tuning.yaml"
    try:
        return Tuning.model_validate(params.parse(path, typ="safe", pure=True)[1])
    except ValidationError as error:
        raise params.ParamsError(f"{path} cannot be used: {error}") from None


def with_entry(run: params.Params, name: str, entry: Entry) -> params.Params:
    """Return the run with the settings of one entry. Raises ValueError, which names the key, on unknown settings."""
    model, where = entry.model, f"ablations/tuning.yaml: runs.{name}.changes"
    own = getattr(run, model), run.training[model]
    section, settings = with_changes(where, model, *own, entry.changes, run.modalities)
    settings = settings.changed(where, {"steps": entry.steps, "seeds": [entry.seed]})
    return run.model_copy(update={model: section, "training": run.training | {model: settings}})


def tune(run: params.Params, tuning: Tuning, name: str, dataset: Dataset) -> dict[str, Any]:
    """Train one entry from its last checkpoint on, evaluate it, and return its row. Raises TrainingError, FileError."""
    entry, chosen = tuning.runs[name], tuning.validation
    device, folder = dataset.train.pairs.device, run.artifacts / "progress" / "tuning" / name
    folder.mkdir(parents=True, exist_ok=True)
    run, row = with_entry(run, name, entry), {"name": name} | entry.model_dump()
    precision = resolve_precision(run.training[entry.model].precision, device)
    row |= {"commit": commit(), "device": device.type, "precision": precision}
    row["changes"] = json.dumps(entry.changes)
    digest = f"{training.fingerprint(run, entry.model)} {chosen.model_dump_json()}"
    training.train_seed(run, entry.model, entry.seed, dataset, folder, digest)
    found = make_evaluator(run, dataset, chosen).evaluate(checkpoint.load_model(folder, device))
    for part in (part for part in found if part not in LEFT_OUT):
        row |= {f"{part}.{key}": f"{value:.4g}" for key, value in found[part].items()}
    return row


def commit() -> str:
    """Return the short hash of the current commit, or an empty text without git."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of tuning.csv; none without the file."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


@contextlib.contextmanager
def alone(locks: Path) -> Iterator[None]:
    """Let other processes that tune wait, so that one at a time writes tuning.csv and the figure."""
    with open(locks / "rows.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_row(path: Path, row: dict[str, Any], locks: Path) -> None:
    """Append a row to tuning.csv, which gains the columns that it lacks."""
    with alone(locks):
        rows: list[dict[str, Any]] = [*read_rows(path), row]
        text = io.StringIO()
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.save_text(path, text.getvalue())


def differs_in_private_weights(row: dict[str, str]) -> bool:
    """Return whether a run belongs to the trade-off: it has private KL weights of its own, and all else as usual."""
    changes = json.loads(row["changes"])
    usual = {"kl_shared": 5.0}  # of Q-MVAE in the sweep
    other = {key: value for key, value in changes.items() if key != "kl_private"}
    return other.items() <= usual.items()


def accuracy(row: dict[str, str], titles: Mapping[str, str]) -> float:
    """Return the mean accuracy of cross-generation over all directions, by the stronger classifier: a fraction of 1."""
    return fmean(float(row[f"cross_strong.{key}"]) for key in tables.directions(titles))


def qualifies(row: dict[str, str]) -> bool:
    """Return whether the protocol may select a run (docs/design.md).

    R2 of every background is at least 0.95, and each private code has 8 active dimensions or more.
    """
    alive = all(float(row[key]) >= 8 for key in row if key.startswith("active.") and key.endswith("_private"))
    return alive and all(
        float(row[key]) >= 0.95 for key in row if key.startswith("style.") and key.endswith("_background")
    )


def tradeoff(rows: list[dict[str, str]], run: params.Params, titles: Mapping[str, str]) -> pd.DataFrame:
    """Return accuracy and style of the runs that differ in their private KL weights only, for plots.tradeoff.

    A line has the runs of one model and one number of steps, three or more. Accuracy is that of cross-generation by the
    stronger classifier, in %. Style is the mean R2 over the target's measures. `weight` is the target's private KL
    weight. `chosen` is the run of each line with the highest mean accuracy among those that qualify.
    """
    lines: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        styled = any(row[key] for key in row if key.startswith("style."))
        if row["model"] in tables.PAPER_MODELS and styled and differs_in_private_weights(row):
            lines.setdefault(f"{tables.MODELS[row['model']]}, {int(row['steps']):,} steps", []).append(row)
    lines = {line: points for line, points in lines.items() if len(points) >= 3}
    best = {
        line: max(filter(qualifies, points), key=lambda row: accuracy(row, titles), default=None)
        for line, points in lines.items()
    }
    return pd.DataFrame(
        {
            "direction": f"{titles[a]} → {titles[b]}",
            "model": line,
            "accuracy": 100 * float(row[f"cross_strong.{key}"]),
            "style": fmean(float(row[name]) for name in row if name.startswith(f"style.{b}_")),
            "weight": (json.loads(row["changes"]).get("kl_private") or getattr(run, row["model"]).kl_private)[b],
            "chosen": best[line] is row,
        }
        for line, points in lines.items()
        for row in points
        for key, (a, b) in tables.directions(titles).items()
    )


def run_all(run: params.Params, names: list[str]) -> None:
    """Run the entries in order, add a row for each, and draw the trade-off of all rows.

    Raises ParamsError, TrainingError and FileError.
    """
    tuning, path = load(run.root), run.reports / "tuning.csv"
    for name in names:
        if name not in tuning.runs:
            raise params.ParamsError(f"tuning.yaml: no run {name!r}; expected one of {', '.join(tuning.runs)}")
    whole, chosen = artifacts.load_dataset(run, training.resolve_device(run)), tuning.validation
    dataset = hold_out(whole, chosen.part, run.pairs.multiplier, chosen.seed, run.pairs.redraw)
    locks = run.artifacts / "progress" / "tuning"
    locks.mkdir(parents=True, exist_ok=True)
    for name in names or tuning.runs:
        with open(locks / f"{name}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if any(row["name"] == name for row in read_rows(path)):
                continue
            row = tune(run, tuning, name, dataset)
            add_row(path, row, locks)
            told = [f"{key} {value}" for key, value in row.items() if key.startswith(("cross_strong", "style"))]
            print(f"{name}: {', '.join(told)}", flush=True)
    with alone(locks):
        if not (frame := tradeoff(read_rows(path), run, whole.titles)).empty:
            artifacts.save_figure(run, plots.tradeoff(frame), "tradeoff")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="entries of ablations/tuning.yaml; all, if none is given")
    try:
        run_all(params.load(params.SOURCE), parser.parse_args().names)
    except (params.ParamsError, training.TrainingError, files.FileError, ValueError) as error:
        raise SystemExit(f"tuning: {error}") from None


if __name__ == "__main__":
    main()
