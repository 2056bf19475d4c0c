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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, ValidationError, field_validator

from qmvae.data.dataset import Dataset, hold_out
from qmvae.pipeline import artifacts, checkpoint, files, messages, params, training
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import by_name, with_changes
from qmvae.pipeline.sections import Count, ModelName, Name, Sample, Section, Seed
from qmvae.pipeline.stages.evaluate import make_evaluator
from qmvae.report import plots, tables
from qmvae.train import resolve_precision

FILE = "ablations/tuning.yaml"
COLUMNS = ["name", "model", "steps", "seed", "changes"]  # the first of tuning.csv; those of measures have a dot
KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {  # what a cell holds, and what raises ValueError on another cell
    "steps": ("a whole number", int),
    "seed": ("a whole number", int),
    "changes": ("a JSON mapping", lambda text: json.loads(text).items()),
}
SWEEP = {"qmvae": {"kl_shared": 5.0}}  # by model: what the runs of the trade-off change beside their private KL weights
LEFT_OUT = "calibration", "coherence"  # parts of Evaluator.evaluate that tuning.csv does not keep


class Validation(Section):
    part: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed
    conditions: Sample
    probe_pairs: Sample


class Entry(Section):
    model: ModelName
    steps: Count
    seed: Seed
    changes: dict[str, Any]  # of `training` or of the model's section

    @field_validator("changes")
    @classmethod
    def _not_its_own(cls, changes: dict[str, Any]):
        if own := {"steps", "seeds"} & set(changes):
            raise ValueError(f"{min(own)}: not used here; set the entry's own steps and seed")
        return changes


class Tuning(Section):
    validation: Validation
    runs: dict[Name, Entry]


def load(root: Path) -> Tuning:
    """Return the entries of ablations/tuning.yaml. Raises ParamsError."""
    path = root / FILE
    try:
        return Tuning.model_validate(params.parse(path))
    except ValidationError as error:
        raise params.ParamsError(params.explain(path, error)) from None


def with_entry(run: params.Params, name: str, entry: Entry) -> params.Params:
    """Return the run with the settings of one entry. Raises ParamsError, which names the key, on unknown settings."""
    model, where = entry.model, f"{FILE}: runs.{name}.changes"
    own = getattr(run, model), run.training[model]
    section, settings = with_changes(where, model, *own, entry.changes, run.modalities)
    settings = settings.changed(where, {"steps": entry.steps, "seeds": [entry.seed]})
    return run.model_copy(update={model: section, "training": run.training | {model: settings}})


def differs(run: params.Params, name: str, entry: Entry, row: dict[str, str]) -> bool:
    """Return whether a row has another model, number of steps or seed than its entry, or another value of a setting.

    A setting that the row does not name had the preset's value of its time, which the row does not keep. It is not
    compared, and neither is one that no longer exists. Raises ParamsError as `with_entry`.
    """
    chosen = with_entry(run, name, entry)
    if (row["model"], int(row["steps"]), int(row["seed"])) != (entry.model, entry.steps, entry.seed):
        return True
    known = dict(getattr(run, entry.model)) | dict(run.training[entry.model])
    changes = {key: value for key, value in json.loads(row["changes"]).items() if key in known}
    try:
        return with_entry(chosen, name, entry.model_copy(update={"changes": changes})) != chosen
    except params.ParamsError:  # a value that is no longer allowed
        return True


def split(whole: Dataset, run: params.Params, chosen: Validation) -> Dataset:
    """Return the training images, a part of which is held out. Raises ParamsError if too few pairs or classes stay."""
    try:
        dataset = hold_out(whole, chosen.part, run.pairs.multiplier, chosen.seed, run.pairs.redraw)
        train, test = len(dataset.train.pairs), len(dataset.test.pairs)
        fault = f"leaves {train:,} pairs for training and {test:,} for validation" if min(train, test) < 10 else ""
        for name, labels in dataset.train.labels.items():
            if lost := sorted({*whole.classes.tolist()} - {*labels.tolist()}):
                fault = f"leaves no training image of {name} of the classes {lost}"
    except (RuntimeError, ValueError) as error:  # of torch.cat, where no class keeps an image
        fault = f"the images cannot be split: {error}"
    if fault:
        expected = "expected 10 pairs of each at least, of all classes; use a part such as 0.1, or more images"
        raise params.ParamsError(f"{FILE}: validation.part: {chosen.part}: {fault}; {expected}")
    return dataset


