"""The quadruplet metric loss (Eq. 19) and the selection of its negatives (section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm


class QuadrupletTerms(NamedTuple):
    """The three terms of Eq. 19 and two distances for the log.

    Each is (N,), one entry per positive pair. QMVAE also stores their batch means here, as scalars.
    """

    first: Tensor
    second: Tensor
    third: Tensor
    positive: Tensor  # ||mu(x) - mu(y)||
    negative: Tensor  # the mean of ||mu(x) - mu(y-)|| and ||mu(x-) - mu(y)||


def quadruplet_terms(
    x: Tensor, y: Tensor, x_negative: Tensor, y_negative: Tensor, alpha1: float, alpha2: float
) -> QuadrupletTerms:
    """Return the three terms of the quadruplet metric loss and two distances, (N,) each, for N positive pairs.

    L_quad(x, y, x-, y-) = max(||mu(x) - mu(y)|| - ||mu(x)  - mu(y-)|| + alpha1, 0)    first
                         + max(||mu(x) - mu(y)|| - ||mu(x-) - mu(y)||  + alpha1, 0)    second
                         + max(||mu(x) - mu(y)|| - ||mu(x-) - mu(y-)|| + alpha2, 0)    third    (Eq. 19)

    In Eq. 19, x and y are images of two modalities and of one class, a positive pair. The negatives are x-, of the
    modality of x, and y-, of the modality of y. Each has another class than the pair. mu is the mean of q(z|.), the
    shared posterior, and ||.|| is the Euclidean norm.

    x, y, x_negative, y_negative: not the images but their means mu, (N, D) each. alpha1, alpha2: the margins.
    """
    positive = vector_norm(x - y, dim=1)  # its gradient at distance 0 is 0, not NaN
    x_to_negative = vector_norm(x - y_negative, dim=1)
    negative_to_y = vector_norm(x_negative - y, dim=1)
    negative_to_negative = vector_norm(x_negative - y_negative, dim=1)
    return QuadrupletTerms(
        first=torch.relu(positive - x_to_negative + alpha1),
        second=torch.relu(positive - negative_to_y + alpha1),
        third=torch.relu(positive - negative_to_negative + alpha2),
        positive=positive,
        negative=0.5 * (x_to_negative + negative_to_y),
    )


@torch.no_grad()
def select_negatives(
    x: Tensor, y: Tensor, labels: Tensor, policy: str, distinct: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of x- and y- in the batch, int64 (N,) each, and whether a row has both, bool (N,).

    The negatives come from the batch, which is a random sample of the data set. y- is selected first, with x as its
    anchor. x- is selected with y as its anchor.

    x, y: means of the shared posteriors, (N, D) each; row i of both is a positive pair of class labels[i].
    labels: integers (N,). policy: see `select`, which raises ValueError on an unknown one.
    distinct: whether the classes of x- and y- must also differ from each other. The paper does not require this. Chen
    et al. (2017), who proposed the quadruplet loss, do.
    """
    distance = torch.cdist(x, y)  # [i, j]: from x[i] to y[j]
    positive = distance.diagonal()
    differs = labels[:, None] != labels[None, :]
    y_negative = select(policy, differs, distance, positive)
    allowed = differs & (labels[None, :] != labels[y_negative][:, None]) if distinct else differs
    x_negative = select(policy, allowed, distance.T, positive)
    return x_negative, y_negative, allowed.any(dim=1)


def select(policy: str, allowed: Tensor, distance: Tensor, positive: Tensor) -> Tensor:
    """Return the index of one negative for each anchor: int64 (N,). Raises ValueError on an unknown policy.

    An anchor is the mean mu from which distances are measured. Its positive is the other member of its pair.

    policy, for the allowed candidates of each anchor:
        random: one of them, with equal probability.
        hardest: the nearest one.
        semihard (Schroff et al. 2015): the nearest one that is farther from the anchor than its positive. If there is
            none, the farthest one.
    allowed: bool (N, N), row = anchor, column = candidate. For a row without a true entry, ignore the returned index.
    distance: (N, N), from anchor to candidate. positive: (N,), the distance from an anchor to its positive.
    """
    if policy == "random":
        return (torch.rand(allowed.shape, device=allowed.device) * allowed).argmax(dim=1)
    nearest = distance.masked_fill(~allowed, torch.inf)
    if policy == "hardest":
        return nearest.argmin(dim=1)
    if policy == "semihard":
        farther = nearest.masked_fill(distance <= positive[:, None], torch.inf)
        farthest = distance.masked_fill(~allowed, -torch.inf).argmax(dim=1)
        return torch.where(farther.isfinite().any(dim=1), farther.argmin(dim=1), farthest)
    raise ValueError(f"negatives policy {policy!r}: expected random, semihard or hardest")


def triplet_terms(codes: Tensor, labels: Tensor, policy: str, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the triplet loss of TVAE (Ishfaq et al. 2018) on one modality, and two distances: batch means, scalars.

    max(||mu(a) - mu(p)|| - ||mu(a) - mu(n)|| + alpha, 0)

    Each row is once an anchor a. The positive p is a random other row of its class. The negative n is a row of another
    class. The distances are those of a from p and from n. Rows without a positive or a negative contribute 0. The loss
    compares no codes of two modalities. So it is an ablation of Eq. 19, not a part of the paper's model.

    Of TVAE's paper we could read the abstract only: a triplet loss on the means, besides the ELBO. The distance, the
    margin and the choice of p and n here are those of Eq. 19 and of `select`.

    codes: the means mu, (N, D). labels: integers (N,). policy: see `select`. alpha: the margin.
    """
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    differs = labels[:, None] != labels[None, :]
    with torch.no_grad():
        distance = torch.cdist(codes, codes)
        p = select("random", same, distance, distance.diagonal())
        n = select(policy, differs, distance, distance.gather(1, p[:, None])[:, 0])
        usable = same.any(dim=1) & differs.any(dim=1)
    positive, negative = vector_norm(codes - codes[p], dim=1), vector_norm(codes - codes[n], dim=1)
    loss = torch.relu(positive - negative + alpha)
    return (loss * usable).mean(), (positive * usable).mean(), (negative * usable).mean()
