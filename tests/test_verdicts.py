"""Verdicts: Holm's correction, models at the chance level, one seed."""

import pytest
from scipy.stats import ttest_rel

from qmvae.report.verdicts import AT_CHANCE, Claim, decide, holm, paired_p, pairs, trained


def seeds(*values):
    return {str(seed): value for seed, value in enumerate(values)}


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_a_claim_is_tested_among_all_others():
    strong, weak = seeds(0.90, 0.91, 0.92), seeds(0.78, 0.83, 0.82)
    p = ttest_rel([0.90, 0.91, 0.92], [0.78, 0.83, 0.82]).pvalue
    assert p < 0.05 < 5 * p < 0.1  # significant alone, not among five
    alone = decide([Claim("a", strong, weak)])
    assert alone.verdict[0] == "holds" and alone["measured here"][0] == f"+10.0 points (3 seeds, p = {p:#.3g})"
    assert decide([Claim("a", strong, weak)] * 5).verdict.unique() == ["the claimed sign, not decided"]
    assert decide([Claim("a", weak, strong)]).verdict[0] == "does not hold here"
    assert decide([Claim("a", weak, strong)] * 5).verdict[0] == "the other sign, not decided"


def test_a_model_is_trained_if_its_mean_is_five_points_above_the_chance_level():
    assert trained(seeds(0.1, 0.1, 0.31), 0.12) and not trained(seeds(0.1, 0.1, 0.30), 0.12)


def test_a_claim_without_a_verdict_takes_no_test_from_the_others():
    strong, weak, lost = seeds(0.90, 0.91, 0.92), seeds(0.78, 0.83, 0.82), seeds(0.20, 0.21, 0.22)
    found = decide([Claim("a", strong, weak), Claim("b", strong, lost, AT_CHANCE)])
    assert list(found.verdict) == ["holds", "no verdict: a model is at the chance level"]
    assert found["measured here"][1] == "+70.0 points (3 seeds, not tested)"
    assert found["measured here"][0] == decide([Claim("a", strong, weak)])["measured here"][0]


def test_the_same_evidence_has_the_same_words_with_either_sign():
    near, nearer = seeds(0.80, 0.85, 0.90), seeds(0.84, 0.83, 0.91)
    words = [decide([Claim("a", *pair)]).verdict[0] for pair in ((near, nearer), (nearer, near))]
    assert words == ["the other sign, not decided", "the claimed sign, not decided"]


def test_seeds_that_do_not_differ_decide_nothing_and_take_nothing_from_the_others():
    same, strong, lost = seeds(1.0, 1.0), seeds(0.90, 0.91, 0.92), seeds(0.1, 0.11, 0.13)
    found = decide([Claim("a", same, same), Claim("b", strong, lost)])
    assert found.verdict.tolist() == ["the other sign, not decided", "holds"]
    assert found["measured here"][0] == "+0.0 points (2 seeds, p = 1.00)"


@pytest.mark.parametrize("values", [[(0.9, 0.8), (0.8, 0.7)], [(0.9, 0.8), (0.85, 0.75), (0.88, 0.78)]])
def test_a_difference_without_spread_is_no_evidence(values):
    assert paired_p(values) == 1.0
    larger, smaller = (seeds(*part) for part in zip(*values, strict=True))
    assert decide([Claim("a", larger, smaller)]).verdict[0] == "the claimed sign, not decided"


def test_a_distance_is_not_told_in_points():
    found = decide([Claim("a", seeds(68.9, 69.4, 66.5), seeds(51.3, 62.1, 55.3), share=False)])
    assert found["measured here"][0].startswith("+12.03 (3 seeds, p = ")


def test_one_seed_decides_nothing():
    found = decide([Claim("a", seeds(0.9), seeds(0.8)), Claim("b", seeds(0.8), seeds(0.9))])
    assert list(found.verdict) == ["the claimed sign, not tested", "the other sign, not tested"]
    assert list(found["measured here"]) == ["+10.0 points (one seed)", "-10.0 points (one seed)"]


def test_models_with_different_seeds_are_compared_in_those_of_both():
    more, fewer = {"0": 0.9, "1": 0.8, "2": 0.7, "3": 0.1}, {"7": 0.1, "2": 0.62, "1": 0.7, "0": 0.83}
    assert pairs(more, fewer) == [(0.9, 0.83), (0.8, 0.7), (0.7, 0.62)]
    p = ttest_rel([0.9, 0.8, 0.7], [0.83, 0.7, 0.62]).pvalue
    assert decide([Claim("a", more, fewer)])["measured here"][0] == f"+8.3 points (3 seeds, p = {p:#.3g})"
    with pytest.raises(ValueError, match="no seed in common: 0 and 1; compare models"):
        pairs({"0": 0.9}, {"1": 0.8})
    assert decide([Claim("a", more, {"3": 0.2})])["measured here"][0] == "-10.0 points (one seed)"
