"""Classifiers: their training, their accuracy, and the chance level."""

import pytest
import torch

from qmvae.data.dataset import Split
from qmvae.evaluate import classifiers
from qmvae.evaluate.classifiers import CLASSIFIERS, Classifier


def test_classifiers_say_which_images_are_too_small():
    with pytest.raises(ValueError, match="classifiers need images of at least 16x16, not 8x12"):
        Classifier((1, 8, 12))


def squares(classes: int, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images (count, 3, 16, 20), with a bright square at the place of each class, and class indices."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 3, 16, 20), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 6)
        image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 180
    return images, labels


@pytest.mark.parametrize("classes", [3, 26])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_learns_any_number_of_classes(kind, classes, one_thread):
    images, labels = squares(classes)
    torch.manual_seed(0)
    network = CLASSIFIERS[kind](images.shape[1:], classes)
    assert classifiers.accuracy(network.eval(), images, labels) < 0.6
    steps = {"standard": 400, "strong": 80}[kind]
    classifiers.fit(network, images, labels, steps=steps, batch_size=64, lr=0.005, seed=0, title=kind, cooldown=1.0)
    assert not network.training and network(images[:2].float() / 255).shape == (2, classes)
    assert classifiers.accuracy(network, images, labels) > 0.95
    found = network.predict(images.float() / 255)
    assert found.dtype == torch.int64 and (found == labels).float().mean() > 0.95
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in convolutions)


def test_the_same_seed_trains_the_same_bytes():
    images, labels = squares(3)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = Classifier((3, 16, 20), 3)
        classifiers.fit(network, images, labels, steps=3, batch_size=64, lr=0.001, seed=1, title="twice")
        weights.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert torch.equal(*weights)


def test_float_chunks_are_all_images_in_order_between_0_and_1(monkeypatch):
    monkeypatch.setattr(classifiers, "CHUNK", 3)
    images = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1) * 36
    chunks = list(classifiers.float_chunks(images))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    torch.testing.assert_close(torch.cat(chunks), images.float() / 255)
    torch.testing.assert_close(torch.cat(list(classifiers.float_chunks(images.float() / 255))), images.float() / 255)


def test_chunks_of_large_images_have_no_more_pixels():
    assert classifiers.chunk_size((1, 28, 28), (3, 32, 32)) == classifiers.chunk_size((3, 16, 64)) == classifiers.CHUNK
    assert classifiers.chunk_size((1, 28, 28), (3, 64, 64)) == classifiers.CHUNK // 4
    assert classifiers.chunk_size((1, 1024, 1024)) == 1
    chunks = list(classifiers.float_chunks(torch.zeros(3, 1, 1024, 1024, dtype=torch.uint8)))
    assert [len(chunk) for chunk in chunks] == [1, 1, 1]


def test_the_chance_level_is_the_share_of_the_majority_class():
    assert classifiers.majority_share(torch.tensor([7, 7, 7, 2, 2, 40, 9])) == 3 / 7
    assert classifiers.majority_share(torch.arange(26).repeat(3)) == 1 / 26
    labels = {"a": torch.tensor([5, 5, 8]), "b": torch.tensor([5, 8])}
    split = Split({}, labels, torch.tensor([[0, 0], [1, 0], [2, 1], [2, 1], [2, 1]], dtype=torch.int32))
    assert classifiers.chance_levels(split) == {"a": 2 / 3, "b": 1 / 2, "both": 3 / 5}


def test_the_learning_rate_falls_in_the_cooldown(monkeypatch):
    seen, real = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: (seen.append(self.param_groups[0]["lr"]), real(self))[1])
    images, labels = torch.randint(0, 255, (8, 1, 16, 16), dtype=torch.uint8), torch.arange(8) % 2
    settings = {"steps": 4, "batch_size": 4, "lr": 0.1, "seed": 0, "title": "", "cooldown": 0.5}
    classifiers.fit(classifiers.Classifier((1, 16, 16), 2), images, labels, **settings)
    assert seen == pytest.approx([0.1, 0.1, 0.1, 0.05])
