"""MVAE (Wu & Goodman 2018): one shared code, products of experts with the prior, and a sub-sampled objective."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qmvae.model.base import Images, MultimodalVAE, warm_up
from qmvae.model.gaussian import Gaussian, product_of_experts


class MVAE(MultimodalVAE):
    """A VAE without private codes.

    The authors' public code is `mhw32/multimodal-vae-public` on GitHub. We read it. Of the paper we could read the
    abstract only.
    """

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """Return the product of the given experts and the prior, over (N, shared).

        q(z|X) is proportional to p(z) prod_{i in X} q(z|x_i),  with p(z) = N(0, I)

        X is the set of given modalities. Unlike Q-MVAE, MVAE includes the prior for a single modality, too.
        """
        return product_of_experts(list(posteriors.values()))

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return `beta`, the KL weight. It rises linearly from 0 to `kl` over the first part `warm_up` of training."""
        return {"beta": self.config.kl * warm_up(progress, self.config.warm_up)}

    def objective(self, images: Images, labels: Tensor, beta: Any) -> dict[str, Tensor]:
        """Return the negative sub-sampled objective as `loss`, and its terms: batch means, scalars.

        loss    = -[ELBO(x_1, ..., x_M) + sum_i ELBO(x_i) + sum_j ELBO(X_j)]
        ELBO(X) = E_{q(z|X)}[sum_{i in X} lambda_i ln p(x_i|z)] - beta KL(q(z|X) || p(z))

        X_j are `subsets` random sets of 2 to M - 1 of the M modalities, sampled at each step. For M = 2 there
        are none. lambda_i are the likelihood weights. One sample estimates each expectation.

        The terms are `elbo_joint`, `elbo_<modality>`, `elbo_subset_<j>` for X_j, `kl_joint` and `kl_shared_<modality>`.
        Only the KL divergences have no weight.
        """
        config, names = self.config, list(images)
        experts = {m: self.shared_encoders[m](x) for m, x in images.items()}
        posteriors = {"joint": self.fuse(experts)} | {m: self.fuse({m: q}) for m, q in experts.items()}
        subsets = self.random_subsets(len(names), labels.device)
        for j, members in enumerate(subsets):
            pairs = zip(experts.values(), members, strict=True)
            posteriors[f"subset_{j}"] = product_of_experts([q.where(member) for q, member in pairs])

        z = {s: q.rsample() for s, q in posteriors.items()}
        elbos = {s: -beta * q.kl().mean() for s, q in posteriors.items()}
        for i, (m, x) in enumerate(images.items()):
            # for each ELBO(X) that can contain modality i: 1 if i is in X, else 0
            holds = {"joint": 1.0, m: 1.0} | {f"subset_{j}": members[i] for j, members in enumerate(subsets)}
            codes = torch.cat([z[s] for s in holds])  # one decoder call for all samples
            log_p = self.log_likelihood(m, self.decode(m, codes, codes[:, :0]), x.repeat(len(holds), 1, 1, 1))
            for (s, held), part in zip(holds.items(), log_p.chunk(len(holds)), strict=True):
                elbos[s] = elbos[s] + held * config.likelihood[m].weight * part.mean()

        terms = {"loss": -torch.stack(list(elbos.values())).sum()} | {f"elbo_{s}": elbo for s, elbo in elbos.items()}
        terms["kl_joint"] = posteriors["joint"].kl().mean()
        return terms | {f"kl_shared_{m}": posteriors[m].kl().mean() for m in names}

    def random_subsets(self, count: int, device: torch.device) -> Tensor:
        """Return which of `count` modalities each X_j contains: bool (subsets, count), or (0, count) if count < 3.

        The size of a set is uniform over 2 to count - 1. All sets of that size have equal probability.
        """
        if count < 3:
            return torch.zeros(0, count, dtype=torch.bool, device=device)
        sizes = torch.randint(2, count, (self.config.subsets, 1), device=device)
        ranks = torch.rand(self.config.subsets, count, device=device).argsort(dim=1).argsort(dim=1)
        return ranks < sizes
