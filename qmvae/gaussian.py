"""Diagonal Gaussians: sampling, divergence from the prior, likelihoods, and the product of experts (Eq. 8)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Gaussian(NamedTuple):
    """N(mean, diag(exp(logvar))) for each row; both tensors are (N, D)."""

    mean: Tensor
    logvar: Tensor

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparameterised sample, mean + sigma * epsilon (section 2): (N, D), with gradients to mean and logvar."""
        epsilon = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * epsilon

    def kl(self) -> Tensor:
        """KL divergence from the standard normal prior N(0, I), in nats: (N,)."""
        return 0.5 * (self.logvar.exp() + self.mean.square() - 1 - self.logvar).sum(dim=-1)


def product_of_experts(experts: Sequence[Gaussian], prior: bool = True) -> Gaussian:
    """Eq. 8: q(z|x,y) is proportional to p(z) q(z|x) q(z|y). Precisions add up; means are weighted by precision.

    experts: one or more Gaussians of equal shape (N, D). prior: whether p(z) = N(0, I) is one more expert.
    Returns a Gaussian (N, D). With w = softmax(-logvar) over the experts the precisions never leave log space,
    so that log-variances of +-50 are fine.
    """
    means, logvars = (torch.stack(parts) for parts in zip(*experts, strict=True))
    if prior:
        zero = torch.zeros_like(means[:1])  # N(0, I) has mean 0 and log-variance 0
        means, logvars = torch.cat([means, zero]), torch.cat([logvars, zero])
    weights = torch.softmax(-logvars, dim=0)
    return Gaussian((weights * means).sum(dim=0), -torch.logsumexp(-logvars, dim=0))


def log_likelihood(family: str, scale: float, mean: Tensor, images: Tensor) -> Tensor:
    """ln p(x | z, h), summed over an image's pixels and channels, in nats: (N,).

    mean: the decoder's output in [0, 1], (N, C, H, W), as are the images. family: laplace or gaussian with that scale
    (standard deviation for the Gaussian), or bernoulli, which has no scale.
    """
    if family == "laplace":
        log_p = -(images - mean).abs() / scale - math.log(2 * scale)
    elif family == "gaussian":
        log_p = -0.5 * ((images - mean) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)
    elif family == "bernoulli":
        with torch.autocast(mean.device.type, enabled=False):  # which CUDA's forbids
            log_p = -F.binary_cross_entropy(mean.to(images.dtype), images, reduction="none")
    else:
        raise ValueError(f"likelihood family {family!r}: expected laplace, gaussian or bernoulli")
    return log_p.flatten(start_dim=1).sum(dim=1)
