"""DMVAE (Daunhawer et al. 2020): a contrastive loss for the shared codes, and private codes independent of them.

This is not the DMVAE of Lee & Pavlovic (2021). The authors' public code is `imantdaunhawer/DMVAE` on GitHub. We read
it, but could not read the paper. The names of the loss weights are those of the public code.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qmvae.model.base import Images, MultimodalVAE, warm_up
from qmvae.model.gaussian import Gaussian, product_of_experts
from qmvae.model.networks import frozen


def leaky_mlp(*sizes: int) -> nn.Sequential:
    """Return linear layers from (N, sizes[0]) to (N, sizes[-1]), each followed by a leaky ReLU, also the last."""
    layers = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


class Discriminator(nn.Module):
    """T(z, h), a network that estimates ln [q(z,h) / (q(z) q(h))]; the loss of `density_ratio` trains it.

    q(z,h) is the joint density of the sampled codes over the data set, and q(z), q(h) are its marginals.
    shared, private: the sizes of z and h. width: of the hidden layers.
    """

    def __init__(self, shared: int, private: int, width: int):
        super().__init__()
        half = width // 2
        self.shared, self.private = leaky_mlp(shared, half, half, half), leaky_mlp(private, half, half, half)
        self.score = nn.Sequential(leaky_mlp(2 * half, width, width), nn.Linear(width, 1))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """Return T, (N,), for codes (N, shared) and (N, private), with their dtype, also under autocast."""
        return self.score(torch.cat([self.shared(z), self.private(h)], dim=1)).squeeze(1).to(z.dtype)


def density_ratio(discriminator: Discriminator, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return an estimate of the mutual information I(z; h) and the discriminator's loss: two scalars, in nats.

    I(z; h) ~ E[T(z, h)]                                                        gradient to h only
    loss    = -1/2 (E[ln sigmoid(T(z, h))] + E[ln(1 - sigmoid(T(z, h')))])      gradient to the discriminator only

    E is the batch mean. h' is h with its rows permuted at random, so that z and h' are independent. This is the
    density-ratio trick of FactorVAE (Kim & Mnih 2018). z: (N, shared). h: (N, private).
    """
    z, fixed = z.detach(), h.detach()
    information = frozen(discriminator, z, h).mean()
    permuted = fixed[torch.randperm(len(fixed), device=fixed.device)]
    joint, independent = discriminator(torch.cat([z, z]), torch.cat([fixed, permuted])).chunk(2)
    return information, 0.5 * (F.softplus(-joint).mean() + F.softplus(independent).mean())


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent, the normalised temperature-scaled cross-entropy (Chen et al. 2020), in nats: a scalar.

    loss = -1/(2N) sum_i ln [exp(s(c_i, c_p(i)) / tau) / sum_{j != i} exp(s(c_i, c_j) / tau)]

    c_1, ..., c_2N are the rows of a and b, s is the cosine similarity, and tau is the temperature. p(i) is the partner
    of i: row i of a and row i of b are partners. a, b: codes (N, D) each.
    """
    codes = F.normalize(torch.cat([a, b]), dim=1)
    diagonal = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    with torch.autocast(codes.device.type, enabled=False):  # bfloat16 has two digits, which the temperature magnifies
        similarity = (codes @ codes.T / temperature).masked_fill(diagonal, -torch.inf)
    partner = torch.arange(len(codes), device=codes.device).roll(len(a))
    return F.cross_entropy(similarity, partner)


class DMVAE(MultimodalVAE):
    """A VAE with products of experts without the prior, and a discriminator for each modality's private code."""

    def __init__(self, shapes, networks, config):
        super().__init__(shapes, networks, config)
        self.discriminators = nn.ModuleDict(
            {m: Discriminator(config.shared, config.private, config.discriminator) for m in shapes}
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the discriminators as a group of their own, as in the public code, if `discriminator_lr` is not 0."""
        adversaries = list(self.discriminators.parameters())
        if not self.config.discriminator_lr:
            return super().parameter_groups()
        rest = list(self.parameters())[: -len(adversaries)]  # the discriminators were added last
        own = {"params": adversaries, "lr": self.config.discriminator_lr, "betas": (0.5, 0.9)}
        return [{"params": rest}, own]

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """Return the product of the given experts, without the prior, over (N, shared).

        q(z|X) is proportional to prod_{i in X} q(z|x_i)

        X is the set of given modalities.
        """
        return product_of_experts(list(posteriors.values()), prior=False)

    def fuse_members(self, posteriors: Mapping[str, Gaussian], members: Tensor) -> Gaussian:
        """Return the product of some of M experts, over (N, shared).

        members: bool (M, N, 1), or (M,) for all rows: whether expert m is a factor in row n. Each n needs at least one.
        """
        pairs = zip(posteriors.items(), members, strict=True)
        return self.fuse({m: q.where(member) for (m, q), member in pairs})

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return `warm`, the factor of the private KL weights.

        It rises linearly from 0 to 1 over the first fraction `warm_up` of training.
        """
        return {"warm": warm_up(progress, self.config.warm_up)}

    def objective(self, images: Images, labels: Tensor, warm: Any) -> dict[str, Tensor]:
        """Return the objective of the public code, which is minimised, as `loss`, and its terms: batch means, scalars.

        loss = gamma NT-Xent + sum_m [-2 lambda_m ln p(x_m|c_m,h_m) + warm beta_m KL(q(h_m|x_m) || p(h_m))
                                      + delta_m I(c_m; h_m) + D_m]

        Modality dropout splits the modalities of each row at random into two parts. q(c_m|.) is the product of the
        experts of the part that contains m, and c_m is the shared code, elsewhere z. The public code averages over the
        rows of each part and adds the two averages, hence the factor 2.

        The decoder receives the mean of q(c_m|.). Neither the decoder nor I(c_m; h_m) passes a gradient to c_m. So only
        NT-Xent, see `contrastive_loss`, trains the shared encoders. c_m has no KL term. So `generate`, which samples z
        from the prior, gives poor images.

        lambda_m, beta_m, delta_m, gamma: `likelihood.<m>.weight`, `kl_private`, `delta`, `gamma` in params.yaml.
        D_m is the loss of discriminator m in `density_ratio`; its gradient reaches this discriminator only.

        The terms are `contrastive` (NT-Xent), `log_p_<m>` (with lambda_m, without the factor 2), `kl_private_<m>`,
        `information_<m>` (I) and `discriminator_<m>` (D_m).
        """
        config = self.config
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}
        terms = {"contrastive": self.contrastive_loss(shared)}
        loss = config.gamma * terms["contrastive"]

        # (M, N, 1): which of the two parts contains the modality
        side = torch.rand(len(images), len(labels), 1, device=labels.device) < 0.5
        for i, (m, x) in enumerate(images.items()):
            c = self.fuse_members(shared, side == side[i])
            private = self.private_encoders[m](x)
            h = private.rsample()
            log_p = self.log_likelihood(m, self.decode(m, c.mean.detach(), h), x).mean()
            log_p, kl = config.likelihood[m].weight * log_p, private.kl().mean()
            information, discriminator = density_ratio(self.discriminators[m], c.rsample(), h)
            loss = loss - 2 * log_p + warm * config.kl_private[m] * kl + config.delta[m] * information + discriminator
            terms |= {f"log_p_{m}": log_p, f"kl_private_{m}": kl}
            terms |= {f"information_{m}": information, f"discriminator_{m}": discriminator}
        return {"loss": loss} | terms

    def contrastive_loss(self, shared: Mapping[str, Gaussian]) -> Tensor:
        """Return NT-Xent between samples of two products: of all experts, and of a random subset of them. A scalar.

        The whole batch has the same subset. Each modality is a member with probability 1/2. If the subset is empty, it
        becomes one random modality. shared: q(z|x_m), over (N, shared) each.
        """
        joint = self.fuse(shared)
        count, device = len(shared), joint.mean.device
        subset = torch.rand(count, device=device) < 0.5
        one_member = torch.arange(count, device=device) == torch.randint(count, (1,), device=device)
        subset = subset | (~subset.any() & one_member)  # instead of an empty subset
        partial = self.fuse_members(shared, subset)
        return nt_xent(joint.rsample(), partial.rsample(), self.config.temperature)
