"""Collect the numbers of all models: reports/<preset>/metrics.json and scores.json."""

import statistics
from typing import Any

import torch

from qmvae.evaluate.classifiers import chance_levels
from qmvae.pipeline import artifacts, files
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.schema import Params

DIGITS = 6  # significant ones, so that the last bit of another processor leaves the file as it is


def run(params: Params) -> None:
    """Write metrics.json, which has every number, and scores.json: the means of Tables 1 and 2 in per cent.

    Raises FileError.
    """
    dataset = artifacts.load_dataset(params)
    models: dict[str, dict] = {}
    for name in params.models:
        path = params.artifacts / "evaluation" / f"{name}.json"
        result = files.load_json(path)
        try:
            numbers = result.pop("numbers")
            models[name] = result | {part: {k: summary(v) for k, v in found.items()} for part, found in numbers.items()}
        except (KeyError, TypeError, AttributeError, statistics.StatisticsError):
            raise files.FileError(f"{path}: has not the numbers of a model; delete it and {files.REPRO}") from None
    device = resolve_device(params)
    accuracy = artifacts.classifier_accuracy(params)
    metrics = {
        "preset": params.preset,
        "modalities": list(dataset.titles),
        "images": dataset.describe(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "steps": params.training["qmvae"].steps,
        "judges": accuracy["standard"],  # the classifiers of generated images, on real test images
        "strong_judges": accuracy["strong"],
        "supervised": accuracy["supervised"],  # the encoders' architecture, trained on labels: a reference
        "chance": chance_levels(dataset.test),
        "models": models,
    }
    files.save_json(params.reports / "metrics.json", rounded(metrics))
    files.save_json(params.reports / "scores.json", scores(models))


def scores(models: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Return the means of Tables 1 and 2 by model and key, in per cent."""
    return {
        name: {key: round(100 * value["mean"], 1) for part in ("cross", "linear") for key, value in model[part].items()}
        for name, model in models.items()
    }


def summary(seeds: dict[str, float]) -> dict[str, Any]:
    """Return the mean, the standard deviation over seeds (n - 1; 0 for one seed) and the values by seed."""
    values = seeds.values()
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "seeds": seeds,
    }


def rounded(value: Any) -> Any:
    """Return nested dicts and lists with every float rounded to DIGITS significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
