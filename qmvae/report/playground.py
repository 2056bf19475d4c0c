"""A widget for JupyterLab: choose a test image, move the private code, and see the other modality (notebook 11)."""

import base64
import io
from itertools import permutations
from typing import Any

import ipywidgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qmvae.report import figures

REACH = 3.0  # sliders go from -REACH to REACH; 99.7 % of a standard normal lies there
ZOOM = 6  # pixels of the screen for each pixel of an image


class Playground:
    """A test image, the image of the other modality that the model generates from it, and a slider for each private
    dimension.

    The last expression of a cell displays it. Code may set the `.value` of `direction`, `condition` and `sliders`. Then
    the picture and `generated`, the image (C, H, W) in [0, 1], follow. model: a MultimodalVAE. dataset: a Dataset.
    """

    def __init__(self, model: Any, dataset: Any):
        self.model, self.titles = model, dataset.titles
        self.examples = {name: examples(dataset, name) for name in model.shapes}
        narrow, wide = {"description_width": "4em"}, {"description_width": "10em"}
        pairs = [(f"{dataset.titles[a]} → {dataset.titles[b]}", (a, b)) for a, b in permutations(model.shapes, 2)]
        self.direction = ipywidgets.Dropdown(
            options=pairs, description="direction", style=narrow, layout={"width": "26em"}
        )
        self.condition = ipywidgets.SelectionSlider(options=[0], description="image", style=narrow)
        self.sliders = [
            ipywidgets.FloatSlider(0, min=-REACH, max=REACH, step=0.1, description=f"private dimension {d}", style=wide)
            for d in range(model.sizes["private"])
        ]
        self.zero, self.prior = (ipywidgets.Button(description=text) for text in ("all 0", "from the prior"))
        self.picture = ipywidgets.Image(format="png")
        self._choose_direction()
        self.direction.observe(self._choose_direction, "value")
        for control in (self.condition, *self.sliders):
            control.observe(self._generate, "value")
        self.zero.on_click(lambda _: self.move(torch.zeros(len(self.sliders))))
        self.prior.on_click(lambda _: self.move(model.private_prior(1)[0]))
        buttons = ipywidgets.HBox([self.zero, self.prior])
        left = ipywidgets.VBox([self.direction, self.condition, self.picture, buttons])
        self.widget = ipywidgets.HBox([left, ipywidgets.VBox(self.sliders)], layout={"flex_flow": "row wrap"})

    def move(self, code: Tensor) -> None:
        """Set the sliders to a private code (private,), or to their ends if it goes beyond."""
        for slider, value in zip(self.sliders, code.tolist(), strict=True):
            slider.value = value

    def _choose_direction(self, change=None) -> None:
        """Offer the test images of the direction's source."""
        labels = self.examples[self.direction.value[0]][1]
        self.condition.options = [(f"class {label} ({row + 1})", row) for row, label in enumerate(labels)]
        self.condition.index = 0
        self._generate()

    def _generate(self, change=None) -> None:
        """Generate the image and show it beside its condition."""
        source, target = self.direction.value
        image = self.examples[source][0][self.condition.value]
        private = torch.tensor([[slider.value for slider in self.sliders]])
        self.generated = self.model.cross_generate({source: image[None]}, target, seed=0, private=private)[0]
        side = max(*image.shape[1:], *self.generated.shape[1:])
        cells = [figures.rgb(each.numpy(), side) for each in (image, self.generated)]
        self.picture.value = png(figures.tile(np.stack(cells)[None]))

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """Return the widget, and its picture for a copy of the notebook without a kernel."""
        source, target = (self.titles[name] for name in self.direction.value)
        label = self.examples[self.direction.value[0]][1][self.condition.value]
        picture = {"image/png": base64.b64encode(self.picture.value).decode()}
        text = {"text/plain": f"{source}, class {label}, and {target} generated from it"}
        return self.widget._repr_mimebundle_() | picture | text


def examples(dataset: Any, name: str, each: int = 4) -> tuple[Tensor, list[int]]:
    """Return the first `each` test images of every class, float32 (N, C, H, W) in [0, 1], and their N labels."""
    images, labels = dataset.test.images[name], dataset.test.labels[name]
    indices = torch.cat([torch.nonzero(labels == label)[:each, 0] for label in labels.unique()])
    return images[indices].float() / 255, labels[indices].tolist()


def png(picture: np.ndarray) -> bytes:
    """Return a picture (height, width, 3) in [0, 1] as a PNG file, ZOOM times as large."""
    large = np.rint(255 * picture).astype(np.uint8).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    file = io.BytesIO()
    Image.fromarray(large).save(file, "png")
    return file.getvalue()
