"""The quadruplet metric loss (Eq. 19) and the choice of its negatives (section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm


class Quadruplet(NamedTuple):
    """Eq. 19's three hinges for each positive pair, (N,) each, and the distances that they compare."""

    first: Tensor  # d(x, y) against d(x, y-)
    second: Tensor  # d(x, y) against d(x-, y)
    third: Tensor  # d(x, y) against d(x-, y-)
    positive: Tensor
    negative: Tensor


def quadruplet(x: Tensor, y: Tensor, x_minus: Tensor, y_minus: Tensor, alpha1: float, alpha2: float) -> Quadruplet:
    """Eq. 19 on the posterior means of the shared code: mu_x(x), mu_y(y), mu_x(x-), mu_y(y-), each (N, D)."""
    positive = vector_norm(x - y, dim=1)  # its gradient at distance zero is zero, not NaN
    x_to_y_minus = vector_norm(x - y_minus, dim=1)
    x_minus_to_y = vector_norm(x_minus - y, dim=1)
    x_minus_to_y_minus = vector_norm(x_minus - y_minus, dim=1)
    return Quadruplet(
        first=torch.relu(positive - x_to_y_minus + alpha1),
        second=torch.relu(positive - x_minus_to_y + alpha1),
        third=torch.relu(positive - x_minus_to_y_minus + alpha2),
        positive=positive,
        negative=0.5 * (x_to_y_minus + x_minus_to_y),
    )


def pick(policy: str, allowed: Tensor, distance: Tensor, positive: Tensor) -> Tensor:
    """For each anchor one column of the batch as its negative: (N,) indices.

    policy: `random`, any allowed one; `hardest`, the nearest; `semihard` (Schroff et al. 2015, the paper's [18]), the
    nearest of those farther away than the positive, or the farthest of all where there is none.
    allowed: (N, N) bool, row = anchor. distance: (N, N), anchor to candidate. positive: (N,), anchor to its partner.
    Where a row allows nothing the index means nothing; the caller leaves that row out.
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


@torch.no_grad()
def choose_negatives(
    x: Tensor, y: Tensor, labels: Tensor, policy: str, distinct: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of x- and y- within the batch, (N,) each, and which rows have both, (N,) bool.

    x, y: posterior means (N, D) of the pairs; labels: (N,). x- is a negative of y and y- one of x: another class than
    the pair's. Their classes may be equal or not, as in the paper; `distinct` asks for different ones, as Chen et al.
    2017 (the paper's [22]) do. A random choice within a shuffled batch is a random choice from the data set.
    """
    distance = torch.cdist(x, y)  # [i, j] from x_i to y_j
    positive = distance.diagonal()
    differs = labels[:, None] != labels[None, :]
    y_minus = pick(policy, differs, distance, positive)
    allowed = differs & (labels[None, :] != labels[y_minus][:, None]) if distinct else differs
    x_minus = pick(policy, allowed, distance.T, positive)
    return x_minus, y_minus, differs.any(dim=1) & allowed.any(dim=1)