def tune(run: params.Params, tuning: Tuning, name: str, dataset: Dataset) -> dict[str, Any]:
    """Train one entry from its last checkpoint on, evaluate it, and return its row. Raises TrainingError, FileError."""
    entry, chosen = tuning.runs[name], tuning.validation
    device, folder = dataset.train.pairs.device, run.artifacts / "progress" / "tuning" / name
    folder.mkdir(parents=True, exist_ok=True)
    run, row = with_entry(run, name, entry), {"name": name} | entry.model_dump()
    precision = resolve_precision(run.training[entry.model].precision, device)
    row |= {"commit": commit(), "device": device.type, "precision": precision}
    row["changes"] = json.dumps(entry.changes)
    digest = f"{training.fingerprint(run, entry.model, entry.seed)} {chosen.model_dump_json()}"
    training.train_seed(run, entry.model, entry.seed, dataset, folder, digest)
    found = make_evaluator(run, dataset, chosen).evaluate(checkpoint.load_model(folder, device))
    for part in (part for part in found if part not in LEFT_OUT):
        row |= {f"{part}.{key}": f"{value:.4g}" for key, value in found[part].items()}
    return row


def commit() -> str:
    """Return the short hash of the current commit, or an empty text without git."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    except OSError:  # no such program
        return ""
    return found.stdout.strip()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of tuning.csv; none without the file. Raises FileError, which names a damaged line."""
    cure = f"correct it, or restore it with `git checkout -- {path}`, which keeps committed rows only"
    try:
        text = path.read_bytes().decode("utf-8-sig")  # with the mark that Excel writes, too
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise files.FileError(f"{path}: cannot be read as UTF-8: {error}; {cure}") from None
    reader, rows = csv.reader(io.StringIO(text, newline=""), strict=True), []
    try:
        header = next(reader, [])
        if header[: len(COLUMNS)] != COLUMNS or len(set(header)) < len(header):
            found = f"found {','.join(header)!r:.60}"
            raise ValueError(f"expected different columns, of which the first are {','.join(COLUMNS)} ({found})")
        for cells in filter(None, reader):
            if len(cells) != len(header):
                raise ValueError(f"found {len(cells)} cells, expected {len(header)} as in the header")
            rows.append(dict(zip(header, cells, strict=True)))
            check(rows[-1])
        if not text.endswith(("\n", "\r")):
            raise ValueError("found no end of the line, so its last cell may be cut; complete it")
    except (ValueError, csv.Error, RecursionError) as error:
        raise files.FileError(f"{path}: line {reader.line_num}: {error}; {cure}") from None
    return rows


def check(row: dict[str, str]) -> None:
    """Raise ValueError, which names the column, on a cell of tuning.csv of another kind than its column holds."""
    for key, value in row.items():
        kind, read = KINDS.get(key, ("a number", float if "." in key and value else str))
        try:
            read(value)
        except (ValueError, AttributeError):
            raise ValueError(f"{key}: expected {kind} (found {value!r:.60})") from None


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


def style(row: dict[str, str], target: str) -> list[float]:
    """Return R2 of each style measure of a target modality; none for a model without private codes."""
    return [float(value) for key, value in row.items() if value and key.rpartition("_")[0] == f"style.{target}"]


def differs_in_private_weights(row: dict[str, str], entries: Mapping[str, Entry]) -> bool:
    """Return whether a run belongs to the trade-off: its entry has all settings but `kl_private` from SWEEP."""
    if row["name"] not in entries:
        return False
    entry = entries[row["name"]]
    return {k: v for k, v in entry.changes.items() if k != "kl_private"} == SWEEP.get(entry.model, {})


def accuracy(row: dict[str, str], titles: Mapping[str, str]) -> float:
    """Return the mean accuracy of cross-generation over all directions, by the stronger classifier: a fraction of 1."""
    return fmean(float(row[f"cross_strong.{key}"]) for key in tables.directions(titles))


def qualifies(row: dict[str, str]) -> bool:
    """Return whether the protocol may select a run (docs/design.md).

    R2 of every background is at least 0.95, and each private code has 8 active dimensions or more.
    """
    found = {key: float(value) for key, value in row.items() if value and key.startswith(("active.", "style."))}
    alive = all(found[key] >= 8 for key in found if key.startswith("active.") and key.endswith("_private"))
    return alive and all(
        found[key] >= 0.95 for key in found if key.startswith("style.") and key.endswith("_background")
    )


def private_weights(run: params.Params, row: dict[str, str]) -> dict[str, float]:
    """Return the private KL weight of each modality in a run. Raises ParamsError on what a model does not take."""
    section, where = getattr(run, row["model"]), f"tuning.csv: {row['name']}.changes"
    changes = {key: value for key, value in json.loads(row["changes"]).items() if key == "kl_private"}
    return section.changed(where, by_name(where, section, changes, run.modalities)).kl_private


def is_final(run: params.Params, name: str, entry: Entry) -> bool:
    """Return whether an entry has the settings and the number of steps of its model's final runs in the preset."""
    tuned, final = with_entry(run, name, entry), run.training[entry.model]
    same = tuned.training[entry.model].model_copy(update={"seeds": final.seeds}) == final
    return same and getattr(tuned, entry.model) == getattr(run, entry.model)


