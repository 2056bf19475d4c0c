"""Evaluate trained models: artifacts/<preset>/evaluation/<model>.json."""

from typing import Any

from qmvae.data.dataset import Dataset
from qmvae.evaluate.evaluator import Evaluator
from qmvae.pipeline import artifacts, code, files
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.jobs import side_by_side
from qmvae.pipeline.schema import Params
from qmvae.pipeline.threads import use_one_thread


def run(params: Params, models: list[str]) -> None:
    """Evaluate every seed of the models, several models side by side on a CPU, one model in this process.

    Numbers of the same models, images, classifiers, settings and code are kept. Raises FileError or JobError.
    """
    folder = params.artifacts / "progress" / "evaluation"
    digests = {name: fingerprint(params, name) for name in models}
    paths = {name: folder / f"{name}.json" for name in models}
    waiting = [name for name in models if not files.has_fingerprint(paths[name], digests[name])]
    if len(waiting) > 1 and resolve_device(params).type == "cpu":
        side_by_side([["evaluate", name] for name in waiting])
    else:
        for name in waiting:
            files.save_json(paths[name], {"fingerprint": digests[name], "result": evaluate(params, name)})
    for name in models:
        files.save_json(params.artifacts / "evaluation" / f"{name}.json", files.load_json(paths[name])["result"])


def fingerprint(params: Params, name: str) -> str:
    """Return the SHA-256 over the models, images, classifiers, settings and code that a model's numbers depend on."""
    sources = ["qmvae/pipeline/stages/evaluate.py", code.model_file(name)]
    parts = [params.evaluation.model_dump(), params.training[name].seeds, code.code_hash(code.ROOT, sources)]
    models = params.artifacts / "models" / name
    folders = params.artifacts / "data", params.artifacts / "classifiers", models
    tensors = (path for folder in folders for path in folder.rglob("*.safetensors"))
    return files.fingerprint(parts, sorted([*tensors, *models.rglob("model.json")]))  # such as `test_time`


def make_evaluator(params: Params, dataset: Dataset, settings: Any) -> Evaluator:
    """Return the evaluator of a data set, with the classifiers of the run, on the device of the images.

    It sets torch to one thread, since the last bits of a number depend on how many there are.
    settings: conditions, probe_pairs and seed, as in the section `evaluation` of params.yaml. Raises FileError.
    """
    use_one_thread()
    device = dataset.train.pairs.device
    standard, strong = (artifacts.load_classifiers(params, dataset, kind, device) for kind in ("standard", "strong"))
    return Evaluator(dataset, standard, strong, settings.conditions, settings.probe_pairs, settings.seed)


def evaluate(params: Params, name: str) -> dict:
    """Return the numbers by part, key and seed, and how the model was trained. Raises FileError."""
    device, training = resolve_device(params), params.training[name]
    evaluator = make_evaluator(params, artifacts.load_dataset(params, device), params.evaluation)
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    precisions: set[str] = set()
    for seed in training.seeds:
        model = artifacts.load_model(params, name, seed, device)
        about = files.load_json(path := params.model_folder(name, seed) / "model.json")
        if about["steps"] != training.steps:
            fault = f"trained for {about['steps']:,} steps, params.yaml asks for {training.steps:,}"
            raise files.FileError(f"{path}: {fault}; run `python -m qmvae train {name}`")
        precisions.add(about["precision"])
        found = evaluator.evaluate(model)
        for part, values in found.items():
            entries = numbers.setdefault(part, {})  # it stays empty for parts that a model such as CVAE lacks
            for key, value in values.items():
                entries.setdefault(key, {})[str(seed)] = value  # a text, as in JSON
        print(f"{name}, seed {seed}: {percentages(found['cross'] | found['linear'] | found['coherence'])}", flush=True)
    about = {"conditions": len(evaluator.conditions), "codes": model.sizes}
    about |= {"steps": training.steps, "batch_size": training.batch_size, "precision": " or ".join(sorted(precisions))}
    return about | {"numbers": numbers}


def percentages(values: dict[str, float]) -> str:
    """Return the fractions of 1 as text in per cent."""
    return ", ".join(f"{key} {value:.1%}" for key, value in values.items())
