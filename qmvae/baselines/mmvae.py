"""MMVAE (Shi et al. 2019): one shared code, a mixture of Laplace experts, an importance-weighted bound per expert."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qmvae.model.base import Images, MultimodalVAE
from qmvae.model.networks import Encoder, images_at_a_time

# How many samples are decoded at a time, for images of 32x32 pixels; see `images_at_a_time`
CHUNK = 512  # in the pass without gradients: 60 MB
AT_ONCE = 768  # up to this many samples in all, the second pass decodes those above epsilon at once: at most 0.6 GB
GRADIENT_CHUNK = 128  # with more samples, this many: 0.1 GB


class Laplace(NamedTuple):
    """Laplace distributions with independent dimensions; mean and scale are (..., D), often (N, D)."""

    mean: Tensor
    scale: Tensor

    @property
    def logvar(self) -> Tensor:
        """The logarithm of the variance 2 scale^2, (..., D)."""
        return math.log(2) + 2 * self.scale.log()

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return a reparameterised sample, (..., D), with gradients to mean and scale.

        z = mean + scale * (a - b),  a, b ~ Exponential(1),  so that a - b has the Laplace distribution of scale 1
        """
        a, b = self.mean.new_empty(2, *self.mean.shape).exponential_(generator=generator)
        return self.mean + self.scale * (a - b)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density at z, (..., D), summed over the dimensions, in nats: (...,).

        ln p(z) = -sum_d (|z_d - mean_d| / scale_d + ln(2 scale_d))

        z may have further leading dimensions; PyTorch's rules of broadcasting apply.
        """
        return -((z - self.mean).abs() / self.scale + (2 * self.scale).log()).sum(dim=-1)


class Mixture(NamedTuple):
    """The mixture q(z|x_1, ..., x_M) = 1/M sum_m q(z|x_m) of Laplace or Gaussian experts, over (M, N, D) together."""

    experts: Any

    @property
    def mean(self) -> Tensor:
        """The mean of the mixture, (N, D)."""
        return self.experts.mean.mean(dim=0)

    @property
    def logvar(self) -> Tensor:
        """The logarithm of the variance of each dimension of the mixture, (N, D).

        variance = 1/M sum_m (variance_m + (mean_m - mean)^2)
        """
        return (self.experts.logvar.exp() + (self.experts.mean - self.mean).square()).mean(dim=0).log()

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return a sample of the mixture, (N, D): each row is a sample of one expert, chosen with probability 1/M.

        Gradients reach the chosen experts only, so this is no reparameterised sample of the mixture.
        """
        count, rows = self.experts.mean.shape[:2]
        device = self.experts.mean.device
        chosen = torch.randint(count, (rows,), generator=generator, device=device)
        return self.experts.rsample(generator)[chosen, torch.arange(rows, device=device)]


class LaplaceEncoder(Encoder):
    """q(z|x), a Laplace distribution: mean, and scale = D softmax(logits) + 1e-6.

    Without the 1e-6, which keeps each scale above 0, the D scales of a row would add up to D.
    """

    def forward(self, images: Tensor) -> Laplace:
        """Return the Laplace distribution over codes, (N, D), for images (N, C, H, W) in [0, 1]."""
        mean, logits = super().forward(images)
        return Laplace(mean, logits.softmax(dim=1) * logits.shape[1] + 1e-6)


