"""Eq. 19 and the selection of negatives, against loops in NumPy."""

import numpy as np
import pytest
import torch

from qmvae.model.quadruplet import quadruplet_terms, select_negatives, triplet_terms


def test_each_term_of_eq_19_against_a_numpy_loop():
    x, y, x_negative, y_negative = (torch.randn(50, 4, dtype=torch.float64) for _ in range(4))
    quad = quadruplet_terms(x, y, x_negative, y_negative, alpha1=0.9, alpha2=0.3)
    d = lambda a, b: np.sqrt(((a.numpy() - b.numpy()) ** 2).sum())  # noqa: E731
    seen = set()
    for i in range(50):
        positive = d(x[i], y[i])
        expected = (
            max(positive - d(x[i], y_negative[i]) + 0.9, 0),
            max(positive - d(x_negative[i], y[i]) + 0.9, 0),
            max(positive - d(x_negative[i], y_negative[i]) + 0.3, 0),
        )
        got = (quad.first[i].item(), quad.second[i].item(), quad.third[i].item())
        assert got == pytest.approx(expected)
        seen.update((k, value > 0) for k, value in enumerate(expected))
    assert len(seen) == 6, "each hinge must have been seen open and shut"


def test_all_points_in_one_place_cost_the_three_margins_and_have_finite_gradients():
    points = [torch.zeros(3, 4, requires_grad=True) for _ in range(4)]
    quad = quadruplet_terms(*points, alpha1=2.0, alpha2=0.8)
    total = (quad.first + quad.second + quad.third).mean()
    assert total.item() == pytest.approx(4.8)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in points)


def reference_choice(policy, distances, positive, allowed):
    """Which candidates may be chosen for one anchor, the textbook way."""
    ids = [j for j in range(len(distances)) if allowed[j]]
    if policy == "random":
        return ids
    if policy == "hardest":
        return [min(ids, key=lambda j: distances[j])]
    farther = [j for j in ids if distances[j] > positive]
    return [min(farther, key=lambda j: distances[j])] if farther else [max(ids, key=lambda j: distances[j])]


@pytest.mark.parametrize("policy", ["random", "semihard", "hardest"])
@pytest.mark.parametrize("distinct", [False, True])
def test_negatives_against_a_loop(policy, distinct):
    torch.manual_seed(1)
    x, y = torch.randn(40, 2, dtype=torch.float64), torch.randn(40, 2, dtype=torch.float64)
    labels = torch.arange(40) % 4
    distance = np.linalg.norm(x.numpy()[:, None] - y.numpy()[None], axis=-1)
    x_negative, y_negative, usable = select_negatives(x, y, labels, policy, distinct)
    assert usable.all()
    for i in range(40):
        other = (labels != labels[i]).tolist()
        assert y_negative[i].item() in reference_choice(policy, distance[i], distance[i, i], other)
        if distinct:
            other = [o and labels[j] != labels[y_negative[i]] for j, o in enumerate(other)]
        assert x_negative[i].item() in reference_choice(policy, distance[:, i], distance[i, i], other)


def test_random_negatives_reach_every_candidate_about_equally():
    torch.manual_seed(2)
    x = y = torch.randn(6, 2)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    counts = torch.zeros(6)
    for _ in range(2000):
        counts[select_negatives(x, y, labels, "random")[1][0]] += 1
    assert counts[:2].sum() == 0
    assert (counts[2:] / 2000 - 0.25).abs().max() < 0.05


def test_a_batch_of_one_class_has_no_usable_row_and_two_classes_none_that_are_distinct():
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    assert not select_negatives(x, y, torch.zeros(5), "semihard")[2].any()
    two = torch.tensor([0, 0, 1, 1, 1])
    assert select_negatives(x, y, two, "hardest")[2].all()
    assert not select_negatives(x, y, two, "hardest", distinct=True)[2].any()


def test_unknown_policy():
    with pytest.raises(ValueError, match="easy.*expected random, semihard or hardest"):
        select_negatives(torch.randn(4, 2), torch.randn(4, 2), torch.arange(4), "easy")


def test_triplets_within_a_modality_by_hand():
    torch.manual_seed(0)
    codes, labels = torch.randn(8, 3).double(), torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])  # 3 and 4 have no positive
    loss, positive, negative = triplet_terms(codes, labels, "hardest", 0.7)
    rows = []
    for a, p in ((0, 1), (1, 0), (2, 3), (3, 2), (4, 5), (5, 4)):
        apart = (codes[a] - codes[p]).norm()
        nearest = min((codes[a] - codes[n]).norm() for n in range(8) if labels[n] != labels[a])
        rows.append(torch.stack([torch.relu(apart - nearest + 0.7), apart, nearest]))
    expected = torch.stack(rows).sum(dim=0) / 8
    assert torch.allclose(torch.stack([loss, positive, negative]), expected, rtol=1e-9)


def test_triplets_have_a_random_positive_and_the_screened_negative():
    codes = torch.tensor([[0.0], [1.0], [0.5], [3.0]])
    _, positive, negative = triplet_terms(codes, torch.tensor([0, 0, 1, 2]), "semihard", 2.0)
    assert (positive.item(), negative.item()) == ((1 + 1) / 4, (3 + 2) / 4)  # 0.5 is nearer than the positive
    found = {triplet_terms(codes, torch.tensor([0, 0, 0, 1]), "hardest", 2.0)[1].item() for _ in range(100)}
    assert found == {1.5 / 4, 2 / 4, 2.5 / 4}  # two anchors have positives at 0.5 and 1, the third has both at 0.5


def test_triplets_do_not_see_how_far_a_modality_lies_from_the_others():
    torch.manual_seed(0)
    codes, labels = torch.randn(12, 3), torch.arange(12) % 3
    torch.manual_seed(1)
    here = triplet_terms(codes, labels, "semihard", 2.0)
    torch.manual_seed(1)
    there = triplet_terms(codes + 100.0, labels, "semihard", 2.0)
    assert torch.allclose(here[0], there[0], atol=1e-4)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [0]])
def test_triplets_need_a_positive_and_a_negative(labels):
    codes = torch.randn(len(labels), 3, requires_grad=True)
    loss, *_ = triplet_terms(codes, torch.tensor(labels), "semihard", 2.0)
    loss.backward()
    assert loss.item() == 0.0 and torch.isfinite(codes.grad).all()
