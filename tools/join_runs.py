"""Join the numbers of runs that trained apart. `python tools/join_runs.py FIRST.json SECOND.json`

Both files are a metrics.json of the same preset, images and classifiers. Either they have the same models and settings
and different seeds: FIRST gets the seeds of both. Or they have the same seeds: FIRST gets the models of SECOND, instead
of its own of the same name. scores.json beside FIRST is written again. So a preset can train on several machines.
"""

import argparse
from pathlib import Path
from typing import Any

from qmvae.pipeline import files
from qmvae.pipeline.stages.metrics import rounded, scores, summary


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
    first, second = (files.load_json(path, "give two files metrics.json") for path in (paths.first, paths.second))
    try:
        joined = rounded(join(first, second))
    except (ValueError, KeyError, AttributeError) as error:
        parser.exit(1, f"{paths.first} and {paths.second} cannot be joined: {error}\n")
    files.save_json(paths.first, joined)
    files.save_json(paths.first.with_name("scores.json"), scores(joined["models"]))
    print(f"{paths.first}: {', '.join(joined['models'])}; seeds {joined['seeds']}")


if __name__ == "__main__":
    main()
