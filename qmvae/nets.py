"""Encoders and decoders. The table NETS says which kind a modality may have; params.yaml says which it has.

Section 4.1 gives little: MNIST fully connected; SVHN convolutions of 3x3, stride 2, padding 1. The widths are those of
Shi et al. (2019), whose data set and classifiers the paper uses. Decoders mirror encoders and end in a sigmoid.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from qmvae.gaussian import Gaussian

Shape = tuple[int, int, int]  # channels, height, width of one image


def mlp_encoder(shape: Shape, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 400), nn.ReLU(), nn.Linear(400, outputs))


def mlp_decoder(inputs: int, shape: Shape) -> nn.Sequential:
    pixels = math.prod(shape)
    return nn.Sequential(
        nn.Linear(inputs, 400), nn.ReLU(), nn.Linear(400, pixels), nn.Unflatten(1, shape), nn.Sigmoid()
    )


class Centre(nn.Module):
    """Images in [0, 1] to [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


def initialised(net: nn.Sequential) -> nn.Sequential:
    """Weights drawn as He et al. (2015) do for ReLUs, so that images keep their contrast on the way to the codes.

    With PyTorch's own, smaller weights and images not centred, a shared code of house numbers knows no digit for the
    first 1,000 steps.
    """
    for layer, following in pairwise(net):
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.ReLU):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return net


def conv_encoder(shape: Shape, outputs: int) -> nn.Sequential:
    channels, height, width = shape
    net = nn.Sequential(  # each convolution halves the sides: 32 -> 16 -> 8 -> 4
        Centre(),
        nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128 * (height // 8) * (width // 8), outputs),
    )  # fmt: skip
    return initialised(net)


def conv_decoder(inputs: int, shape: Shape) -> nn.Sequential:
    channels, height, width = shape
    small = (128, height // 8, width // 8)
    return nn.Sequential(  # each doubles them
        nn.Linear(inputs, math.prod(small)), nn.Unflatten(1, small), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, channels, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid(),
    )  # fmt: skip


NETS = {"mlp": (mlp_encoder, mlp_decoder), "conv": (conv_encoder, conv_decoder)}


class GaussianEncoder(nn.Module):
    """q(code | image): images (N, C, H, W) in [0, 1] to a Gaussian over codes (N, size)."""

    def __init__(self, net: str, shape: Shape, size: int):
        super().__init__()
        self.net = NETS[net][0](shape, 2 * size)

    def forward(self, images: Tensor) -> Gaussian:
        return Gaussian(*self.net(images).to(images.dtype).chunk(2, dim=1))  # also where the network is in bfloat16


def decoder(net: str, size: int, shape: Shape) -> nn.Sequential:
    """p(image | code): codes (N, size) to the mean image (N, C, H, W) in [0, 1]."""
    return NETS[net][1](size, shape)
