"""VCCA-private in both directions (Wang et al. 2016): private codes, and the shared code of one modality for all."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from qmvae.baselines.mmvae import Mixture, stack
from qmvae.model.base import Images, MultimodalVAE
from qmvae.model.gaussian import Gaussian


class VCCA(MultimodalVAE):
    """A VAE with private codes. It infers the shared code from one modality at a time.

    We read the paper as submitted to ICLR 2017. It derives VCCA-private, which infers z from the first view (Eq. 13).
    bi-VCCA averages the bounds of both views. It belongs to another version of the paper, which we could not read. We
    read it in `google/joint_vae` on GitHub (Vedantam et al. 2018). This class is VCCA-private with that average. We
    know no code of the authors. We also read a follow-up's (Tang et al. 2017), in `edchengg/VCCA-StudyNotes`.

    The paper applies dropout to all layers and to the samples of z and h. It reports that dropout helps much, and
    expects it to keep h from reconstructing an image without z. `dropout` is that of the samples. The layers have none,
    since all models here share their networks.
    """

    is_fused = False  # no rule combines q(z|x) and q(z|y) into one code, so Table 2 has no entry for both modalities

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian | Mixture:
        """Return q(z|x) for one modality, and for several the mixture of all q(z|x_m), over (N, shared).

        The objective samples z from the components of this mixture with equal weights.
        """
        return Mixture(stack(posteriors)) if len(posteriors) > 1 else next(iter(posteriors.values()))

    def objective(self, images: Images, labels: Tensor) -> dict[str, Tensor]:
        """Return -1/M sum_m L_m as `loss`, and its terms: batch means, scalars.

        L_m = sum_i E_{q(z|x_m) q(h_i|x_i)}[lambda_i ln p(x_i|z,h_i)] - beta KL(q(z|x_m) || p(z))
              - sum_i beta_i KL(q(h_i|x_i) || p(h_i))

        L_m is Eq. 13 of the paper with modality m as the view that z is inferred from. bi-VCCA has
        mu L_x + (1 - mu) L_y; here mu is 1/2, and 1/M with M modalities. lambda_i are the likelihood weights, beta is
        `kl_shared` and beta_i is `kl_private`. All are 1 in Eq. 13. On one of its data sets, MIR-Flickr, the paper
        tunes a KL weight, to 1e-4. One sample estimates each expectation. In training each of its entries is set to 0
        with the probability `dropout`, and the others are divided by 1 - `dropout`.

        The terms are `bound_<modality>`, which is L_m, and without weights `kl_shared_<m>` and `kl_private_<m>`.
        """
        config = self.config
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}
        private = {m: self.private_encoders[m](x) for m, x in images.items()}
        terms = {f"kl_shared_{m}": q.kl().mean() for m, q in shared.items()}
        terms |= {f"kl_private_{m}": q.kl().mean() for m, q in private.items()}

        divergence = torch.stack([config.kl_private[m] * terms[f"kl_private_{m}"] for m in images]).sum()
        bounds = {m: -config.kl_shared * terms[f"kl_shared_{m}"] - divergence for m in images}
        samples = torch.cat([q.rsample() for q in shared.values()])  # (M N, shared): one decoder call for all L_m
        codes = F.dropout(samples, config.dropout, self.training)
        for i, x in images.items():
            h = Gaussian(*(part.repeat(len(images), 1) for part in private[i])).rsample()
            h = F.dropout(h, config.dropout, self.training)
            log_p = self.log_likelihood(i, self.decode(i, codes, h), x.repeat(len(images), 1, 1, 1))
            for m, part in zip(images, log_p.chunk(len(images)), strict=True):
                bounds[m] = bounds[m] + config.likelihood[i].weight * part.mean()
        loss = -torch.stack(list(bounds.values())).mean()
        return {"loss": loss} | {f"bound_{m}": bound for m, bound in bounds.items()} | terms
