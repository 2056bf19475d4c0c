"""Which room of qmvae/ may know which, and that the picture in CONTRIBUTING.md shows the code as it is."""

import json
import runpy

from PIL import Image
from tiny import ROOT

SHOWN = runpy.run_path(str(ROOT / "docs" / "rooms.py"))["shown"]()
IMPORTS = SHOWN["imports"]
BELOW = {  # the rooms that a room may import; all others may import whatever makes no circle
    "params": set(),
    "gaussian": set(),
    "nets": {"gaussian"},
    "quadruplet": set(),
    "graphs": set(),
    "files": set(),
    "models": {"gaussian", "nets", "quadruplet"},
    "data": {"params", "files"},
    "figures": {"files"},
    "tables": {"files"},
    "training": {"models", "graphs", "data", "checkpoint", "params", "files"},
    "judges": {"models", "data", "nets", "training", "params", "files"},
    "evaluation": {"models", "data", "checkpoint", "judges", "probes", "training", "params", "files"},
}


def test_no_import_goes_back():
    for here, allowed in BELOW.items():
        assert set(IMPORTS[here]) <= allowed, f"{here} may not import {set(IMPORTS[here]) - allowed}"
    for here in IMPORTS:
        seen, todo = set(), list(IMPORTS[here])
        while todo:
            other = todo.pop()
            assert other != here, f"{here} is imported by what it imports"
            if other not in seen:
                seen.add(other)
                todo += IMPORTS[other]


def test_the_picture_shows_the_code_as_it_is():
    drawn = json.loads(Image.open(ROOT / "docs" / "rooms.png").info["Description"])
    assert drawn == SHOWN, "run python docs/rooms.py"
