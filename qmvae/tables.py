"""Tables 1 and 2 from metrics.json, with the paper's numbers beside ours, as CSV, Markdown and LaTeX."""

from pathlib import Path

import pandas as pd
from scipy.stats import ttest_rel

from qmvae.files import save_text

MODELS = {"mvae": "MVAE", "mmvae": "MMVAE", "dmvae": "DMVAE", "qmvae": "Q-MVAE"}  # the paper's rows, in its order

WHOSE = {"ours": "ours", "strong": "ours, stronger judge", "paper": "the paper"}

# Chen et al. 2022, Tables 1 and 2: mean and standard deviation over five runs, in per cent.
PAPER = {
    "cross": {
        "mvae": {"mnist_to_svhn": (31.8, 1.4), "svhn_to_mnist": (57.1, 3.4)},
        "mmvae": {"mnist_to_svhn": (86.4, 0.5), "svhn_to_mnist": (69.1, 2.5)},
        "dmvae": {"mnist_to_svhn": (91.6, 0.8), "svhn_to_mnist": (76.4, 0.4)},
        "qmvae": {"mnist_to_svhn": (92.2, 0.3), "svhn_to_mnist": (81.3, 0.5)},
    },
    "linear": {
        "mvae": {"mnist": (79.8, 3.8), "svhn": (65.1, 4.6), "both": (80.2, 3.6)},
        "mmvae": {"mnist": (91.3, 0.4), "svhn": (68.0, 0.6)},
        "dmvae": {"mnist": (95.0, 0.6), "svhn": (79.9, 1.4), "both": (92.9, 1.8)},
        "qmvae": {"mnist": (98.3, 0.1), "svhn": (80.2, 0.2), "both": (97.9, 0.1)},
    },
}


def table(metrics: dict, part: str) -> pd.DataFrame:
    """Table 1 (`part` = cross) or 2 (linear): a row a model, for each column ours and the paper's, in per cent.

    Columns are (what, whose, mean | std), missing values where a model was not trained or the paper has no number. In
    Table 1 there is one more `whose`, strong: our images, read by the stronger judge.
    """
    keys = list(dict.fromkeys(key for values in PAPER[part].values() for key in values))
    keys += [k for model in metrics["models"].values() for k in model[part] if k not in keys]
    rows = {}
    for name in [*MODELS, *(n for n in metrics["models"] if n not in MODELS)]:
        found, paper = metrics["models"].get(name, {}), PAPER[part].get(name, {})
        row = {}
        for key in dict.fromkeys(keys):
            for whose, where in ({"ours": part} | ({"strong": "cross_strong"} if part == "cross" else {})).items():
                mine = found.get(where, {}).get(key)
                spread = mine and len(mine["seeds"]) > 1  # one seed has no standard deviation
                row[key, whose, "mean"] = 100 * mine["mean"] if mine else None
                row[key, whose, "std"] = 100 * mine["std"] if spread else None
            row[key, "paper", "mean"], row[key, "paper", "std"] = paper.get(key, (None, None))
        rows[MODELS.get(name, name)] = row
    frame = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return frame


def readable(frame: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    """The same table with one cell `mean ± std` for two numbers, and headings in words. titles: of the modalities."""

    def heading(key: str, whose: str) -> str:
        named = {m: m.upper() for m in titles} if whose == "paper" else titles
        words = " → ".join(named.get(part, part) for part in key.split("_to_"))
        return f"{words} ({WHOSE[whose]})"

    def cell(mean: float, std: float) -> str:
        if pd.isna(mean):
            return "n/a"
        return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"

    columns = list(dict.fromkeys((key, whose) for key, whose, _ in frame.columns))
    return pd.DataFrame(
        {heading(*c): [cell(m, s) for m, s in zip(frame[*c, "mean"], frame[*c, "std"], strict=True)] for c in columns},
        index=pd.Index(frame.index, name="model"),
    )


def runner_up(metrics: dict, part: str) -> str:
    """Q-MVAE against the best of the other models, column by column: the paired t-test over seeds, in words."""
    ours, others = metrics["models"].get("qmvae"), {k: v for k, v in metrics["models"].items() if k != "qmvae"}
    if ours is None or not others or len(metrics["seeds"]) < 2:
        return "Q-MVAE against the runner-up: a paired test needs Q-MVAE, another model and two seeds at least."
    lines = []
    for key, mine in ours[part].items():
        rivals = {name: values[part][key] for name, values in others.items() if key in values[part]}
        if rivals:
            name = max(rivals, key=lambda n: rivals[n]["mean"])
            test = ttest_rel(mine["seeds"], rivals[name]["seeds"])
            gap = 100 * (mine["mean"] - rivals[name]["mean"])
            lines.append(f"{key} {gap:+.1f} points over {MODELS[name]} (p = {test.pvalue:.3g})")
    return f"Q-MVAE against the runner-up, paired t-test over {len(metrics['seeds'])} seeds: {'; '.join(lines)}."


def caption(metrics: dict, what: str) -> str:
    """What a reader must know to use the numbers: images, seeds, steps, device and how good the judges are."""
    seeds = len(metrics["seeds"])
    kinds = ("judges", "strong_judges")
    judges, strong = (", ".join(f"{name} {value:.1%}" for name, value in metrics[kind].items()) for kind in kinds)
    steps = ", ".join(f"{MODELS[name]} {m['steps']:,} x {m['batch_size']}" for name, m in metrics["models"].items())
    codes = ", ".join(
        f"{MODELS[name]} {model['codes']['shared']}" + (f" + {p} each" if (p := model["codes"]["private"]) else "")
        for name, model in metrics["models"].items()
    )
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{what}, in % ({spread}). Ours: {metrics['images']}, preset {metrics['preset']}, on {metrics['device']}; "
        f"steps x pairs: {steps}; code dimensions, shared + private: {codes}; the judges read {judges} of the real "
        f"test images as labelled, the stronger ones {strong}. The paper: MNIST and all of SVHN, 5 seeds."
    )


def save(frame: pd.DataFrame, titles: dict[str, str], text: str, folder: Path, name: str) -> None:
    """Write `name`.csv (numbers), `name`.md and `name`.tex (for reading, `text` as caption)."""
    flat = frame.set_axis(["_".join(column) for column in frame.columns], axis=1)
    save_text(folder / f"{name}.csv", flat.to_csv(index_label="model", float_format="%.2f", lineterminator="\n"))
    words = readable(frame, titles)
    save_text(folder / f"{name}.md", f"{text}\n\n{words.to_markdown(disable_numparse=True)}\n")
    latex = words.reset_index().replace("±", r"$\\pm$", regex=True)
    latex.columns = [c.replace("→", r"$\to$") for c in latex.columns]
    style = latex.style.hide(axis="index")
    tex = style.to_latex(hrules=True, caption=text.replace("%", r"\%").replace("±", r"$\pm$"), label=f"tab:{name}")
    save_text(folder / f"{name}.tex", tex)
