"""Train the classifiers that label generated images, and the supervised baselines: artifacts/<preset>/classifiers."""

import fcntl
from typing import Any

import torch

from qmvae.data.dataset import Dataset
from qmvae.evaluate.classifiers import CLASSIFIERS, accuracy, fit
from qmvae.model.networks import NETWORKS
from qmvae.pipeline import artifacts, files, tensor_files
from qmvae.pipeline.device import TrainingError, resolve_device
from qmvae.pipeline.jobs import side_by_side
from qmvae.pipeline.schema import Params
from qmvae.pipeline.threads import use_one_thread


def run(params: Params, modality: str | None = None) -> None:
    """Train three networks for each modality, side by side on a CPU, or those of one modality in this process.

    `standard`: Shi et al.'s classifier. `strong`: a more accurate one, since a classifier's errors hide those of
    images. `supervised`: the architecture of the model's encoder, trained on labels. Its accuracy is the reference for
    that of shared codes, but no strict bound (notebook 09).
    Writes the weights of the first two, and the test accuracies of all. Raises TrainingError or JobError.
    """
    names, folder = list(params.modalities), params.artifacts / "classifiers"
    if modality is not None:
        train(params, modality)
    elif resolve_device(params).type == "cpu":
        side_by_side([["classifiers", name] for name in reversed(names)])  # the largest images are usually the last
    else:
        for name in names:
            train(params, name)
    with open(folder.with_suffix(".lock"), "w") as lock:  # two modalities may be finished at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all((folder / f"{name}.json").exists() for name in names):
            accuracies = {name: files.load_json(folder / f"{name}.json") for name in names}
            by_kind = {kind: {name: accuracies[name][kind] for name in names} for kind in accuracies[names[0]]}
            files.save_json(folder / "accuracy.json", by_kind)


def train(params: Params, name: str) -> None:
    """Train and write the networks of one modality, and their accuracies as <modality>.json."""
    dataset = artifacts.load_dataset(params, resolve_device(params))
    accuracies = train_networks(params, dataset, name)
    files.save_json(params.artifacts / "classifiers" / f"{name}.json", accuracies)


def train_networks(params: Params, dataset: Dataset, name: str) -> dict[str, float]:
    """Train the networks of one modality, write the weights of the classifiers, and return all accuracies by kind."""
    use_one_thread()
    settings, folder, shape = params.classifiers, params.artifacts / "classifiers", dataset.shapes[name]
    images, count = dataset.train.images[name], len(dataset.classes)
    if len(images) < settings.batch_size:
        where = f"presets.{params.preset}.classifiers.batch_size: {settings.batch_size}"
        raise TrainingError(f"{where} is more than the {len(images)} training images of {name}; make it smaller")
    labels, truth = (torch.searchsorted(dataset.classes, split.labels[name]) for split in (dataset.train, dataset.test))
    standard_steps = settings.epochs * len(images) // settings.batch_size
    accuracies = {}
    for kind, steps, cooldown in (
        ("standard", standard_steps, 0.0),
        ("strong", settings.strong_steps, 1.0),
        ("supervised", standard_steps, 1.0),
    ):
        torch.manual_seed(settings.seed)
        build = CLASSIFIERS[kind] if kind in CLASSIFIERS else NETWORKS[params.networks[name]][0]
        network, title = build(shape, count).to(images.device), f"{kind} classifier of {dataset.titles[name]}"
        batches: dict[str, Any] = {"steps": steps, "batch_size": settings.batch_size, "seed": settings.seed}
        fit(network, images, labels, title=title, lr=settings.lr, cooldown=cooldown, **batches)
        if tensor_files.not_finite(network.state_dict()):
            where = f"presets.{params.preset}.classifiers.lr: {settings.lr}"
            raise TrainingError(f"{title}: its weights are not finite; make {where} smaller")
        accuracies[kind] = accuracy(network, dataset.test.images[name], truth)
        if kind in CLASSIFIERS:
            tensor_files.save(folder / f"{name}-{kind}.safetensors", network.state_dict())
        print(f"{title}: {accuracies[kind]:.1%} of the test images", flush=True)
    return accuracies
