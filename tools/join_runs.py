"""Join the numbers of runs that trained apart. `python tools/join_runs.py FIRST.json SECOND.json`

Both files are a metrics.json of the same preset, images and classifiers. Either they have the same models and settings
and different seeds: FIRST gets the seeds of both. Or they have the same seeds: FIRST gets the models of SECOND, instead
of its own of the same name. scores.json beside FIRST is written again. So a preset can train on several machines.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from qmvae.pipeline import files
from qmvae.pipeline.stages.metrics import rounded, scores, summary

EXPECTED = {
    "seeds": (list, "a list of whole numbers"),
    "steps": (int, "a whole number"),
    "models": (dict, "an object with a model or more"),
    "cross": (dict, "an object with an entry or more"),
    "linear": (dict, "an object of entries"),  # of none for a model without codes
}


def load(path: Path) -> dict:
    """Return the metrics of a file. Raises FileError that names the file and the key that is not as expected.

    Every number is finite, and every entry has as many values as the file has seeds.
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

    expect_keys(found, "", "seeds", "steps", "models")
    expect(all(isinstance(seed, int) for seed in found["seeds"]), "seeds", EXPECTED["seeds"][1])
    count = len(found["seeds"])
    for name, model in found["models"].items():
        expect_keys(model, f"models.{name}.", "steps", "cross", "linear")
        for part in (part for part in model if isinstance(model[part], dict) and part != "codes"):
            for key, entry in model[part].items():
                expected = f"mean, std and `seeds` with {count} numbers, as the file has {count} seeds"
                expect(_is_entry(entry, count), f"models.{name}.{part}.{key}", expected)
    expect_finite(found, "")
    return found


def _is_entry(value: Any, count: int) -> bool:
    match value:
        case {"mean": int() | float(), "std": int() | float(), "seeds": [*values]} if len(value) == 3:
            return len(values) == count and all(isinstance(number, int | float) for number in values)
    return False


def join(first: dict, second: dict) -> dict:
    """Return metrics with the seeds or the models of both. Raises ValueError that names what differs and must not."""
    if first["seeds"] == second["seeds"]:
        models = first["models"] | second["models"]
        steps = models["qmvae"]["steps"] if "qmvae" in models else first["steps"]
        open_keys = {"models": None, "steps": None}
        return _join(first | open_keys, second | open_keys, "") | {"models": models, "steps": steps}
    if repeated := set(first["seeds"]) & set(second["seeds"]):
        raise ValueError(f"seeds: both files have {sorted(repeated)}, and others; give all or none in both")
    return _join(first | {"seeds": None}, second | {"seeds": None}, "") | {"seeds": first["seeds"] + second["seeds"]}


def _join(first: Any, second: Any, where: str) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            raise ValueError(f"{where or 'the files'}: one has {sorted(first)}, the other {sorted(second)}")
        if first.keys() == {"mean", "std", "seeds"}:
            return summary(first["seeds"] + second["seeds"])
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
    print(f"{paths.first}: {', '.join(joined['models'])}; seeds {joined['seeds']}")


if __name__ == "__main__":
    main()
