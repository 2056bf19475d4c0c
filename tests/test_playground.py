"""The playground without a browser: its sliders, buttons and pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ROOT

from qmvae.data.dataset import Dataset, Split
from qmvae.pipeline import checkpoint, params, sections
from qmvae.report.playground import REACH, ZOOM, Playground

SHAPES = {"pen": (1, 12, 12), "house": (3, 16, 16), "sign": (3, 16, 16)}
TITLES = {"pen": "Handwriting", "house": "Houses", "sign": "Signs"}


@pytest.fixture
def world():
    """Return a model with fresh weights and random images of three other modalities and three classes."""
    torch.manual_seed(0)
    likelihood = {name: sections.Likelihood(family="laplace", scale=1.0, weight=1.0) for name in SHAPES}
    changes = {"likelihood": likelihood, "kl_private": dict.fromkeys(SHAPES, 1.0)}
    config = params.load(root=ROOT).qmvae.model_copy(update=changes)
    networks = {"pen": "mlp", "house": "conv", "sign": "conv"}
    model = checkpoint.build_model("qmvae", config, SHAPES, networks).eval()
    images = {name: torch.randint(0, 256, (30, *shape), dtype=torch.uint8) for name, shape in SHAPES.items()}
    labels = {name: torch.tensor([0, 5, 9] * 10) for name in SHAPES}
    split = Split(images, labels, torch.zeros(1, 3, dtype=torch.int32))
    return model, Dataset(split, split, TITLES)


def pixels(play: Playground) -> np.ndarray:
    """Return the picture with one pixel for each of the images': (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(play.picture.value)))[::ZOOM, ::ZOOM]


def test_a_slider_changes_the_other_modality_and_not_the_given_image(world):
    play = Playground(*world)
    before = pixels(play)
    assert before.shape == (16, 16 + 2 + 16, 3)
    play.sliders[3].value = 2.5
    after = pixels(play)
    assert (after[:, :18] == before[:, :18]).all() and (after[:, 18:] != before[:, 18:]).any()
    private = torch.zeros(1, 10)
    private[0, 3] = 2.5
    given = world[1].test.images["pen"][:1].float() / 255
    torch.testing.assert_close(play.generated, world[0].cross_generate({"pen": given}, "house", private=private)[0])
    assert (after[:, 18:] == np.rint(255 * play.generated.permute(1, 2, 0).numpy())).all()
    play.sliders[3].value = 0
    assert (pixels(play) == before).all()


def test_another_image_and_another_direction(world):
    play = Playground(*world)
    assert [label for label, _ in play.direction.options][:2] == ["Handwriting → Houses", "Handwriting → Signs"]
    assert len(play.direction.options) == 6
    assert [row for _, row in play.condition.options] == list(range(12))  # four of each of three classes
    assert play.condition.options[4][0] == "class 5 (5)"
    before = pixels(play)
    play.condition.value = 11
    assert (pixels(play) != before).any()
    play.direction.value = ("sign", "pen")
    assert play.condition.value == 0 and play.generated.shape == (1, 12, 12)
    assert (pixels(play)[:, :16] == world[1].test.images["sign"][0].permute(1, 2, 0).numpy()).all()


def test_buttons_move_all_sliders(world):
    play = Playground(*world)
    torch.manual_seed(3)
    play.prior.click()
    torch.manual_seed(3)
    sample = world[0].private_prior(1)[0].clamp(-REACH, REACH)
    torch.testing.assert_close(torch.tensor([slider.value for slider in play.sliders]), sample)
    play.move(torch.full((10,), 99.0))
    assert {slider.value for slider in play.sliders} == {REACH}
    play.zero.click()
    assert {slider.value for slider in play.sliders} == {0.0}


def test_a_copy_without_a_kernel_keeps_the_picture(world):
    play = Playground(*world)
    forms = play._repr_mimebundle_()
    assert base64.b64decode(forms["image/png"]) == play.picture.value
    assert forms["text/plain"] == "Handwriting, class 0, and Houses generated from it"
    assert "application/vnd.jupyter.widget-view+json" in forms  # for JupyterLab with a kernel
