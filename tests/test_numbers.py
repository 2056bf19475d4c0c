"""Numbers of the text: each agrees with the source that it names, or has a reason for having none."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes
from tiny import ROOT

from qmvae.pipeline.files import FileError
from tools import prose_numbers

EXCEPTIONS = {
    r"(?i:sections?) [\d.]+\d(?:(?:,| and) \d\.[\d.]*\d)*": "sections of the paper",
    r"(?m)^\| [2-4]\.\d(?:\.\d|, )[^|]*": "sections of the paper, in the first cell of a row",
    r"(?:Python|torch|MultiVae) \d+(?:\.\d+)+": "versions",
    r"p [<≥] 0\.05|level 0\.05": "the level of the tests",
}
NEEDS_SOURCE = re.compile(r"\d[\d,]*\.\d+|\d+(?= ?%)|\d{1,3}(?:,\d{3})+")
HIDDEN = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|<(?!!--)[^>]*>", re.DOTALL)  # formulas, links, HTML


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the Markdown of each page and of each Markdown cell."""
    for path in (path for pattern in prose_numbers.PAGES for path in sorted(ROOT.glob(pattern))):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            yield path.relative_to(ROOT).as_posix(), text
        else:
            for cell in json.loads(text)["cells"]:
                if cell["cell_type"] == "markdown":
                    yield f"{path.name}, cell {cell['id']}", "".join(cell["source"])


def test_every_table_is_one_for_github_and_the_site():
    """Both show text instead of a table, or one more column, for a row in a list or with a comment behind its end."""
    for name, text in texts():
        for table in re.findall(r"(?m)(?:^[ \t]*\|.*\n?)+", re.sub(r"(?ms)^```.*?^```", "", text)):
            rows = table.splitlines()
            assert all(row.startswith("|") and row.endswith("|") for row in rows), (name, rows[0])
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, (name, rows[0])


def blank(text: str) -> str:
    """Return as many lines of nothing."""
    return "\n" * text.count("\n")


def by_hand(text: str) -> str:
    """Return Markdown without the paragraphs, list items and table rows that have a comment `by hand`.

    In the header row of a table the comment covers the table.
    """
    kept, row, table = "", False, False
    for unit in re.split(r"(?m)^(?=[ \t]*$|\||[ \t]*(?:[-*]|\d+\.) )", text):
        was_row, row, marked = row, unit.startswith("|"), "<!-- by hand:" in unit
        table = row and (table if was_row else marked)
        kept += blank(unit) if marked or table else unit
    return kept


def without_source(text: str) -> list[str]:
    """Return the numbers that need a source and have none, with their lines."""

    def mark(match: re.Match) -> str:
        return match[0] if "by hand:" in (match["source"] or "") else blank(match[0])

    text = by_hand(HIDDEN.sub(lambda match: blank(match[0]), prose_numbers.MARKS.sub(mark, text)))
    for pattern in EXCEPTIONS:
        text = re.sub(pattern, lambda match: blank(match[0]), text)
    found = NEEDS_SOURCE.finditer(re.sub(r"<!--.*?-->", "", text))
    return [f"{1 + text.count(chr(10), 0, match.start())}: {match[0]}" for match in found]


def test_every_number_has_a_source_or_a_reason():
    pages = dict(texts())
    found = [f"{name}:{number}" for name, text in pages.items() for number in without_source(text)]
    assert len(pages) > 20 and not found, "add a comment (CONTRIBUTING.md, Numbers) to " + ", ".join(found)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a 1.5, b 3 %, c 4%,\nd 1,000, e 12", ["1: 1.5", "1: 3", "1: 4", "2: 1,000"]),
        ('`1.5`, $1.5$, [a](1.5.md), <img width="1.5">\n\n```\n1.5\n```\n\n$$\n1.5\n$$\n', []),
        ("1.5<!-- a.json b --> and 2.5", ["1: 2.5"]),
        ("<!-- table a.md -->\n\n| 1.5 |\n\n<!-- end -->\n\n2.5", ["7: 2.5"]),
        ("1.5 and\n2.5.<!-- by hand: a reason -->\n\n3.5", ["4: 3.5"]),
        ("- 1.5<!-- by hand: a reason -->\n- 2.5\n  3.5", ["2: 2.5", "3: 3.5"]),
        ("| a |\n|---|\n| 1.5<!-- by hand: a reason --> |\n| 2.5 |", ["4: 2.5"]),
        ("| a<!-- by hand: a reason --> |\n|---|\n| 1.5 |\n\n| b |\n|---|\n| 2.5 |", ["7: 2.5"]),
        ("section 4.1, sections 3.2 and 3.4, Python 3.11, p < 0.05\n\n| 4.2.1, a | 2.5 |", ["3: 2.5"]),
    ],
)
def test_which_numbers_need_a_source(text, numbers):
    assert without_source(text) == numbers


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 6144


