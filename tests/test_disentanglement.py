"""Style measured on images of known style, and codes known to hold one thing and not the other."""

import math

import pytest
import torch
from test_evaluation import LABELS, Oracle, Reader, flat_dataset

from qmvae.data.dataset import Dataset, Split
from qmvae.evaluate import disentanglement
from qmvae.model.gaussian import Gaussian


def bar(width: float, lean: float) -> torch.Tensor:
    """Return a bright bar, 20 rows high, that moves `lean` pixels to the right for each row upwards: (1, 1, 28, 28)."""
    image = torch.zeros(1, 1, 28, 28)
    for row in range(4, 24):
        middle = 14 + lean * (13.5 - row)
        for column in range(28):
            left, right = max(column, middle - width / 2), min(column + 1, middle + width / 2)
            image[0, 0, row, column] = max(0.0, right - left)
    return image


def test_thickness_of_bars():
    for width in (2, 4, 6):
        assert disentanglement.thickness(bar(width, 0)).item() == pytest.approx(width / (1 + width / 20), rel=0.01)


@pytest.mark.parametrize("lean", [-0.4, 0, 0.25])
def test_slant_of_bars(lean):
    assert disentanglement.slant(bar(3, lean)).item() == pytest.approx(lean, abs=0.01)


def test_empty_images_have_a_style_too():
    empty = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    assert all(value.isfinite().all() for value in disentanglement.style_measures(empty).values())


def test_background_is_the_border():
    image = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    image[:, :, 4:12, 4:12] = 0
    image[:, 1] //= 2
    expected = pytest.approx([1, 127 / 255, 1])
    assert disentanglement.style_measures(image)["background"][0].tolist() == expected
    assert disentanglement.style_measures(image.float() / 255)["background"][0].tolist() == expected


def with_shades(dataset: Dataset) -> Dataset:
    """Return the data set five times over: the class is in the middle of each image, a random shade around it."""
    generator = torch.Generator().manual_seed(0)
    images = {}
    for name, old in dataset.train.images.items():
        images[name] = old.repeat(5, 1, 1, 1).clone()
        shade = torch.randint(256, (len(images[name]), 1, 1, 1), generator=generator).byte()
        inner = images[name][:, :, 2:6, 2:6].clone()
        images[name][:] = shade
        images[name][:, :, 2:6, 2:6] = inner
    labels = {name: old.repeat(5) for name, old in dataset.train.labels.items()}
    split = Split(images, labels, dataset.train.pairs)
    return Dataset(split, split, dataset.titles)


def middle(images):
    return images[:, :, 2:6, 2:6]


class Painter(Oracle):
    """The class in the shared code, the shade of the background in the private one."""

    def shared(self, images):
        ((_, x),) = images.items()
        return self.shared_encoders["mnist"](middle(x))

    def private(self, name, x):
        return Gaussian(x[:, :1, 0, 0], torch.zeros(len(x), 1))

    def decode(self, name, z, h):
        images = super().decode(name, z, h).clone()
        inner = middle(images).clone()
        images[:] = h[:, :, None, None]
        images[:, :, 2:6, 2:6] = inner
        return images


class Middle(Reader):
    def predict(self, images):
        return super().predict(middle(images))


@pytest.mark.parametrize("classes", LABELS)
def test_probes_find_each_thing_where_it_is(classes):
    found = disentanglement.probe_codes(Painter(classes), with_shades(flat_dataset(classes)))
    assert found["svhn_shared_digit"] == 1 and found["svhn_shared_digit_mlp"] == 1
    assert found["svhn_private_digit"] < 2 / classes and found["svhn_private_digit_mlp"] < 2 / classes
    assert found["svhn_private_background"] > 0.99 and found["svhn_shared_background"] < 0.1
    measures = {key.removeprefix("mnist_private_") for key in found if key.startswith("mnist_private_")}
    assert measures == {"digit", "digit_mlp", "thickness", "slant"}


def test_posterior_means_are_those_of_all_images():
    dataset = with_shades(flat_dataset())
    images = dataset.train.images["svhn"]
    found = disentanglement.posterior_means(Painter(), "svhn", images)
    assert found["shared"].shape == (len(images), 2) and found["private"].dtype == torch.float64
    torch.testing.assert_close(found["private"][:, 0].float(), images[:, 0, 0, 0].float() / 255)
    model = Painter()
    model.sizes["private"] = 0
    assert set(disentanglement.posterior_means(model, "svhn", images)) == {"shared"}


def translate(model, dataset, target="svhn", strong=None):
    source = {"svhn": "mnist", "mnist": "svhn"}[target]
    reader = Middle(model.classes)
    return disentanglement.translation(model, reader, strong or reader, dataset, source, target, seed=0)


