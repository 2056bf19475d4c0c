"""Q-MVAE (Chen et al. 2022): shared and private codes, product of experts, three ELBOs, the quadruplet metric loss."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from qmvae.gaussian import Gaussian, product_of_experts
from qmvae.models.base import Images, MultimodalVAE
from qmvae.quadruplet import Quadruplet, choose_negatives, quadruplet


class QMVAE(MultimodalVAE):
    """Eqs. 3-20 for any number of modalities; with more than two, Eq. 19 is summed over all pairs of them."""

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """Eq. 8 for two and more modalities, q(z|x) as it is for one (section 3.4); ValueError if there is none."""
        if len(posteriors) < 2:
            return super().fuse(posteriors)
        return product_of_experts(list(posteriors.values()), self.config.prior_expert)

    def schedule(self, progress: float) -> dict[str, Any]:
        """Negatives are random up to the fraction `start` of training, then screened with the model (section 3.4)."""
        negatives = self.config.negatives
        return {"policy": negatives.policy if progress >= negatives.start else "random"}

    def objective(self, images: Images, labels: Tensor, policy: str) -> dict[str, Tensor]:
        """-L of Eq. 20, averaged over the batch, and its terms; see MultimodalVAE.loss. policy: as `pick` takes it."""
        config = self.config
        printed = config.objective == "printed"  # then every weight is 1, as in Eqs. 7, 17 and 18
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}  # q(z|x), q(z|y)
        private = {m: self.private_encoders[m](x) for m, x in images.items()}  # q(h_x|x), q(h_y|y)
        joint = self.fuse(shared)  # q(z|x,y), Eq. 8

        z_joint = joint.rsample()  # one z for all modalities, as Eq. 7 has it
        kl_joint = (1.0 if printed else config.kl_shared) * joint.kl().mean()
        terms = {"elbo_joint": -kl_joint, "kl_joint": joint.kl().mean()}
        for m, x in images.items():
            weight_kl = 1.0 if printed else config.kl_private[m]
            weight_kl_shared = 1.0 if printed else config.kl_shared
            weight_p = 1.0 if printed else config.likelihood[m].weight
            # E[ln p(x|z,h)], decoded in one go: with z ~ q(z|x,y) for Eq. 7, with z ~ q(z|x) for Eqs. 17 and 18
            codes = [z_joint, shared[m].rsample()] if config.unimodal_elbos else [z_joint]
            h = Gaussian(*(part.repeat(len(codes), 1) for part in private[m])).rsample()
            log_p = self.log_likelihood(m, self.decode(m, torch.cat(codes), h), torch.cat([x] * len(codes)))
            log_p_joint, *log_p_alone = (weight_p * part.mean() for part in log_p.chunk(len(codes)))
            kl_private, kl_shared = private[m].kl().mean(), shared[m].kl().mean()
            terms["elbo_joint"] = terms["elbo_joint"] + log_p_joint - weight_kl * kl_private  # Eq. 7
            if log_p_alone:
                elbo = log_p_alone[0] - weight_kl_shared * kl_shared - weight_kl * kl_private
                terms[f"elbo_{m}"] = elbo  # Eqs. 17 and 18
            terms |= {f"kl_shared_{m}": kl_shared, f"kl_private_{m}": kl_private}

        quad = self.quadruplet_terms({m: q.mean for m, q in shared.items()}, labels, policy)
        terms["quad"] = sum((getattr(quad, name) for name in config.quadruplet), torch.zeros_like(quad.first))  # Eq. 19
        elbos = sum(value for name, value in terms.items() if name.startswith("elbo_"))
        terms["loss"] = config.beta * terms["quad"] - elbos  # -L, Eq. 20
        return terms | {"distance_positive": quad.positive, "distance_negative": quad.negative}

    def quadruplet_terms(self, means: dict[str, Tensor], labels: Tensor, policy: str) -> Quadruplet:
        """Eq. 19 averaged over the batch and summed over the pairs of modalities; rows without a negative count as 0.

        means: the posterior means (N, shared) of each modality.
        """
        config = self.config
        # without labels every pair of the batch is a class of its own
        classes = labels if config.negatives.labels else torch.arange(len(labels), device=labels.device)
        quads = []
        for a, b in combinations(means.values(), 2):
            a_minus, b_minus, usable = choose_negatives(a, b, classes, policy, config.negatives.distinct)
            quad = quadruplet(a, b, a[a_minus], b[b_minus], config.alpha1, config.alpha2)
            quads.append([(term * usable).mean() for term in quad])
        return Quadruplet(*(torch.stack(terms).sum() for terms in zip(*quads, strict=True)))
