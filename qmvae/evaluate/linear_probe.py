"""Table 2: the class by one linear layer on shared codes (section 4.3), and the calibration of that layer."""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from qmvae.data.dataset import Dataset, Split
from qmvae.evaluate.classifiers import chunk_size, float_chunks
from qmvae.evaluate.cross_generation import with_every_class
from qmvae.model.base import MultimodalVAE

SAMPLES = 8  # of each posterior, for the calibration


@torch.no_grad()
def encode(encoder: Callable[[Tensor], Any], images: Tensor) -> Any:
    """Return the posterior over codes (N, D) of images uint8 (N, C, H, W), of the kind that the encoder returns."""
    parts = [encoder(chunk) for chunk in float_chunks(images)]
    return type(parts[0])(*(torch.cat(part) for part in zip(*parts, strict=True)))


def encode_experts(model: MultimodalVAE, split: Split) -> dict[str, Any]:
    """Return the expert q(z|x_m) of every image, by modality, as `model.fuse` takes it."""
    return {name: encode(model.shared_encoders[name], images) for name, images in split.images.items()}


def of_pairs(experts: dict[str, Any], pairs: Tensor) -> dict[str, Any]:
    """Return the expert of each modality's image in each pair."""
    columns = zip(experts.items(), pairs.long().unbind(dim=1), strict=True)
    return {name: type(q)(*(part[column] for part in q)) for (name, q), column in columns}


@torch.no_grad()
def fused_posterior(model: MultimodalVAE, split: Split, pairs: Tensor, experts: dict[str, Any]) -> Any:
    """Return the posterior of each pair given all of its images, as `model.shared` gives it.

    `fuse` computes it from the experts, so each image is encoded once. A joint encoder receives the images.
    """
    if not model.has_joint_encoder:
        return model.fuse(of_pairs(experts, pairs))
    parts = []
    for chunk in pairs.long().split(chunk_size(*model.shapes.values())):
        columns = zip(split.images.items(), chunk.unbind(dim=1), strict=True)
        parts.append(model.shared({name: images[column].float() / 255 for (name, images), column in columns}))
    return type(parts[0])(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def linear_probe(model: MultimodalVAE, dataset: Dataset, indices: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Return Table 2's accuracies (section 4.3), fractions of 1, and the expected calibration errors, not in the paper.

    One linear layer is fitted to the fused shared codes of the training pairs `indices`. It is tested on the codes of
    the test images of each modality alone, by modality, and on the fused codes of the test pairs, `both`. With three
    modalities `both` has the codes of all three. The layer, on standardised codes, minimises the cross-entropy and a
    weak L2 penalty; Shi et al. fit one layer for each modality, with Adam. A model without fused codes is fitted to the
    codes of all modalities, one after the other, and has no `both`. The calibration is that of probabilities averaged
    over SAMPLES samples of a posterior.
    indices: int64 (n,) into the training pairs; a pair of each class that they lack is added.
    """
    names = list(dataset.shapes)
    labels = dataset.train.pair_labels
    indices = with_every_class(indices, labels)
    pairs, labels = dataset.train.pairs[indices], labels[indices]
    train, test = (encode_experts(model, split) for split in (dataset.train, dataset.test))
    if model.is_fused:
        codes = fused_posterior(model, dataset.train, pairs, train).mean
    else:
        alone = of_pairs(train, pairs)
        codes = torch.cat([model.fuse({name: q}).mean for name, q in alone.items()])
        labels = labels.repeat(len(names))
    layer = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=1000))
    layer.fit(codes.cpu().double(), labels.cpu())

    accuracies, calibration = {}, {}

    def score(name: str, posterior: Any, truth: Tensor) -> None:
        accuracies[name] = float(layer.score(posterior.mean.cpu().double(), truth.cpu()))
        generator = torch.Generator(posterior.mean.device).manual_seed(0)
        samples = (posterior.rsample(generator).cpu().double() for _ in range(SAMPLES))
        confidence, column = torch.tensor(sum(layer.predict_proba(z) for z in samples) / SAMPLES).max(dim=1)
        correct = torch.tensor(layer.classes_)[column] == truth.cpu()
        calibration[name] = expected_calibration_error(confidence, correct)

    for name in names:
        score(name, model.fuse({name: test[name]}), dataset.test.labels[name])
    if model.is_fused:
        both = fused_posterior(model, dataset.test, dataset.test.pairs, test)
        score("both", both, dataset.test.pair_labels)
    return accuracies, calibration


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): sum_b n_b / N * |accuracy_b - confidence_b|.

    b runs over bins of equal width in confidence. confidence: (N,) in [0, 1]. correct: bool (N,).
    """
    which = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=confidence.dtype).index_add(0, which, correct.to(confidence) - confidence)
    return (gaps.abs().sum() / len(correct)).item()