@pytest.mark.parametrize("classes", LABELS)
def test_a_translation_has_the_class_of_the_condition_and_the_style_of_the_reference(classes):
    class Off(Middle):
        def predict(self, images):
            return super().predict(images) + (super().predict(images) < 3)

    found = translate(Painter(classes), with_shades(flat_dataset(classes)), strong=Off(classes))
    assert found.accuracy == 1.0 and found.strong == pytest.approx(1 - 3 / classes)
    assert found.style["background"] == pytest.approx(1, abs=1e-6)


def test_the_style_of_translations_is_r2_without_a_fit():
    """A shift of every shade by s costs s^2 / var; the mean shade scores 0; a fit would hide both."""
    dataset = with_shades(flat_dataset())
    references = []

    class Shifted(Painter):
        scale, shift = 1.0, 0.1

        def translate(self, images, target, reference, seed=None):
            references.append(reference)
            private = self.scale * reference[:, :1, 0, 0] + self.shift
            return self.cross_generate(images, target, seed, private=private)

    found = translate(Shifted(), dataset)
    shades = torch.cat(references)[:, 0, 0, 0]
    assert found.style["background"] == pytest.approx(1 - 0.1**2 / shades.var(correction=0).item(), abs=1e-4)
    Shifted.scale, Shifted.shift = 0.0, shades.mean().item()
    assert translate(Shifted(), dataset).style["background"] == pytest.approx(0, abs=1e-6)
    Shifted.scale, Shifted.shift = -1.0, 2 * shades.mean().item()
    assert translate(Shifted(), dataset).style["background"] == pytest.approx(-3, abs=1e-4)


def test_a_reference_is_another_image_than_the_pairs_own_and_of_any_class(monkeypatch):
    """With three images only, references at random would often be the pair's own image."""
    levels = torch.tensor([10, 100, 200], dtype=torch.uint8).view(-1, 1, 1, 1)
    images = {"mnist": levels.expand(-1, 1, 8, 8), "svhn": levels.expand(-1, 3, 8, 8)}
    labels = {name: torch.tensor([0, 1, 1]) for name in images}
    split = Split(images, labels, torch.arange(3).repeat(50)[:, None].expand(-1, 2).int())
    seen = []

    class Recorder(Painter):
        def translate(self, images, target, reference, seed=None):
            conditions, references = ((255 * x[:, 0, 0, 0]).round().int() for x in (images["mnist"], reference))
            seen.extend(zip(conditions.tolist(), references.tolist(), strict=True))
            return super().translate(images, target, reference, seed)

    monkeypatch.setattr(disentanglement, "TRANSLATIONS", 100)
    translate(Recorder(), Dataset(split, split, {}))
    assert len(seen) == 100
    assert set(seen) == {(a, b) for a in (10, 100, 200) for b in (10, 100, 200) if a != b}


def test_a_leak_of_the_class_through_the_private_code_costs_translations_their_accuracy():
    """If the decoder takes the class from the private code, only references of the condition's class are correct."""
    dataset = flat_dataset()

    class Leaky(Oracle):
        def private(self, name, x):
            return Gaussian(x[:, :1, 0, 0], torch.zeros(len(x), 1))

        def decode(self, name, z, h):
            return h.view(-1, 1, 1, 1).expand(-1, *self.shapes[name])

    found = disentanglement.translation(Leaky(), Reader(), Reader(), dataset, "mnist", "svhn", seed=0)
    assert 0.02 < found.accuracy < 0.2  # 19 of 199 other images have its class
    assert found.style["background"] == pytest.approx(1)


def test_active_dimensions_and_nats_in_closed_form():
    """KL of N(m, v) from N(0, 1) in one dimension is (v + m^2 - 1 - ln v) / 2."""
    dataset = flat_dataset()

    class Known(Oracle):
        def shared(self, images):
            (x,) = images.values()
            sign = torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0)[:, None]
            mean = sign * torch.tensor([1.0, 0.3, 0.32])  # KL 0.5, 0.045 and 0.0512
            return Gaussian(mean, torch.zeros_like(mean))

        def private(self, name, x):
            mean = torch.zeros(len(x), 2)
            return Gaussian(mean, torch.log(torch.tensor([0.5, 0.9])).expand(len(x), 2))

    active, nats = disentanglement.active_dimensions(Known(), dataset.test)
    assert active == {"mnist_shared": 2, "mnist_private": 1, "svhn_shared": 2, "svhn_private": 1}
    private = [(v - 1 - math.log(v)) / 2 for v in (0.5, 0.9)]
    assert nats["svhn_shared"] == pytest.approx(0.5 + 0.045 + 0.0512, abs=1e-6)
    assert private[0] > 0.05 > private[1] and nats["mnist_private"] == pytest.approx(sum(private), abs=1e-6)


def test_codes_without_gaussian_posteriors_have_no_nats():
    from qmvae.baselines.mmvae import Laplace

    class Known(Oracle):
        def shared(self, images):
            return Laplace(*super().shared(images))

    active, nats = disentanglement.active_dimensions(Known(), flat_dataset().test)
    assert set(active) == set(nats) == {"mnist_private", "svhn_private"}
