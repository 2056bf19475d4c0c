"""The interface of every model. Training, evaluation and figures use only this interface."""

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qmvae.model.gaussian import Gaussian, log_likelihood
from qmvae.model.networks import Decoder, GaussianEncoder, Shape

# modality -> float images (N, C, H, W) in [0, 1]; row i of every modality belongs to pair i, one image of each
Images = Mapping[str, Tensor]
# how far values may lie outside [0, 1]: more than float16's rounding error at 1, less than one of 255 grey levels
TOLERANCE = 1e-3


class MultimodalVAE(nn.Module):
    """A VAE with one shared code z and, for each modality m, a private code h_m.

    Each modality has encoders q(z|x_m) and q(h_m|x_m), and a decoder p(x_m|z,h_m). In a model without private codes,
    h_m has size 0 and no encoder.

    shapes: the image shape (C, H, W) of each modality; the modalities keep this order.
    networks: the kind of network of each modality, `mlp` or `conv`. config: the model's section of params.yaml, with
    `shared`, `likelihood` (by modality) and `test_time` at least, and `private` if it has private codes.
    Raises ValueError on a name that nn.ModuleDict cannot hold. Raises ValueError on images for `conv` whose height or
    width is not divisible by 8.
    """

    # whether `fuse` combines several unimodal posteriors into one code per pair; MMVAE's mixture does not
    is_fused = True
    # whether a network gives the posterior given all modalities, so that `fuse` cannot; JMVAE has one
    has_joint_encoder = False
    # whether there is a shared code at all; CVAE has none
    has_shared = True

    def __init__(self, shapes: Mapping[str, Shape], networks: Mapping[str, str], config: Any):
        super().__init__()
        check_names(shapes)
        for name, (_, height, width) in shapes.items():
            if networks[name] == "conv" and (height % 8 or width % 8):
                raise ValueError(f"modality {name}: conv needs sides divisible by 8, not {height}x{width}; use mlp")
        self.shapes, self.config = dict(shapes), config
        self.sizes = {"shared": config.shared, "private": getattr(config, "private", 0)}
        self.shared_encoders = nn.ModuleDict(
            {m: GaussianEncoder(networks[m], shapes[m], self.sizes["shared"]) for m in shapes}
        )
        self.private_encoders = nn.ModuleDict(
            {m: GaussianEncoder(networks[m], shapes[m], self.sizes["private"]) for m in shapes if self.sizes["private"]}
        )
        self.decoders = nn.ModuleDict({m: Decoder(networks[m], sum(self.sizes.values()), shapes[m]) for m in shapes})

    # Training

    def loss(self, images: Images, labels: Tensor, progress: float = 1.0) -> dict[str, Tensor]:
        """Return the terms of the objective by name, as scalars.

        Training minimises `loss` and logs the other terms.

        images: a batch of every modality. labels: the classes of the pairs, integers (N,).
        progress: the completed fraction of training, in [0, 1]; `schedule` turns it into arguments of `objective`.
        Raises ValueError unless every modality has an image for each label, and on an empty batch.
        """
        if not len(labels):
            raise ValueError("labels: expected a batch of at least one pair, got none")
        found = {m: len(x) for m, x in images.items()}
        if found != (expected := dict.fromkeys(self.shapes, len(labels))):
            raise ValueError(f"images: expected one of each modality for each label, {expected}, got {found}")
        return self.objective(images, labels, **self.schedule(progress))

    def objective(self, images: Images, labels: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the terms, as `loss` does. The remaining arguments are the values that `schedule` returns."""
        raise NotImplementedError(f"{type(self).__name__} has no `objective`; define it")

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return the arguments of `objective` that change during training, by name.

        A float may change at every step, and a compiled objective receives it as a scalar tensor. A string selects a
        branch of the code, so torch.compile compiles the objective once for each of its values.

        progress: the completed fraction of training, in [0, 1].
        """
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters in groups, as Adam takes them; a group may have its own `lr` and `betas`.

        The order of all parameters is that of `parameters()`.
        """
        return [{"params": list(self.parameters())}]

    # Codes

    def fuse(self, posteriors: Mapping[str, Any]) -> Any:  # Gaussians; MMVAE has Laplace distributions
        """Return the posterior of z given one or more modalities, from their posteriors q(z|x_m), (N, shared) each."""
        raise NotImplementedError(f"{type(self).__name__} has no `fuse`; define it")

    def shared(self, images: Mapping[str, Any]) -> Any:
        """Return q(z|the given modalities), a distribution over (N, shared) with `mean`, `logvar` and `rsample()`.

        images: one or more modalities, (N, C, H, W) in [0, 1] each: floats, as tensors or what torch.as_tensor accepts.
        Raises ValueError on no or an unknown modality, on images of another shape or range, and on modalities with
        different numbers of images.
        """
        return self.fuse({m: self.shared_encoders[m](x) for m, x in self._all_checked(images).items()})

    def private(self, name: str, images: Any) -> Any:
        """Return q(h_m|x_m) of modality `name` over (N, private): a Gaussian, in MMVAE+ a Laplace distribution.

        images and errors: as in `shared`. Without private codes it is a Gaussian over (N, 0).
        """
        images = self._checked(name, images)
        if not self.sizes["private"]:
            return Gaussian(images.new_zeros(len(images), 0), images.new_zeros(len(images), 0))
        return self.private_encoders[name](images)

    def shared_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return samples of the shared code from its prior p(z) = N(0, I): (count, shared)."""
        like = next(self.parameters())
        return torch.randn(count, self.sizes["shared"], generator=generator, device=like.device, dtype=like.dtype)

    def private_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return samples of the private code from its prior p(h) = N(0, I): (count, private)."""
        like = next(self.parameters())
        return torch.randn(count, self.sizes["private"], generator=generator, device=like.device, dtype=like.dtype)

    def shared_code(self, posterior: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return the z that decoders receive at test time, (N, shared).

        With `test_time: mean` it is the posterior's mean, with `test_time: sample` a sample.
        """
        return posterior.mean if self.config.test_time == "mean" else posterior.rsample(generator)

    # Images

    def decode(self, name: str, z: Tensor, h: Tensor) -> Tensor:
        """Return the mean of p(x|z,h), (N, C, H, W) in [0, 1], for z (N, shared) and h (N, private)."""
        return self.decoders[name](torch.cat([z, h], dim=1))

    def log_likelihood(self, name: str, mean: Tensor, images: Tensor) -> Tensor:
        """Return ln p(x|z,h) in nats, (N,), with the family and scale of modality `name`; the weight is left out.

        mean: the decoder's output, (N, C, H, W). images: x, (N, C, H, W).
        """
        likelihood = self.config.likelihood[name]
        return log_likelihood(likelihood.family, likelihood.scale, mean, images)

    @torch.no_grad()
    def cross_generate(
        self, images: Mapping[str, Any], target: str, seed: int | None = None, private: Any = None
    ) -> Tensor:
        """Return images of `target`, (N, C, H, W) in [0, 1], with the shared code of `images` (section 4.2.1).

        The returned images are the decoder's means. Raises ValueError on an unknown target, and on private codes of
        another shape.

        images: as in `shared`, with the same errors. private: codes h of the target, (N, private); default: samples of
        p(h). seed: of all samples; default: PyTorch's global generator.
        """
        generator = self._generator(seed)
        z = self.shared_code(self.shared(images), generator)
        h = self.private_prior(len(z), generator) if private is None else torch.as_tensor(private, dtype=z.dtype).to(z)
        if h.shape != (expected := (len(z), self.sizes["private"])):
            raise ValueError(f"{target}: expected a private code for each image, {expected}, got {tuple(h.shape)}")
        return self.decode(self._known(target), z, h)

    @torch.no_grad()
    def translate(self, images: Mapping[str, Any], target: str, reference: Any, seed: int | None = None) -> Tensor:
        """Return images of `target`, (N, C, H, W), with the private code of `reference` (section 4.2.2).

        The shared code is that of `images`. The private code is the mean of q(h|reference).
        images, seed and errors: as in `cross_generate`. reference: images of `target`, (N, C, H, W) in [0, 1].
        A model without private codes has no style to take over: the result is that of `cross_generate`.
        """
        return self.cross_generate(images, target, seed, private=self.private(target, reference).mean)

    @torch.no_grad()
    def generate(self, count: int, seed: int | None = None) -> dict[str, Tensor]:
        """Return `count` generated images of each modality, the decoders' means: (count, C, H, W) in [0, 1].

        p(x, y, z, h_x, h_y) = p(x|z,h_x) p(y|z,h_y) p(z) p(h_x) p(h_y)    (Eq. 3)

        The priors are those of `shared_prior` and `private_prior`. The model samples z, (count, shared), once for all
        modalities, and h, (count, private), once for each. So the images in row i of all modalities have the same z.
        """
        generator = self._generator(seed)
        z = self.shared_prior(count, generator)
        return {name: self.decode(name, z, self.private_prior(count, generator)) for name in self.shapes}

    # Checks

    def _generator(self, seed: int | None) -> torch.Generator | None:
        if seed is None:
            return None
        return torch.Generator(next(self.parameters()).device).manual_seed(operator.index(seed))

    def _known(self, name: str) -> str:
        if name not in self.shapes:
            raise ValueError(f"modality {name!r}: unknown; this model has {', '.join(self.shapes)}")
        return name

    def _all_checked(self, images: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the images of each modality, checked and in the order of `shapes`.

        Raises ValueError, also if there are no images or if their numbers differ.
        """
        if not isinstance(images, Mapping):
            raise ValueError(f"expected images by modality, such as {{'mnist': x}}, got {type(images).__name__}")
        if not images:
            raise ValueError(f"no modality given; expected at least one of {', '.join(self.shapes)}")
        checked = {m: self._checked(m, x) for m, x in images.items()}
        checked = {m: checked[m] for m in self.shapes if m in checked}
        counts = {m: len(x) for m, x in checked.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many images of each modality, got {counts}")
        return checked

    def _checked(self, name: str, images: Any) -> Tensor:
        """Return the images with the model's dtype and device.

        Raises ValueError on an unknown modality, integers, another shape and values more than TOLERANCE outside [0, 1].
        """
        shape, like = self.shapes[self._known(name)], next(self.parameters())
        expected = f"{name}: expected images of shape (N, {', '.join(map(str, shape))}) in [0, 1]"
        if not isinstance(images, Tensor):
            try:
                images = torch.as_tensor(images)
            except (RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"{expected}, got {type(images).__name__}: {error}") from None
        if not images.is_floating_point() and images.dtype != torch.bool:
            raise ValueError(f"{expected}, got {images.dtype}; divide 8-bit images by 255")
        images = images.to(like)
        if images.shape[1:] != tuple(shape):
            raise ValueError(f"{expected}, got shape {tuple(images.shape)}")
        low, high = (value.item() for value in images.aminmax()) if images.numel() else (0.0, 0.0)
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails both
            if math.isnan(low):
                cure = "replace NaN"
            else:
                cure = "divide 8-bit images by 255" if low >= 0 else "rescale those from -1 to 1: (x + 1) / 2"
            raise ValueError(f"{expected}, got values from {low:g} to {high:g}; {cure}")
        return images


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError on a modality name that nn.ModuleDict, which holds the networks by modality, cannot hold.

    These are the empty name, names with a dot, and the names of its own attributes, such as `type` and `keys`.
    """
    for name in names:
        try:
            nn.ModuleDict({name: nn.Identity()})
        except (KeyError, TypeError) as error:
            raise ValueError(f"modality {name!r}: nn.ModuleDict cannot hold it ({error.args[0]}); rename it") from None


def warm_up(progress: float, fraction: float) -> float:
    """Return the factor of a KL weight: min(progress / fraction, 1), or 1 if fraction is 0.

    progress: the completed fraction of training, in [0, 1]. fraction: when the factor reaches 1, in [0, 1].
    """
    return min(progress / fraction, 1.0) if fraction else 1.0
