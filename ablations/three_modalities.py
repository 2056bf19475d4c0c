"""Train and evaluate Q-MVAE with three modalities: the preset's two and the built-in handwriting (not in the paper).

Eq. 8 then has one more expert, and Eq. 19 is summed over three pairs of modalities.
`python ablations/three_modalities.py` writes reports/<preset>/three.json.
"""

import math
import shutil
from itertools import combinations
from typing import Any

import torch

from qmvae.data import builtin
from qmvae.data.dataset import Dataset, Split, pair_by_class
from qmvae.evaluate.classifiers import CLASSIFIERS, chunk_size
from qmvae.evaluate.cross_generation import STRONG, sample_indices, share
from qmvae.evaluate.linear_probe import linear_probe
from qmvae.model.base import MultimodalVAE
from qmvae.pipeline import artifacts, datasets, files, messages, params
from qmvae.pipeline.device import resolve_device
from qmvae.pipeline.sections import Modality
from qmvae.pipeline.stages import classifiers, train
from qmvae.pipeline.stages.evaluate import percentages

THIRD = "handwriting"


def with_third(run: params.Params) -> params.Params:
    """Return the run with the third modality, whose files are in artifacts/<preset>/three. Raises ParamsError.

    The third has the network and the weights of the first modality that is fully connected.
    """
    like = next((name for name, kind in run.networks.items() if kind == "mlp"), None)
    if like is None or THIRD in run.modalities:
        found = ", ".join(f"{name}: {kind}" for name, kind in run.networks.items())
        raise params.ParamsError(
            f"modalities: found {found}; three modalities need one with `net: mlp`, and none named {THIRD}"
        )
    settings = run.training["qmvae"].model_copy(update={"steps": run.ablations.steps, "seeds": [run.ablations.seed]})
    weights = {key: getattr(run.qmvae, key) for key in ("likelihood", "kl_private")}
    changes = {key: values | {THIRD: values[like]} for key, values in weights.items()}
    titles = run.images.titles | {THIRD: "built-in handwriting"}
    return run.model_copy(
        update={
            "preset": f"{run.preset}/three",
            "modalities": run.modalities | {THIRD: Modality(net="mlp")},
            "images": run.images.model_copy(update={"titles": titles}),
            "training": {"qmvae": settings},
            "qmvae": run.qmvae.model_copy(update=changes),
        }
    )


def with_handwriting(dataset: Dataset, wide: params.Params) -> Dataset:
    """Return the images of the run and those of the third modality, by class. Raises ParamsError for other classes."""
    if dataset.classes.tolist() != list(range(10)):
        found = ", ".join(map(str, dataset.classes.tolist()))
        raise params.ParamsError(f"the images have the classes {found}; the third modality needs those of 0 to 9")
    arrays, pairs = builtin.handwriting(wide.images.seed), wide.pairs
    generator = torch.Generator().manual_seed(pairs.seed)
    splits = {}
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        images = split.images | {THIRD: torch.tensor(arrays[f"{part}_images"])[:, None]}
        labels = split.labels | {THIRD: torch.tensor(arrays[f"{part}_labels"])}
        splits[part] = Split(images, labels, pair_by_class(labels, pairs.multiplier, generator, pairs.redraw))
    return Dataset(**splits, titles=wide.images.titles)


def train_classifiers(run: params.Params, wide: params.Params, dataset: Dataset) -> None:
    """Copy the classifiers of the run, and train those of the third modality as the stage trains them."""
    folder = wide.artifacts / "classifiers"
    shutil.copytree(run.artifacts / "classifiers", folder, dirs_exist_ok=True)
    accuracies = artifacts.classifier_accuracy(wide)
    for kind, value in classifiers.train_networks(wide, dataset, THIRD).items():
        accuracies[kind][THIRD] = value
    files.save_json(folder / "accuracy.json", accuracies)


@torch.no_grad()
def cross_generation(model: MultimodalVAE, dataset: Dataset, wide: params.Params) -> dict[str, dict[str, float]]:
    """Return Table 1's accuracy for each modality from each set of the others, under <given>+<given>_to_<generated>.

    `cross` is by Shi et al.'s classifiers, `cross_strong` by the stronger ones. Both are fractions of 1.
    """
    settings, device = wide.evaluation, dataset.test.pairs.device
    indices = sample_indices(len(dataset.test.pairs), settings.conditions, settings.seed, device)
    networks: list[dict[str, Any]] = [artifacts.load_classifiers(wide, dataset, kind, device) for kind in CLASSIFIERS]
    strides = 1, math.ceil(len(indices) / STRONG)
    correct: dict[str, tuple[list, list]] = {}
    for i, chunk in enumerate(indices.split(chunk_size(*dataset.shapes.values()))):
        images, labels = dataset.test.batch(chunk)
        truth = torch.searchsorted(dataset.classes, labels)
        for target in images:
            others = [name for name in images if name != target]
            for given in (names for size in range(1, len(images)) for names in combinations(others, size)):
                generated = model.cross_generate({m: images[m] for m in given}, target, settings.seed * 1_000_003 + i)
                found = correct.setdefault(f"{'+'.join(given)}_to_{target}", ([], []))
                for chunks, of_kind, stride in zip(found, networks, strides, strict=True):
                    chunks.append(of_kind[target].predict(generated[::stride]) == truth[::stride])
    return {part: {k: share(v[i]) for k, v in correct.items()} for i, part in enumerate(("cross", "cross_strong"))}


def train_and_evaluate(run: params.Params) -> None:
    """Make the images and classifiers, train from the last checkpoint on, and write the report."""
    wide, device = with_third(run), resolve_device(run)
    datasets.save_dataset(with_handwriting(artifacts.load_dataset(run), wide), wide.artifacts / "data")
    dataset = artifacts.load_dataset(wide, device)
    train.run(wide, ["qmvae"])
    train_classifiers(run, wide, dataset)  # after the training above, since it leaves one thread, as evaluation needs
    model = artifacts.load_model(wide, "qmvae", device=device)
    indices = sample_indices(len(dataset.train.pairs), run.evaluation.probe_pairs, run.evaluation.seed, device)
    linear, _ = linear_probe(model, dataset, indices)
    report: dict[str, Any] = {
        "preset": run.preset,
        "images": dataset.describe(),
        "seed": run.ablations.seed,
        "steps": run.ablations.steps,
        "batch_size": run.training["qmvae"].batch_size,
        "classifiers": artifacts.classifier_accuracy(wide),
        **cross_generation(model, dataset, wide),
        "linear": {"all" if name == "both" else name: value for name, value in linear.items()},
    }
    files.save_json(run.reports / "three.json", report)
    print(f"three modalities: {percentages(report['cross'] | report['linear'])}", flush=True)


def main() -> None:
    with messages.one_message("three modalities", "the same command"):
        train_and_evaluate(params.load())


if __name__ == "__main__":
    main()
