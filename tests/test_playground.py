"""The playground without a browser: its sliders, buttons and pictures, and the numbers for the web page."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ROOT
from torch import nn

from qmvae import checkpoint, params, playground
from qmvae.data import Dataset, Split
from qmvae.playground import REACH, ZOOM, Playground, portable

SHAPES = {"pen": (1, 12, 12), "house": (3, 16, 16), "sign": (3, 16, 16)}
TITLES = {"pen": "Handwriting", "house": "Houses", "sign": "Signs"}


@pytest.fixture
def world():
    """A fresh model and random images of three modalities that the code has never heard of; three classes only."""
    torch.manual_seed(0)
    likelihood = {name: params.Likelihood(family="laplace") for name in SHAPES}
    changes = {"likelihood": likelihood, "kl_private": dict.fromkeys(SHAPES, 1.0)}
    config = params.load(root=ROOT).qmvae.model_copy(update=changes)
    nets = {"pen": "mlp", "house": "conv", "sign": "conv"}
    model = checkpoint.build("qmvae", config, SHAPES, nets).eval()
    images = {name: torch.randint(0, 256, (30, *shape), dtype=torch.uint8) for name, shape in SHAPES.items()}
    labels = {name: torch.tensor([0, 5, 9] * 10) for name in SHAPES}
    split = Split(images, labels, torch.zeros(1, 3, dtype=torch.int32))
    return model, Dataset(split, split, TITLES)


def shown(play: Playground) -> np.ndarray:
    """The picture, one pixel of it for each of the images': (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(play.picture.value)))[::ZOOM, ::ZOOM]


def test_a_slider_changes_the_other_modality_and_not_the_given_image(world):
    play = Playground(*world)
    before = shown(play)
    assert before.shape == (16, 16 + 2 + 16, 3)
    play.sliders[3].value = 2.5
    after = shown(play)
    assert (after[:, :18] == before[:, :18]).all() and (after[:, 18:] != before[:, 18:]).any()
    private = torch.zeros(1, 10)
    private[0, 3] = 2.5
    given = world[1].test.images["pen"][:1].float() / 255
    torch.testing.assert_close(play.drawn, world[0].cross_generate({"pen": given}, "house", private=private)[0])
    assert (after[:, 18:] == np.rint(255 * play.drawn.permute(1, 2, 0).numpy())).all()
    play.sliders[3].value = 0
    assert (shown(play) == before).all()


def test_another_image_and_another_direction(world):
    play = Playground(*world)
    assert [label for label, _ in play.way.options][:2] == ["Handwriting → Houses", "Handwriting → Signs"]
    assert len(play.way.options) == 6
    assert [row for _, row in play.given.options] == list(range(12))  # four of each of three classes
    assert play.given.options[4][0] == "a 5 (5)"
    before = shown(play)
    play.given.value = 11
    assert (shown(play) != before).any()
    play.way.value = ("sign", "pen")
    assert play.given.value == 0 and play.drawn.shape == (1, 12, 12)
    assert (shown(play)[:, :16] == world[1].test.images["sign"][0].permute(1, 2, 0).numpy()).all()


def test_buttons_move_all_sliders(world):
    play = Playground(*world)
    torch.manual_seed(3)
    play.prior.click()
    torch.manual_seed(3)
    drawn = world[0].private_prior(1)[0].clamp(-REACH, REACH)
    torch.testing.assert_close(torch.tensor([slider.value for slider in play.sliders]), drawn)
    play.move(torch.full((10,), 99.0))
    assert {slider.value for slider in play.sliders} == {REACH}
    play.zero.click()
    assert {slider.value for slider in play.sliders} == {0.0}


def test_a_copy_without_a_kernel_keeps_the_picture(world):
    play = Playground(*world)
    forms = play._repr_mimebundle_()
    assert base64.b64decode(forms["image/png"]) == play.picture.value
    assert forms["text/plain"] == "Handwriting, a 0, drawn as Houses"
    assert "application/vnd.jupyter.widget-view+json" in forms  # what JupyterLab shows while there is a kernel


def test_the_numbers_for_the_web_are_the_model(world):
    model, dataset = world
    numbers = json.loads(json.dumps(portable(model, dataset)))
    assert list(numbers["modalities"]) == list(SHAPES) and numbers["private"] == 10
    for name, found in numbers["modalities"].items():
        assert found["labels"] == [0] * 4 + [5] * 4 + [9] * 4 and tuple(found["shape"]) == SHAPES[name]
        images = np.frombuffer(base64.b64decode(found["images"]), "u1").reshape(12, *SHAPES[name])
        assert (images[4] == dataset.test.images[name][1].numpy()).all()  # the first 5
        given = {name: torch.tensor(images).float() / 255}
        shared = np.frombuffer(base64.b64decode(found["shared"]), "<f4").reshape(12, 20)
        np.testing.assert_array_equal(shared, model.shared(given).mean.detach())
        private = np.frombuffer(base64.b64decode(found["private"]), "<f4").reshape(12, 10)
        np.testing.assert_array_equal(private, model.private(name, given[name]).mean.detach())
        assert [layer["kind"] for layer in found["decoder"]] == [type(m).__name__ for m in model.decoders[name]]
        first = np.frombuffer(base64.b64decode(found["decoder"][0]["weight"]), "<f2")
        np.testing.assert_allclose(first, model.decoders[name][0].weight.detach().flatten(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("layer", [nn.Tanh(), nn.ConvTranspose2d(4, 4, (3, 5)), nn.ConvTranspose2d(4, 4, 3, groups=2)])
def test_a_layer_that_the_page_cannot_run_is_refused(layer):
    with pytest.raises(ValueError, match="playground.js"):
        playground._layer(layer)
