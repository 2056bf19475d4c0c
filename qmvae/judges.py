"""The digit classifiers that judge generated images: those of Shi et al. (2019), which the paper uses (section 4.2.1).

`python -m qmvae.judges` trains one for each modality on the run's own training images into artifacts/<preset>/judges.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from qmvae import data, files
from qmvae.params import Params, ParamsError, load
from qmvae.training import Deck, TrainingError, device_of


class Judge(nn.Module):
    """Two 5x5 convolutions (10 and 20 channels), each with a 2x2 maximum, dropout, then 50 hidden units and 10 classes.

    Images float (N, C, H, W) in [0, 1] to logits (N, 10).
    """

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 16:
            raise ValueError(f"judges need images of at least 16x16, not {height}x{width}")
        side = [((s - 4) // 2 - 4) // 2 for s in (height, width)]  # 28 -> 4, 32 -> 5
        self.features = nn.Sequential(
            nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 20, 5), nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(20 * side[0] * side[1], 50), nn.ReLU(),
        )  # fmt: skip
        self.classes = nn.Sequential(nn.Dropout(), nn.Linear(50, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classes(self.features(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The digit that the judge reads in each image: (N,) int64. Meant for eval mode, as `load_judges` gives it."""
        return self(images).argmax(dim=1)


def accuracy(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """The share of uint8 images (N, C, H, W) that the judge reads as labelled."""
    right = [
        (judge.predict(x.float() / 255) == y).sum() for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return (torch.stack(right).sum() / len(labels)).item()


def fit(judge: Judge, images: Tensor, labels: Tensor, settings, title: str) -> None:
    """Train in place with Adam and cross-entropy on uint8 images (N, C, H, W) and labels (N,)."""
    optimizer = torch.optim.Adam(judge.parameters(), lr=settings.lr, fused=True)
    deck = Deck(len(images), settings.batch_size, settings.seed, images.device)
    judge.train()
    for step in tqdm(range(settings.epochs * len(images) // settings.batch_size), f"judge of {title}", disable=None):
        rows = deck.deal(step)
        loss = F.cross_entropy(judge(images[rows].float() / 255), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judge.eval()


def run(params: Params) -> None:
    """Train and save one judge a modality, and their accuracies on the test images as accuracy.json."""
    dataset = data.load(params, device_of(params))
    accuracies = {}
    for name, shape in dataset.shapes.items():
        if (count := len(dataset.train.images[name])) < params.judges.batch_size:
            where = f"presets.{params.preset}.judges.batch_size: {params.judges.batch_size}"
            raise TrainingError(f"{where} is more than the {count} training images of {name}; make it smaller")
        torch.manual_seed(params.judges.seed)
        judge = Judge(shape).to(dataset.train.pairs.device, memory_format=torch.channels_last)
        fit(judge, dataset.train.images[name], dataset.train.labels[name], params.judges, dataset.titles[name])
        accuracies[name] = accuracy(judge, dataset.test.images[name], dataset.test.labels[name])
        files.save_tensors(params.artifacts / "judges" / f"{name}.safetensors", judge.state_dict())
        print(
            f"judge of {dataset.titles[name]}: reads {accuracies[name]:.1%} of the test images as labelled", flush=True
        )
    files.save_json(params.artifacts / "judges" / "accuracy.json", accuracies)


def load_judges(params: Params, shapes: dict, device="cpu") -> tuple[dict[str, Judge], dict[str, float]]:
    """The trained judges in eval mode, and their test accuracies, both by modality."""
    judges = {}
    for name, shape in shapes.items():
        judges[name] = Judge(shape)
        judges[name].load_state_dict(files.load_tensors(params.artifacts / "judges" / f"{name}.safetensors")[0])
        judges[name].to(device).eval()
    return judges, files.load_json(params.artifacts / "judges" / "accuracy.json")


def main() -> None:
    try:
        run(load())
    except (ParamsError, TrainingError, files.FileError) as error:
        raise SystemExit(f"judges: {error}") from None


if __name__ == "__main__":
    main()
