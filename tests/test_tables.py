"""Tables: each number in its place, the paper's numbers, other data, and special characters in titles."""

import copy
import math
import re
from html import unescape

import pytest
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from qmvae.report import tables

TITLES = {"mnist": "MNIST", "svhn": "SVHN subset"}


def entry(mean, *seeds):
    return {"mean": mean, "std": 0.01, "seeds": by_seed(*seeds or (0.89, 0.91))}


def by_seed(*values):
    return {str(seed): value for seed, value in enumerate(values)}


def metrics():
    qmvae = {
        "cross": {"mnist_to_svhn": entry(0.951), "svhn_to_mnist": entry(0.642)},
        "cross_strong": {"mnist_to_svhn": entry(0.94), "svhn_to_mnist": entry(0.9)},
        "linear": {"mnist": entry(0.98), "svhn": entry(0.81), "both": entry(0.99)},
        "steps": 10000,
        "batch_size": 128,
        "precision": "bfloat16",
        "codes": {"shared": 20, "private": 10},
    }
    return {
        "preset": "subset", "modalities": ["mnist", "svhn"], "images": "MNIST 60,000/10,000 + SVHN subset 10,434/2,000",
        "device": "cpu", "steps": 10000, "judges": {"mnist": 0.99, "svhn": 0.85},
        "strong_judges": {"mnist": 0.995, "svhn": 0.92}, "models": {"qmvae": qmvae},
    }  # fmt: skip


def others(*names):
    """Return metrics of other modalities, each number different."""
    directions = tables.directions(names)
    model = {
        "cross": {key: entry(0.1 + 0.01 * i) for i, key in enumerate(directions)},
        "cross_strong": {key: entry(0.2 + 0.01 * i) for i, key in enumerate(directions)},
        "linear": {key: entry(0.3 + 0.01 * i) for i, key in enumerate([*names, "both"])},
    }
    accuracy = dict.fromkeys(names, 0.9)
    return metrics() | {
        "modalities": list(names), "judges": accuracy, "strong_judges": accuracy,
        "models": {"qmvae": metrics()["models"]["qmvae"] | model},
    }  # fmt: skip


def test_tables_put_each_number_in_its_place():
    first, second = (tables.table(metrics(), part) for part in ("cross", "linear"))
    assert list(first.index) == ["MVAE", "MMVAE", "DMVAE", "Q-MVAE"]
    assert first.loc["Q-MVAE", ("mnist_to_svhn", "ours", "mean")] == pytest.approx(95.1)
    assert first.loc["Q-MVAE", ("svhn_to_mnist", "ours", "mean")] == pytest.approx(64.2)
    assert first.loc["Q-MVAE", ("mnist_to_svhn", "strong", "mean")] == pytest.approx(94.0)
    assert first.loc["Q-MVAE", ("svhn_to_mnist", "paper", "mean")] == 81.3
    assert first.loc["MMVAE", ("mnist_to_svhn", "paper", "std")] == 0.5
    assert math.isnan(first.loc["MMVAE", ("mnist_to_svhn", "ours", "mean")])
    assert second.loc["Q-MVAE", ("svhn", "ours", "mean")] == pytest.approx(81.0)
    assert math.isnan(second.loc["MMVAE", ("both", "paper", "mean")])


def test_the_papers_numbers_are_those_of_its_text():
    paper = {
        "MVAE": "31.8 ± 1.4 57.1 ± 3.4 79.8 ± 3.8 65.1 ± 4.6 80.2 ± 3.6",
        "MMVAE": "86.4 ± 0.5 69.1 ± 2.5 91.3 ± 0.4 68.0 ± 0.6 n/a",
        "DMVAE": "91.6 ± 0.8 76.4 ± 0.4 95.0 ± 0.6 79.9 ± 1.4 92.9 ± 1.8",
        "Q-MVAE": "92.2 ± 0.3 81.3 ± 0.5 98.3 ± 0.1 80.2 ± 0.2 97.9 ± 0.1",
    }
    first, second = (tables.readable(tables.table(metrics(), part), TITLES) for part in ("cross", "linear"))
    for model, numbers in paper.items():
        cells = [frame.loc[model, c] for frame in (first, second) for c in frame.columns if "the paper" in c]
        assert " ".join(cells) == numbers


