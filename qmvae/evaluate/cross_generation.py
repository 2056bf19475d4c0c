"""Table 1: images of one modality from images of the other, and their class by the classifiers (section 4.2.1)."""

import copy
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qmvae.data.dataset import Dataset
from qmvae.evaluate.classifiers import chunk_size, float_chunks
from qmvae.model.base import MultimodalVAE

STRONG = 10_000  # the stronger classifier, 30 times as slow, gets about as many conditions of a direction


def sample_indices(count: int, wanted: int | str, seed: int, device: torch.device | str) -> Tensor:
    """Return `wanted` of `count` indices without repetition, or all of them for `all`: int64 on the device."""
    if isinstance(wanted, str) or wanted >= count:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted].to(device)


def with_every_class(indices: Tensor, labels: Tensor) -> Tensor:
    """Return the indices int64 (n,), and at their end the first index of each class of `labels` (N,) that they lack."""
    lacking = sorted({*labels.tolist()} - {*labels[indices].tolist()})
    return torch.cat([indices, *((labels == label).nonzero()[0] for label in lacking)])


class CrossGeneration(NamedTuple):
    """The measures of one direction. The paper has the first one only.

    accuracy: by Shi et al.'s classifier. strong: by the stronger one. Both are fractions of 1.
    frechet: the squared Frechet distance between the generated and the real test images, in features of Shi et al.'s
    classifier, see `frechet_distance`.
    contrast: the mean contrast of the generated images over that of the real test images.
    """

    accuracy: float
    strong: float
    frechet: float
    contrast: float


@torch.no_grad()
def cross_generation(
    model: MultimodalVAE,
    classifier: Any,
    strong: Any,
    dataset: Dataset,
    source: str,
    target: str,
    indices: Tensor,
    seed: int,
) -> CrossGeneration:
    """Return Table 1's accuracy and further measures for one direction, over the test pairs `indices`.

    For each pair the model generates an image of `target`. The shared code comes from the pair's image of `source`, the
    private code from the prior. The accuracy is the share of generated images to which the classifier of `target` gives
    the class of the `source` image.

    classifier, strong: of `target`, a Classifier and a StrongClassifier in eval mode. indices: int64 (n,) into the test
    pairs. seed: of the private codes, and of the shared codes where the model samples them.
    """
    stride = math.ceil(len(indices) / STRONG)
    correct, correct_strong, features, deviations = [], [], [], []
    for generated, truth in generated_images(model, dataset, source, target, indices, seed):
        features.append(classifier.features(generated))
        correct.append(classifier.classes(features[-1]).argmax(dim=1) == truth)
        correct_strong.append(strong.predict(generated[::stride]) == truth[::stride])
        deviations.append(contrast(generated))
    real = [(classifier.features(chunk), contrast(chunk)) for chunk in float_chunks(dataset.test.images[target])]
    real_features, real_deviations = (torch.cat(part) for part in zip(*real, strict=True))
    return CrossGeneration(
        share(correct),
        share(correct_strong),
        frechet_distance(torch.cat(features), real_features),
        (torch.cat(deviations).mean() / real_deviations.mean().clamp(min=1e-6)).item(),
    )


@torch.no_grad()
def accuracy(
    model: MultimodalVAE, classifier: Any, dataset: Dataset, source: str, target: str, indices: Tensor, seed: int
) -> float:
    """Return the accuracy of `cross_generation` alone, a fraction of 1."""
    chunks = generated_images(model, dataset, source, target, indices, seed)
    return share([classifier.predict(generated) == truth for generated, truth in chunks])


def generated_images(
    model: MultimodalVAE, dataset: Dataset, source: str, target: str, indices: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield generated images and the indices of their conditions' classes, chunk by chunk; see `cross_generation`."""
    for i, chunk in enumerate(indices.split(chunk_size(*dataset.shapes.values()))):
        images, labels = dataset.test.batch(chunk)
        generated = model.cross_generate({source: images[source]}, target, seed=seed * 1_000_003 + i)
        yield generated, torch.searchsorted(dataset.classes, labels)


def with_test_time(model: MultimodalVAE, test_time: str) -> MultimodalVAE:
    """Return a model with the same weights that decodes the mean or a sample of the shared code."""
    other = copy.copy(model)
    other.config = SimpleNamespace(**vars(model.config) | {"test_time": test_time})
    return other


def share(correct: list[Tensor]) -> float:
    """Return the share of True in chunks of bools."""
    return torch.cat(correct).double().mean().item()


def contrast(images: Tensor) -> Tensor:
    """Return the standard deviation of each image's grey levels, the means over its channels: (N, C, H, W) to (N,)."""
    return images.mean(dim=1).flatten(1).std(dim=1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Frechet distance between Gaussians fitted to features a (N, F) and b (M, F).

    It is |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), with the covariances A and B.
    The features are the 50 hidden units of a classifier, so that no network is downloaded. The distance compares models
    by one and the same classifier. It is no FID.
    """
    a, b = a.double().cpu(), b.double().cpu()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()  # tr (A B)^(1/2)
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def joint_coherence(model: MultimodalVAE, classifiers: dict[str, Any], count: int, seed: int) -> float:
    """Return the share of `count` samples from the priors whose images get one class from the classifiers of all
    modalities."""
    agree = []
    for i, chunk in enumerate(torch.arange(count).split(chunk_size(*model.shapes.values()))):
        generated = model.generate(len(chunk), seed=seed * 1_000_003 + i)
        found = torch.stack([classifiers[name].predict(images) for name, images in generated.items()])
        agree.append((found == found[0]).all(dim=0).float())
    return torch.cat(agree).mean().item()
