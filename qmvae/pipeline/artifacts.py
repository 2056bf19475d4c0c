"""The outputs of the stages of a run: its data set, models, classifiers and numbers, and the files of its reports.

For the preset `published` no stage runs. The first function that loads anything copies the committed models.
"""

import importlib
from pathlib import Path

import torch

from qmvae.data.dataset import Dataset, Split
from qmvae.evaluate.classifiers import CLASSIFIERS
from qmvae.model.base import MultimodalVAE
from qmvae.pipeline import checkpoint, datasets, files, params, tensor_files
from qmvae.pipeline.schema import Params


def prepare(run: Params) -> None:
    """Fill the folders of the preset `published`, if they are not up to date; do nothing for other presets."""
    if run.preset == params.PUBLISHED:  # imported by name: the stages of other presets do not depend on this code
        importlib.import_module("qmvae.pipeline.published").prepare(run)


def load_dataset(run: Params, device: torch.device | str = "cpu") -> Dataset:
    """Return the images and pairs of the run. Raises FileError, for the preset `published` DataError too."""
    prepare(run)
    return datasets.load_dataset(run.artifacts / "data", run.modalities, device)


def first_two(run: Params) -> tuple[Params, Dataset]:
    """Return the run and its data set with the first two modalities only, for figures. Print so if there are more.

    Models and classifiers are still those of the whole run. Raises FileError.
    """
    dataset = load_dataset(run)
    names = list(dataset.titles)[:2]
    if len(dataset.titles) > 2:
        print(f"Of {len(dataset.titles)} modalities, this notebook shows the first two: {' and '.join(names)}.")

    def of_two(split: Split) -> Split:
        images, labels = ({name: whole[name] for name in names} for whole in (split.images, split.labels))
        return Split(images, labels, split.pairs[:, :2])

    of_run = {key: entries for key, entries in run.qmvae if isinstance(entries, dict)}
    qmvae = run.qmvae.model_copy(update={key: {n: entries[n] for n in names} for key, entries in of_run.items()})
    modalities = {name: run.modalities[name] for name in names}
    run = run.model_copy(update={"modalities": modalities, "qmvae": qmvae})
    return run, Dataset(of_two(dataset.train), of_two(dataset.test), {name: dataset.titles[name] for name in names})


def load_model(run: Params, name: str, seed: int | None = None, device: torch.device | str = "cpu") -> MultimodalVAE:
    """Return a trained model of the run, in eval mode; seed: the model's first if None. Raises FileError."""
    prepare(run)
    cure = f"run `python -m qmvae train {name}`, which fills this folder when all seeds are trained"
    return checkpoint.load_model(run.model_folder(name, seed), device, cure)


def load_classifiers(
    run: Params, dataset: Dataset, kind: str = "standard", device: torch.device | str = "cpu"
) -> dict[str, torch.nn.Module]:
    """Return the classifier of each modality, in eval mode; kind: `standard` (Shi et al.'s) or `strong`.

    The classifiers have float32 weights; the files may have them as float16. Raises FileError.
    """
    prepare(run)
    classifiers: dict[str, torch.nn.Module] = {}
    for name, shape in dataset.shapes.items():
        path = run.artifacts / "classifiers" / f"{name}-{kind}.safetensors"
        classifiers[name] = CLASSIFIERS[kind](shape, len(dataset.classes)).float()
        what = f"a {kind} classifier for {name} images {shape} of {len(dataset.classes)} classes"
        expected = classifiers[name].state_dict()
        weights = tensor_files.load_weights(path, expected, what, f"train it on these images: {files.REPRO}")
        classifiers[name].load_state_dict(weights)
        classifiers[name].to(device).eval()
    return classifiers


def classifier_accuracy(run: Params) -> dict[str, dict[str, float]]:
    """Return accuracies on the real test images by kind (`standard`, `strong`, `supervised`) and modality.

    Raises FileError.
    """
    prepare(run)
    found = files.load_json(path := run.artifacts / "classifiers" / "accuracy.json")
    if not isinstance(found, dict) or {"standard", "strong", "supervised"} - found.keys():
        raise files.FileError(f"{path}: has not the accuracies of the classifiers; delete it and {files.REPRO}")
    return found


def metrics(run: Params) -> dict:
    """Return the numbers of reports/<preset>/metrics.json."""
    prepare(run)
    return files.load_json(run.reports / "metrics.json")


def save_figure(run: Params, figure, name: str) -> None:
    """Write a Matplotlib figure into reports/<preset>/figures, as PNG and PDF. Raises FileError."""
    write_figure(figure, run.reports / "figures", name)


def write_figure(figure, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.pdf without a date, so that two runs write the same bytes."""
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with files.replacing(folder / f"{name}.{kind}") as partial:
            figure.savefig(partial, format=kind, dpi=200, metadata=metadata)


def save_table(run: Params, texts: dict[str, str], name: str) -> None:
    """Write each text of a table, by file ending, into reports/<preset>/tables. Raises FileError."""
    for kind, text in texts.items():
        files.save_text(run.reports / "tables" / f"{name}.{kind}", text)
