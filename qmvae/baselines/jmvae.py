"""JMVAE (Suzuki et al. 2016): an encoder of all modalities together, and unimodal encoders that are pulled to it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qmvae.model.base import Images, MultimodalVAE, warm_up
from qmvae.model.gaussian import Gaussian, product_of_experts
from qmvae.model.networks import NETWORKS, Shape


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """Return KL(q || p) between Gaussians over (N, D), in nats: (N,).

    KL(q || p) = 1/2 sum_d [(sigma_q^2 + (mean_q - mean_p)^2) / sigma_p^2 - 1 + ln(sigma_p^2 / sigma_q^2)]
    """
    squared = (q.mean - p.mean).square() * torch.exp(-p.logvar)
    return 0.5 * (torch.exp(q.logvar - p.logvar) + squared - 1 + p.logvar - q.logvar).sum(dim=-1)


class JointEncoder(nn.Module):
    """q(z|x_1, ..., x_M), a Gaussian: features of each modality, a ReLU, and one linear layer on all of them.

    The features come from the network that also encodes the modality alone, with weights of their own.
    networks, shapes: as in MultimodalVAE. features: their number, for each modality. size: the dimensions of z.
    """

    def __init__(self, networks: Mapping[str, str], shapes: Mapping[str, Shape], features: int, size: int):
        super().__init__()
        self.features = nn.ModuleDict({m: NETWORKS[networks[m]][0](shapes[m], features) for m in shapes})
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(features * len(shapes), 2 * size))

    def forward(self, images: Images) -> Gaussian:
        """Return the Gaussian over (N, size) for images of every modality, (N, C, H, W) in [0, 1] each."""
        features = torch.cat([network(images[m]) for m, network in self.features.items()], dim=1)
        return Gaussian(*self.head(features).to(next(iter(images.values())).dtype).chunk(2, dim=1))


class JMVAE(MultimodalVAE):
    """A VAE without private codes, trained as the variant that its paper calls JMVAE-kl.

    The authors' public code is `masa-su/jmvae` with the library `masa-su/Tars`, both on GitHub. We read these two,
    `google/joint_vae` and `AgatheSenellart/MultiVae`. Of the paper we could read the abstract and a part of the
    introduction. Its code has two modalities. MultiVae extends it to more, and we follow it there.
    """

    has_joint_encoder = True  # the posterior given all modalities is that of a network, not a function of the others

    def __init__(self, shapes, networks, config):
        super().__init__(shapes, networks, config)
        self.joint_encoder = JointEncoder(networks, shapes, config.features, config.shared)

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """Return the product of the given unimodal posteriors, without the prior, over (N, shared).

        q(z|X) is proportional to prod_{i in X} q(z|x_i)

        X is a set of modalities for which there is no encoder: 2 to M - 1 of M > 2. `shared` calls the joint encoder
        for all M.
        """
        return product_of_experts(list(posteriors.values()), prior=False)

    def shared(self, images: Mapping[str, Any]) -> Gaussian:
        """Return q(z|the given modalities), over (N, shared): of the joint encoder if all modalities are given.

        images and errors: as in MultimodalVAE.shared.
        """
        checked = self._all_checked(images)
        if set(checked) == set(self.shapes):
            return self.joint_encoder(checked)
        return self.fuse({m: self.shared_encoders[m](x) for m, x in checked.items()})

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return `beta`, the weight of the KL divergence from the prior.

        It rises linearly from 0 to `kl` over the first fraction `warm_up` of training. The authors' code has this
        schedule; MultiVae's applies it to the other divergences, too.
        """
        return {"beta": self.config.kl * warm_up(progress, self.config.warm_up)}

    def objective(self, images: Images, labels: Tensor, beta: Any) -> dict[str, Tensor]:
        """Return the negative objective of JMVAE-kl as `loss`, and its terms: batch means, scalars.

        loss = -E_{q(z|x_1, ..., x_M)}[sum_i lambda_i ln p(x_i|z)] + beta KL(q(z|x_1, ..., x_M) || p(z))
               + alpha sum_i KL(q(z|x_1, ..., x_M) || q(z|x_i))

        lambda_i are the likelihood weights, which the authors' script for MNIST lacks. One sample estimates the
        expectation. The terms with alpha train the unimodal encoders, which appear nowhere else. They also train the
        joint encoder. The default of alpha is 1 in that script and 0.1 in MultiVae.

        The terms are `log_p_<modality>`, with lambda_i, and without weights `kl_joint` and `kl_to_<modality>`.
        """
        config = self.config
        joint = self.joint_encoder(images)
        z = joint.rsample()
        terms = {}
        for m, x in images.items():
            log_p = self.log_likelihood(m, self.decode(m, z, z[:, :0]), x).mean()
            terms[f"log_p_{m}"] = config.likelihood[m].weight * log_p
        loss = -torch.stack(list(terms.values())).sum()

        terms["kl_joint"] = joint.kl().mean()
        loss = loss + beta * terms["kl_joint"]
        for m, x in images.items():
            terms[f"kl_to_{m}"] = gaussian_kl(joint, self.shared_encoders[m](x)).mean()
            loss = loss + config.alpha * terms[f"kl_to_{m}"]
        return {"loss": loss} | terms
