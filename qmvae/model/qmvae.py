"""Q-MVAE (Chen et al. 2022): shared and private codes, a product of experts, three ELBOs, the quadruplet loss."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from qmvae.model.base import Images, MultimodalVAE
from qmvae.model.gaussian import Gaussian, product_of_experts
from qmvae.model.quadruplet import QuadrupletTerms, quadruplet_terms, select_negatives, triplet_terms


class QMVAE(MultimodalVAE):
    """The paper's model, for two or more modalities. The equations here are those for two, x and y.

    With more modalities, Eq. 7 has one likelihood and one private KL divergence for each. Each modality has its own
    unimodal ELBO. Eq. 19 is summed over all pairs of modalities.

    With `objective: weighted`, weights multiply the terms of Eqs. 7, 17 and 18. With `objective: printed`, all are 1.
    """

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """Return the posterior of z, over (N, shared): by Eq. 8 for two or more modalities, or q(z|x) for one.

        q(z|x,y) is proportional to p(z) q(z|x) q(z|y)    (Eq. 8)

        The case of one modality follows section 3.4. `prior_expert: false` leaves p(z) out of Eq. 8.
        """
        experts = list(posteriors.values())
        return product_of_experts(experts, self.config.prior_expert) if len(experts) > 1 else experts[0]

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return `policy`, the rule that selects negatives, see `quadruplet.select`.

        It is `random` before the fraction `negatives.start` of training, then `negatives.policy` in params.yaml.
        Section 3.4 of the paper selects negatives at random first, and later with the model in training.
        """
        negatives = self.config.negatives
        return {"policy": negatives.policy if progress >= negatives.start else "random"}

    def objective(self, images: Images, labels: Tensor, policy: str) -> dict[str, Tensor]:
        """Return -L, averaged over the batch, as `loss`, and its terms.

        L = L_ELBO(x,y) + L_ELBO(x) + L_ELBO(y) - beta L_quad(x, y, x-, y-)    (Eq. 20)

        The terms `elbo_...` are weighted, see `weights`. The term `quad` is L_quad without beta.

        policy: of the selection of the negatives x- and y-, as quadruplet.select takes it.
        """
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}  # q(z|x), q(z|y)
        private = {m: self.private_encoders[m](x) for m, x in images.items()}  # q(h_x|x), q(h_y|y)
        elbos, divergences = self.elbos(images, shared, private)  # Eqs. 7, 17, 18
        quad, distances = self.quadruplet_loss({m: q.mean for m, q in shared.items()}, labels, policy)  # Eq. 19
        loss = self.config.beta * quad - sum(elbos.values())  # -L
        return {"loss": loss, "quad": quad} | elbos | divergences | distances

    def elbos(
        self, images: Images, shared: Mapping[str, Gaussian], private: Mapping[str, Gaussian]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weighted ELBOs by name, and the KL divergences by name without weights: batch means, scalars.

        L_ELBO(x,y) = E_{q(z|x,y) q(h_x|x)}[ln p(x|z,h_x)] + E_{q(z|x,y) q(h_y|y)}[ln p(y|z,h_y)]
                      - KL(q(z|x,y) || p(z)) - KL(q(h_x|x) || p(h_x)) - KL(q(h_y|y) || p(h_y))            (Eq. 7)
        L_ELBO(x)   = E_{q(z|x) q(h_x|x)}[ln p(x|z,h_x)] - KL(q(z|x) || p(z)) - KL(q(h_x|x) || p(h_x))    (Eq. 17)
        L_ELBO(y)   = E_{q(z|y) q(h_y|y)}[ln p(y|z,h_y)] - KL(q(z|y) || p(z)) - KL(q(h_y|y) || p(h_y))    (Eq. 18)

        One sample estimates each expectation. `weights` gives the factor of each term. Only with all factors 1 are the
        results lower bounds of ln p(x,y), ln p(x) and ln p(y) in nats.

        The ELBOs are `elbo_joint` and `elbo_<modality>`; `unimodal_elbos: false` leaves Eqs. 17 and 18 out. The
        divergences, in nats, are `kl_joint`, of q(z|x,y), `kl_shared_<modality>` and `kl_private_<modality>`.

        images: (N, C, H, W) each. shared: q(z|x), q(z|y), over (N, shared). private: q(h_x|x), q(h_y|y), over (N,
        private).
        """
        joint = self.fuse(shared)  # q(z|x,y), Eq. 8
        z_joint = joint.rsample()  # one z for all modalities
        log_p = {}
        for m, x in images.items():
            codes = [z_joint, shared[m].rsample()] if self.config.unimodal_elbos else [z_joint]
            log_p[m] = self.expected_log_likelihoods(m, x, codes, private[m])

        kl_joint = joint.kl().mean()
        kl_shared = {m: q.kl().mean() for m, q in shared.items()}
        kl_private = {m: q.kl().mean() for m, q in private.items()}
        divergences = {"kl_joint": kl_joint} | {f"kl_shared_{m}": kl for m, kl in kl_shared.items()}
        divergences |= {f"kl_private_{m}": kl for m, kl in kl_private.items()}

        weight_p, weight_z, weight_h = self.weights()
        elbos = {"elbo_joint": -weight_z * kl_joint}
        for m, (log_p_joint, *log_p_alone) in log_p.items():
            weighted_kl = weight_h[m] * kl_private[m]
            elbos["elbo_joint"] = elbos["elbo_joint"] + weight_p[m] * log_p_joint - weighted_kl  # Eq. 7
            if log_p_alone:  # Eqs. 17 and 18
                elbos[f"elbo_{m}"] = weight_p[m] * log_p_alone[0] - weight_z * kl_shared[m] - weighted_kl
        return elbos, divergences

    def expected_log_likelihoods(self, name: str, x: Tensor, codes: list[Tensor], private: Gaussian) -> list[Tensor]:
        """Return estimates of E[ln p(x|z,h)] in nats, without weights: a batch mean, a scalar, for each of `codes`.

        name: the modality. x: its images, (N, C, H, W). codes: tensors of samples z, (N, shared) each.
        private: q(h|x), over (N, private); each z gets its own sample h.
        """
        h = Gaussian(*(part.repeat(len(codes), 1) for part in private)).rsample()
        # one decoder call for all codes is faster than one call for each
        log_p = self.log_likelihood(name, self.decode(name, torch.cat(codes), h), torch.cat([x] * len(codes)))
        return [part.mean() for part in log_p.chunk(len(codes))]

    def weights(self) -> tuple[Mapping[str, float], float, Mapping[str, float]]:
        """Return the weights of ln p(x_m|z,h_m), by modality, of the KL of z, and of the KL of h_m, by modality.

        `objective: printed` sets all weights to 1, as the paper prints Eqs. 7, 17 and 18.
        """
        config = self.config
        if config.objective == "printed":
            ones = dict.fromkeys(self.shapes, 1.0)
            return ones, 1.0, ones
        return {m: config.likelihood[m].weight for m in self.shapes}, config.kl_shared, config.kl_private

    def quadruplet_loss(
        self, means: Mapping[str, Tensor], labels: Tensor, policy: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_quad of Eq. 19, without beta, and two distances in it by name: batch means, scalars.

        Each value is summed over all pairs of modalities; two modalities have one pair. L_quad contains the terms of
        Eq. 19 that `quadruplet` in params.yaml lists. Rows of the batch without negatives contribute 0 to each mean.

        means: the mean of q(z|x_m) of each modality, (N, shared). labels: the classes, integers (N,).
        policy: see `quadruplet.select`. Raises ValueError on an unknown policy.

        With `metric: within`, an ablation, it is TVAE's loss summed over modalities, see `quadruplet.triplet_terms`.
        """
        config = self.config
        # with `negatives.labels: false`, each row of the batch is a class of its own
        classes = labels if config.negatives.labels else torch.arange(len(labels), device=labels.device)
        if config.metric == "within":
            found = [triplet_terms(mu, classes, policy, config.alpha1) for mu in means.values()]
            quad, positive, negative = (torch.stack(terms).sum() for terms in zip(*found, strict=True))
            return quad, {"distance_positive": positive, "distance_negative": negative}
        totals = []
        for x, y in combinations(means.values(), 2):
            x_negative, y_negative, usable = select_negatives(x, y, classes, policy, config.negatives.distinct)
            terms = quadruplet_terms(x, y, x[x_negative], y[y_negative], config.alpha1, config.alpha2)
            totals.append([(term * usable).mean() for term in terms])
        total = QuadrupletTerms(*(torch.stack(terms).sum() for terms in zip(*totals, strict=True)))
        quad = sum((getattr(total, name) for name in config.quadruplet), torch.zeros_like(total.first))
        return quad, {"distance_positive": total.positive, "distance_negative": total.negative}