@pytest.fixture
def root(tmp_path):
    """A project with one source of each kind."""
    accuracy = {"mean": 0.90085, "std": 0.0036, "seeds": {"0": 0.9, "1": 0.8, "5": 0.95}}
    other = {"mean": 0.77, "std": 0.06, "seeds": {"5": 0.82, "0": 0.7, "1": 0.75, "6": 0.5}}
    values = {
        "q": accuracy,
        "d": other,
        "c": {"mean": 0.8, "std": 0.1, "seeds": {"5": 0.7, "0": 0.8, "1": 0.9}},
        "steps": 131410,
        "down": -1.25,
        "name": "text",
        "by": {"4000": {"a+b": 1.5}},
    }
    values |= {
        "one": {"seeds": {"1": 0.9}},
        "zero_only": {"seeds": {"0": 0.9}},
        "odd": {"seeds": {"0": "a", "1": None}},
        "none": [],
    }
    values |= {"nan": math.nan, "list": [1, math.nan], "huge": 10**400, "zero": 0, "big": 1e308}
    values |= {
        "same": {"seeds": {"0": 0.5, "1": 0.5}},
        "spread": {"mean": 0.9, "std": "text"},
        "mixed": [1, "text", {"a": 2}],
    }
    tables = {
        "runs.csv": 'name,steps,a value\nx_1,10,0.5\nx_1,20,0.75\n"y, 2",10,-0.25\n',
        "speed.md": "A rate of 1,011 GFLOP/s. It fell by −3.2 points.\n\n| | in s |\n|:--|--:|\n| b c | 3.9e+03 |\n\n"
        "|m|n|\n|-|-|\n|b|70%|\n",
        "table1.md": "Table 1.\n\n| a |\n|---|\n| 1.5 |\n",
        "wide.md": "Table 2.\n\n| a   | b   | c   |\n|:----|:----|:----|\n| 1.5 |     | 3.5 |\n| 4.5 |     | 5.5 |\n",
        "tuning.csv": "name,seed,acc\na_0,0,0.5\na_12,12,0.25\na_1,1,0.75\na_8000,0,0.9\na_b_0,0,0.5\n"
        "b_0,0,0.5\nb_3,0,0.5\nc_0,0,\nc_1,1,0.5\nd_12,12,0.2\nd_0,0,0.4\nd_1,1,0.55\ne_0,0,0.5\ne_1,1,0.5\n",
        "broken.json": "{",
        "short.csv": "name,steps\nx\n\n",
    }
    (tmp_path / "reports" / "p").mkdir(parents=True)
    for name, text in ({"m.json": json.dumps(values)} | tables).items():
        (tmp_path / "reports" / "p" / name).write_text(text)
    (tmp_path / "params.yaml").write_text("presets:\n  paper:\n    steps: 4000\n    share: 0.6\n")
    return tmp_path