def test_headings_name_direction_and_origin():
    first, second = (tables.readable(tables.table(metrics(), part), TITLES) for part in ("cross", "linear"))
    assert list(first.columns)[:3] == [
        "MNIST → SVHN subset (ours)", "MNIST → SVHN subset (ours, stronger classifier)", "MNIST → SVHN (the paper)",
    ]  # fmt: skip
    assert list(second.columns)[2:] == [
        "SVHN subset (ours)", "SVHN (the paper)", "both (ours)", "both (the paper)",
    ]  # fmt: skip


def test_the_chance_level_is_a_row_of_both_tables():
    text = metrics() | {"chance": {"mnist": 0.1135, "svhn": 0.1855, "both": 0.186}}
    first, second = (tables.readable(tables.table(text, part), TITLES) for part in ("cross", "linear"))
    assert list(first.index)[-2:] == list(second.index)[-2:] == ["Q-MVAE", "chance level"]
    assert first.loc["chance level"].tolist() == ["18.6", "18.6", "n/a"] * 2  # of the pairs' classes
    assert second.loc["chance level"].tolist() == ["11.3", "n/a", "18.6", "n/a", "18.6", "n/a"]
    assert "Chance level" in tables.caption(text, TITLES, "Table 1")
    without = tables.caption(metrics(), TITLES, "Table 1")
    assert "Chance level" not in without and "images: MNIST 99.0 %, SVHN subset 85.0 %" in without


def test_other_data_have_no_columns_and_rows_of_the_paper():
    text = others("photo", "left_half")
    first, second = (tables.table(text, part) for part in ("cross", "linear"))
    assert list(first.index) == list(second.index) == ["Q-MVAE"]
    titles = {"photo": "Photos", "left_half": "Left halves"}
    assert list(tables.readable(first, titles).columns) == [
        "Photos → Left halves (ours)", "Photos → Left halves (ours, stronger classifier)",
        "Left halves → Photos (ours)", "Left halves → Photos (ours, stronger classifier)",
    ]  # fmt: skip
    assert list(tables.readable(second, titles).columns) == ["Photos (ours)", "Left halves (ours)", "both (ours)"]
    assert tables.readable(second, titles).loc["Q-MVAE"].tolist() == ["30.0 ± 1.0", "31.0 ± 1.0", "32.0 ± 1.0"]
    assert "The paper" not in tables.caption(text, titles, "Table 1")
    del text["models"]["qmvae"]["linear"]["both"]  # as of a model without fused codes
    words = tables.readable(tables.table(text, "linear"), titles)
    assert list(words.columns) == ["Photos (ours)", "Left halves (ours)"]


def test_with_a_third_modality_the_papers_both_is_another():
    text = others("mnist", "svhn", "to_sign")
    first, second = (tables.table(text, part) for part in ("cross", "linear"))
    whose = {key: set(first[key].columns.get_level_values(0)) for key in tables.directions(text["modalities"])}
    assert len(whose) == 6 and whose["mnist_to_svhn"] == {"ours", "strong", "paper"}
    assert whose["mnist_to_to_sign"] == whose["to_sign_to_mnist"] == {"ours", "strong"}
    assert set(second["mnist"].columns.get_level_values(0)) == {"ours", "paper"}
    assert set(second["both"].columns.get_level_values(0)) == {"ours"}
    titles = {"mnist": "M", "svhn": "S", "to_sign": "T"}
    assert "T → M (ours)" in tables.readable(first, titles) and "M → T (ours)" in tables.readable(first, titles)