class MMVAE(MultimodalVAE):
    """A VAE without private codes, with a Laplace prior of learned scale.

    The authors' public code is `iffsid/mmvae` on GitHub. We read it. Of the paper we could read the abstract only.
    """

    is_fused = False  # a mixture has no fused code, so MMVAE's entry for MNIST-SVHN in Table 2 is N/A

    def __init__(self, shapes, networks, config):
        super().__init__(shapes, networks, config)
        self.shared_encoders = nn.ModuleDict({m: LaplaceEncoder(networks[m], shapes[m], config.shared) for m in shapes})
        self.prior_logits = nn.Parameter(torch.zeros(config.shared))

    def prior(self) -> Laplace:
        """Return p(z), over (D,), with mean 0 and learned scale = D softmax(prior_logits)."""
        return Laplace(torch.zeros_like(self.prior_logits), self.prior_logits.softmax(dim=0) * len(self.prior_logits))

    def fuse(self, posteriors: Mapping[str, Laplace]) -> Laplace | Mixture:
        """Return q(z|x) for one modality and the mixture of all q(z|x_m) for several, over (N, D)."""
        return Mixture(stack(posteriors)) if len(posteriors) > 1 else next(iter(posteriors.values()))

    def shared_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return samples of the shared code from `prior`: (count, shared)."""
        return Laplace(*(part.expand(count, -1) for part in self.prior())).rsample(generator)

    def objective(self, images: Images, labels: Tensor) -> dict[str, Tensor]:
        """Return -1/M sum_m L_m as `loss`, and its terms: batch means, scalars.

        dreg:  L_m = ln 1/K sum_k w_m^k    the importance-weighted bound, with its doubly reparameterised gradient
        elbo:  L_m = 1/K sum_k ln w_m^k    the stratified ELBO
        w_m^k = p(z_m^k) prod_i p(x_i|z_m^k)^lambda_i / q(z_m^k|x_1, ..., x_M),  z_m^k ~ q(z|x_m),  q the mixture

        K is `samples`, and lambda_i are the likelihood weights. The mean over the M modalities is outside the
        logarithm, as with `--looser` in the public code.

        The terms are `bound_<modality>`, which is L_m, and `effective_samples`, the effective sample size. This is
        the mean of 1 / sum_k w~_k^2, between 1 and K, with normalised weights w~_k = w_m^k / sum_j w_m^j.
        """
        config, dreg = self.config, self.config.objective == "dreg"
        experts = stack({m: self.shared_encoders[m](x) for m, x in images.items()})  # (M, N, D)
        z = Laplace(*(part[:, None].expand(-1, config.samples, -1, -1) for part in experts)).rsample()  # (M, K, N, D)
        # torch.compile breaks its graph in `first_pass`. `doubly_reparameterised` sets a hook on z after this break.
        # The hook would miss the gradients of an earlier use of z, so there must be none.
        two_passes = dreg and config.samples > 1 and config.epsilon > 0
        first = self.first_pass(experts, z, images) if two_passes else None
        # with `dreg`, w must depend on the encoders through z only
        density = Laplace(*(part.detach() for part in experts)) if dreg else experts
        log_q, log_ratio = self.log_densities(density, z)
        log_w = self.log_weights(log_ratio, z, images, first)

        if dreg:
            own = Laplace(*(part[:, None] for part in experts)).log_prob(z.detach())
            bounds = importance_weighted(log_w) + doubly_reparameterised(z, log_w, log_q, own)
        else:
            bounds = log_w.mean(dim=1)
        terms = {"loss": -bounds.mean()} | {f"bound_{m}": b for m, b in zip(images, bounds.mean(dim=1), strict=True)}
        weights = log_w.detach().softmax(dim=1)
        return terms | {"effective_samples": (1 / weights.square().sum(dim=1)).mean()}

    def log_densities(self, experts: Laplace, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln q_r(z_m^k), (M, M, K, N) with indices [r, m, k, n], and ln p(z_m^k) - ln q(z_m^k|x_1, ..., x_M).

        q(z|x_1, ..., x_M) = 1/M sum_r q_r(z),  q_r(z) = q(z|x_r)

        The second result is (M, K, N). Both are in nats. experts: (M, N, D). z: the samples z_m^k, (M, K, N, D).
        """
        log_q = Laplace(*(part[:, None, None] for part in experts)).log_prob(z)
        return log_q, self.prior().log_prob(z) - (log_q.logsumexp(dim=0) - math.log(len(log_q)))

    @torch.no_grad()
    def first_pass(self, experts: Laplace, z: Tensor, images: Images) -> tuple[Tensor, Tensor]:
        """Return ln w of all S = M K N samples, (S,), and the indices of those with w~_k > epsilon, int64 (at most S,).

        The bound's gradient is sum_k w~_k grad ln w_k. After training, about one of K = 30 samples has almost all of
        the weight. So the first pass computes all weights without gradients, CHUNK samples at a time. The second pass,
        `log_weights`, decodes the samples with these indices again, with gradients.

        Two passes save nothing with epsilon = 0, with K = 1, or in the stratified ELBO, whose weights are all 1/K. Then
        `objective` makes one pass.
        """
        log_ratio = self.log_densities(experts, z)[1]
        chunk = images_at_a_time(CHUNK, *self.shapes.values())
        parts = (part.split(chunk) for part in (log_ratio.flatten(), z.flatten(0, 2), pair_indices(z)))
        log_w = torch.cat([self.add_log_likelihoods(images, *part) for part in zip(*parts, strict=True)])
        weights = log_w.view_as(log_ratio).softmax(dim=1).flatten()
        return log_w, (weights > self.config.epsilon).nonzero().squeeze(1)

    def log_weights(self, log_ratio: Tensor, z: Tensor, images: Images, first: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the log-weights ln w_m^k, (M, K, N).

        ln w_k = ln p(z_k) - ln q(z_k|x_1, ..., x_M) + sum_i lambda_i ln p(x_i|z_k)

        With two passes, the samples with w~_k <= epsilon have the value from the first pass. They have the gradient of
        log_ratio, but not that of ln p(x_i|z_k). The values of bound and weights are those of one pass. The gradient
        lacks terms whose weights w~_k sum to at most K epsilon. In the first steps nearly all samples count. So with
        more than AT_ONCE samples in all, the backward pass decodes those that count a third time, GRADIENT_CHUNK at a
        time, which bounds the memory.

        log_ratio: ln p(z_k) - ln q(z_k|x_1, ..., x_M), (M, K, N). z: (M, K, N, D). first: the results of `first_pass`,
        or None for one pass.
        """
        flat = log_ratio.flatten(), z.flatten(0, 2), pair_indices(z)
        if first is None:
            return self.add_log_likelihoods(images, *flat).view_as(log_ratio)
        log_w, kept = first
        log_w = log_w + (flat[0] - flat[0].detach())  # adds the gradient of log_ratio and the value 0
        at_once, chunk = (images_at_a_time(count, *self.shapes.values()) for count in (AT_ONCE, GRADIENT_CHUNK))
        if log_w.numel() <= at_once:
            second = self.add_log_likelihoods(images, *(part[kept] for part in flat))
        else:
            # some samples twice, so that all chunks have one size: freed memory of other sizes is not used again
            full = kept[torch.arange(-len(kept) % chunk + len(kept), device=kept.device) % len(kept)]
            parts = zip(*(part[full].split(chunk) for part in flat), strict=True)
            decoded = (checkpoint(self.add_log_likelihoods, images, *part, use_reentrant=False) for part in parts)
            second = torch.cat(list(decoded))[: len(kept)]
        return log_w.scatter(0, kept, second).view_as(log_ratio)

    def add_log_likelihoods(self, images: Images, log_ratio: Tensor, codes: Tensor, pairs: Tensor) -> Tensor:
        """Return log_ratio + sum_i lambda_i ln p(x_i|z,h_i), (S,), for codes [z, h_1, ..., h_M], (S, D + M P).

        MMVAE has no private codes, P = 0; MMVAE+ has. log_ratio: (S,). pairs: the row of the images for each sample,
        int64 (S,).
        """
        z, *private = codes.split([self.sizes["shared"], *[self.sizes["private"]] * len(self.shapes)], dim=1)
        for m, h in zip(self.shapes, private, strict=True):
            log_p = self.log_likelihood(m, self.decode(m, z, h), images[m][pairs])
            log_ratio = log_ratio + self.config.likelihood[m].weight * log_p
        return log_ratio


def pair_indices(z: Tensor) -> Tensor:
    """Return the index n of the pair of each sample, in the order of z.flatten(0, 2): int64 (M K N,).

    z: (M, K, N, D).
    """
    modalities, samples, rows, _ = z.shape
    return torch.arange(rows, device=z.device).repeat(modalities * samples)


def stack(experts: Mapping[str, Any]) -> Any:
    """Return M distributions of one family, Laplace or Gaussian, over (N, D) each, as one over (M, N, D)."""
    family = type(next(iter(experts.values())))
    return family(*(torch.stack(part) for part in zip(*experts.values(), strict=True)))


def importance_weighted(log_w: Tensor) -> Tensor:
    """Return the bounds ln 1/K sum_k w_k (Burda et al. 2016) in nats, (M, N), for log-weights (M, K, N)."""
    return log_w.logsumexp(dim=1) - math.log(log_w.shape[1])


def doubly_reparameterised(z: Tensor, log_w: Tensor, log_q: Tensor, own: Tensor) -> Tensor:
    """Return zeros (M, N) that, added to `importance_weighted(log_w)`, make its gradient doubly reparameterised.

    grad L_m = sum_k w~_k^2 (d ln w_k / d z_k) grad z_k  -  sum_k sum_r pi_r (a_r - w~_k) grad ln q_m(z_k)

    grad is the gradient with respect to the encoders. z_k is sample k of expert m, and w~_k is its normalised weight.
    Summed over m, the right side is an unbiased estimate of the bounds' gradient. Other gradients do not change.

    The first sum is the estimator of Tucker et al. (2019). `importance_weighted` gives one factor w~_k, and a hook on z
    multiplies by the other one. The estimator is unbiased if the denominator of w_k is the density that z_k is
    sampled from. Here the denominator is the mixture, so the first sum alone is biased where experts overlap. Example:
    two Gaussian experts with means -1 and 1, scales 0.7 and 1.1, and K = 5 (`gradients_of_mu` in tests/test_mmvae.py).
    There the first sum gives 1/M sum_m L_m the gradients 0.59 and -0.04 for the two means, not 0.81 and 0.07.

    The second sum, the mixture correction, removes the bias. pi_r = q_r(z_k) / sum_s q_s(z_k). a_r is the normalised
    weight of z_k if it replaces the k-th of the K samples of expert r. The function returns the second sum minus its
    own value: zero, with a gradient.

    z: samples (M, K, N, D). log_w: (M, K, N), which must depend on the encoders through z only. log_q: ln q_r(z_m^k),
    (M, M, K, N) with indices [r, m, k, n]. own: ln q_m(z_m^k), (M, K, N), with gradients to q_m but not through z.
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