@pytest.mark.parametrize(
    ("written", "source", "expected"),
    [
        ("1.0", "p/m.json q.mean %", "90.1"),  # a changed number
        ("0.000", "p/m.json q", "0.901"),  # an entry stands for its mean; three decimals
        ("1", "p/m.json q %", "90"),
        ("1.0 ± 9.9", "p/m.json q %", "90.1 ± 0.4"),
        ("1.0", "p/m.json q.seeds.1 %", "80.0"),
        ("1.0 ± 1.0", "p/tuning.csv a_* acc %", "50.0 ± 25.0"),
        ("1.0", "p/tuning.csv a_* acc - a_0 acc", "0.0"),
        ("1.0", "p/tuning.csv a_1 acc / a_* acc", "1.5"),
        ("1.00", "p/tuning.csv a_* acc p d_* acc", "0.12"),  # paired by seed: differences 0.1, 0.05, 0.2
        ("1.0", "p/m.json q.seeds.min %", "80.0"),
        ("1.0", "p/m.json q.seeds.max %", "95.0"),
        ("1,000", "p/m.json steps", "131,410"),
        ("1000", "p/m.json steps", "131410"),
        ("9", "p/m.json steps", "131,410"),
        ("9.0", "p/m.json by.4000.a+b", "1.5"),
        ("9", "p/m.json mixed.2.a", "2"),
        ("9.00", "p/m.json down", "−1.25"),
        ("-9.00", "p/m.json down", "-1.25"),
        ("+9.0", "p/m.json q - c %", "+10.1"),
        ("9.0", "p/m.json c - q %", "−10.1"),
        ("0.000", "p/m.json q p d", "0.100"),
        ("0.000", "p/m.json same p same", "1.000"),  # seeds that do not differ
        ("9", "params.yaml presets.paper.steps / p/m.json steps %", "3"),
        ("9", "params.yaml presets.paper.share %", "60"),
        ("9.0 ± 9.0", "paper cross.qmvae.mnist_to_svhn", "92.2 ± 0.3"),
        ("9.0", "paper linear.mmvae.mnist", "91.3"),
        ("9.00", "p/runs.csv x_1/20 a_value", "0.75"),
        ("9.00", "p/runs.csv y,_2 a_value", "−0.25"),
        ("9", "p/runs.csv x_1/20 a_value - x_1/10 a_value %", "25"),
        ("9", "p/speed.md b_c in_s", "3,900"),
        ("9", "p/speed.md b n", "70"),
        ("9", "p/speed.md #_GFLOP/s", "1,011"),
        ("9.0", "p/speed.md fell_by_#_points", "−3.2"),
    ],
)
def test_a_number_is_written_as_its_source_has_it(root, written, source, expected):
    text = f"| **{written}<!-- {source} -->** % |"
    filled, changes, faults = prose_numbers.fill(text, root)
    assert filled == text.replace(written, expected) and not faults
    assert changes == [f"1: written {written}, source says {expected} ({source})"]
    assert prose_numbers.fill(filled, root) == (filled, [], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1<!-- p/lost.json q -->", "p/lost.json: file not found; correct the file's name"),
        ("1<!-- p/lost.csv a b -->", "p/lost.csv: cannot be read: No such file"),
        ("1<!-- p/broken.json q -->", "p/broken.json: cannot be read as JSON"),
        ("1<!-- p/m.txt q -->", "'p/m.txt' is no source; expected"),
        ("1<!-- -->", "'' is no source"),
        ("1<!-- p/m.json -->", "p/m.json: expected names joined by dots after p/m.json"),
        ("1<!-- p/m.json q.sum -->", "p/m.json: no 'sum' of q.sum; there is mean, std, seeds"),
        ("1<!-- p/m.json q.seeds.7 -->", "no '7' of q.seeds.7; there is 0, 1, 5, min, max"),
        ("1<!-- p/m.json steps.x -->", "no 'x' of steps.x; there is nothing below"),
        ("1<!-- p/m.json by -->", "p/m.json by: expected a number, but it has 4000"),
        ("1<!-- p/m.json name -->", "p/m.json name: expected a number, but it is 'text'"),
        ("1<!-- p/m.json q percent -->", "p/m.json q percent: expected names joined by dots"),
        ("1 ± 2<!-- p/m.json steps -->", "1 ± 2 needs an entry with mean and std"),
        ("1<!-- p/m.json q p steps -->", "a p-value needs two entries with `seeds`"),
        ("1<!-- p/m.json q p one -->", "a p-value needs two seeds that both entries have; there is one"),
        (
            "1<!-- p/m.json q - d -->",
            "p/m.json q - d: the two have different seeds; take the difference of the table of",
        ),
        ("1<!-- p/tuning.csv a_* acc - e_* acc -->", "a_* acc - e_* acc: the two have different seeds"),
        ("1<!-- p/m.json one p zero_only -->", "has no number: no seed in common: 1 and 0; compare"),
        ("1<!-- p/m.json q p list -->", "a p-value needs two entries with `seeds`"),
        ("1<!-- p/m.json q p odd -->", "p/m.json q p odd: expected a number, but it is 'a'"),
        ("1 ± 2<!-- p/m.json spread -->", "p/m.json spread: expected a number, but it is 'text'"),
        ("1<!-- p/m.json none.min -->", "p/m.json: no 'min' of none.min; there is nothing below"),
        ("1<!-- p/m.json mixed.max -->", "p/m.json mixed.max: expected a number, but it is 'text'"),
        ("1<!-- p/m.json list.min -->", "p/m.json list.min: expected a number, but it is 'nan'"),
        ("1<!-- p/m.json nan -->", "p/m.json nan: expected a number, but it is 'nan'"),
        ("1<!-- p/m.json huge -->", "p/m.json huge: has no number: int too large to convert to float"),
        ("1<!-- p/m.json big % -->", "p/m.json big %: has no number: expected a finite number, but the result is inf"),
        ("1<!-- p/m.json q / zero -->", "p/m.json q / zero: has no number: float division by zero; correct the"),
        (
            "1<!-- p/short.csv y steps -->",
            "expected one row that begins with y, found 0; the nearest first cells are x",
        ),
        ("1<!-- p/short.csv x steps -->", "p/short.csv: no column steps; there is name in row x"),
        ("1<!-- p/runs.csv x_1 -->", "expected <row> <column> after p/runs.csv"),
        (
            "1<!-- p/runs.csv x_1 steps -->",
            "expected one row that begins with x_1, found 2; the nearest first cells are x_1, y,_2",
        ),
        ("1<!-- p/runs.csv x_1/10 lost -->", "p/runs.csv: no column lost; there is name, steps, a_value"),
        (
            "1<!-- p/tuning.csv b_* acc -->",
            "p/tuning.csv: expected two rows b_<seed>, found 1; the nearest first cells are b_3, b_0, ",
        ),
        ("1<!-- p/tuning.csv c_* acc -->", "p/tuning.csv c_* acc: expected a number, but it is ''"),
        ("1<!-- p/tuning.csv a_* lost -->", "p/tuning.csv: no column lost; there is name, seed, acc in row a_0"),
        ("1<!-- p/tuning.csv a_* acc p a_0 acc -->", "a p-value needs two entries with `seeds`"),
        ("1<!-- p/speed.md #_s -->", "#_s is there 0 times"),
        ("a<!-- p/m.json q -->", "expected a number directly before it"),
        ("1 <!-- p/m.json q -->", "expected a number directly before it"),
        ("1<!-- by hand: -->", "'by' is no source"),
        ("<!-- table p/table1.md -->", "a table ends with <!-- end -->"),
        ("<!-- table p/m.json --><!-- end -->", "p/m.json: expected a Markdown file"),
        (
            "<!-- table p/wide.md columns 0 3 rows 0 --><!-- end -->",
            "rows 0: the table has 3 columns and 2 rows",
        ),
        (
            "<!-- table p/wide.md columns 0 rows 2 --><!-- end -->",
            "rows 2: the table has 3 columns and 2 rows",
        ),
        ("<!-- table p/wide.md columns   rows 0 --><!-- end -->", "p/wide.md: expected a number or more after"),
        ("<!-- table p/wide.md columns 0 rows   --><!-- end -->", "p/wide.md: expected a number or more after"),
    ],
)
def test_a_fault_in_a_comment_is_named(root, text, message):
    filled, changes, (fault,) = prose_numbers.fill(f"a\n\n{text}\n", root)
    assert fault.startswith("3: ") and message in fault
    assert filled == f"a\n\n{text}\n" and not changes


