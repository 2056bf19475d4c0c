"""The class and the style in shared and private codes, and the style of translations. Not in the paper."""

import warnings
from typing import Any, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from qmvae.data.dataset import Dataset, Split
from qmvae.evaluate.classifiers import chunk_size, float_chunks
from qmvae.evaluate.cross_generation import sample_indices, share, with_every_class
from qmvae.evaluate.linear_probe import encode
from qmvae.model.base import MultimodalVAE
from qmvae.model.gaussian import Gaussian

TRAIN = 10_000  # training images that a probe is fitted to, at most
TRANSLATIONS = 2_000  # in each direction, at most
ACTIVE = 0.05  # nats


def thickness(images: Tensor) -> Tensor:
    """Return the thickness of bright strokes in pixels: (N, 1, H, W) to (N,).

    thickness = 2 sum_i x_i / outline,  outline = the sum of |x_i - x_j| over all neighbouring pixels i, j

    x are the brightnesses in [0, 1]. The outline is the length of both edges of the strokes, in
    steps along rows and columns. So a stroke at 45 degrees counts as 0.7 times as thick as an upright one.
    """
    ink = images.flatten(1).sum(dim=1)
    outline = images.diff(dim=2).abs().flatten(1).sum(dim=1) + images.diff(dim=3).abs().flatten(1).sum(dim=1)
    return 2 * ink / outline.clamp(min=1e-6)


def slant(images: Tensor) -> Tensor:
    """Return how far strokes lean to the right, in pixels a row: (N, 1, H, W) to (N,).

    slant = -mu_xy / mu_yy,  mu_xy = sum_i m_i (x_i - mean x) (y_i - mean y),  mu_yy = sum_i m_i (y_i - mean y)^2

    m_i is the share of pixel i, at column x_i and row y_i counted downwards, in the brightness of the image.
    """
    height, width = images.shape[2:]
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    mass = images[:, 0] / images.sum(dim=(1, 2, 3)).clamp(min=1e-6)[:, None, None]
    y = rows - (mass.sum(dim=2) @ rows)[:, None]
    x = columns - (mass.sum(dim=1) @ columns)[:, None]
    mu_xy = torch.einsum("nhw,nh,nw->n", mass, y, x)
    mu_yy = torch.einsum("nhw,nh->n", mass, y.square())
    return -mu_xy / mu_yy.clamp(min=1e-6)


def background(images: Tensor) -> Tensor:
    """Return the mean colour of an image's border, two pixels wide: (N, C, H, W) to (N, C)."""
    border = torch.ones(images.shape[2:], dtype=torch.bool)
    border[2:-2, 2:-2] = False
    return images[:, :, border].mean(dim=2)


def style_measures(images: Tensor) -> dict[str, Tensor]:
    """Return the style of images (N, C, H, W), uint8 or float in [0, 1], as float (N, K) by measure, on the CPU.

    The measures are thickness and slant of images with one channel, and background of the others.
    """
    grey = images.shape[1] == 1
    measures = {"thickness": thickness, "slant": slant} if grey else {"background": background}
    chunks = [{name: measure(x) for name, measure in measures.items()} for x in float_chunks(images.cpu())]
    return {name: torch.cat([chunk[name] for chunk in chunks]).view(len(images), -1) for name in measures}


def posteriors(model: MultimodalVAE, name: str, images: Tensor) -> dict[str, Any]:
    """Return q(z|x) of one modality's uint8 images as `shared`, and q(h|x) as `private` if the model has such codes."""
    found = {"shared": encode(lambda x: model.shared({name: x}), images)}
    if model.sizes["private"]:
        found["private"] = encode(lambda x: model.private(name, x), images)
    return found


def posterior_means(model: MultimodalVAE, name: str, images: Tensor) -> dict[str, Tensor]:
    """Return the means of `posteriors`, float64 (N, shared) and (N, private) on the CPU."""
    return {code: q.mean.cpu().double() for code, q in posteriors(model, name, images).items()}


