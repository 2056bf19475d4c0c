"""MoPoE-VAE (Sutter et al. 2021): one shared code, and a mixture over all subsets of products of experts."""

from collections.abc import Mapping
from itertools import chain, combinations

import torch
from torch import Tensor

from qmvae.model.base import Images, MultimodalVAE
from qmvae.model.gaussian import Gaussian, product_of_experts


class MOPOE(MultimodalVAE):
    """A VAE without private codes, as its paper runs MNIST-SVHN-Text.

    The authors' public code is `thomassutter/MoPoE` on GitHub. We read it and `AgatheSenellart/MultiVae`. Of the paper
    we could read the abstract, and its equations only in a public summary by others.
    """

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """Return the product of the given experts, q_X(z), over (N, shared).

        q_X(z) is proportional to prod_{i in X} q(z|x_i)

        X is the set of given modalities. The product over all modalities includes p(z) = N(0, I) if `prior_expert` is
        true. It does so in the public code and does not in the paper.

        The paper's posterior given X is a mixture over the subsets of X. The public code infers codes from the product
        over X alone, one component of this mixture, and so do we.
        """
        prior = self.config.prior_expert and len(posteriors) == len(self.shapes)
        return product_of_experts(list(posteriors.values()), prior)

    def objective(self, images: Images, labels: Tensor) -> dict[str, Tensor]:
        """Return the negative bound of the public code as `loss`, and its terms: batch means, scalars.

        loss = -E_{q(z|x_1, ..., x_M)}[sum_i lambda_i ln p(x_i|z)] + beta 1/S sum_X KL(q_X(z) || p(z))
        q(z|x_1, ..., x_M) = 1/S sum_X q_X(z),  S = 2^M - 1

        X runs over all S non-empty sets of modalities. q_X is the product of experts in `fuse`. The summary of the
        paper has two differences. Its mixture has 2^M components, so the empty set is one. Its bound has the KL
        divergence of the mixture. The mean of the KL divergences is an upper bound of that, by convexity in q.

        lambda_i are the likelihood weights, beta is `kl`. The expectation has one sample for each pair. As in the
        public code, the batch is cut into S parts, and each part is sampled from another q_X. The order of a batch is
        random, so the components have equal shares. Our parts differ by one pair at most. In the public code the last
        part also has the remainder of the division by S.

        The terms are `log_p_<modality>`, with lambda_i, and without weights `kl_mixture`, which is the mean over X,
        `kl_joint`, of the product over all modalities, and `kl_shared_<modality>`.
        """
        config = self.config
        experts = {m: self.shared_encoders[m](x) for m, x in images.items()}
        subsets = chain.from_iterable(combinations(experts, size) for size in range(1, len(experts) + 1))
        products = [self.fuse({m: experts[m] for m in subset}) for subset in subsets]  # first one modality, last all
        means, logvars = (torch.stack(parts) for parts in zip(*products, strict=True))  # (S, N, shared)

        rows = torch.arange(means.shape[1], device=means.device)
        chosen = rows * len(products) // means.shape[1]  # which q_X each pair is sampled from
        z = Gaussian(means[chosen, rows], logvars[chosen, rows]).rsample()
        terms = {}
        for m, x in images.items():
            log_p = self.log_likelihood(m, self.decode(m, z, z[:, :0]), x).mean()
            terms[f"log_p_{m}"] = config.likelihood[m].weight * log_p
        loss = -torch.stack(list(terms.values())).sum()

        kl = Gaussian(means, logvars).kl().mean(dim=1)  # (S,)
        terms |= {"kl_mixture": kl.mean(), "kl_joint": kl[-1]}
        terms |= {f"kl_shared_{m}": kl[i] for i, m in enumerate(experts)}
        return {"loss": loss + config.kl * terms["kl_mixture"]} | terms