@pytest.mark.parametrize("rows, expected", [(" rows 1", ["| 4.5 | 5.5 |"]), ("", ["| 1.5 | 3.5 |", "| 4.5 | 5.5 |"])])
def test_a_table_may_have_some_of_the_columns_and_rows(root, rows, expected):
    marks = f"<!-- table p/wide.md columns 0 2{rows} -->{{}}<!-- end -->"
    filled, changes, faults = prose_numbers.fill(marks.format("old"), root)
    assert filled == marks.format("\n".join(["\n", "| a | c |", "| --- | --- |", *expected, "\n"])) and not faults
    assert changes == ["1: the table differs from reports/p/wide.md"]
    assert prose_numbers.fill(filled, root) == (filled, [], [])


def test_comments_in_code_have_no_effect(root):
    text = "`1<!-- lost -->`, ``2`<!-- lost -->``\n\n```\n3<!-- lost -->\n```\n\n4<!-- by hand: a reason -->"
    assert prose_numbers.fill(text, root) == (text, [], [])


def write_pages(root) -> dict:
    """Write a README and a notebook with a number and a table each that differ; return their texts by path."""
    text = "# a\n\n1.0<!-- p/m.json q % -->\n\n<!-- table p/table1.md -->old<!-- end -->\n"
    cells = [
        new_markdown_cell("# ä\n\n1.0<!-- p/m.json q % -->", id="first"),
        new_code_cell("'1.0<!-- p/m.json q -->'"),
    ]
    notebook = writes(new_notebook(cells=cells)) + "\n"
    (root / "notebooks").mkdir()
    pages = {root / "README.md": text, root / "notebooks" / "01_a.ipynb": notebook}
    for path, content in pages.items():
        path.write_text(content, encoding="utf-8")
    return pages


