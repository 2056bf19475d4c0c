"""Encoders and decoders. params.yaml gives the kind of each modality's networks, one of the keys of NETWORKS.

Section 4.1 of the paper gives only the types of layers. MNIST has fully connected networks. SVHN has convolutions of
kernel 3x3, stride 2 and padding 1. The widths are those of Shi et al. (2019), whose data set the paper uses. Each
decoder mirrors its encoder and ends in a sigmoid.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qmvae.model.gaussian import Gaussian

Shape = tuple[int, int, int]  # channels, height and width of one image


def images_at_a_time(count: int, *shapes: tuple[int, ...]) -> int:
    """Return how many images a network should get at a time, so that its memory does not grow with their size.

    `count` of them up to 32x32 pixels, of larger ones as many pixels, but one image at least. shapes: (C, H, W) each;
    the one with most pixels decides.
    """
    pixels = max(height * width for _, height, width in shapes)
    return max(1, min(count, count * 32 * 32 // pixels))


def mlp_encoder(shape: Shape, outputs: int) -> nn.Sequential:
    """Return a fully connected network from images (N, C, H, W) to (N, outputs), with one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 400), nn.ReLU(), nn.Linear(400, outputs))


def mlp_decoder(inputs: int, shape: Shape) -> nn.Sequential:
    """Return a fully connected network from codes (N, inputs) to the logits of images, (N, C, H, W)."""
    return nn.Sequential(nn.Linear(inputs, 400), nn.ReLU(), nn.Linear(400, math.prod(shape)), nn.Unflatten(1, shape))


class Centre(nn.Module):
    """Map images from [0, 1] to [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


def he_initialised(network: nn.Sequential) -> nn.Sequential:
    """Initialise each convolution before a ReLU in place, by the rule of He et al. (2015); return the network.

    The rule keeps the variance of the activations about constant from layer to layer. PyTorch's default weights are
    smaller. With them, and without `Centre`, SVHN's shared code does not separate the classes in the first 1,000 steps.
    """
    for layer, following in pairwise(network):
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.ReLU):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network


def conv_encoder(shape: Shape, outputs: int) -> nn.Sequential:
    """Return a convolutional network from images (N, C, H, W) to (N, outputs); H and W must be divisible by 8."""
    channels, height, width = shape
    network = nn.Sequential(  # each convolution halves height and width: 32 -> 16 -> 8 -> 4
        Centre(),
        nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128 * (height // 8) * (width // 8), outputs),
    )  # fmt: skip
    return he_initialised(network)


def conv_decoder(inputs: int, shape: Shape) -> nn.Sequential:
    """Return a convolutional network from codes (N, inputs) to the logits of images, (N, C, H, W).

    H and W must be divisible by 8.
    """
    channels, height, width = shape
    small = (128, height // 8, width // 8)
    return nn.Sequential(  # each transposed convolution doubles height and width
        nn.Linear(inputs, math.prod(small)), nn.Unflatten(1, small), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, channels, 3, stride=2, padding=1, output_padding=1),
    )  # fmt: skip


NETWORKS = {"mlp": (mlp_encoder, mlp_decoder), "conv": (conv_encoder, conv_decoder)}


class Encoder(nn.Module):
    """A network from images to the two parameters, such as mean and log-variance, of a distribution over codes.

    network: a key of NETWORKS. shape: (C, H, W) of one image. size: the number of dimensions of the code.
    """

    def __init__(self, network: str, shape: Shape, size: int):
        super().__init__()
        self.net = NETWORKS[network][0](shape, 2 * size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two halves of the output, (N, size) each, for images (N, C, H, W) in [0, 1].

        They have the dtype of the images, even if autocast runs the network in bfloat16.
        """
        first, second = self.net(images).to(images.dtype).chunk(2, dim=1)
        return first, second


class GaussianEncoder(Encoder):
    """q(code|image), a Gaussian: the first half of the output is its mean, the second its log-variance."""

    def forward(self, images: Tensor) -> Gaussian:
        """Return the Gaussian over codes, (N, size), for images (N, C, H, W) in [0, 1]."""
        return Gaussian(*super().forward(images))


class Decoder(nn.Sequential):
    """A network from codes to the mean of p(image|code).

    network: a key of NETWORKS. size: the number of dimensions of the code. shape: (C, H, W) of one image.
    """

    def __init__(self, network: str, size: int, shape: Shape):
        super().__init__(*NETWORKS[network][1](size, shape), nn.Sigmoid())

    def forward(self, codes: Tensor) -> Tensor:
        """Return the mean, (N, C, H, W) in [0, 1], for codes (N, size).

        It has the dtype of the codes, even if autocast runs the network in bfloat16. There the sigmoid of a logit above
        6.3 would be exactly 1, without a gradient.
        """
        *layers, sigmoid = self
        values = codes
        for layer in layers:
            values = layer(values)
        return sigmoid(values.to(codes.dtype))


def frozen(network: nn.Module, *inputs: Tensor) -> Any:
    """Return network(*inputs). Gradients pass to the inputs, and not to the network's weights."""
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return functional_call(network, weights, inputs)


def shifted(images: Tensor, most: int) -> Tensor:
    """Return all images moved by the same random number of pixels, at most `most` in each direction: (N, C, H, W).

    The outermost pixels are repeated where an image moved away.
    """
    for dim, move in zip((2, 3), torch.randint(2 * most + 1, (2,)).tolist(), strict=True):
        size = images.shape[dim]
        first, last = (images.narrow(dim, i, 1) for i in (0, size - 1))
        # the gradient of F.pad's replication has no fixed order of sums on a GPU
        padded = torch.cat([first] * most + [images] + [last] * most, dim)
        images = padded.narrow(dim, move, size)
    return images.contiguous(memory_format=torch.channels_last)
