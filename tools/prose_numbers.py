"""Fill the numbers of the text from their sources. `python tools/prose_numbers.py`; with `--check` compare only.

A comment directly after a number names its source. GitHub, Jupyter and the site do not show it:

    90.1<!-- subset/metrics.json models.qmvae.cross.mnist_to_svhn % --> %

- File: below reports/, or `params.yaml`, or `paper` for the paper's tables (PAPER in qmvae/report/tables.py).
- Key in JSON and YAML: names joined by dots, `0` in a list, `min` or `max` of numbers. An entry stands for its mean.
- Key in CSV and Markdown tables: row and column, `_` for a space. A row is its first cell, or its first cells joined
  by `/`; `<name>_*` are the rows `<name>_<seed>` as one entry. Key in a Markdown file's sentence: its words, `#` for
  the number, as in `#_conditions/s`.
- `a - b`, `a / b` of the same seeds; `a p b`: p of a paired t-test over common ones. b may begin with its own file.
- `%` at the end: times 100. The number keeps its decimals, plus sign and thousands separators. `90.1 ± 0.4` needs an
  entry with mean and std.

`<!-- table subset/tables/table1.md -->` and `<!-- end -->` enclose a copy of a file. With ` columns 0 1` after the
name it has these columns of the table only, counted from 0, and no caption; ` rows 0 2` behind that chooses rows.
`<!-- by hand: <reason> -->` marks numbers without a source. Comments in code have no effect. (A tools/numbers.py would
hide Python's module `numbers`.)
"""

import argparse
import csv
import difflib
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import ruamel.yaml

from qmvae.pipeline.files import FileError, load_json, save_text
from qmvae.report.tables import PAPER
from qmvae.report.verdicts import paired_p, pairs

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "reports/subset/checkpoint/README.md",
)
HINT = "correct the file's name in the comment, or run what writes it"
NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?"
CODE = r"^ *(?P<fence>```+).*?^ *(?P=fence)|(?<!`)(?P<tick>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=tick)(?!`)"
PART = r"(?: columns (?P<columns>[\d ]+)(?: rows (?P<rows>[\d ]+))?)?"
TABLE = rf"(?P<mark><!-- table (?P<table>\S+){PART} -->)(?P<copy>(?:(?!<!--).)*)<!-- end -->"
SOURCED = rf"(?P<number>(?<![\w.,])(?:{NUMBER} ± )?{NUMBER})?<!--(?P<source>.*?)-->"
MARKS = re.compile(f"{CODE}|{TABLE}|{SOURCED}", re.DOTALL | re.MULTILINE)


def fill(text: str, root: Path) -> tuple[str, list[str], list[str]]:
    """Return Markdown with the numbers of the sources, then changes and faults; these begin with their line."""
    changes: list[str] = []
    faults: list[str] = []

    def replace(match: re.Match) -> str:
        old, source, line = match["number"], match["source"], 1 + text.count("\n", 0, match.start())
        try:
            if match["table"]:
                if not match["table"].endswith(".md"):
                    raise FileError(f"{match['table']}: expected a Markdown file, <name>.md, for a table")
                new = f"\n\n{read_table(root, match['table'], match['columns'], match['rows'])}\n\n"
                if new != match["copy"]:
                    changes.append(f"{line}: the table differs from reports/{match['table']}")
                return f"{match['mark']}{new}<!-- end -->"
            if source is None or re.match(r"\s*by hand: \S", source):
                return match[0]
            if old is None:
                raise FileError(
                    f"<!--{source}-->: expected a number directly before it; a table ends with <!-- end -->"
                )
            new = evaluate(root, source.split(), old)
        except FileError as fault:
            faults.append(f"{line}: {fault}")
            return match[0]
        except (ValueError, TypeError, ArithmeticError, csv.Error) as error:
            place = (source or match["table"]).strip()
            faults.append(f"{line}: {place}: has no number: {error}; correct the comment or its source")
            return match[0]
        if new != old:
            changes.append(f"{line}: written {old}, source says {new} ({source.strip()})")
        return f"{new}<!--{source}-->"

    return MARKS.sub(replace, text), changes, faults


