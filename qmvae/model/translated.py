"""Q-MVAE + translated quadruplets: one more metric loss, on images that the decoder draws. This is not in the paper."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from qmvae.model.base import Images
from qmvae.model.gaussian import Gaussian
from qmvae.model.networks import frozen, shifted
from qmvae.model.qmvae import QMVAE


def hinge(code: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return max(||code - positive|| - ||code - negative|| + margin, 0), (N,), for codes (N, D) each."""
    return torch.relu(vector_norm(code - positive, dim=1) - vector_norm(code - negative, dim=1) + margin)


def class_share(codes: Tensor, labels: Tensor) -> Tensor:
    """Return the share of the distance between codes that their classes explain: a scalar, 0 for codes without a class.

    1 - W / B,  B = 1/(K (K-1)) sum_{a != b} E||h_a - h_b||,  W = 1/K sum_a E||h_a - h'_a||

    h_a and h'_a are two codes of class a. B - W is half the mean energy distance of two classes (Szekely & Rizzo 2013):
    0 if and only if the codes of all classes have the same distribution, and positive otherwise. Every class has the
    same weight; with weights by size, B - W would fall without limit as a large class spreads out. The quotient does
    not depend on the scale of the codes, so a collapse does not lower it.

    codes: (N, D). labels: integers (N,). The K classes are those with two codes or more; fewer than two give 0.
    """
    distance = torch.cdist(codes, codes)
    same = labels[:, None] == labels[None, :]
    size = same.sum(dim=1).to(codes.dtype)  # of each row's class
    counts = size > 1
    classes = (counts / size).sum()
    between = ~same * (counts / size)[:, None] * (counts / size)[None, :]
    within = same * (counts / (size * (size - 1).clamp(min=1)))[:, None]
    mean_between = (distance * between).sum() / (classes * (classes - 1)).clamp(min=1)
    mean_within = (distance * within).sum() / classes.clamp(min=1)
    return (1 - mean_within / mean_between.clamp(min=1e-6)) * (classes > 1.5)


class TranslatedQMVAE(QMVAE):
    """Q-MVAE whose objective also asks of a translation that its codes be those that it was drawn from.

    The cause: the private code of an image can encode its class. Then a translation, with the shared code of y and the
    private code of another image x', shows the class of x'. Eq. 19 cannot prevent this: it has no generated image.

    L_translated(x^, z) = max(||mu(x^) - z|| - ||mu(x^) - mu(x')|| + alpha, 0)
    x^ = decoder(z, h),  z = mu(y),  h ~ q(h|x')

    x and y are a pair of one class, and x' is another image of the modality of x, of another class. mu is the mean of
    the shared posterior. The decoder and q(h|x') receive gradients. z, mu(x') and the encoder of x^ receive none.
    """

    def schedule(self, progress: float) -> dict[str, Any]:
        """Return `policy`, as Q-MVAE does, and `translated`, the weight of L_translated: 0 before `start`."""
        config = self.config.translation
        return super().schedule(progress) | {"translated": config.weight if progress >= config.start else 0.0}

    def objective(  # type: ignore[override]  # `schedule` gives one argument more than Q-MVAE's
        self, images: Images, labels: Tensor, policy: str, translated: Any
    ) -> dict[str, Tensor]:
        """Return -L, averaged over the batch, as `loss`, and its terms.

        L = L_ELBO(x,y) + L_ELBO(x) + L_ELBO(y) - beta L_quad(x, y, x-, y-) - translated sum_m L_translated
            - gamma sum_i class_share(nu_i) + delta sum_i lambda_i E_{q(z|y) q(h|x_i)}[ln p(x_i|z,h)]

        The first four terms are Eq. 20. m runs over the modalities that `translation.modalities` lists, i over all.
        nu_i are the means of q(h|x_i), see `class_share`. y is another modality than x_i, see `cross_log_likelihood`.
        gamma and delta are `translation.class_share` and `cross_reconstruction`. lambda_i are the likelihood weights.

        policy: as for Q-MVAE. translated: the weight of L_translated, see `schedule`.
        """
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}
        private = {m: self.private_encoders[m](x) for m, x in images.items()}
        elbos, divergences = self.elbos(images, shared, private)  # Eqs. 7, 17, 18
        quad, distances = self.quadruplet_loss({m: q.mean for m, q in shared.items()}, labels, policy)  # Eq. 19
        extra = {f"class_share_{m}": class_share(q.mean, labels) for m, q in private.items()}
        config, loss = self.config.translation, self.config.beta * quad - sum(elbos.values())
        loss = loss + config.class_share * sum(extra.values())
        if config.cross_reconstruction:
            weight_p, _, _ = self.weights()
            crossed = {m: self.cross_log_likelihood(m, x, shared, private) for m, x in images.items()}
            loss = loss - config.cross_reconstruction * sum(weight_p[m] * log_p for m, log_p in crossed.items())
            extra |= {f"cross_log_p_{m}": log_p for m, log_p in crossed.items()}
        if config.weight:
            hinges = {f"translated_{m}": self.translated_loss(m, shared, private, labels) for m in config.modalities}
            loss = loss + translated * sum(hinges.values())
            extra |= hinges
        return {"loss": loss, "quad": quad} | extra | elbos | divergences | distances

    def cross_log_likelihood(
        self, name: str, x: Tensor, shared: Mapping[str, Gaussian], private: Mapping[str, Gaussian]
    ) -> Tensor:
        """Return E[ln p(x|z,h)] in nats with z ~ q(z|y) of each other modality y, h ~ q(h|x): a batch mean, a scalar.

        Eqs. 7 and 17 decode x with z of x itself, alone or fused. Cross-generation decodes with z of y alone.
        """
        codes = [q.rsample() for m, q in shared.items() if m != name]
        return torch.stack(self.expected_log_likelihoods(name, x, codes, private[name])).mean()

    def translated_loss(
        self, name: str, shared: Mapping[str, Gaussian], private: Mapping[str, Gaussian], labels: Tensor
    ) -> Tensor:
        """Return L_translated of modality `name`, summed over the other modalities: a batch mean, a scalar.

        Row i takes z from its own pair, and h from a random other row. Rows whose classes agree contribute 0.

        shared: q(z|x_m), over (N, shared) each. private: q(h_m|x_m), over (N, private) each. labels: integers (N,).
        """
        config, count, device = self.config.translation, len(labels), labels.device
        shift = 1 + torch.randint(max(count - 1, 1), (1,), device=device)
        other = (torch.arange(count, device=device) + shift) % count
        differs = labels != labels[other]
        own = shared[name].mean.detach()
        total = torch.zeros((), device=device)
        for z in (q.mean.detach() for m, q in shared.items() if m != name):
            h = Gaussian(*(part[other] for part in private[name])).rsample()
            if not config.private_gradient:
                h = h.detach()
            x = self.decode(name, z, h).float()
            if config.shift:
                x = shifted(x, config.shift)
            loss = hinge(frozen(self.shared_encoders[name], x).mean, z, own[other], config.margin)
            total = total + (loss * differs).mean()
        return total
