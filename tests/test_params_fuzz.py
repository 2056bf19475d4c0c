"""Any params.yaml runs to a plan or is refused with a message that names a key; hypothesis looks for exceptions."""

import contextlib
import copy
import functools
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import COMMITTED, ROOT

from qmvae.pipeline.params import ParamsError, load
from qmvae.pipeline.repro import plan


def paths(node, path=()):
    """Every place in the document, as the keys that lead there."""
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from paths(value, (*path, key))


PLACES = [path for path in paths(COMMITTED) if path]
EDGES = [0, -1, 1, 2, 2**31, 2**64, -(2**63), 10**400, 0.5, 1e308, 5e-324, float("nan"), float("inf"), True, None, ""]
EDGES += ["1e-3", "quick", "cuda", "../x", "mnist", "all", "\0", "é" * 300]
CONTAINERS = [[], {}, [[]], {"mnist": {}}]
leaves = st.one_of(st.sampled_from(EDGES), st.integers(), st.floats(), st.text(max_size=12), st.dates(), st.binary())
shapes = st.sampled_from([[], {}, [[]], {"mnist": {}}, {1: 2}, {"": ""}])
nested = st.recursive(leaves, lambda v: st.lists(v) | st.dictionaries(leaves, v, max_size=3), max_leaves=6)
values = shapes | nested
edits = st.tuples(st.sampled_from(PLACES), st.sampled_from(["put", "put", "drop", "rename", "twin"]), values)


def apply(document, edit):
    (*way, last), what, value = edit
    try:
        parent = functools.reduce(lambda node, key: node[key], way, document)
        if what == "put":
            parent[last] = value
        elif what == "drop":
            del parent[last]
        elif what == "rename":
            parent[value if isinstance(value, str) else str(value)] = parent.pop(last)
        else:
            parent[value] = copy.deepcopy(parent[last])
    except (KeyError, IndexError, TypeError, AttributeError):
        pass  # an edit before this one took the place away
    return document


def keys_of(node):
    if isinstance(node, dict):
        return {str(key) for key in node}.union(*map(keys_of, node.values()))
    return set().union(*map(keys_of, node)) if isinstance(node, list) else set()


KEYS = keys_of(COMMITTED)


def runs_or_is_refused(text: bytes, document=None) -> str:
    """The message; empty where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "params.yaml").write_bytes(text)
        try:
            params = load(root=root)
        except ParamsError as error:
            message = str(error).replace(str(root), "")
            assert message.startswith("/params.yaml"), message
            named = (KEYS | keys_of(document)) - {""} if document is not None else ()
            assert not named or any(key in message for key in named), message
            assert "Error(" not in message and "Traceback" not in message
            return message
        else:
            sizes = [(training.steps, training.batch_size) for training in params.training.values()]
            assert all(0 < steps <= 10**9 and 2 <= batch <= 2**16 for steps, batch in sizes)
            with contextlib.chdir(root):
                try:
                    plan()
                except ParamsError as error:  # the one thing that is not checked earlier
                    assert "folder: there is no" in str(error)
            return ""


def check(*changes) -> str:
    document = functools.reduce(apply, changes, copy.deepcopy(COMMITTED))
    try:
        text = yaml.dump(document, sort_keys=False, allow_unicode=True)
    except (TypeError, RecursionError, UnicodeEncodeError, ValueError):
        return ""  # no text, no file
    return runs_or_is_refused(text.encode("utf-8", "surrogatepass"), document)


every_kind = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(every_kind, max_examples=250)
@given(st.lists(edits, min_size=1, max_size=3))
def test_edited_documents(changes):
    check(*changes)


@pytest.mark.faults
@settings(every_kind, max_examples=1000)
@given(st.lists(edits, min_size=1, max_size=4))
def test_many_edited_documents(changes):
    check(*changes)


@pytest.mark.faults
@pytest.mark.parametrize("place", [p for p in PLACES if p[:2] not in {("presets", "subset"), ("presets", "paper")}])
def test_every_place_with_every_value_of_the_edge(place):
    *_, parent, key = [place[0], *(part for part in place if isinstance(part, str))]
    message = check((place, "drop", None))
    assert not message or key in message or parent in message  # a modality too few is the modalities' fault
    for value in EDGES + CONTAINERS:
        message = check((place, "put", value))
        assert not message or key in message


TEXT = (ROOT / "params.yaml").read_bytes()
SCRAPS = [b":", b"{", b"&a", b"*a", b"<<: *a", b"? ", b"- ", b"!!python/object/apply:os.system [exit]", b"\t", b"\xff"]
SCRAPS += [b"\0", b"%", b"'", b"|", b"---\n"]
cuts = st.tuples(st.integers(0, len(TEXT)), st.integers(0, 40), st.sampled_from(SCRAPS) | st.binary(max_size=6))


@settings(every_kind, max_examples=150)
@given(st.lists(cuts, min_size=1, max_size=3))
def test_damaged_texts(changes):
    text = TEXT
    for start, length, scrap in changes:
        text = text[:start] + scrap + text[start + length :]
    runs_or_is_refused(text)


@pytest.mark.parametrize(
    "text",
    [
        b"a: &a [*a]\n",
        b"&a {*a : 1}\n",
        b"a: &a {b: *a}\n",
        b"[" * 3000,
        b"{a: " * 3000,
        b"<<: 3\n",
        b"<<: [1, 2]\n",
        b"a: !!binary =\n",
        b"a: !!timestamp 9999-99-99\n",
        b"a: 2026-13-45\n",
        b"steps: " + b"9" * 5000,
        b"x: !!float abc\n",
        b"? {a: b}\n: c\n",
        b"a: &x [1,1,1,1,1,1,1,1,1]\n" + b"".join(b"%c: &x%d [*x,*x,*x,*x]\n" % (98 + i, i) for i in range(8)),
        b"\xef\xbb\xbf",
        b"\xff\xfe",
    ],
)
def test_texts_that_trip_parsers(text):
    runs_or_is_refused(text)
    runs_or_is_refused(TEXT + b"\n" + text)
