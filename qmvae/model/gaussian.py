"""Diagonal Gaussians: samples, KL divergence, products of experts (Eq. 8). Also the log-likelihood of images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Gaussian(NamedTuple):
    """N Gaussians over R^D, one per row: N(mean, diag(exp(logvar))); mean and logvar = ln sigma^2 are (N, D)."""

    mean: Tensor
    logvar: Tensor

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return a reparameterised sample, (N, D), with gradients to mean and logvar (section 2 of the paper).

        z = mean + sigma * epsilon,  sigma = exp(logvar / 2),  epsilon ~ N(0, I)
        """
        epsilon = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * epsilon

    def kl(self) -> Tensor:
        """Return the KL divergence from the prior N(0, I), in nats: (N,).

        KL(N(mean, sigma^2) || N(0, I)) = 1/2 sum_d (sigma_d^2 + mean_d^2 - 1 - ln sigma_d^2)
        """
        return 0.5 * (self.logvar.exp() + self.mean.square() - 1 - self.logvar).sum(dim=-1)

    def log_prob(self, code: Tensor) -> Tensor:
        """Return the log-density at `code` (N, D), in nats: (N,).

        ln N(c; mean, sigma^2) = -1/2 sum_d ((c_d - mean_d)^2 / sigma_d^2 + ln sigma_d^2 + ln 2 pi)
        """
        square = (code - self.mean).square() * (-self.logvar).exp()
        return -0.5 * (square + self.logvar + math.log(2 * math.pi)).sum(dim=-1)

    def where(self, member: Tensor) -> "Gaussian":
        """Return a Gaussian with the same mean, and with infinite variance wherever `member` is false.

        An expert of infinite variance leaves a product of experts unchanged. Its `kl` and `rsample` are not finite.
        member: bool, (), (N, 1) or (N, D).
        """
        return Gaussian(self.mean, self.logvar.masked_fill(~member, torch.inf))


def product_of_experts(experts: Sequence[Gaussian], prior: bool = True) -> Gaussian:
    """Return the normalised product of Gaussian densities, the experts; it is a Gaussian, (N, D).

    q(z|x,y) is proportional to p(z) q(z|x) q(z|y),  with p(z) = N(0, I)    (Eq. 8)

    The precision 1/sigma^2 of the product is the sum of the experts' precisions. The precisions weight the means:
    1/sigma^2 = sum_i 1/sigma_i^2,  mean = sigma^2 sum_i mean_i / sigma_i^2.

    experts: one or more Gaussians, (N, D) each. prior: whether p(z) is one more expert, as in Eq. 8.
    Without the prior, the mean is NaN wherever every expert has infinite variance.
    """
    means, logvars = (torch.stack(parts) for parts in zip(*experts, strict=True))
    if prior:
        zero = torch.zeros_like(means[:1])
        means, logvars = torch.cat([means, zero]), torch.cat([logvars, zero])
    weights = torch.softmax(-logvars, dim=0)  # = sigma^2 / sigma_i^2, from logarithms, so that no exp overflows
    return Gaussian((weights * means).sum(dim=0), -torch.logsumexp(-logvars, dim=0))


def log_likelihood(family: str, scale: float, mean: Tensor, images: Tensor) -> Tensor:
    """Return ln p(x|z,h) of each image x given its shared code z and private code h, in nats: (N,).

    It is the sum of ln p(x_i) over all i, the pixels of all channels:
    laplace:    ln p(x_i) = -|x_i - mean_i| / scale - ln(2 scale)
    gaussian:   ln p(x_i) = -(x_i - mean_i)^2 / (2 scale^2) - ln(scale) - ln(2 pi) / 2
    bernoulli:  ln p(x_i) = x_i ln mean_i + (1 - x_i) ln(1 - mean_i),  each logarithm at least -100

    mean: the decoder's output for z and h, (N, C, H, W) in [0, 1]. images: (N, C, H, W) in [0, 1].
    scale: b of the Laplace or sigma of the Gaussian, above 0; the Bernoulli ignores it.
    Raises ValueError on another family, and on a mean of another shape than the images.
    """
    if mean.shape != images.shape:  # or broadcasting would compare each image with other images
        raise ValueError(f"expected means of the images' shape {tuple(images.shape)}, got {tuple(mean.shape)}")
    if family == "laplace":
        log_p = -(images - mean).abs() / scale - math.log(2 * scale)
    elif family == "gaussian":
        log_p = -0.5 * ((images - mean) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)
    elif family == "bernoulli":
        with torch.autocast(mean.device.type, enabled=False):  # CUDA's autocast forbids binary_cross_entropy
            log_p = -F.binary_cross_entropy(mean.to(images.dtype), images, reduction="none")
    else:
        raise ValueError(f"likelihood family {family!r}: expected laplace, gaussian or bernoulli")
    return log_p.flatten(start_dim=1).sum(dim=1)