def test_a_page_that_is_no_text_is_named_and_no_page_is_written(root):
    pages = write_pages(root)
    (root / "README.md").write_bytes("1.0<!-- p/m.json q % --> ä".encode("latin-1"))
    with pytest.raises(FileError, match="README.md: cannot be read as UTF-8: .*nothing was written"):
        prose_numbers.run(root, check=False)
    notebook = root / "notebooks" / "01_a.ipynb"
    assert notebook.read_text(encoding="utf-8") == pages[notebook]


def test_check_names_places_and_changes_nothing(root):
    pages = write_pages(root)
    with pytest.raises(FileError) as raised:
        prose_numbers.run(root, check=True)
    assert str(raised.value).splitlines() == [
        "README.md:3: written 1.0, source says 90.1 (p/m.json q %)",
        "README.md:5: the table differs from reports/p/table1.md",
        "notebooks/01_a.ipynb, cell first:3: written 1.0, source says 90.1 (p/m.json q %)",
        "`python tools/prose_numbers.py` corrects these pages",
    ]
    assert all(path.read_text(encoding="utf-8") == text for path, text in pages.items())


def test_numbers_and_tables_are_filled_and_all_else_is_kept(root):
    pages = write_pages(root)
    assert "README.md:3" in prose_numbers.run(root, check=False)
    table = (root / "reports" / "p" / "table1.md").read_text()
    (readme, before), (path, notebook) = pages.items()
    expected = before.replace("1.0", "90.1").replace("old", f"\n\n{table}\n")
    assert readme.read_text() == expected and table in expected
    assert path.read_text(encoding="utf-8") == notebook.replace('"1.0', '"90.1')
    assert prose_numbers.run(root, check=True) == "all numbers agree with their sources"


def test_nothing_is_written_if_one_source_is_wrong(root):
    pages = write_pages(root)
    path = root / "notebooks" / "01_a.ipynb"
    path.write_text(pages[path].replace("q %", "lost"), encoding="utf-8")
    with pytest.raises(FileError, match="cell first:3: .*no 'lost'(?s:.*)nothing was written"):
        prose_numbers.run(root, check=False)
    assert (root / "README.md").read_text() == pages[root / "README.md"]


def test_a_notebook_in_another_layout_is_not_rewritten(root):
    path = root / "notebooks" / "01_a.ipynb"
    text = json.dumps(json.loads(write_pages(root)[path]))
    path.write_text(text)
    with pytest.raises(FileError, match="expected the layout that nbformat writes"):
        prose_numbers.run(root, check=False)
    assert path.read_text() == text


def test_the_script_runs_as_make_check_runs_it():
    command = [sys.executable, "tools/prose_numbers.py", "--check"]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "all numbers agree with their sources\n", "")
    assert "tools/prose_numbers.py --check" in (ROOT / "Makefile").read_text()
