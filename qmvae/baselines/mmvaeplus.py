"""MMVAE+ (Palumbo et al. 2023): MMVAE with private codes, and auxiliary priors for them in cross-reconstructions."""

from typing import Any

import torch
from torch import Tensor, nn

from qmvae.baselines.mmvae import MMVAE, Laplace, LaplaceEncoder, importance_weighted, stack
from qmvae.model.base import Images


class MMVAEPLUS(MMVAE):
    """A VAE with Laplace posteriors, fixed Laplace priors of scale 1, and an auxiliary prior r_i(h) of each modality.

    The two passes of MMVAE serve this model unchanged, and so does its mixture of the unimodal posteriors.

    The authors' public code is `epalu/mmvaeplus` on GitHub. We read it and `AgatheSenellart/MultiVae`. Of the paper we
    could read the abstract and a part of the introduction only.
    """

    def __init__(self, shapes, networks, config):
        super().__init__(shapes, networks, config)
        del self.prior_logits  # the scale of p(z) is not learned
        self.private_encoders = nn.ModuleDict(
            {m: LaplaceEncoder(networks[m], shapes[m], config.private) for m in shapes}
        )
        self.auxiliary_logits = nn.Parameter(torch.zeros(len(shapes), config.private))

    def prior(self, size: int | None = None) -> Laplace:
        """Return p(z), over (shared,), or with `size` = private p(h), over (private,): mean 0 and scale 1."""
        zeros = self.auxiliary_logits.new_zeros(size or self.sizes["shared"])
        return Laplace(zeros, torch.ones_like(zeros))

    def auxiliary_priors(self) -> Laplace:
        """Return r_i(h) of each modality, over (M, P), with mean 0 and learned scale = P softmax(auxiliary_logits)."""
        scale = self.auxiliary_logits.softmax(dim=1) * self.sizes["private"]
        return Laplace(torch.zeros_like(scale), scale)

    def private_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return samples of p(h), (count, private). As in the public code, r_i(h) serves in training only."""
        return Laplace(*(part.expand(count, -1) for part in self.prior(self.sizes["private"]))).rsample(generator)

    def objective(self, images: Images, labels: Tensor) -> dict[str, Tensor]:
        """Return -1/M sum_m L_m as `loss`, and its terms: batch means, scalars.

        L_m = E[ln 1/K sum_k w_m^k],  z_m^k ~ q(z|x_m),  h_m^k ~ q(h_m|x_m),  h_i^k ~ r_i(h) for each i other than m
        w_m^k = prod_i p(x_i|z_m^k,h_i^k)^lambda_i
                [p(z_m^k) p(h_m^k) / (q(z_m^k|x_1, ..., x_M) q(h_m^k|x_m))]^beta,  q(z|x_1, ..., x_M) the mixture

        So the private code of x_i never helps to reconstruct x_i from another modality, but z must.
        K is `samples`, lambda_i are the likelihood weights, and beta is `kl`.

        `objective: iwae` has the gradient of L_m. So has the public code with both of its objectives: its hook, which
        should weight the gradients, is on a tensor outside the graph. `objective: dreg` is MultiVae's estimator. It
        omits the densities' direct gradient to the encoders and multiplies their gradient through z_m^k and h_m^k by
        the normalised weight of sample k. For K > 1 it is biased where experts overlap, as is MMVAE's without its
        mixture correction (see mmvae.doubly_reparameterised), and where beta is not 1. That correction would need each
        z_m^k decoded with the h of every expert. For K = 1 both have the same expectation.

        The terms are `bound_<modality>`, which is L_m, and `effective_samples`, as in MMVAE.
        """
        config, dreg = self.config, self.config.objective == "dreg"
        experts = stack({m: self.joint_expert(m, images[m]) for m in self.shapes})  # (M, N, D + P)
        codes, own = self.sample_codes(experts)
        # as in MMVAE: after this graph break of torch.compile the codes are used for the first time
        first = self.first_pass(experts, codes, images) if config.samples > 1 and config.epsilon > 0 else None
        density = Laplace(*(part.detach() for part in experts)) if dreg else experts
        log_w = self.log_weights(self.log_densities(density, codes)[1], codes, images, first)  # (M, K, N)

        weights = log_w.detach().softmax(dim=1)
        if dreg and codes.requires_grad:
            codes.register_hook(lambda grad: torch.where(own, grad * weights[..., None], grad))
        bounds = importance_weighted(log_w)
        terms = {"loss": -bounds.mean()}
        terms |= {f"bound_{m}": bound for m, bound in zip(self.shapes, bounds.mean(dim=1), strict=True)}
        return terms | {"effective_samples": (1 / weights.square().sum(dim=1)).mean()}

    def joint_expert(self, name: str, x: Tensor) -> Laplace:
        """Return q(z|x) q(h|x), one distribution over (N, D + P), for images x of modality `name`."""
        parts = zip(self.shared_encoders[name](x), self.private_encoders[name](x), strict=True)
        return Laplace(*(torch.cat(part, dim=1) for part in parts))

    def sample_codes(self, experts: Laplace) -> tuple[Tensor, Tensor]:
        """Return samples [z_m^k, h_1^k, ..., h_M^k], (M, K, N, D + M P), and which entries come from expert m.

        The second result is bool, (M, 1, 1, D + M P). experts: the results of `joint_expert`, over (M, N, D + P).
        """
        count, samples, size = len(self.shapes), self.config.samples, self.sizes["shared"]
        sample = Laplace(*(part[:, None].expand(-1, samples, -1, -1) for part in experts)).rsample()
        z, h = sample[..., :size], sample[..., None, size:]
        others = Laplace(*(part.expand(*h.shape[:3], -1, -1) for part in self.auxiliary_priors())).rsample()
        own = torch.eye(count, dtype=torch.bool, device=z.device)
        codes = torch.cat([z, torch.where(own[:, None, None, :, None], h, others).flatten(3)], dim=3)
        slots = own.repeat_interleave(h.shape[-1], dim=1)
        return codes, torch.cat([own.new_ones(count, size), slots], dim=1)[:, None, None]

    def log_densities(self, experts: Laplace, codes: Any) -> tuple[Tensor, Tensor]:
        """Return ln q(z_m^k|x_r), (M, M, K, N) at [r, m, k, n], and the logarithm of w's second factor, (M, K, N).

        beta [ln p(z_m^k) + ln p(h_m^k) - ln q(z_m^k|x_1, ..., x_M) - ln q(h_m^k|x_m)]

        experts, codes: as in `sample_codes`, which returns the codes.
        """
        size = self.sizes["shared"]
        log_q, log_ratio = super().log_densities(Laplace(*(part[..., :size] for part in experts)), codes[..., :size])
        slots = codes[..., size:].unflatten(3, (len(self.shapes), -1))
        h = torch.stack([slots[m, :, :, m] for m in range(len(self.shapes))])  # (M, K, N, P)
        private = Laplace(*(part[:, None, :, size:] for part in experts))
        log_ratio = log_ratio + self.prior(h.shape[-1]).log_prob(h) - private.log_prob(h)
        return log_q, self.config.kl * log_ratio
