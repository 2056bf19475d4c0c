"""Classifiers that label generated images: Shi et al.'s (2019), as in the paper (section 4.2.1), and stronger ones.

A weak classifier also errs on real images, so its errors hide those of the generated images.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from qmvae.data.dataset import Split
from qmvae.model.networks import images_at_a_time, shifted
from qmvae.train import BatchSampler, lr_scale

CHUNK = 1000  # images that a network gets at a time, see `images_at_a_time`


class Classifier(nn.Module):
    """Shi et al.'s classifier: images float (N, C, H, W) in [0, 1] to logits (N, classes).

    Two 5x5 convolutions (10 and 20 channels), each with 2x2 max pooling and the second with dropout, then a hidden
    layer of 50 units. Raises ValueError for images smaller than 16x16.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int = 10):
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 16:
            raise ValueError(f"classifiers need images of at least 16x16, not {height}x{width}")
        side = [((s - 4) // 2 - 4) // 2 for s in (height, width)]  # 28 -> 4, 32 -> 5
        self.features = nn.Sequential(
            nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 20, 5), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(20 * side[0] * side[1], 50), nn.ReLU(),
        )  # fmt: skip
        self.classes = nn.Sequential(nn.Dropout(), nn.Linear(50, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classes(self.features(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the index of the most probable class of each image, int64 (N,). Expects eval mode."""
        return self(images).argmax(dim=1)


class StrongClassifier(nn.Module):
    """A stronger classifier: images and logits as for Classifier.

    Three pairs of 3x3 convolutions (24, 48 and 96 channels) with batch normalisation, in the manner of VGG. In training
    mode it shifts every batch by up to two pixels.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int = 10):
        super().__init__()
        channels, height, width = shape
        layers = []
        for wide in (24, 48, 96):
            for inputs in (channels, wide):
                layers += [nn.Conv2d(inputs, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = wide
        outputs = channels * (height // 8) * (width // 8)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(outputs, classes))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            images = shifted(images, 2)
        return self.layers(images)

    predict = Classifier.predict


CLASSIFIERS: dict[str, type[Classifier] | type[StrongClassifier]] = {
    "standard": Classifier,
    "strong": StrongClassifier,
}


def chunk_size(*shapes: tuple[int, ...]) -> int:
    """Return `images_at_a_time` of CHUNK for the shapes (C, H, W): the stronger classifier then needs about 0.3 GB."""
    return images_at_a_time(CHUNK, *shapes)


def float_chunks(images: Tensor, size: int | None = None) -> Iterator[Tensor]:
    """Yield images (N, C, H, W) as float chunks in [0, 1]; uint8 images are divided by 255.

    size: of a chunk; default: `chunk_size` of the images.
    """
    for chunk in images.split(size or chunk_size(images.shape[1:])):
        yield chunk if chunk.is_floating_point() else chunk.float() / 255


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy, a fraction of 1, on images uint8 (N, C, H, W) of classes with indices `labels` (N,)."""
    chunks = zip(float_chunks(images), labels.split(chunk_size(images.shape[1:])), strict=True)
    correct = [(classifier(x).argmax(dim=1) == y).sum() for x, y in chunks]
    return (torch.stack(correct).sum() / len(labels)).item()


def majority_share(labels: Tensor) -> float:
    """Return the share of the most frequent label: the chance level, the accuracy of always giving that label."""
    return labels.unique(return_counts=True)[1].max().item() / len(labels)


def chance_levels(split: Split) -> dict[str, float]:
    """Return the chance level of each modality's images, by modality, and of the pairs as `both`."""
    labels = split.labels | {"both": split.pair_labels}
    return {name: majority_share(values) for name, values in labels.items()}


def fit(
    classifier: nn.Module, images: Tensor, labels: Tensor, *,
    steps: int, batch_size: int, lr: float, seed: int, title: str, cooldown: float = 0.0,
) -> None:  # fmt: skip
    """Train a network in place with Adam and cross-entropy, and leave it in eval mode and in channels-last layout.

    images: uint8 (N, C, H, W). labels: class indices, int64 (N,). lr, cooldown: see lr_scale.
    title: of the progress bar.
    """
    classifier.to(memory_format=torch.channels_last)  # the fastest layout for convolutions
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr, fused=True)
    sampler = BatchSampler(len(images), batch_size, seed, images.device)
    classifier.train()
    for step in tqdm(range(steps), title, disable=None):
        optimizer.param_groups[0]["lr"] = lr * lr_scale(step / steps, cooldown)
        indices = sampler.sample(step)
        loss = F.cross_entropy(classifier(images[indices].float() / 255), labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.eval()
