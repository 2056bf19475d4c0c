"""Verdicts on the paper's claims from the seeds of our runs: paired t-tests, corrected for their number."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd
from scipy.stats import ttest_rel

LEVEL = 0.05  # of the corrected p-values
TRAINED = 0.05  # a model trained for a task if its mean accuracy is this far above the chance level
AT_CHANCE = "a model is at the chance level"  # so its rank says nothing about its method


class Claim(NamedTuple):
    """A claim that one quantity is larger than another, with the values of both by seed.

    barred: why the claim gets no verdict, such as AT_CHANCE; empty if it gets one. share: whether the values are
    fractions of 1, which are told in points.
    """

    text: str
    larger: Mapping[str, float]
    smaller: Mapping[str, float]
    barred: str = ""
    share: bool = True


def trained(values: Mapping[str, float], chance: float) -> bool:
    """Return whether the mean accuracy of a model's seeds is TRAINED above the chance level."""
    return fmean(values.values()) >= chance + TRAINED


def pairs(a: Mapping[str, float], b: Mapping[str, float]) -> list[tuple[float, float]]:
    """Return the values of two quantities in each seed that both have. Raises ValueError if there is none."""
    if found := [(value, b[seed]) for seed, value in a.items() if seed in b]:
        return found
    raise ValueError(f"no seed in common: {', '.join(a)} and {', '.join(b)}; compare models that share a seed")


def paired_p(values: Sequence[tuple[float, float]]) -> float:
    """Return the p-value of a paired t-test over two seeds or more.

    It is 1 if the difference of all seeds is the same but for rounding: the test has no spread to compare it with.
    """
    if stdev(a - b for a, b in values) < 1e-9:
        return 1.0
    return float(ttest_rel(*zip(*values, strict=True)).pvalue)


def counted(seeds: int) -> str:
    """Return a number of seeds in words."""
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method (1979), in the same order.

    Sorted, p_(1) <= ... <= p_(n):  corrected p_(k) = max_{j <= k} min((n - j + 1) p_(j), 1)

    The probability of one wrong rejection or more, among all n tests, is then at most the level of the tests.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[i], 1.0))
        corrected[i] = largest
    return corrected


def decide(claims: Sequence[Claim]) -> pd.DataFrame:
    """Return a row for each claim: `claim`, `measured here`, `verdict`, as text.

    A two-sided paired t-test over the seeds that both have decides, corrected for all tests of the table. `measured
    here` has the difference of the means over these seeds, and their number. The verdicts are `holds` and
    `does not hold here` (p < LEVEL, with the claimed sign or the other), and the sign with `not decided` (p >= LEVEL)
    or `not tested` (one seed gives no test). A claim that is `barred` is not tested, and its verdict says why.
    """
    values = [pairs(claim.larger, claim.smaller) for claim in claims]
    tested = [i for i, claim in enumerate(claims) if not claim.barred and len(values[i]) > 1]
    found = holm([paired_p(values[i]) for i in tested])
    corrected = dict(zip(tested, found, strict=True))
    rows = []
    for i, claim in enumerate(claims):
        gap, p = fmean(a - b for a, b in values[i]), corrected.get(i, 1.0)
        if claim.barred:
            word = f"no verdict: {claim.barred}"
        elif p < LEVEL:
            word = "holds" if gap > 0 else "does not hold here"
        else:
            sign = "the claimed sign" if gap > 0 else "the other sign"
            word = f"{sign}, {'not decided' if i in corrected else 'not tested'}"
        evidence = counted(len(values[i]))
        if i in corrected:
            evidence += f", p = {p:#.3g}"
        elif claim.barred:
            evidence += ", not tested"
        size = f"{100 * gap:+.1f} points" if claim.share else f"{gap:+.2f}"
        rows.append((claim.text, f"{size} ({evidence})", word))
    return pd.DataFrame(rows, columns=["claim", "measured here", "verdict"])