def probe_codes(model: MultimodalVAE, dataset: Dataset) -> dict[str, float]:
    """Return how well probes predict class and style from codes of test images, under <modality>_<code>_<what>.

    The probes are fitted to codes of at most TRAIN training images, and one of each class that these lack.
    digit: the accuracy of one linear layer.
    digit_mlp: the accuracy of a network with 100 hidden units. thickness, slant, background: R2 of a ridge regression,
    the mean over the colours, 0 for a probe that always gives the mean.
    """
    result = {}
    for name in dataset.shapes:
        train, test = dataset.train.images[name], dataset.test.images[name]
        indices = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:TRAIN].to(train.device)
        indices = with_every_class(indices, dataset.train.labels[name])
        labels, truth = dataset.train.labels[name][indices].cpu(), dataset.test.labels[name].cpu()
        style, true_style = style_measures(train[indices]), style_measures(test)
        codes, test_codes = posterior_means(model, name, train[indices]), posterior_means(model, name, test)
        for code in codes:
            scaler = StandardScaler().fit(codes[code])
            x, x_test = scaler.transform(codes[code]), scaler.transform(test_codes[code])
            small = {"learning_rate_init": 0.003, "batch_size": min(250, len(x)), "max_iter": 30, "random_state": 0}
            probes = {"digit": LogisticRegression(max_iter=1000), "digit_mlp": MLPClassifier(**small)}
            for what, probe in probes.items():
                with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # 30 epochs are enough
                    result[f"{name}_{code}_{what}"] = float(probe.fit(x, labels).score(x_test, truth))
            for what, values in style.items():
                predicted = Ridge().fit(x, values).predict(x_test)
                result[f"{name}_{code}_{what}"] = float(r2_score(true_style[what], predicted))
    return result


def active_dimensions(model: MultimodalVAE, split: Split) -> tuple[dict[str, float], dict[str, float]]:
    """Return the number of active dimensions of each code, and its KL divergence in nats, under <modality>_<code>.

    KL_d = 1/2 (exp(logvar_d) + mean_d^2 - 1 - logvar_d), averaged over the split's images

    Dimension d is active if KL_d >= ACTIVE = 0.05 nats. The KL divergence of a code is the sum of KL_d over its
    dimensions. The shared code is that of one modality alone. Codes whose posterior is not Gaussian are left out.
    """
    active, nats = {}, {}
    for name, images in split.images.items():
        for code, q in posteriors(model, name, images).items():
            if isinstance(q, Gaussian):
                kl = Gaussian(*(part.double()[..., None] for part in q)).kl().mean(dim=0)  # each dimension by itself
                active[f"{name}_{code}"], nats[f"{name}_{code}"] = (kl >= ACTIVE).sum().item(), kl.sum().item()
    return active, nats


class Translation(NamedTuple):
    """The measures of the translations of one direction.

    accuracy, strong: the share of generated images with the condition's class, by Shi et al.'s and by the stronger
    classifier. style: by measure, R2 between the style of the reference and that of the generated image.
    """

    accuracy: float
    strong: float
    style: dict[str, float]


@torch.no_grad()
def translation(
    model: MultimodalVAE, classifier: Any, strong: Any, dataset: Dataset, source: str, target: str, seed: int
) -> Translation:
    """Return the measures of translations of test images (section 4.2.2) from `source` to `target`.

    The shared code comes from the `source` image of at most TRANSLATIONS test pairs. The private code is the posterior
    mean of a reference: a random test image of `target`, of any class and never the pair's own. With the measured style
    r of the references and g of the generated images, R2 = 1 - sum (r - g)^2 / sum (r - mean r)^2, the mean over the
    colours. Nothing is fitted. R2 is 1 for the reference's style, 0 if all images have the mean style, and negative
    beyond that error.
    """
    split, classes, device = dataset.test, dataset.classes, dataset.test.pairs.device
    indices = sample_indices(len(split.pairs), TRANSLATIONS, seed, device)
    own, count = split.pairs[indices][:, list(split.images).index(target)].long(), len(split.images[target])
    shift = torch.randint(1, count, own.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    references = split.images[target][(own + shift) % count]
    size = chunk_size(*dataset.shapes.values())
    correct, correct_strong, generated = [], [], []
    for i, (chunk, reference) in enumerate(zip(indices.split(size), float_chunks(references, size), strict=True)):
        images, labels = split.batch(chunk)
        truth = torch.searchsorted(classes, labels)
        generated.append(model.translate({source: images[source]}, target, reference, seed * 1_000_003 + i))
        correct.append(classifier.predict(generated[-1]) == truth)
        correct_strong.append(strong.predict(generated[-1]) == truth)
    asked, found = style_measures(references), style_measures(torch.cat(generated))
    return Translation(
        share(correct), share(correct_strong), {what: float(r2_score(asked[what], found[what])) for what in asked}
    )
