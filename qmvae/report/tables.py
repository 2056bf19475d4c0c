"""Tables 1 and 2 and a table of style from metrics.json's numbers, as CSV, Markdown and LaTeX."""

from collections.abc import Iterable, Mapping
from itertools import permutations
from statistics import fmean

import pandas as pd

from qmvae.report import verdicts

PAPER_MODELS = {"mvae": "MVAE", "mmvae": "MMVAE", "dmvae": "DMVAE", "qmvae": "Q-MVAE"}  # its rows, in its order
MODELS = PAPER_MODELS | {  # in the order of the tables
    "translated": "Q-MVAE + translated quadruplets",
    "jmvae": "JMVAE",
    "mopoe": "MoPoE-VAE",
    "cvae": "CVAE",
    "vcca": "VCCA-private",
    "mmvaeplus": "MMVAE+",
}
RULE = "not in the paper's tables:"  # the row above the models that the paper does not compare with
CHANCE = "chance level"
WHOSE = {"ours": "ours", "strong": "ours, stronger classifier", "paper": "the paper"}

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
PAPER_MODALITIES = {"mnist", "svhn"}

LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$"}
    | {"²": "$^2$", "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)
MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|$~#&"})


def directions(modalities: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return (source, target) of each key <source>_to_<target> of metrics.json, in the tables' order."""
    return {f"{a}_to_{b}": (a, b) for a, b in permutations(modalities, 2)}


def table(metrics: dict, part: str) -> pd.DataFrame:
    """Return Table 1 (`part` = cross) or 2 (linear) in per cent: a row a model, and one for the chance level.

    Columns are (key, whose, mean | std). `whose` is ours, paper where the paper has the key, and, in Table 1, strong:
    our images by the stronger classifier. Values are missing for a model that was not trained or is not in the paper.
    A trained model without a shared code, such as CVAE, has an empty row in Table 2.
    Table 1's chance level is that of the test pairs' classes.
    """
    modalities, models, chance = metrics["modalities"], metrics["models"], metrics.get("chance", {})
    where = {"ours": part} | ({"strong": "cross_strong"} if part == "cross" else {})
    published = {key for values in PAPER[part].values() for key in values}
    if set(modalities) != PAPER_MODALITIES:  # then `both` are other ones
        published -= {"both"}
    keys = list(directions(modalities)) if part == "cross" else [*modalities, "both"]
    keys = [key for key in keys if key in published or any(key in model[part] for model in models.values())]
    rows: dict[str, dict] = {}
    for name in [*MODELS, CHANCE]:
        row = rows[MODELS.get(name, name)] = {}
        for key in keys:
            for whose, entry in where.items():
                found = models.get(name, {}).get(entry, {}).get(key)
                row[key, whose, "mean"], row[key, whose, "std"] = mean_and_std(found, 100)
                if name == CHANCE and (share := chance.get("both" if part == "cross" else key)) is not None:
                    row[key, whose, "mean"] = 100 * share
            if key in published:
                numbers = PAPER[part].get(name, {}).get(key, (None, None))
                row[key, "paper", "mean"], row[key, "paper", "std"] = numbers
    frame = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    trained = frame.index.isin([MODELS[name] for name in models])
    return frame[trained | frame.notna().any(axis=1)]


def mean_and_std(found: dict | None, scale: float) -> tuple[float | None, float | None]:
    """Return the two numbers of an entry of metrics.json times `scale`; one seed has no standard deviation."""
    if not found:
        return None, None
    return scale * found["mean"], scale * found["std"] if len(found["seeds"]) > 1 else None


def cell(mean: float | None, std: float | None, digits: int = 1) -> str:
    """Return `mean ± std`, the mean alone if `std` is missing, or n/a."""
    if pd.isna(mean):
        return "n/a"
    return f"{mean:.{digits}f}" if pd.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def in_words(key: str, titles: Mapping[str, str]) -> str:
    """Return a key of Tables 1 and 2 in words: `a → b` for <a>_to_<b>, the title of a modality, or `both` as it is."""
    return " → ".join(titles[name] for name in directions(titles).get(key, ())) or titles.get(key, key)


def readable(frame: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    """Return the same table with one cell for mean and std, and headings in words. titles: by modality, in order.

    An empty row, RULE, is above the models that are not in the paper.
    """

    def heading(key: str, whose: str) -> str:
        named = {name: name.upper() for name in titles} if whose == "paper" else titles
        return f"{in_words(key, named)} ({WHOSE[whose]})"

    columns = list(dict.fromkeys((key, whose) for key, whose, _ in frame.columns))
    words = pd.DataFrame(
        {heading(*c): [cell(m, s) for m, s in zip(frame[*c, "mean"], frame[*c, "std"], strict=True)] for c in columns},
        index=frame.index,
    )
    above = [name for name in words.index if name in PAPER_MODELS.values()]
    if below := [name for name in words.index if name not in (*above, CHANCE)]:
        words.loc[RULE] = ""
        words = words.loc[[*above, RULE, *below, *words.index.intersection([CHANCE])]]
    return words.rename_axis("model")


def style(metrics: dict, titles: dict[str, str]) -> pd.DataFrame:
    """Return the measures of style as text: a row for each measure, a column for each model with private codes."""
    chance, several = metrics["chance"], any(len(seeds(model)) > 1 for model in metrics["models"].values())
    rows: dict[str, tuple[str, str, int, float]] = {}  # by title: part and key of metrics.json, digits, scale
    for m in metrics["modalities"]:
        for what in ("background", "thickness", "slant"):
            rows[f"{titles[m]}: R² of {what}"] = "style", f"{m}_{what}", 2, 1
        rows[f"{titles[m]}: active private dimensions"] = "active", f"{m}_private", int(several), 1
        rows[f"{titles[m]}: nats in the private code"] = "nats", f"{m}_private", 1, 1
        leak = f"{titles[m]}: class from the private code, % (chance: {100 * chance[m]:.1f})"
        rows[leak] = "probes", f"{m}_private_digit_mlp", 1, 100
        rows[f"{titles[m]}: contrast, % of real images"] = "contrast", m, 0, 100
    for key in directions(metrics["modalities"]):
        direction = in_words(key, titles)
        accuracy = f"accuracy of translations, stronger classifier, % (chance: {100 * chance['both']:.1f})"
        rows[f"{direction}: {accuracy}"] = "translated_strong", key, 1, 100
        rows[f"{direction}: Fréchet distance"] = "frechet", key, 1, 1
    columns = {
        MODELS[name]: {
            title: cell(*mean_and_std(model[part][key], scale), digits)
            for title, (part, key, digits, scale) in rows.items()
            if key in model.get(part, {})
        }
        for name, model in metrics["models"].items()
        if model["codes"]["private"]
    }
    frame = pd.DataFrame(columns, index=pd.Index(rows, name="measure"), dtype=object)
    return frame.dropna(how="all").fillna("n/a")


def runner_up(metrics: dict, titles: dict[str, str], part: str) -> str:
    """Return in words Q-MVAE against the best of the paper's other models by column, in the seeds that both have."""
    models = {name: model for name, model in metrics["models"].items() if name in PAPER_MODELS}
    ours, others = models.pop("qmvae", None), models
    if ours is None or not others or len(seeds(ours)) < 2:
        return "Q-MVAE against the runner-up: a paired test needs Q-MVAE, another model and two seeds at least."
    lines = []
    for key, mine in ours[part].items():
        rivals = {name: values[part][key] for name, values in others.items() if key in values.get(part, {})}
        if rivals:
            name = max(rivals, key=lambda n: rivals[n]["mean"])
            both = verdicts.pairs(mine["seeds"], rivals[name]["seeds"])
            found = verdicts.counted(len(both))
            found += f", uncorrected p = {verdicts.paired_p(both):.3g}" if len(both) > 1 else ""
            gap = 100 * fmean(a - b for a, b in both)
            lines.append(f"{in_words(key, titles)}: {gap:+.1f} points over {MODELS[name]} ({found})")
    return f"Q-MVAE against the runner-up in the seeds that both have, paired t-test: {'; '.join(lines)}."


def seeds(model: dict) -> list[str]:
    """Return the seeds of a model of metrics.json."""
    return list(next(iter(model["cross"].values()))["seeds"])


def grouped(values: Mapping[str, str | int]) -> str:
    """Return each value once with the names that have it: `a for x, y; b for z`."""
    names: dict[str | int, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{value} for {', '.join(group)}" for value, group in names.items())


def caption(metrics: dict, titles: dict[str, str], what: str) -> str:
    """Return `what`, and the conditions of the numbers: images, seeds, steps, device, accuracy of the classifiers."""
    models = {MODELS[name]: model for name, model in metrics["models"].items()}
    kinds = ("judges", "strong_judges")
    standard, strong = (
        ", ".join(f"{titles[name]} {100 * value:.1f} %" for name, value in metrics[kind].items()) for kind in kinds
    )
    steps = grouped(
        {
            title: f"{model['steps']:,} x {model['batch_size']} in {model['precision']}"
            for title, model in models.items()
        }
    )
    codes = grouped(
        {
            title: f"{model['codes']['shared']}" + (f" + {size} each" if (size := model["codes"]["private"]) else "")
            for title, model in models.items()
        }
    )
    counts = {title: len(seeds(model)) for title, model in models.items()}
    same = {*counts.values()}
    over = f"the seeds: {grouped(counts)}" if len(same) > 1 else verdicts.counted(*same)
    spread = over if same == {1} else f"mean ± standard deviation over {over}"
    text = (
        f"{what} ({spread}). Ours: {metrics['images']}, preset {metrics['preset']}, on {metrics['device']}; "
        f"steps x pairs {steps}. Code dimensions, shared + private: {codes}. Accuracy of the classifiers on real test "
        f"images: {standard}; of the stronger ones: {strong}."
    )
    if "chance" in metrics:
        text += " Chance level: the share of the majority class."
    if without := [title for title, model in models.items() if model.get("linear") == {}]:
        text += f" Without a shared code, so without linear classification: {', '.join(without)}."
    if PAPER_MODALITIES <= {*metrics["modalities"]}:
        text += " The paper: MNIST and all of SVHN; 5 seeds, as it says of Table 1."
    return text


def markdown(words: pd.DataFrame, text: str) -> str:
    """Return a table of text in Markdown below its caption. All special characters are escaped."""
    words = words.reset_index().map(lambda cell: cell.translate(MARKDOWN))
    words.columns = [column.translate(MARKDOWN) for column in words.columns]
    return f"{text.translate(MARKDOWN)}\n\n{words.to_markdown(index=False, disable_numparse=True)}\n"


def latex(words: pd.DataFrame, text: str) -> str:
    """Return a table of text in LaTeX, for the package booktabs. All special characters are escaped."""
    words = words.reset_index().map(lambda cell: cell.translate(LATEX))
    words.columns = [column.translate(LATEX) for column in words.columns]
    return words.style.hide(axis="index").to_latex(hrules=True, caption=text.translate(LATEX))


def render(frame: pd.DataFrame, titles: dict[str, str], text: str) -> dict[str, str]:
    """Return a table of `table` by file ending: csv (numbers), md and tex (for reading, with `text` as caption)."""
    flat = frame.set_axis(["_".join(column) for column in frame.columns], axis=1)
    words = readable(frame, titles)
    return {
        "csv": flat.to_csv(index_label="model", float_format="%.2f", lineterminator="\n"),
        "md": markdown(words, text),
        "tex": latex(words, text),
    }
