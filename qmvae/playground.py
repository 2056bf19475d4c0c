"""Pick an image, move the private code, watch the other modality: as a widget for JupyterLab (notebook 11), and as
numbers for the web page, where `web/playground.js` does the same without Python."""

import base64
import io
from itertools import permutations

import ipywidgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from qmvae import figures
from qmvae.data import Dataset
from qmvae.models import MultimodalVAE

REACH = 3.0  # sliders go from -REACH to REACH; 99.7 % of a standard normal lies there
ZOOM = 6  # pixels of the screen for one of an image


def examples(dataset: Dataset, name: str, each: int = 4) -> tuple[Tensor, list[int]]:
    """The first `each` test images of every class: float32 (N, C, H, W) in [0, 1], and their N labels."""
    images, labels = dataset.test.images[name], dataset.test.labels[name]
    rows = torch.cat([torch.nonzero(labels == label)[:each, 0] for label in labels.unique()])
    return images[rows].float() / 255, labels[rows].tolist()


class Playground:
    """A test image, what the model draws from it in the other modality, and a slider for each private dimension.

    The last expression of a cell shows it. `way`, `given` and `sliders` are there for code too: set a `.value`, and
    `drawn`, the image (C, H, W) in [0, 1], and the picture follow.
    """

    def __init__(self, model: MultimodalVAE, dataset: Dataset):
        self.model, self.titles = model, dataset.titles
        self.examples = {name: examples(dataset, name) for name in model.shapes}
        narrow, wide = {"description_width": "3em"}, {"description_width": "10em"}
        ways = [(f"{dataset.titles[a]} → {dataset.titles[b]}", (a, b)) for a, b in permutations(model.shapes, 2)]
        self.way = ipywidgets.Dropdown(options=ways, description="draw", style=narrow, layout={"width": "26em"})
        self.given = ipywidgets.SelectionSlider(options=[0], description="from", style=narrow)
        self.sliders = [
            ipywidgets.FloatSlider(0, min=-REACH, max=REACH, step=0.1, description=f"private dimension {d}", style=wide)
            for d in range(model.sizes["private"])
        ]
        self.zero, self.prior = (ipywidgets.Button(description=text) for text in ("all 0", "from the prior"))
        self.picture = ipywidgets.Image(format="png")
        self._turn()
        self.way.observe(self._turn, "value")
        for control in (self.given, *self.sliders):
            control.observe(self._draw, "value")
        self.zero.on_click(lambda _: self.move(torch.zeros(len(self.sliders))))
        self.prior.on_click(lambda _: self.move(model.private_prior(1)[0]))
        left = ipywidgets.VBox([self.way, self.given, self.picture, ipywidgets.HBox([self.zero, self.prior])])
        self.widget = ipywidgets.HBox([left, ipywidgets.VBox(self.sliders)], layout={"flex_flow": "row wrap"})

    def move(self, code: Tensor) -> None:
        """Set the sliders to a private code (private,), or to their ends where it goes beyond."""
        for slider, value in zip(self.sliders, code.tolist(), strict=True):
            slider.value = value

    def _turn(self, change=None) -> None:
        """Another direction: offer its test images."""
        labels = self.examples[self.way.value[0]][1]
        self.given.options = [(f"a {label} ({row + 1})", row) for row, label in enumerate(labels)]
        self.given.index = 0
        self._draw()

    def _draw(self, change=None) -> None:
        source, target = self.way.value
        image = self.examples[source][0][self.given.value]
        private = torch.tensor([[slider.value for slider in self.sliders]])
        self.drawn = self.model.cross_generate({source: image[None]}, target, seed=0, private=private)[0]
        side = max(*image.shape[1:], *self.drawn.shape[1:])
        cells = [figures.rgb(each.numpy(), side) for each in (image, self.drawn)]
        self.picture.value = png(figures.tile(np.stack(cells)[None]))

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The widget, and for a copy without a kernel the picture as it stands."""
        source, target = (self.titles[name] for name in self.way.value)
        label = self.examples[self.way.value[0]][1][self.given.value]
        picture = {"image/png": base64.b64encode(self.picture.value).decode()}
        return self.widget._repr_mimebundle_() | picture | {"text/plain": f"{source}, a {label}, drawn as {target}"}


def png(picture: np.ndarray) -> bytes:
    """A picture (height, width, 3) in [0, 1] as a PNG file, ZOOM times as large."""
    large = np.rint(255 * picture).astype(np.uint8).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    file = io.BytesIO()
    Image.fromarray(large).save(file, "png")
    return file.getvalue()


def portable(model: MultimodalVAE, dataset: Dataset) -> dict:
    """What web/playground.js needs, fit for JSON: decoders as lists of layers, test images and their codes.

    Arrays are base64 of little-endian numbers: weights float16, codes float32, images uint8. Raises ValueError where
    a decoder has a layer that playground.js does not know.
    """
    modalities = {}
    for name, shape in model.shapes.items():
        images, labels = examples(dataset, name)
        with torch.no_grad():
            shared = model.shared_code(model.shared({name: images}), torch.Generator().manual_seed(0))
            private = model.private(name, images).mean
        modalities[name] = {
            "title": dataset.titles[name],
            "shape": shape,
            "labels": labels,
            "images": _base64((255 * images).round(), "u1"),
            "shared": _base64(shared, "<f4"),
            "private": _base64(private, "<f4"),
            "decoder": [_layer(layer) for layer in model.decoders[name].children()],
        }
    return {"private": model.sizes["private"], "reach": REACH, "modalities": modalities}


def _layer(layer: nn.Module) -> dict:
    found: dict = {"kind": type(layer).__name__}
    if isinstance(layer, nn.Unflatten):
        found["shape"] = list(layer.unflattened_size)
    elif isinstance(layer, nn.ConvTranspose2d):
        options = ("kernel_size", "stride", "padding", "output_padding", "dilation")
        values = {option: set(getattr(layer, option)) for option in options}
        if layer.groups != 1 or values.pop("dilation") != {1} or any(len(both) > 1 for both in values.values()):
            raise ValueError(f"{layer}: playground.js knows square kernels without groups and dilation")
        found |= {option: both.pop() for option, both in values.items()}
    elif not isinstance(layer, nn.Linear | nn.ReLU | nn.Sigmoid):
        raise ValueError(f"{layer}: playground.js has no such layer")
    return found | {name: _base64(tensor, "<f2") for name, tensor in layer.state_dict().items()}


def _base64(tensor: Tensor, kind: str) -> str:
    return base64.b64encode(tensor.numpy().astype(kind).tobytes()).decode()
