"""The committed models: `publish` writes them, `prepare` lays them out for notebooks, so that a reader need not train.

reports/subset/checkpoint has the first seed of each model of `subset` but LEFT_OUT, and the classifiers, as float16:
half the bytes of float32. Q-MVAE is at the top, each other model in a subfolder of its name. `preset = "published"` in
a notebook reads them, with the numbers of all seeds in reports/subset/metrics.json.
"""

import fcntl
import functools
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmvae.data import sources
from qmvae.data.dataset import build
from qmvae.evaluate.classifiers import CLASSIFIERS
from qmvae.pipeline import checkpoint, code, datasets, files, params, tensor_files
from qmvae.pipeline.schema import Params
from qmvae.pipeline.sections import MODELS

LEFT_OUT = "cvae", "mopoe"  # so that the folder stays below 25 MB; CVAE is the largest, with a model a direction
TITLES = {"mnist": "built-in handwriting", "svhn": "built-in street numbers"}
CURE = "restore the committed folder (`git checkout reports/subset/checkpoint`)"


def publish(run: Params) -> None:
    """Write the first seed of the run's models but LEFT_OUT, and its classifiers, into reports/<preset>/checkpoint.

    Other files of the folder, such as its README.md, stay. Raises FileError.
    """
    folder, names = run.reports / "checkpoint", [name for name in run.models if name not in LEFT_OUT]
    for name in names:
        trained, place = run.model_folder(name), params.published_folder(folder, name)
        weights = checkpoint.load_model(trained).state_dict()
        tensor_files.save(place / "model.safetensors", halved(trained / "model.safetensors", weights))
        for file in ("model.json", "log.csv"):
            copy(trained / file, place / file, files.REPRO)
    for dropped in MODELS.keys() - {"qmvae", *names}:
        shutil.rmtree(folder / dropped, ignore_errors=True)
    for path in classifier_files(run, run.artifacts / "classifiers"):
        tensor_files.save(folder / "classifiers" / path.name, halved(path, tensor_files.load(path)[0]))
    accuracy = run.artifacts / "classifiers" / "accuracy.json"
    copy(accuracy, folder / "classifiers" / accuracy.name, files.REPRO)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{', '.join(names)} and classifiers: {size / 1e6:.1f} MB in {folder.relative_to(run.root)}")


