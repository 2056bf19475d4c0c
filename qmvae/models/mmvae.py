"""MMVAE (Shi et al. 2019): one shared code, a mixture of Laplace experts, and an importance-weighted bound for each."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qmvae.models.base import Images, MultimodalVAE
from qmvae.nets import GaussianEncoder


class Laplace(NamedTuple):
    """A Laplace distribution with independent dimensions for each row; both tensors are (..., N, D)."""

    mean: Tensor
    scale: Tensor

    @property
    def logvar(self) -> Tensor:
        return math.log(2) + 2 * self.scale.log()

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparameterised sample, (..., N, D): the difference of two exponential variables is a Laplace variable."""
        a, b = self.mean.new_empty(2, *self.mean.shape).exponential_(generator=generator)
        return self.mean + self.scale * (a - b)

    def log_prob(self, z: Tensor) -> Tensor:
        """ln of the density at z, (..., N, D), summed over the dimensions, in nats: (..., N)."""
        return -((z - self.mean).abs() / self.scale + (2 * self.scale).log()).sum(dim=-1)


class Mixture(NamedTuple):
    """q(z|x_1..x_M) = 1/M sum_m q(z|x_m), the experts stacked as (M, N, D)."""

    experts: Laplace

    @property
    def mean(self) -> Tensor:
        return self.experts.mean.mean(dim=0)

    @property
    def logvar(self) -> Tensor:
        second_moment = (2 * self.experts.scale.square() + self.experts.mean.square()).mean(dim=0)
        return (second_moment - self.mean.square()).log()

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A sample of one expert, chosen at random for each row: (N, D)."""
        count, rows = self.experts.mean.shape[:2]
        device = self.experts.mean.device
        chosen = torch.randint(count, (rows,), generator=generator, device=device)
        return self.experts.rsample(generator)[chosen, torch.arange(rows, device=device)]


class LaplaceEncoder(GaussianEncoder):
    """q(z|x): the same network, its second output read as Shi et al. do, scale = softmax over the dimensions x D."""

    def forward(self, images: Tensor) -> Laplace:  # type: ignore[override]
        mean, logits = super().forward(images)
        return Laplace(mean, logits.softmax(dim=1) * logits.shape[1] + 1e-6)


class MMVAE(MultimodalVAE):
    """A Laplace prior of learned scale, a Laplace posterior for each modality, and their mixture for all together.

    The public code is `iffsid/mmvae`. There are no private codes.
    """

    fused = False  # codes of several modalities are a mixture, not one fused code, so Table 2 has no `both` for it

    def __init__(self, shapes, nets, config):
        super().__init__(shapes, nets, config)
        self.shared_encoders = nn.ModuleDict({m: LaplaceEncoder(nets[m], shapes[m], config.shared) for m in shapes})
        self.prior_logits = nn.Parameter(torch.zeros(config.shared))

    def prior(self) -> Laplace:
        """p(z): mean 0 and a learned scale, softmax x D, so that the dimensions' scales add up to D; (D,) each."""
        return Laplace(torch.zeros_like(self.prior_logits), self.prior_logits.softmax(dim=0) * len(self.prior_logits))

    def fuse(self, posteriors: Mapping[str, Laplace]) -> Laplace | Mixture:
        """q(z|x) of one modality as it is; the mixture of several; ValueError if there is none."""
        if len(posteriors) < 2:
            return super().fuse(posteriors)
        return Mixture(Laplace(*(torch.stack(part) for part in zip(*posteriors.values(), strict=True))))

    @torch.no_grad()
    def generate(self, count: int, seed: int | None = None) -> dict[str, Tensor]:
        """`count` images of every modality from one shared code a row, drawn from the learned prior."""
        prior = Laplace(*(part.expand(count, -1) for part in self.prior()))
        z = prior.rsample(self._generator(seed))
        return {m: self.decode(m, z, z[:, :0]) for m in self.shapes}

    def objective(self, images: Images, labels: Tensor) -> dict[str, Tensor]:
        """-1/M sum_m L_m, the batch mean; K = `samples`, z_m^k ~ q(z|x_m), q the mixture, and the weights
        w_m^k = p(z_m^k) prod_i p(x_i|z_m^k)^lambda_i / q(z_m^k|x_1..x_M).

        objective `dreg`: L_m = ln 1/K sum_k w_m^k, the importance-weighted bound with the average over the modalities
        outside the logarithm (`--looser` in the public code), and its doubly reparameterised gradient.
        objective `elbo`: L_m = 1/K sum_k ln w_m^k, the stratified ELBO. See MultimodalVAE.loss.
        """
        config, count = self.config, len(images)
        posteriors = [self.shared_encoders[m](x) for m, x in images.items()]
        experts = Laplace(*(torch.stack(part) for part in zip(*posteriors, strict=True)))  # (M, N, D)
        z = Laplace(*(part[:, None].expand(-1, config.samples, -1, -1) for part in experts)).rsample()  # (M, K, N, D)
        q = Laplace(*(part[:, None, None] for part in experts))
        if config.objective == "dreg":
            q = Laplace(*(part.detach() for part in q))
        log_q = q.log_prob(z)  # (M, M, K, N): the density under expert r of the samples of expert m
        log_w = self.prior().log_prob(z) - (log_q.logsumexp(dim=0) - math.log(count))  # (M, K, N)
        codes = z.flatten(0, 2)
        for m, x in images.items():
            repeated = x.repeat(count * config.samples, 1, 1, 1)
            log_p = self.log_likelihood(m, self.decode(m, codes, codes[:, :0]), repeated)
            log_w = log_w + config.likelihood[m].weight * log_p.view(log_w.shape)

        if config.objective == "dreg":
            own = Laplace(*(part[:, None] for part in experts)).log_prob(z.detach())
            bounds = importance_weighted(log_w) + doubly_reparameterised(z, log_w, log_q, own)
        else:
            bounds = log_w.mean(dim=1)
        terms = {"loss": -bounds.mean()} | {f"bound_{m}": b for m, b in zip(images, bounds.mean(dim=1), strict=True)}
        weights = log_w.detach().softmax(dim=1)
        return terms | {"effective_samples": (1 / weights.square().sum(dim=1)).mean()}  # of the K