def tradeoff(
    rows: list[dict[str, str]], run: params.Params, titles: Mapping[str, str], entries: Mapping[str, Entry]
) -> pd.DataFrame:
    """Return accuracy and style of the runs that differ in their private KL weights only, for plots.tradeoff.

    A line has the runs of one model and one number of steps, three or more. Accuracy is that of cross-generation by the
    stronger classifier, in %. Style is the mean R2 over the target's measures. `weight` is the target's private KL
    weight, and `weights` has those of all modalities as text. `chosen` is the run of each line with the highest mean
    accuracy among those that qualify. `final` is a run with the settings of the final runs. One that also differs in
    other settings is not on the line (`on_line`). entries: those of tuning.yaml, since an old row lacks the settings
    that the preset had in its time.
    """
    lines: dict[str, list[dict[str, str]]] = {}
    finals: dict[str, dict[str, str]] = {}
    for row in rows:
        measured = [
            row.get(f"cross_strong.{key}") and style(row, b) for key, (_, b) in tables.directions(titles).items()
        ]
        if row["model"] in tables.PAPER_MODELS and all(measured):
            line = f"{tables.MODELS[row['model']]}, {int(row['steps']):,} steps"
            if differs_in_private_weights(row, entries):
                lines.setdefault(line, []).append(row)
            if row["name"] in entries and is_final(run, row["name"], entries[row["name"]]):
                finals[line] = row
    lines = {line: points for line, points in lines.items() if len(points) >= 3}
    best = {
        line: max(filter(qualifies, points), key=lambda row: accuracy(row, titles), default=None)
        for line, points in lines.items()
    }
    beside = {line: [row] for line, row in finals.items() if not differs_in_private_weights(row, entries)}
    return pd.DataFrame(
        {
            "direction": tables.in_words(key, titles),
            "model": line,
            "accuracy": 100 * float(row[f"cross_strong.{key}"]),
            "style": fmean(style(row, b)),
            "weight": private_weights(run, row)[b],
            "weights": "/".join(f"{weight:g}" for weight in private_weights(run, row).values()),
            "chosen": best[line] is row,
            "final": finals.get(line) is row,
            "on_line": differs_in_private_weights(row, entries),
        }
        for line, points in lines.items()
        for row in [*points, *beside.get(line, [])]
        for key, (_, b) in tables.directions(titles).items()
    )


def check_entries(
    run: params.Params, tuning: Tuning, names: list[str], rows: dict[str, dict[str, str]], pairs: int
) -> None:
    """Print which entries differ from their rows, which are kept. Raises ParamsError on an entry that cannot train."""
    for name in names:
        entry = tuning.runs[name]
        batch = with_entry(run, name, entry).training[entry.model].batch_size
        if name in rows and differs(run, name, entry, rows[name]):
            found = ", ".join(rows[name][column] for column in COLUMNS[1:])
            told = f"tuning.csv has a row of this name with other settings ({found}); it is kept, the entry is not run"
            print(f"{FILE}: runs.{name}: {told}; give the entry another name to run it", flush=True)
        elif name not in rows and batch > pairs:
            fault = f"{batch:,} is more than the {pairs:,} training pairs; make it, or validation.part, smaller"
            raise params.ParamsError(f"{FILE}: runs.{name}: batch_size: {fault}")


def run_all(run: params.Params, names: list[str]) -> None:
    """Run the entries in order, add a row for each, and draw the trade-off of all rows.

    Faults of tuning.yaml and tuning.csv are found before it trains. Raises ParamsError, TrainingError,
    FileError and OSError.
    """
    tuning, path = load(run.root), run.reports / "tuning.csv"
    for name in names:
        if name not in tuning.runs:
            raise params.ParamsError(f"tuning.yaml: no run {name!r}; expected one of {', '.join(tuning.runs)}")
    names, rows = names or list(tuning.runs), read_rows(path)
    whole = artifacts.load_dataset(run, resolve_device(run))
    tradeoff(rows, run, whole.titles, tuning.runs)
    dataset = split(whole, run, tuning.validation)
    check_entries(run, tuning, names, {row["name"]: row for row in rows}, len(dataset.train.pairs))
    locks = run.artifacts / "progress" / "tuning"
    locks.mkdir(parents=True, exist_ok=True)
    for name in names:
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
        if not (frame := tradeoff(read_rows(path), run, whole.titles, tuning.runs)).empty:
            artifacts.save_figure(run, plots.tradeoff(frame), "tradeoff")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="entries of ablations/tuning.yaml; all, if none is given")
    with messages.one_message("tuning", "the same command", OSError):
        run_all(params.load(params.SOURCE), parser.parse_args().names)


if __name__ == "__main__":
    main()
