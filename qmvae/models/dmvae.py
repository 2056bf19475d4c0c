"""DMVAE (Daunhawer et al. 2020): a shared code that is learned by contrast alone, and private codes freed of it.

Not the DMVAE of Lee & Pavlovic (2021). The public code is `imantdaunhawer/DMVAE`; the weights' names are its paper's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from qmvae.gaussian import Gaussian, product_of_experts
from qmvae.models.base import Images, MultimodalVAE


def leaky_mlp(*sizes: int) -> nn.Sequential:
    layers = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


class Discriminator(nn.Module):
    """T(z, h), which training to tell pairs from permuted pairs turns into ln p(z, h) / p(z) p(h): codes to (N,)."""

    def __init__(self, shared: int, private: int, width: int):
        super().__init__()
        half = width // 2
        self.shared, self.private = leaky_mlp(shared, half, half, half), leaky_mlp(private, half, half, half)
        self.score = nn.Sequential(leaky_mlp(2 * half, width, width), nn.Linear(width, 1))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        return self.score(torch.cat([self.shared(z), self.private(h)], dim=1)).squeeze(1)


def density_ratio(discriminator: Discriminator, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """FactorVAE's density-ratio trick (Kim & Mnih 2018) on codes z (N, shared) and h (N, private), as two scalars.

    First the mean of T(z, h), an estimate of the mutual information of z and h in nats, with a gradient to h alone;
    then the discriminator's cross-entropy between (z, h) and (z, permuted h), with a gradient to its parameters alone.
    """
    z, fixed = z.detach(), h.detach()
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    information = functional_call(discriminator, frozen, (z, h)).mean()
    permuted = fixed[torch.randperm(len(fixed), device=fixed.device)]
    paired, apart = discriminator(torch.cat([z, z]), torch.cat([fixed, permuted])).chunk(2)
    return information, 0.5 * (F.softplus(-paired).mean() + F.softplus(apart).mean())


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020): each of the 2N codes is to find its partner among the 2N - 1 others, by cosine.

    a, b: (N, D), row i of one the partner of row i of the other. Returns the mean cross-entropy in nats, a scalar.
    """
    codes = F.normalize(torch.cat([a, b]), dim=1)
    itself = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    similarity = (codes @ codes.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(len(codes), device=codes.device).roll(len(a))
    return F.cross_entropy(similarity, partner)


class DMVAE(MultimodalVAE):
    """A product of experts without the prior, one private code for each modality, and a discriminator for each."""

    def __init__(self, shapes, nets, config):
        super().__init__(shapes, nets, config)
        self.discriminators = nn.ModuleDict(
            {m: Discriminator(config.shared, config.private, config.discriminator) for m in shapes}
        )

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> Gaussian:
        """The product of the given experts, without the prior; ValueError if there is none."""
        return product_of_experts(list(posteriors.values()), prior=False) if posteriors else super().fuse(posteriors)

    def fuse_members(self, posteriors: Mapping[str, Gaussian], members: Tensor) -> Gaussian:
        """The product of those experts that `members`, (M, N) bool, names for each row; at least one a row."""
        experts = {}  # an expert of infinite variance has no say
        for (m, q), member in zip(posteriors.items(), members, strict=True):
            experts[m] = Gaussian(q.mean, q.logvar.masked_fill(~member[:, None], torch.inf))
        return self.fuse(experts)

    def schedule(self, progress: float) -> dict[str, Any]:
        """The private KL terms' weights rise linearly over the fraction `warm_up` of training: by `warm`, 0 to 1."""
        return {"warm": min(progress / self.config.warm_up, 1.0) if self.config.warm_up else 1.0}

    def objective(self, images: Images, labels: Tensor, warm: Any) -> dict[str, Tensor]:
        """The published objective, to be minimised, averaged over the batch; see MultimodalVAE.loss:

        sum_m [-2 lambda_m ln p(x_m | c, s_m) + beta_m KL(q(s_m|x_m), p(s_m)) + delta_m I(c; s_m)] + gamma NT-Xent,

        where c is the shared code of the part that holds m when the modalities are split in two at random, a row at a
        time (modality dropout). The public code adds the means over both parts: hence 2. The decoder gets the mean of c
        and sends it no gradient. beta_m is `warm` times its weight. c has no KL term, so that its prior is not learned
        and `generate` is of little use. The discriminators' own loss rides along.
        """
        config, count = self.config, len(images)
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}
        joint = self.fuse(shared)
        rows, device = len(joint.mean), joint.mean.device

        # NT-Xent between the product of all modalities and that of a random subset, one for the batch, never empty
        subset = torch.rand(count, device=device) < 0.5
        last_resort = torch.arange(count, device=device) == torch.randint(count, (1,), device=device)
        subset = subset | (~subset.any() & last_resort)
        some = self.fuse_members(shared, subset[:, None].expand(-1, rows))
        terms = {"contrastive": nt_xent(joint.rsample(), some.rsample(), config.temperature)}
        loss = config.gamma * terms["contrastive"]

        side = torch.rand(count, rows, device=device) < 0.5  # A or B
        for i, (m, x) in enumerate(images.items()):
            part = self.fuse_members(shared, side == side[i])  # the part that holds m
            private = self.private_encoders[m](x)
            h = private.rsample()
            log_p = self.log_likelihood(m, self.decode(m, part.mean.detach(), h), x).mean()
            log_p, kl = config.likelihood[m].weight * log_p, private.kl().mean()
            information, discriminator = density_ratio(self.discriminators[m], part.rsample(), h)
            loss = loss - 2 * log_p + warm * config.kl_private[m] * kl + config.delta[m] * information + discriminator
            terms |= {f"log_p_{m}": log_p, f"kl_private_{m}": kl}
            terms |= {f"information_{m}": information, f"discriminator_{m}": discriminator}
        return {"loss": loss} | terms