def evaluate(root: Path, words: list[str], old: str) -> str:
    """Return the number that a comment's words stand for, written as `old` is. Raises FileError."""
    scale = 100 if words[-1:] == ["%"] else 1
    words = words[:-1] if scale == 100 else words
    cut = next((i for i, word in enumerate(words) if word in ("-", "/", "p")), len(words))
    entry, operator, rest = look_up(root, words[:cut]), words[cut : cut + 1], words[cut + 1 :]
    if " ± " in old:
        if operator or not isinstance(entry, dict) or not {"mean", "std"} <= {*entry}:
            raise FileError(f"{' '.join(words)}: {old} needs an entry with mean and std; else write a comment for each")
        parts = zip(old.split(" ± "), (entry["mean"], entry["std"]), strict=True)
        return " ± ".join(write(scale * scalar(value, words), part) for part, value in parts)
    if not operator:
        return write(scale * scalar(entry, words), old)
    other = look_up(root, rest if rest and is_file(rest[0]) else [words[0], *rest])
    if operator == ["p"]:
        if not all(isinstance(side, dict) and isinstance(side.get("seeds"), dict) for side in (entry, other)):
            raise FileError(f"{' '.join(words)}: a p-value needs two entries with `seeds`")
        first, second = ({seed: scalar(v, words) for seed, v in side["seeds"].items()} for side in (entry, other))
        if len(both := pairs(first, second)) < 2:
            raise FileError(f"{' '.join(words)}: a p-value needs two seeds that both entries have; there is one")
        return write(paired_p(both), old)
    seeds = [{*side["seeds"]} for side in (entry, other) if isinstance(side, dict) and "seeds" in side]
    if len(seeds) == 2 and seeds[0] != seeds[1]:
        raise FileError(f"{' '.join(words)}: the two have different seeds; take the difference of the table of claims")
    a, b = scalar(entry, words), scalar(other, words)
    return write(scale * (a - b if operator == ["-"] else a / b), old)


def write(value: float, old: str) -> str:
    """Return a number with the decimals, the plus sign and the thousands separators of `old`. Raises ValueError."""
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, but the result is {value}")
    comma = "" if re.search(r"\d{4}", old) else ","
    text = f"{value:{'+' if old[0] == '+' else ''}z{comma}.{len(old.partition('.')[2])}f}"
    return text if "-" in old else text.replace("-", "−")


def scalar(entry: Any, words: list[str]) -> float:
    """Return an entry's number, or its mean. A text gives the number that it begins with."""
    found = entry.get("mean", entry) if isinstance(entry, dict) else entry
    if isinstance(found, str) and (match := re.match(rf"{NUMBER}(?:e[+-]\d+)?", found)):
        found = float(match[0].replace(",", "").replace("−", "-"))
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        more = f"it has {', '.join(map(str, found))}" if isinstance(found, dict) else f"it is {str(found)[:60]!r}"
        raise FileError(f"{' '.join(words)}: expected a number, but {more}; correct the key")
    return found


def is_file(word: str) -> bool:
    """Return whether a comment's word names a file."""
    return word == "paper" or word.endswith((".json", ".yaml", ".csv", ".md"))


def look_up(root: Path, words: list[str]) -> Any:
    """Return the entry of a file, from the words [file, key], or [file, row, column] for a table. Raises FileError."""
    name, *key = words or [""]
    if not is_file(name):
        raise FileError(f"{name!r} is no source; expected `paper` or a file .json, .yaml, .csv or .md, then a key")
    if name.endswith((".csv", ".md")) and len(key) == 2:
        return cell(read(root, name), name, *key)
    if name.endswith(".md") and len(key) == 1 and "#" in key[0]:
        found = re.findall(re.escape(key[0].replace("_", " ")).replace(r"\#", f"({NUMBER})"), read(root, name))
        if len(found) != 1:
            raise FileError(f"{name}: {key[0]} is there {len(found)} times; give words that are there once")
        return found[0]
    if name.endswith((".csv", ".md")) or len(key) != 1:
        expected = "<row> <column>" if name.endswith((".csv", ".md")) else "names joined by dots"
        raise FileError(f"{' '.join(words)}: expected {expected} after {name}, with _ for a space")
    entry = read(root, name)
    for part in key[0].split("."):
        entry = dict(enumerate(entry)) if isinstance(entry, list) else entry
        names = {str(k): v for k, v in entry.items()} if isinstance(entry, dict) else {}
        if names and part in ("min", "max") and part not in names:
            names[part] = (min if part == "min" else max)(scalar(value, words) for value in names.values())
        if part not in names:
            extremes = ["min", "max"] if names and all(isinstance(v, int | float) for v in names.values()) else []
            raise FileError(
                f"{name}: no {part!r} of {key[0]}; there is {', '.join([*names, *extremes]) or 'nothing below'}"
            )
        entry = names[part]
    return {"mean": entry[0], "std": entry[1]} if isinstance(entry, tuple) else entry  # a tuple is one of PAPER


