"""Seeds or models that trained apart become one metrics.json, if all else agrees."""

import json
import subprocess
import sys

import pytest
from tiny import ROOT

from tools.join_runs import join


def metrics(seeds, values, **other):
    entry = {"mean": sum(values) / len(values), "std": 0.0, "seeds": values}
    parts = {"cross": {"a_to_b": entry}, "linear": {"a": entry}}
    return {"preset": "p", "seeds": seeds, "judges": {"a": 0.5}, "models": {"m": {"steps": 9, **parts}}} | other


def test_the_seeds_of_both_have_one_mean_and_spread():
    entry = join(metrics([0], [0.1]), metrics([2, 1], [0.2, 0.6]))["models"]["m"]["cross"]["a_to_b"]
    assert entry["seeds"] == [0.1, 0.2, 0.6] and entry["mean"] == pytest.approx(0.3)
    assert entry["std"] == pytest.approx(0.07**0.5)


def test_models_with_the_same_seeds_are_added_or_replaced():
    def of(values, steps, *names):
        model = metrics([0], values)["models"]["m"] | {"steps": steps}
        return metrics([0], values, models=dict.fromkeys(names, model), steps=steps)

    joined = join(of([0.1], 9, "qmvae", "mvae"), of([0.2], 8, "qmvae", "jmvae"))
    found = {name: (model["steps"], model["cross"]["a_to_b"]["seeds"]) for name, model in joined["models"].items()}
    assert found == {"qmvae": (8, [0.2]), "mvae": (9, [0.1]), "jmvae": (8, [0.2])}
    assert joined["steps"] == 8 and joined["seeds"] == [0]
    with pytest.raises(ValueError, match="preset: one has 'p', the other 'q'"):
        join(of([0.1], 9, "mvae"), of([0.2], 8, "qmvae") | {"preset": "q"})


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (metrics([0, 1], [0.2, 0.3]), r"seeds: both files have \[0\], and others"),
        (metrics([1], [0.2], judges={"a": 0.6}), "judges.a: one has 0.5, the other 0.6"),
        (metrics([1], [0.2], models={}), r"models: one has \['m'\], the other \[\]"),
        (
            metrics([1], [0.2], models={"m": metrics([1], [0.2])["models"]["m"] | {"steps": 8}}),
            "models.m.steps: one has 9",
        ),
    ],
)
def test_what_must_agree_is_named(second, message):
    with pytest.raises(ValueError, match=message):
        join(metrics([0], [0.1]), second)


def test_the_command_writes_both_files_or_none(tmp_path):
    first, second = tmp_path / "metrics.json", tmp_path / "second.json"
    first.write_text(json.dumps(metrics([0], [0.1])))

    def run(found):
        second.write_text(json.dumps(found))
        command = [sys.executable, ROOT / "tools" / "join_runs.py", first, second]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    before = first.read_text()
    assert "judges.a: one has 0.5" in run(metrics([1], [0.1], judges={"a": 1})).stderr and first.read_text() == before
    assert run(metrics([1], [0.3])).stdout.endswith(": m; seeds [0, 1]\n")
    assert json.loads((tmp_path / "scores.json").read_text()) == {"m": {"a_to_b": 20.0, "a": 20.0}}
    assert json.loads(first.read_text())["seeds"] == [0, 1]
