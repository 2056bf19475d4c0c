"""What training, evaluation and figures may ask of any model, so that none of them asks which model it holds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qmvae.gaussian import Gaussian, log_likelihood, product_of_experts
from qmvae.nets import GaussianEncoder, Shape, decoder

Images = Mapping[str, Tensor]  # modality name -> float images (N, C, H, W) in [0, 1]


class MultimodalVAE(nn.Module):
    """A shared code z, one private code h for each modality (size 0: none), and p(x | z, h) for each.

    shapes: image shape (C, H, W) of each modality, in order. nets: its kind of network, `mlp` or `conv`.
    config: the model's section of params.yaml.
    """

    fused = True  # whether `fuse` makes one code of several modalities' codes (MMVAE mixes them instead)

    def __init__(self, shapes: Mapping[str, Shape], nets: Mapping[str, str], config):
        super().__init__()
        for name, (_, height, width) in shapes.items():
            if nets[name] == "conv" and (height % 8 or width % 8):
                raise ValueError(f"modality {name}: conv needs sides divisible by 8, not {height}x{width}; use mlp")
        self.shapes, self.config = dict(shapes), config
        self.sizes = {"shared": config.shared, "private": getattr(config, "private", 0)}
        self.shared_encoders = nn.ModuleDict({m: GaussianEncoder(nets[m], shapes[m], config.shared) for m in shapes})
        self.private_encoders = nn.ModuleDict(
            {m: GaussianEncoder(nets[m], shapes[m], self.sizes["private"]) for m in shapes if self.sizes["private"]}
        )
        self.decoders = nn.ModuleDict({m: decoder(nets[m], sum(self.sizes.values()), shapes[m]) for m in shapes})

    def loss(self, images: Images, labels: Tensor, progress: float = 1.0) -> dict[str, Tensor]:
        """The model's objective as named scalars, to be minimised under the name `loss`; the others are for the log.

        images: one batch of every modality, row i of each from one pair. labels: (N,) the pairs' classes.
        progress: the fraction of training that is over, for what changes on the way.
        """
        return self.objective(images, labels, **self.schedule(progress))

    def objective(self, images: Images, labels: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """What `loss` returns. A model's further arguments are what its `schedule` says for the step."""
        raise NotImplementedError

    def schedule(self, progress: float) -> dict[str, Any]:
        """What changes in the objective on the way: numbers, at every step if need be (where steps are recorded,
        `objective` gets scalar tensors of them), and words, which choose other code and change a few times at most."""
        return {}

    def fuse(self, posteriors: Mapping[str, Any]) -> Any:  # Gaussians; MMVAE has posteriors of another kind
        """The posterior given those of some of the modalities: Eq. 8, or q(z|x) as it is for one (section 3.4)."""
        if not posteriors:
            raise ValueError(f"no modality given; expected at least one of {', '.join(self.shapes)}")
        return product_of_experts(list(posteriors.values())) if len(posteriors) > 1 else next(iter(posteriors.values()))

    def shared(self, images: Images) -> Any:
        """q(z | the given modalities): a Gaussian over (N, shared), or another posterior with `mean` and `rsample`."""
        return self.fuse(
            {name: self.shared_encoders[self._known(name)](self._checked(name, x)) for name, x in images.items()}
        )

    def private(self, name: str, images: Tensor) -> Gaussian:
        """q(h | x) of one modality: a Gaussian over (N, private); of size 0 where the model has no private codes."""
        images = self._checked(name, images)
        if not self.sizes["private"]:
            return Gaussian(images.new_zeros(len(images), 0), images.new_zeros(len(images), 0))
        return self.private_encoders[name](images)

    def decode(self, name: str, z: Tensor, h: Tensor) -> Tensor:
        """The mean of p(x | z, h): codes (N, shared) and (N, private) to images (N, C, H, W) in [0, 1]."""
        return self.decoders[name](torch.cat([z, h], dim=1))

    def log_likelihood(self, name: str, mean: Tensor, images: Tensor) -> Tensor:
        """ln p(x | z, h) with the family and scale that params.yaml gives the modality, in nats: (N,)."""
        likelihood = self.config.likelihood[name]
        return log_likelihood(likelihood.family, likelihood.scale, mean, images)

    def private_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Private codes drawn from p(h) = N(0, I): (count, private)."""
        like = next(self.parameters())
        return torch.randn(count, self.sizes["private"], generator=generator, device=like.device, dtype=like.dtype)

    @torch.no_grad()
    def cross_generate(
        self, images: Images, target: str, seed: int | None = None, private: Tensor | None = None
    ) -> Tensor:
        """Section 4.2.1: images of `target` with the shared code of `images` and a private code from the prior.

        private: (N, private) codes to use instead of draws from the prior. seed: of the draws; the global one if None.
        Returns (N, C, H, W), the decoder's mean.
        """
        generator = self._generator(seed)
        z = self.shared_code(self.shared(images), generator)
        h = self.private_prior(len(z), generator) if private is None else private
        return self.decode(self._known(target), z, h)

    @torch.no_grad()
    def translate(self, images: Images, target: str, reference: Tensor, seed: int | None = None) -> Tensor:
        """Section 4.2.2: the shared code of `images` in the style of `reference`, images (N, C, H, W) of `target`."""
        return self.cross_generate(images, target, seed, private=self.private(target, reference).mean)

    @torch.no_grad()
    def generate(self, count: int, seed: int | None = None) -> dict[str, Tensor]:
        """`count` images of every modality from one shared code a row, all codes drawn from the priors (Eq. 3)."""
        generator = self._generator(seed)
        like = next(self.parameters())
        z = torch.randn(count, self.sizes["shared"], generator=generator, device=like.device, dtype=like.dtype)
        return {name: self.decode(name, z, self.private_prior(count, generator)) for name in self.shapes}

    def shared_code(self, posterior: Any, generator: torch.Generator | None = None) -> Tensor:
        """The z that stands for a posterior at test time: its mean or a sample of it, as `test_time` says."""
        return posterior.mean if self.config.test_time == "mean" else posterior.rsample(generator)

    def _generator(self, seed: int | None) -> torch.Generator | None:
        return None if seed is None else torch.Generator(next(self.parameters()).device).manual_seed(seed)

    def _known(self, name: str) -> str:
        if name not in self.shapes:
            raise ValueError(f"modality {name!r}: this model knows {', '.join(self.shapes)}")
        return name

    def _checked(self, name: str, images: Tensor) -> Tensor:
        shape = self.shapes[self._known(name)]
        if tuple(images.shape[1:]) != tuple(shape) or not images.is_floating_point():
            raise ValueError(
                f"{name}: expected float images of shape (N, {', '.join(map(str, shape))}) in [0, 1], "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        return images