def cell(text: str, name: str, row: str, column: str) -> Any:
    """Return the cell of a row and a column in a CSV file, or in a Markdown file with any number of tables.

    The row <name>_* has the mean, std and `seeds` of all rows <name>_<seed>, as the column `seed` has it.
    """
    tables = [list(csv.reader(text.splitlines()))] if name.endswith(".csv") else markdown_tables(text)
    words = [[[word.strip().replace(" ", "_") for word in line] for line in table] for table in tables]
    lines = [(table[0], line) for table in words for line in table[1:] if line]
    several = row.endswith("_*")
    if several:
        rows = [(dict(zip(header, line, strict=False)).get("seed"), header, line) for header, line in lines]
        found = [(header, line) for seed, header, line in rows if line[0] == f"{row[:-1]}{seed}"]
    else:
        found = [(header, line) for header, line in lines if line[: row.count("/") + 1] == row.split("/")]
    if len(found) < 2 if several else len(found) != 1:
        wanted = f"two rows {row[:-1]}<seed>" if several else f"one row that begins with {row}"
        first = list(dict.fromkeys(line[0] for _, line in lines))
        near = ", ".join(difflib.get_close_matches(row, first, n=5, cutoff=0))
        raise FileError(f"{name}: expected {wanted}, found {len(found)}; the nearest first cells are {near or 'none'}")
    for header, line in found:
        if column not in header[: len(line)]:
            columns = ", ".join(header[: len(line)])
            raise FileError(f"{name}: no column {column}; there is {columns} in row {line[0]}")
    cells = [line[header.index(column)] for header, line in found]
    if not several:
        return cells[0]
    values = [scalar(value, [name, row, column]) for value in cells]
    by_seed = {line[header.index("seed")]: value for (header, line), value in zip(found, values, strict=True)}
    return {"mean": statistics.mean(values), "std": statistics.stdev(values), "seeds": by_seed}


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each line of each table in Markdown; the second line is the rule below the header."""
    blocks = re.findall(r"^\|.*(?:\n\|.*)+", text, re.MULTILINE)
    return [[[word.strip() for word in line[1:-1].split("|")] for line in block.splitlines()] for block in blocks]


def read(root: Path, name: str) -> Any:
    """Return the values of a JSON or YAML file, or the text of another one. Raises FileError."""
    path = root / name if name == "params.yaml" else root / "reports" / name
    if name == "paper":
        return PAPER
    if path.suffix == ".json":
        return load_json(path, HINT)
    try:
        text = path.read_text(encoding="utf-8")
        return ruamel.yaml.YAML(typ="safe").load(text) if path.suffix == ".yaml" else text
    except (OSError, ValueError, ruamel.yaml.YAMLError) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; {HINT}") from None


def read_table(root: Path, name: str, columns: str | None, rows: str | None) -> str:
    """Return a Markdown file, or the given columns and rows, all if None, of its first table. Raises FileError."""
    text = read(root, name).strip()
    if columns is None:
        return text
    if not columns.split() or rows is not None and not rows.split():
        raise FileError(f"{name}: expected a number or more after `columns` and after `rows`, counted from 0")
    header, _, *body = (markdown_tables(text) or [[[], []]])[0]
    try:
        chosen = body if rows is None else [body[int(row)] for row in rows.split()]
        lines = [header, ["---"] * len(header), *chosen]
        cells = [[line[int(column)] for column in columns.split()] for line in lines]
    except IndexError:
        there = f"{len(header)} columns and {len(body)} rows"
        asked = f"columns {columns}" + (f" rows {rows}" if rows else "")
        raise FileError(f"{name}: {asked}: the table has {there}, counted from 0") from None
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def fill_page(path: Path, root: Path) -> tuple[str, str, list[str], list[str]]:
    """Return a page's text before and after, its changes and its faults; these begin with their place.

    Raises FileError if the page cannot be read.
    """
    name = path.relative_to(root).as_posix()
    try:
        before = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{name}: cannot be read as UTF-8: {error}; correct it, nothing was written") from None
    if path.suffix == ".md":
        after, changes, faults = fill(before, root)
        return before, after, [f"{name}:{text}" for text in changes], [f"{name}:{text}" for text in faults]
    notebook, changes, faults = load_json(path, "run `make notebooks`"), [], []
    laid_out = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" == before
    for part in (part for part in notebook["cells"] if part["cell_type"] == "markdown"):
        text, *found = fill("".join(part["source"]), root)
        for messages, new in zip((changes, faults), found, strict=True):
            messages += [f"{name}, cell {part['id']}:{message}" for message in new]
        part["source"] = text.splitlines(keepends=True)
    if changes and not laid_out:
        faults.append(f"{name}: expected the layout that nbformat writes; run `make notebooks`")
    return before, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" if changes else before, changes, faults


def run(root: Path, check: bool) -> str:
    """Fill all pages, or only compare them, and return what changed.

    Raises FileError if a source is wrong, and then nothing is written; with `check`, also if a number is.
    """
    filled = {path: fill_page(path, root) for pattern in PAGES for path in sorted(root.glob(pattern))}
    changes = [change for *_, found, _ in filled.values() for change in found]
    if faults := [fault for *_, found in filled.values() for fault in found]:
        raise FileError("\n".join([*faults, "nothing was written"]))
    if check and changes:
        raise FileError("\n".join([*changes, "`python tools/prose_numbers.py` corrects these pages"]))
    for path, (before, after, *_) in filled.items():
        if after != before:
            save_text(path, after)
    return "\n".join(changes) or "all numbers agree with their sources"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fill the numbers of README, docs and notebooks from their sources.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a number differs")
    try:
        print(run(ROOT, parser.parse_args().check))
    except FileError as error:
        raise SystemExit(str(error)) from None
