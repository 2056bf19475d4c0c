"""What shared and private codes know: the digit, which only the shared one should, and the style. Not in the paper."""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from qmvae import data
from qmvae.models import MultimodalVAE

TRAIN = 10_000  # training images that a probe is fitted on, at most
CHUNK = 1000


def thickness(images: Tensor) -> Tensor:
    """Thickness of bright strokes in (N, 1, H, W), in pixels: ink over half the length of its outline."""
    ink = images.flatten(1).sum(dim=1)
    outline = images.diff(dim=2).abs().flatten(1).sum(dim=1) + images.diff(dim=3).abs().flatten(1).sum(dim=1)
    return 2 * ink / outline.clamp(min=1e-6)


def slant(images: Tensor) -> Tensor:
    """How far strokes in (N, 1, H, W) lean to the right, in pixels a row, from second moments: -mu_xy / mu_yy."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    mass = images[:, 0] / images.sum(dim=(1, 2, 3)).clamp(min=1e-6)[:, None, None]
    y = rows - (mass.sum(dim=2) @ rows)[:, None]
    x = columns - (mass.sum(dim=1) @ columns)[:, None]
    mu_xy = torch.einsum("nhw,nh,nw->n", mass, y, x)
    mu_yy = torch.einsum("nhw,nh->n", mass, y.square())
    return -mu_xy / mu_yy.clamp(min=1e-6)


def background(images: Tensor) -> Tensor:
    """Colour of an image's border, two pixels wide, in (N, C, H, W): its mean, (N, C)."""
    border = torch.ones(images.shape[2:], dtype=torch.bool)
    border[2:-2, 2:-2] = False
    return images[:, :, border].mean(dim=2)


def styles(images: Tensor) -> dict[str, Tensor]:
    """Style of uint8 images, (N, K) each: of grey ones thickness and slant, of coloured ones the background."""
    grey = images.shape[1] == 1
    measures = {"thickness": thickness, "slant": slant} if grey else {"background": background}
    chunks = images.split(CHUNK)  # as floats, all images at once would take most of an evaluation's memory
    return {
        what: torch.cat([measure(chunk.cpu().float() / 255).view(len(chunk), -1) for chunk in chunks])
        for what, measure in measures.items()
    }


@torch.no_grad()
def codes(model: MultimodalVAE, name: str, images: Tensor) -> dict[str, Tensor]:
    """Posterior means of one modality's uint8 images: `shared` (N, shared) and, where there is one, `private`."""
    found: dict[str, list[Tensor]] = {"shared": [], "private": []}
    for chunk in images.split(CHUNK):
        x = chunk.float() / 255
        found["shared"].append(model.shared({name: x}).mean)
        if model.sizes["private"]:
            found["private"].append(model.private(name, x).mean)
    return {kind: torch.cat(means).cpu().double() for kind, means in found.items() if means}


def probe(model: MultimodalVAE, dataset: data.Dataset) -> dict[str, float]:
    """Probes fitted on codes of training images, scored on the test images, under <modality>_<code>_<what>.

    digit: accuracy of one linear layer. digit_mlp: of a network with 100 hidden units. thickness, slant, background:
    R2 of a ridge regression (averaged over the colours), 0 for a probe that knows no more than the mean.
    """
    result = {}
    for name in dataset.shapes:
        train, test = dataset.train.images[name], dataset.test.images[name]
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:TRAIN].to(train.device)
        labels, truth = dataset.train.labels[name][rows].cpu(), dataset.test.labels[name].cpu()
        style, true_style = styles(train[rows]), styles(test)
        known, asked = codes(model, name, train[rows]), codes(model, name, test)
        for kind in known:
            scaler = StandardScaler().fit(known[kind])
            x, x_test = scaler.transform(known[kind]), scaler.transform(asked[kind])
            small = {"learning_rate_init": 0.003, "batch_size": min(250, len(x)), "max_iter": 30, "random_state": 0}
            readers = {"digit": LogisticRegression(max_iter=1000), "digit_mlp": MLPClassifier(**small)}
            for what, reader in readers.items():
                with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # 30 epochs are enough
                    result[f"{name}_{kind}_{what}"] = float(reader.fit(x, labels).score(x_test, truth))
            for what, values in style.items():
                result[f"{name}_{kind}_{what}"] = float(
                    r2_score(true_style[what], Ridge().fit(x, values).predict(x_test))
                )
    return result
