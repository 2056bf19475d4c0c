"""The digit classifiers that judge generated images: those of Shi et al. (2019), which the paper uses (section 4.2.1),
and stronger ones, since a weak judge hides what it judges.

`python -m qmvae.judges` trains both kinds on the run's own training images into artifacts/<preset>/judges, and beside
them a supervised twin of each modality's encoder, whose accuracy is the ceiling of what a shared code can know.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from qmvae import data, files
from qmvae.nets import NETS
from qmvae.params import Params, ParamsError, load
from qmvae.training import Deck, TrainingError, device_of, remaining


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


class StrongJudge(nn.Module):
    """Three pairs of 3x3 convolutions (24, 48 and 96 channels) with batch normalisation, in the manner of VGG.

    In training it sees every batch shifted by up to two pixels. Images and logits as for Judge.
    """

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        layers = []
        for wide in (24, 48, 96):
            for inputs in (channels, wide):
                layers += [nn.Conv2d(inputs, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = wide
        outputs = channels * (height // 8) * (width // 8)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(outputs, 10))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            down, right = torch.randint(5, (2,)).tolist()
            height, width = images.shape[2:]
            images = F.pad(images, (2, 2, 2, 2), mode="replicate")[:, :, down : down + height, right : right + width]
        return self.layers(images)

    predict = Judge.predict


KINDS = {"judge": Judge, "strong": StrongJudge}


@torch.no_grad()
def accuracy(judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of uint8 images (N, C, H, W) that the judge reads as labelled."""
    right = [
        (judge(x.float() / 255).argmax(dim=1) == y).sum()
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return (torch.stack(right).sum() / len(labels)).item()


def fit(
    judge: nn.Module, images: Tensor, labels: Tensor, settings, steps: int, title: str, cooldown: float = 0.0
) -> None:
    """Train in place with Adam and cross-entropy on uint8 images (N, C, H, W) and labels (N,); see `remaining`."""
    optimizer = torch.optim.Adam(judge.parameters(), lr=settings.lr, fused=True)
    deck = Deck(len(images), settings.batch_size, settings.seed, images.device)
    judge.train()
    for step in tqdm(range(steps), title, disable=None):
        optimizer.param_groups[0]["lr"] = settings.lr * remaining(step / steps, cooldown)
        rows = deck.deal(step)
        loss = F.cross_entropy(judge(images[rows].float() / 255), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judge.eval()


def run(params: Params) -> None:
    """Train and save what this module's head names for each modality, with the test accuracies as accuracy.json."""
    dataset, settings = data.load(params, device_of(params)), params.judges
    accuracies: dict[str, dict[str, float]] = {"judge": {}, "strong": {}, "twin": {}}
    for name, shape in dataset.shapes.items():
        if (count := len(dataset.train.images[name])) < settings.batch_size:
            where = f"presets.{params.preset}.judges.batch_size: {settings.batch_size}"
            raise TrainingError(f"{where} is more than the {count} training images of {name}; make it smaller")
        epochs = settings.epochs * count // settings.batch_size
        plan = {"judge": (epochs, 0.0), "strong": (settings.strong_steps, 1.0), "twin": (epochs, 1.0)}
        for kind, (steps, cooldown) in plan.items():
            torch.manual_seed(settings.seed)
            judge = KINDS[kind](shape) if kind in KINDS else NETS[params.modalities[name].net][0](shape, 10)
            judge = judge.to(dataset.train.pairs.device).to(memory_format=torch.channels_last)
            title = f"{kind} of {dataset.titles[name]}"
            fit(judge, dataset.train.images[name], dataset.train.labels[name], settings, steps, title, cooldown)
            score = accuracies[kind][name] = accuracy(judge, dataset.test.images[name], dataset.test.labels[name])
            if kind in KINDS:
                files.save_tensors(params.artifacts / "judges" / f"{name}-{kind}.safetensors", judge.state_dict())
            print(f"{title}: reads {score:.1%} of the test images as labelled", flush=True)
    files.save_json(params.artifacts / "judges" / "accuracy.json", accuracies)


def load_judges(params: Params, shapes: dict, device="cpu", kind: str = "judge") -> tuple[dict, dict[str, float]]:
    """The trained judges of a kind (`judge`: Shi et al.'s, or `strong`) in eval mode, and their test accuracies, both
    by modality."""
    judges = {}
    for name, shape in shapes.items():
        judges[name] = KINDS[kind](shape)
        path = params.artifacts / "judges" / f"{name}-{kind}.safetensors"
        judges[name].load_state_dict(files.load_tensors(path)[0])
        judges[name].to(device).eval()
    return judges, files.load_json(params.artifacts / "judges" / "accuracy.json")[kind]


def main() -> None:
    try:
        run(load())
    except (ParamsError, TrainingError, files.FileError) as error:
        raise SystemExit(f"judges: {error}") from None


if __name__ == "__main__":
    main()
