"""Style measured on images of known style, and probes on codes known to hold the one thing and not the other."""

import math
from types import SimpleNamespace

import pytest
import torch
from test_evaluation import Oracle, dataset  # noqa: F401

from qmvae import data, probes


def bar(width: float, lean: float) -> torch.Tensor:
    """A bright bar, 20 rows high, that moves `lean` pixels to the right for each row upwards: (1, 1, 28, 28)."""
    image = torch.zeros(1, 1, 28, 28)
    for row in range(4, 24):
        middle = 14 + lean * (13.5 - row)
        for column in range(28):
            left, right = max(column, middle - width / 2), min(column + 1, middle + width / 2)
            image[0, 0, row, column] = max(0.0, right - left)
    return image


def test_thickness_of_bars():
    for width in (2, 4, 6):
        assert probes.thickness(bar(width, 0)).item() == pytest.approx(width / (1 + width / 20), rel=0.01)


@pytest.mark.parametrize("lean", [-0.4, 0, 0.25])
def test_slant_of_bars(lean):
    assert probes.slant(bar(3, lean)).item() == pytest.approx(lean, abs=0.01)


def test_empty_images_have_a_style_too():
    assert all(value.isfinite().all() for value in probes.styles(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)).values())


def test_background_is_the_border():
    image = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    image[:, :, 4:12, 4:12] = 0
    image[:, 1] //= 2
    assert probes.styles(image)["background"][0].tolist() == pytest.approx([1, 127 / 255, 1])


class Split(Oracle):
    """A digit in the shared code, the background in the private one."""

    def shared(self, images):
        ((name, x),) = images.items()
        digit = (x[:, :, 2:6, 2:6].flatten(1).mean(dim=1) * 255 / 25).round()
        angle = digit * 2 * math.pi / 10
        return SimpleNamespace(mean=torch.stack([angle.cos(), angle.sin()], dim=1))

    def private(self, name, x):
        return SimpleNamespace(mean=x[:, :1, 0, 0])


def test_probes_find_each_thing_where_it_is(dataset):  # noqa: F811
    generator = torch.Generator().manual_seed(0)
    images = {}
    for name, old in dataset.train.images.items():
        images[name] = old.repeat(5, 1, 1, 1).clone()
        shade = torch.randint(256, (len(images[name]), 1, 1, 1), generator=generator).byte()
        inner = images[name][:, :, 2:6, 2:6].clone()
        images[name][:] = shade
        images[name][:, :, 2:6, 2:6] = inner
    labels = {name: old.repeat(5) for name, old in dataset.train.labels.items()}
    split = data.Split(images, labels, dataset.train.pairs)
    found = probes.probe(Split(), data.Dataset(split, split, dataset.titles))
    assert found["svhn_shared_digit"] == 1 and found["svhn_shared_digit_mlp"] == 1
    assert found["svhn_private_digit"] < 0.2 and found["svhn_private_digit_mlp"] < 0.2
    assert found["svhn_private_background"] > 0.99 and found["svhn_shared_background"] < 0.1
    assert set(k.split("_", 2)[2] for k in found if k.startswith("mnist_private")) == {
        "digit", "digit_mlp", "thickness", "slant",
    }  # fmt: skip
