"""Join the numbers of runs that trained apart. `python tools/join_runs.py FIRST.json SECOND.json`

Both files are a metrics.json of the same preset, images and classifiers. FIRST gets the models that it lacks. Of a
model in both files it gets the seeds of both, if these are different ones and all settings agree. A model with the same
seeds in both is taken from SECOND. scores.json beside FIRST is written again. So several machines can train a preset.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from qmvae.pipeline import files
from qmvae.pipeline.stages.metrics import rounded, scores, summary
from qmvae.report.tables import seeds

EXPECTED = {
    "steps": (int, "a whole number"),
    "models": (dict, "an object with a model or more"),
    "cross": (dict, "an object with an entry or more"),
    "linear": (dict, "an object of entries"),  # of none for a model without codes
}


def load(path: Path) -> dict:
    """Return the metrics of a file. Raises FileError that names the file and the key that is not as expected.

    Every number is finite, and every entry of a model has numbers of the same seeds.
    """
    found = files.load_json(path, "give two files metrics.json")

    def expect(right: bool, key: str, expected: str) -> None:
        if not right:
            raise files.FileError(f"{path}: {key}: expected {expected}; give a metrics.json that `dvc repro` wrote")

    def expect_keys(value: Any, where: str, *keys: str) -> None:
        for key in keys:
            kind, expected = EXPECTED[key]
            right = isinstance(value, dict) and isinstance(value.get(key), kind) and (value[key] or key == "linear")
            expect(right, f"{where}{key}", expected)

    def expect_finite(value: Any, key: str) -> None:
        if isinstance(value, dict | list):
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                expect_finite(item, f"{key}.{name}".lstrip("."))
        expect(not isinstance(value, int | float) or abs(value) <= sys.float_info.max, key, "a finite number")

    expect_keys(found, "", "steps", "models")
    for name, model in found["models"].items():
        expect_keys(model, f"models.{name}.", "steps", "cross", "linear")
        own = None
        for part in (part for part in model if isinstance(model[part], dict) and part != "codes"):
            for key, entry in model[part].items():
                where = f"models.{name}.{part}.{key}"
                expect(_is_entry(entry), where, "mean, std and `seeds`, an object with a number for each seed")
                own = own or set(entry["seeds"])
                expect(own == set(entry["seeds"]), f"{where}.seeds", f"the model's seeds {', '.join(sorted(own))}")
    expect_finite(found, "")
    return found


def _is_entry(value: Any) -> bool:
    match value:
        case {"mean": int() | float(), "std": int() | float(), "seeds": dict(values)} if len(value) == 3 and values:
            return all(seed.isdecimal() and isinstance(number, int | float) for seed, number in values.items())
    return False


def join(first: dict, second: dict) -> dict:
    """Return metrics with the models and seeds of both. Raises ValueError that names what differs and must not."""
    open_keys = {"models": None, "steps": None}
    models = first["models"] | second["models"]
    for name in first["models"].keys() & second["models"].keys():
        old, new = first["models"][name], second["models"][name]
        own, more = {*seeds(old)}, {*seeds(new)}
        if own != more:
            if repeated := own & more:
                raise ValueError(
                    f"models.{name}: both files have the seeds {', '.join(sorted(repeated))}, and others; "
                    "give all or none in both"
                )
            models[name] = _join(old, new, f"models.{name}")
    if not set.intersection(*({*seeds(model)} for model in models.values())):
        raise ValueError(
            f"models: no seed is common to {with_seeds(models)}; join the files first whose models share one"
        )
    steps = models["qmvae"]["steps"] if "qmvae" in models else first["steps"]
    return _join(first | open_keys, second | open_keys, "") | {"models": models, "steps": steps}


def with_seeds(models: dict[str, dict]) -> str:
    """Return the names of models with their seeds."""
    return ", ".join(f"{name} ({', '.join(seeds(model))})" for name, model in models.items())


def _join(first: Any, second: Any, where: str) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            raise ValueError(f"{where or 'the files'}: one has {sorted(first)}, the other {sorted(second)}")
        if first.keys() == {"mean", "std", "seeds"}:
            values = first["seeds"] | second["seeds"]
            return summary({seed: values[seed] for seed in sorted(values, key=int)})
        return {key: _join(first[key], second[key], f"{where}.{key}".lstrip(".")) for key in first}
    if first != second:
        raise ValueError(f"{where}: one has {first!r}, the other {second!r}")
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    paths = parser.parse_args()
    try:
        joined = rounded(join(load(paths.first), load(paths.second)))
        # FIRST is last: while it is the old one, the command can be repeated
        files.save_json(paths.first.with_name("scores.json"), scores(joined["models"]))
        files.save_json(paths.first, joined)
    except (files.FileError, ValueError, ArithmeticError, RecursionError) as error:
        parser.exit(1, f"{paths.first} and {paths.second} cannot be joined: {error}\n")
    print(f"{paths.first}: {with_seeds(joined['models'])}")


if __name__ == "__main__":
    main()
