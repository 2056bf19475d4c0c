"""CVAE (Sohn et al. 2015): for each direction a conditional VAE, with its own prior given the source image."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from qmvae.baselines.jmvae import JointEncoder, gaussian_kl
from qmvae.model.base import Images, MultimodalVAE, warm_up
from qmvae.model.gaussian import Gaussian
from qmvae.model.networks import NETWORKS, Decoder, GaussianEncoder, Shape


class Conditional(nn.Module):
    """One direction, from x to y: the networks of p(z|x), q(z|x,y) and p(y|z,x).

    The decoder receives z and features of x. networks, shapes: of x and y, in this order. size: the dimensions of z.
    features: how many features of each image the decoder and q(z|x,y) receive.
    """

    def __init__(self, networks: Mapping[str, str], shapes: Mapping[str, Shape], size: int, features: int):
        super().__init__()
        source, target = shapes
        self.prior = GaussianEncoder(networks[source], shapes[source], size)
        self.recognition = JointEncoder(networks, shapes, features, size)
        self.condition = nn.Sequential(NETWORKS[networks[source]][0](shapes[source], features), nn.ReLU())
        self.decoder = Decoder(networks[target], size + features, shapes[target])

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the mean of p(y|z,x), (N, C, H, W) in [0, 1], for x (N, C, H, W) in [0, 1] and z (N, size)."""
        return self.decoder(torch.cat([z, self.condition(x).to(z.dtype)], dim=1))


class CVAE(MultimodalVAE):
    """A model with one conditional VAE for each of the M (M - 1) directions, which share no weights.

    z says what x does not say about y. It is no code of x and y in common, and the model has no p(x). So it has
    entries in Table 1 only. The paper's parts of images and segmentations y are images here. Left out are its recurrent
    first guess of y, multi-scale prediction, noise on x, and its hybrid objective. The latter is
    alpha L + (1 - alpha) E_{p(z|x)}[ln p(y|z,x)].

    We could not read the paper. Two public summaries by others have its equations, which agree with ours. We know no
    code of the authors. We read `AgatheSenellart/MultiVae` on GitHub, whose prior network is optional.
    """

    has_shared = is_fused = False

    def __init__(self, shapes, networks, config):
        super().__init__(shapes, networks, config)
        self.shared_encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()  # instead of those, the next line's
        self.directions = nn.ModuleDict(
            {
                f"{x}_to_{y}": Conditional(networks, {x: shapes[x], y: shapes[y]}, config.shared, config.features)
                for x, y in permutations(shapes, 2)
            }
        )

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return `beta`, the KL weight. It rises linearly from 0 to `kl` over the first part `warm_up` of training."""
        return {"beta": self.config.kl * warm_up(progress, self.config.warm_up)}

    def objective(self, images: Images, labels: Tensor, beta: Any) -> dict[str, Tensor]:
        """Return -sum L(x, y) over all directions x to y as `loss`, and its terms: batch means, scalars.

        L(x, y) = E_{q(z|x,y)}[lambda_y ln p(y|z,x)] - beta KL(q(z|x,y) || p(z|x))

        With lambda_y = beta = 1 it is a lower bound of ln p(y|x) in nats, Eq. 4 of the paper according to a summary.
        lambda_y is the likelihood weight of the target. One sample estimates the expectation. The terms are
        `elbo_<x>_to_<y>`, which is L(x, y), and `kl_<x>_to_<y>` without weight.
        """
        terms = {}
        for x, y in permutations(images, 2):
            model = self.directions[f"{x}_to_{y}"]
            posterior = model.recognition({x: images[x], y: images[y]})
            kl = gaussian_kl(posterior, model.prior(images[x])).mean()
            log_p = self.log_likelihood(y, model.decode(images[x], posterior.rsample()), images[y]).mean()
            terms[f"elbo_{x}_to_{y}"] = self.config.likelihood[y].weight * log_p - beta * kl
            terms[f"kl_{x}_to_{y}"] = kl
        return {"loss": -torch.stack([terms[name] for name in terms if name.startswith("elbo")]).sum()} | terms

    @torch.no_grad()
    def cross_generate(
        self, images: Mapping[str, Any], target: str, seed: int | None = None, private: Any = None
    ) -> Tensor:
        """Return the means of p(target|z,x), (N, C, H, W) in [0, 1], with z ~ p(z|x), or its mean (`test_time`).

        images: x, of exactly one modality, which is not the target; otherwise raises ValueError. Other errors and seed:
        as in MultimodalVAE.cross_generate. private: ignored, since the model has no private codes.
        """
        checked = self._all_checked(images)
        if len(checked) != 1 or self._known(target) in checked:
            raise ValueError(f"CVAE: expected one modality other than {target}, got {', '.join(checked)}")
        [(source, x)] = checked.items()
        model = self.directions[f"{source}_to_{target}"]
        return model.decode(x, self.shared_code(model.prior(x), self._generator(seed)))

    def shared(self, images: Any) -> NoReturn:
        """Raise NotImplementedError, as `fuse`, `decode` and `generate` do."""
        raise NotImplementedError("CVAE has no shared code: z depends on the direction, and there is no p(x) or p(y)")

    def fuse(self, posteriors: Mapping[str, Gaussian]) -> NoReturn:
        self.shared(posteriors)

    def decode(self, name: str, z: Tensor, h: Tensor) -> NoReturn:
        self.shared(name)

    def generate(self, count: int, seed: int | None = None) -> NoReturn:
        self.shared(count)