def test_tables_are_rendered_in_three_formats():
    frame = tables.table(metrics(), "cross")
    texts = tables.render(frame, TITLES, tables.caption(metrics(), TITLES, "Table 1"))
    assert list(texts) == ["csv", "md", "tex"]
    assert "Q-MVAE,95.10,1.00,94.00,1.00,92.20,0.30,64.20,1.00,90.00,1.00,81.30,0.50" in texts["csv"]
    markdown = texts["md"]
    assert "SVHN subset 10,434/2,000" in markdown and "over 2 seeds" in markdown
    assert "| Q-MVAE  | 95.1 ± 1.0" in markdown
    latex = texts["tex"]
    assert (
        r"Q-MVAE & 95.1 $\pm$ 1.0 & 94.0 $\pm$ 1.0 & 92.2 $\pm$ 0.3" in latex
        and r"\toprule" in latex
        and "→" not in latex
        and "±" not in latex
    )


SPECIAL = r"snake_case & #1, 50% a|b $x$ *y* `z` <b> [l](m) ~~q~~ {r}^2 \s"


def test_special_characters_of_titles_survive_markdown():
    frame = tables.table(others("a", "b"), "linear")
    titles = {"a": SPECIAL, "b": "plain"}
    html = MarkdownWithMath(renderer=IPythonRenderer(escape=False)).render(tables.render(frame, titles, SPECIAL)["md"])
    cells = [unescape(cell) for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", html)]
    assert cells == ["model", f"{SPECIAL} (ours)", "plain (ours)", "both (ours)"] + [
        "Q-MVAE", "30.0 ± 1.0", "31.0 ± 1.0", "32.0 ± 1.0",
    ]  # fmt: skip
    assert unescape(re.search("<p>(.*?)</p>", html)[1]) == SPECIAL


def test_special_characters_of_titles_are_escaped_in_latex():
    frame = tables.table(others("a", "b"), "linear")
    latex = tables.render(frame, {"a": SPECIAL, "b": "plain"}, SPECIAL)["tex"]
    escaped = (
        r"snake\_case \& \#1, 50\% a\textbar{}b \$x\$ *y* `z` \textless{}b\textgreater{} [l](m) "
        r"\textasciitilde{}\textasciitilde{}q\textasciitilde{}\textasciitilde{} \{r\}\textasciicircum{}2 "
        r"\textbackslash{}s"
    )
    assert rf"\caption{{{escaped}}}" in latex
    assert rf"model & {escaped} (ours) & plain (ours) & both (ours) \\" in latex
    assert not re.findall(r"(?<!\\)[#%_]", latex)
    assert all(len(re.findall(r"(?<!\\)&", line)) == 3 for line in latex.splitlines() if line.endswith(r"\\"))


def test_one_seed_shows_no_deviation():
    one = metrics()
    one["models"]["qmvae"]["cross"]["mnist_to_svhn"] = {"mean": 0.8, "std": 0.0, "seeds": by_seed(0.8)}
    words = tables.readable(tables.table(one, "cross"), TITLES)
    assert words.loc["Q-MVAE"].iloc[0] == "80.0" and "(one seed)" in tables.caption(one, TITLES, "Table 1")


def test_the_paired_test_is_scipys():
    from scipy.stats import ttest_rel

    text = metrics()
    assert "needs" in tables.runner_up(text, TITLES, "cross")
    rival = copy.deepcopy(text["models"]["qmvae"])
    rival["cross"]["mnist_to_svhn"] |= {"mean": 0.85, "seeds": by_seed(0.84, 0.87)}
    text["models"]["dmvae"] = rival
    text["models"]["mvae"] = copy.deepcopy(rival)
    text["models"]["mvae"]["cross"]["mnist_to_svhn"] |= {"mean": 0.2, "seeds": by_seed(0.1, 0.3)}
    p = ttest_rel([0.89, 0.91], [0.84, 0.87]).pvalue
    expected = f"MNIST → SVHN subset: +4.5 points over DMVAE (2 seeds, uncorrected p = {p:.3g})"
    assert expected in tables.runner_up(text, TITLES, "cross")
    of_more = text["models"]["qmvae"]["cross"]["mnist_to_svhn"]["seeds"] | {"7": 0.1}
    text["models"]["qmvae"]["cross"]["mnist_to_svhn"]["seeds"] = of_more  # compared in the seeds that both have
    assert expected in tables.runner_up(text, TITLES, "cross")
    for name in ("qmvae", "dmvae"):  # MVAE was evaluated before this part existed
        text["models"][name]["cross_sample"] = copy.deepcopy(text["models"][name]["cross"])
    assert expected in tables.runner_up(text, TITLES, "cross_sample")
    spread = "Table 1 (mean ± standard deviation over the seeds: 3 for Q-MVAE; 2 for DMVAE, MVAE). Ours"
    assert tables.caption(text, TITLES, "Table 1").startswith(spread)
    rival["cross"]["mnist_to_svhn"] = text["models"]["qmvae"]["cross"]["mnist_to_svhn"]
    assert "MNIST → SVHN subset: +0.0 points over DMVAE (3 seeds, uncorrected p = 1)" in tables.runner_up(
        text, TITLES, "cross"
    )


def test_models_that_the_paper_does_not_compare_with_are_below_a_rule_and_no_rivals():
    text = metrics() | {"chance": {"mnist": 0.1, "svhn": 0.2, "both": 0.2}}
    better = copy.deepcopy(text["models"]["qmvae"])
    better["cross"]["mnist_to_svhn"] = entry(0.99)
    text["models"] = {"cvae": better | {"linear": {}}, "translated": better} | text["models"]
    for part in ("cross", "linear"):
        words = tables.readable(tables.table(text, part), TITLES)
        assert list(words.index) == [
            *tables.PAPER_MODELS.values(), tables.RULE, "Q-MVAE + translated quadruplets", "CVAE", tables.CHANCE,
        ]  # fmt: skip
        assert words.index.name == "model" and set(words.loc[tables.RULE]) == {""}
        assert set(words.loc["CVAE"]) == {"n/a"} or part == "cross"
        for name, text_of in {"md": "not in the paper", "tex": "not in the paper", "csv": "CVAE"}.items():
            assert text_of in tables.render(tables.table(text, part), TITLES, "")[name]
    assert "another model" in tables.runner_up(text, TITLES, "cross")  # the paper's other models have no numbers here


def test_the_table_of_style_has_the_measures_of_models_with_private_codes():
    text = metrics() | {"chance": {"mnist": 0.1135, "svhn": 0.1855, "both": 0.186}}
    text["models"]["qmvae"] |= {
        "style": {"svhn_background": entry(0.93), "mnist_slant": entry(-0.31, -0.31)},
        "active": {"mnist_private": entry(3), "mnist_shared": entry(20)},
        "contrast": {"svhn": entry(0.56)},
        "probes": {"mnist_private_digit_mlp": entry(0.38), "mnist_private_digit": entry(0.2)},
        "translated_strong": {"mnist_to_svhn": entry(0.88)},
        "frechet": {"svhn_to_mnist": entry(43)},
    }
    text["models"]["mmvae"] = text["models"]["qmvae"] | {"codes": {"shared": 20, "private": 0}}
    text["models"]["dmvae"] = text["models"]["qmvae"] | {"contrast": {}}
    frame = tables.style(text, TITLES)
    assert list(frame.columns) == ["Q-MVAE", "DMVAE"]
    assert frame["Q-MVAE"].to_dict() == {
        "MNIST: R² of slant": "-0.31",
        "MNIST: active private dimensions": "3.0 ± 0.0",
        "MNIST: class from the private code, % (chance: 11.3)": "38.0 ± 1.0",
        "SVHN subset: R² of background": "0.93 ± 0.01",
        "SVHN subset: contrast, % of real images": "56 ± 1",
        "MNIST → SVHN subset: accuracy of translations, stronger classifier, % (chance: 18.6)": "88.0 ± 1.0",
        "SVHN subset → MNIST: Fréchet distance": "43.0 ± 0.0",
    }
    assert frame["DMVAE"]["SVHN subset: contrast, % of real images"] == "n/a"
    assert "MNIST: R² of slant" in tables.markdown(frame, "Style") and "R$^2$ of slant" in tables.latex(frame, "Style")