def halved(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file, those of float32 as float16. Raises FileError for values that float16 has not."""
    half = {key: t.half() if t.dtype == torch.float32 else t for key, t in tensors.items()}
    if wrong := tensor_files.not_finite(half):
        raise files.FileError(f"{path}: {wrong} has a value beyond the range of float16; it cannot be published")
    return half


def copy(source: Path, target: Path, hint: str = CURE) -> None:
    """Copy a file; the copy is complete or absent. Raises FileError; hint: what to do where there is no such file."""
    if not source.is_file():
        raise files.FileError(f"{source}: file not found; {hint}")
    with files.replacing(target) as partial:
        shutil.copyfile(source, partial)


def classifier_files(run: Params, folder: Path) -> list[Path]:
    """Return the paths of the weights of all classifiers."""
    return [folder / f"{name}-{kind}.safetensors" for name in run.modalities for kind in CLASSIFIERS]


def missing_archives(run: Params) -> list[str]:
    """Return the names of the archives that the data folder lacks; if there is one, the images are built-in."""
    return [f"{name}.npz" for name in run.modalities if not (run.data / f"{name}.npz").is_file()]


def prepare(run: Params) -> None:
    """Fill artifacts/published and reports/published with what notebooks read, unless they are up to date.

    run: of the preset `published`. The images are the archives of the data folder, or built-in if one is missing.
    A second process waits until the first has finished. Raises FileError, or DataError for an unusable archive.
    """
    if missing := missing_archives(run):
        say(
            f"Images: built-in, since the data folder has no {' and no '.join(missing)}; "
            "`python tools/svhn_subset.py` makes the images of the committed results."
        )
    stamp = run.artifacts / "published.json"
    run.artifacts.parent.mkdir(parents=True, exist_ok=True)
    with open(run.artifacts.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = fingerprint(run, bool(missing))
        if not (files.has_fingerprint(stamp, digest) and (run.reports / "metrics.json").is_file()):
            shutil.rmtree(run.artifacts, ignore_errors=True)
            fill(run, bool(missing))
            files.save_json(stamp, {"fingerprint": digest})  # last: it says that all other files are complete


def fill(run: Params, builtin: bool) -> None:
    """Copy the models, the classifiers and the numbers, and write the data set. Raises FileError for a wrong file."""
    folder = committed(run)
    shapes = {}
    for name in dict.fromkeys(["qmvae", *run.models]):  # Q-MVAE, which all notebooks read, is named if it is missing
        place, target = params.published_folder(folder, name), run.model_folder(name)
        shapes[place / "model.json"] = of_model = checkpoint.load_model(place).shapes
        if {*of_model} != {*run.modalities}:
            own, theirs = (", ".join(names) for names in (run.modalities, of_model))
            cure = (
                "to use models of your own, set `preset` in the notebook's first code cell to their preset; "
                "else restore `modalities` (`git checkout params.yaml`)"
            )
            raise files.FileError(f"params.yaml: modalities: found {own}; the committed models have {theirs}; {cure}")
        for file in ("model.safetensors", "model.json", "log.csv"):
            copy(place / file, target / file)
    for path in (*classifier_files(run, folder / "classifiers"), folder / "classifiers" / "accuracy.json"):
        copy(path, run.artifacts / "classifiers" / path.name)
    numbers = folder.parent / "metrics.json"
    about, metrics = (files.load_json(path, CURE) for path in (folder / "model.json", numbers))
    images, found = about.get("images"), metrics.get("images") if isinstance(metrics, dict) else metrics
    if counts(found) != counts(images):
        cure = "`git checkout reports/subset` brings the committed results back, after you have copied yours"
        raise files.FileError(f"{numbers}: images: found {found}; the committed models have {images}; {cure}")
    copy(numbers, run.reports / "metrics.json")
    source, titles = ("builtin", TITLES) if builtin else ("archive", run.images.titles)
    images = sources.read(source, run.data, list(run.modalities), run.images.seed)
    dataset = build(images, titles, run.pairs.multiplier, run.pairs.seed, run.pairs.redraw)
    for path, of_model in shapes.items():
        if of_model != dataset.shapes:
            fault = f"made for images {of_model}, but the images of {run.data} are {dataset.shapes}"
            raise files.FileError(f"{path}: {fault}; move the archives to another folder")
    datasets.save_dataset(dataset, run.artifacts / "data")


def counts(images: Any) -> list[str]:
    """Return the numbers of training and test images of each modality in Dataset.describe's text, without titles."""
    return re.findall(r"[\d,]+/[\d,]+", str(images))


def committed(run: Params) -> Path:
    """Return the folder of the committed models."""
    return run.root / "reports" / params.SOURCE / "checkpoint"


def fingerprint(run: Params, builtin: bool) -> str:
    """Return the SHA-256 over all that the folders of `published` depend on."""
    folder = committed(run)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".safetensors"))
    paths += [path for path in (folder.parent / "metrics.json", *folder.rglob("log.csv")) if path.exists()]
    seeds = [run.training[name].seeds for name in run.models]
    parts = [builtin, run.models, seeds, list(run.modalities), run.images.model_dump(), run.pairs.model_dump()]
    parts += [[str(path.relative_to(folder.parent)) for path in paths]]
    parts += [code.code_hash(code.ROOT, ["qmvae/pipeline/published.py"])]
    archives = [] if builtin else [run.data / f"{name}.npz" for name in run.modalities]
    return files.fingerprint(parts, [*paths, *archives])


@functools.cache
def say(text: str) -> None:
    """Print a text, once in a process."""
    print(text, flush=True)
