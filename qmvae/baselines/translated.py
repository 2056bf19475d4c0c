"""Q-MVAE + translated quadruplets: three more terms, and a fourth, `style`, as an ablation. Not in the paper."""

from collections.abc import Mapping

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
    """Return the share of the distance between codes that their classes explain, a scalar: about 0 if none.

    1 - W / B,  B = 1/(K (K-1)) sum_{a != b} E||h_a - h_b||,  W = 1/K sum_a E||h_a - h'_a||

    h_a and h'_a are two codes of class a. B - W is half the mean energy distance of two classes (Szekely & Rizzo 2013):
    0 if and only if the codes of all classes have the same distribution, and positive otherwise. Every class has the
    same weight; with weights by size, B - W would fall without limit as a large class spreads out. The quotient does
    not depend on the scale of the codes, so a collapse does not lower it; if all codes coincide, it is 1.

    codes: (N, D). labels: integers (N,). The K classes are those with two codes or more; fewer than two give 0.
    """
    # by differences: from products, distances of codes that are close to each other would be inexact
    distance = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist")
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
    """Q-MVAE with further terms: of the codes of translations, of the private codes, and of cross reconstruction.

    The private code of an image can encode its class. Then a translation, with the shared code of y and the private
    code of another image x', shows the class of x'. Eq. 19 cannot prevent this, since it has no generated image. Two
    losses compare the codes of a translation x^ with the codes z and h that the decoder generated it from:

    x^ = decoder(z, h),  z = mu(y),  h ~ q(h|x')
    L_digit(x^, z) = max(||mu(s(x^)) - z|| - ||mu(s(x^)) - mu(x')|| + alpha1, 0)
    L_style(x^, h) = -ln q(h|x^)

    x and y are a pair of one class, and x' is another image of the modality of x, of another class. mu is the mean of
    the shared posterior. s moves an image by at most `shift` pixels at random, see `networks.shifted`. Only the decoder
    receives gradients: z, h, mu(x') and the encoders of x^ receive none.
    """

    def objective(self, images: Images, labels: Tensor, policy: str) -> dict[str, Tensor]:
        """Return -L, averaged over the batch, as `loss`, and its terms.

        L = L_ELBO(x,y) + L_ELBO(x) + L_ELBO(y) - beta L_quad(x, y, x-, y-)
            - sum_i [digit_i L_digit,i + style_i L_style,i + gamma class_share(nu_i)
                     - delta lambda_i E_{q(z|y) q(h|x_i)}[ln p(x_i|z,h)]]

        The first four terms are Eq. 20. i runs over the modalities. nu_i are the means of q(h|x_i), see `class_share`.
        y is another modality than x_i, see `cross_log_likelihood`. gamma and delta are `class_share` and
        `cross_reconstruction` in params.yaml. lambda_i are the likelihood weights.

        policy: as for Q-MVAE.
        """
        config = self.config
        shared = {m: self.shared_encoders[m](x) for m, x in images.items()}
        private = {m: self.private_encoders[m](x) for m, x in images.items()}
        elbos, divergences = self.elbos(images, shared, private)  # Eqs. 7, 17, 18
        quad, distances = self.quadruplet_loss({m: q.mean for m, q in shared.items()}, labels, policy)  # Eq. 19
        loss = config.beta * quad - sum(elbos.values())
        weight_p, _, _ = self.weights()
        terms: dict[str, Tensor] = {}
        for m, x in images.items():
            terms[f"class_share_{m}"] = class_share(private[m].mean, labels)
            loss = loss + config.class_share * terms[f"class_share_{m}"]
            if config.cross_reconstruction:
                log_p = terms[f"cross_log_p_{m}"] = self.cross_log_likelihood(m, x, shared, private)
                loss = loss - config.cross_reconstruction * weight_p[m] * log_p
            if config.digit[m] or config.style[m]:
                terms[f"digit_{m}"], terms[f"style_{m}"] = self.translated_losses(m, shared, private, labels)
                loss = loss + config.digit[m] * terms[f"digit_{m}"] + config.style[m] * terms[f"style_{m}"]
        return {"loss": loss, "quad": quad} | terms | elbos | divergences | distances

    def cross_log_likelihood(
        self, name: str, x: Tensor, shared: Mapping[str, Gaussian], private: Mapping[str, Gaussian]
    ) -> Tensor:
        """Return E[ln p(x|z,h)] in nats with z ~ q(z|y), h ~ q(h|x), averaged over the other modalities y: a scalar.

        Eqs. 7 and 17 decode x with z of x itself, alone or fused. Cross-generation decodes with z of y alone.
        """
        codes = [q.rsample() for m, q in shared.items() if m != name]
        return torch.stack(self.expected_log_likelihoods(name, x, codes, private[name])).mean()

    def translated_losses(
        self, name: str, shared: Mapping[str, Gaussian], private: Mapping[str, Gaussian], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return L_digit and L_style of modality `name`, summed over the other modalities: batch means, scalars.

        Row i takes z from its own pair, and h from a random other row. Rows whose classes agree contribute 0.

        shared: q(z|x_m), over (N, shared) each. private: q(h_m|x_m), over (N, private) each. labels: integers (N,).
        """
        config, count, device = self.config, len(labels), labels.device
        step = 1 + torch.randint(max(count - 1, 1), (1,), device=device)
        other = (torch.arange(count, device=device) + step) % count
        differs = labels != labels[other]
        own = shared[name].mean.detach()
        digit = style = own.new_zeros(())
        for z in (q.mean.detach() for m, q in shared.items() if m != name):
            h = Gaussian(*(part[other] for part in private[name])).rsample().detach()
            x = self.decode(name, z, h)
            mu = frozen(self.shared_encoders[name], shifted(x, config.shift)).mean
            digit = digit + (hinge(mu, z, own[other], config.alpha1) * differs).mean()
            if config.style[name]:
                log_q = frozen(self.private_encoders[name], x).log_prob(h)
                style = style - (log_q * differs).mean()
        return digit, style