def importance_weighted(log_w: Tensor) -> Tensor:
    """ln 1/K sum_k w^k (Burda et al. 2016): log-weights (M, K, N) to bounds (M, N), in nats."""
    return log_w.logsumexp(dim=1) - math.log(log_w.shape[1])


def doubly_reparameterised(z: Tensor, log_w: Tensor, log_q: Tensor, own: Tensor) -> Tensor:
    """Turns the gradient of `importance_weighted(log_w)` into the doubly reparameterised one (Tucker et al. 2019).

    z: samples (M, K, N, D). log_w: (M, K, N), which must depend on the experts through z alone. log_q: (M, M, K, N),
    ln q_r(z_m^k) at [r, m]. own: (M, K, N), ln q_m(z_m^k) with z_m^k held fixed. Returns zeros (M, N) to add to the
    bound for their gradient.

    For one expert, the gradient through z^k is to be weighted with w~_k^2 in place of the normalised weight w~_k, which
    a hook does. The identity behind it takes samples and density from one distribution. Here the density is the mixture
    and the K samples come from one expert, so that the squares alone are biased where experts overlap (by a quarter for
    two Gaussians two standard deviations apart, K = 5). With pi_r = q_r / sum q, and a_r the weight that z_m^k would
    have among K - 1 samples of expert r, -sum_k sum_r pi_r (a_r - w~_k) grad ln q_m(z_m^k) makes it exact.
    """
    weights = log_w.detach().softmax(dim=1)
    if z.requires_grad:
        z.register_hook(lambda grad: grad * weights[..., None])
    with torch.no_grad():
        samples = log_w.shape[1]
        itself = torch.eye(samples, dtype=torch.bool, device=z.device)[None, :, :, None]
        others = log_w[:, None].expand(-1, samples, -1, -1).masked_fill(itself, -torch.inf).logsumexp(dim=2)
        among = torch.sigmoid(log_w[None] - others[:, None])  # a_r: (M, M, K, N)
        missing = (log_q.softmax(dim=0) * (among - weights)).sum(dim=0)
    term = -(missing * own).sum(dim=1)
    return term - term.detach()
