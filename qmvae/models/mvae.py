"""MVAE (Wu & Goodman 2018): one shared code, a product of experts that always holds the prior, sub-sampled ELBOs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qmvae.gaussian import Gaussian, product_of_experts
from qmvae.models.base import Images, MultimodalVAE


class MVAE(MultimodalVAE):
    """q(z|X) is proportional to p(z) prod_i q~(z|x_i) over the modalities in X, one of them or more (section 2.1).

    The public code is `mhw32/multimodal-vae-public`. There are no private codes.
    """

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """The product of the given experts and the prior N(0, I), for one modality too; ValueError if there is none."""
        fused = super().fuse(posteriors)
        return product_of_experts([fused]) if len(posteriors) == 1 else fused

    def schedule(self, progress: float) -> dict[str, Any]:
        """beta rises linearly from 0 to 1 over the fraction `warm_up` of training."""
        return {"beta": min(progress / self.config.warm_up, 1.0) if self.config.warm_up else 1.0}

    def objective(self, images: Images, labels: Tensor, beta: Any) -> dict[str, Tensor]:
        """-[ELBO(x_1..x_M) + sum_i ELBO(x_i) + sum_j ELBO(X_j)], the sub-sampled objective (section 2.2), batch mean.

        The X_j are `subsets` random sets of 2 to M - 1 modalities, drawn anew each step; two modalities have none.
        ELBO(X) = E_q(z|X)[sum_i lambda_i ln p(x_i|z)] - beta KL(q(z|X), p(z)), lambda_i the likelihood weights. See
        MultimodalVAE.loss.
        """
        config, names = self.config, list(images)
        experts = {m: self.shared_encoders[m](x) for m, x in images.items()}
        posteriors = {"joint": self.fuse(experts)} | {m: self.fuse({m: q}) for m, q in experts.items()}
        members = self.random_subsets(len(names), experts[names[0]].mean.device)
        for j, subset in enumerate(members):  # an expert of infinite variance has no say
            pairs = zip(experts.values(), subset, strict=True)
            some = [Gaussian(q.mean, q.logvar.masked_fill(~member, torch.inf)) for q, member in pairs]
            posteriors[f"subset_{j}"] = product_of_experts(some)

        z = {s: q.rsample() for s, q in posteriors.items()}
        elbo = {s: -beta * q.kl().mean() for s, q in posteriors.items()}
        for i, (m, x) in enumerate(images.items()):
            holders = {"joint": 1.0, m: 1.0} | {f"subset_{j}": subset[i] for j, subset in enumerate(members)}
            codes = torch.cat([z[s] for s in holders])  # all samples of this modality are decoded in one go
            log_p = self.log_likelihood(m, self.decode(m, codes, codes[:, :0]), x.repeat(len(holders), 1, 1, 1))
            for (s, held), part in zip(holders.items(), log_p.chunk(len(holders)), strict=True):
                elbo[s] = elbo[s] + held * config.likelihood[m].weight * part.mean()

        terms = {"loss": -torch.stack(list(elbo.values())).sum()} | {f"elbo_{s}": value for s, value in elbo.items()}
        terms["kl_joint"] = posteriors["joint"].kl().mean()
        return terms | {f"kl_shared_{m}": posteriors[m].kl().mean() for m in names}

    def random_subsets(self, count: int, device: torch.device) -> Tensor:
        """(subsets, count) bool: which of `count` modalities are in each X_j; its size, 2 to count - 1, comes first."""
        if count < 3:
            return torch.zeros(0, count, dtype=torch.bool, device=device)
        sizes = torch.randint(2, count, (self.config.subsets, 1), device=device)
        ranks = torch.rand(self.config.subsets, count, device=device).argsort(dim=1).argsort(dim=1)
        return ranks < sizes
