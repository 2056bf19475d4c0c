"""The parameters of a run: params.yaml, with every key checked. They cannot be changed afterwards.

`load()` returns the chosen preset only, so that no caller depends on which preset it is.
"""

import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from qmvae.pipeline import files
from qmvae.pipeline.schema import File, Params
from qmvae.pipeline.sections import MODELS, NAME, TITLE, ParamsError

TEXTS = {  # of pydantic's faults, by type or by the pattern that a text does not match, where its own are no help
    "extra_forbidden": "unknown key; remove it or correct its spelling",
    "missing": "missing; add it",
    "model_type": "expected a mapping, such as {net: conv} for a modality",
    NAME: "expected lower-case letters, digits and underscores, the first a letter",
    TITLE: "expected one line of text without $, the first character no space or underscore",
}
SCALAR = r"""'(?:[^'\n]|'')*'|"(?:[^"\\\n]|\\.)*"|.+?(?=\s+#|\s*$)"""  # of YAML, in one line
PUBLISHED, SOURCE = "published", "subset"  # the preset of the committed models, and the preset that trained them
RESERVED = {  # names that no preset of the file may have
    PUBLISHED: "this name is for the committed models",
    "code": "artifacts/code has the hashes of the code",
    "site": "reports/site is the website",
    "bench": "reports/bench has the measurements of speed",
}


def find_root(start: Path | None = None) -> Path:
    """Return the folder of params.yaml: `start` (the working directory) or the nearest above it. Raises ParamsError."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise ParamsError(f"no params.yaml in {start} or above it; run from inside the project's folder")


def parse(path: Path, yaml: YAML | None = None) -> Any:
    """Return the document of a YAML 1.2 file, by a given parser or a safe one. Raises ParamsError."""
    yaml = yaml or YAML(typ="safe", pure=True)
    try:
        return yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from None
    except Exception as error:  # a hostile document trips the parser in many ways
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())[:500]}") from None


def load(preset: str | None = None, root: Path | None = None) -> Params:
    """Read and check params.yaml.

    preset: use this preset instead of the file's. `published` is no entry of the file: its settings
    are those of `subset`, with one seed and the models in reports/subset/checkpoint; see pipeline/published.py.
    root: the folder of params.yaml; found from the working directory if not given.
    Raises ParamsError with every fault of the file in one message.
    """
    root = root or find_root()
    path = root / "params.yaml"
    document = parse(path)
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: expected a mapping with the keys {', '.join(File.model_fields)}")
    if preset == PUBLISHED and isinstance(found := document.get("presets"), dict) and SOURCE not in found:
        raise ParamsError(f"{path}: presets: has no {SOURCE}, whose settings the preset {PUBLISHED} has; restore it")
    if preset is not None:
        document["preset"] = SOURCE if preset == PUBLISHED else preset
    try:
        file = File.model_validate(document)
    except ValidationError as error:
        raise ParamsError(explain(path, error)) from None
    for name, use in RESERVED.items():
        if name in file.presets:
            raise ParamsError(f"{path}: presets.{name}: {use}; rename the preset")
    settings = file.settings(file.preset)
    shared = ("preset", "device", "modalities", "ablations")
    chosen: dict[str, Any] = {name: getattr(file, name) for name in shared}
    chosen |= {name: value for name, value in file.presets[file.preset] if name not in ("training", "overrides")}
    chosen |= {name: section for name, (section, _) in settings.items()}
    titles = {name: chosen["images"].titles.get(name, name) for name in file.modalities}
    chosen["images"] = chosen["images"].model_copy(update={"titles": titles})
    run = Params(
        root=root,
        data=root / os.path.expanduser(file.folder),
        training={name: training for name, (_, training) in settings.items()},
        **chosen,
    )
    return _published(run) if preset == PUBLISHED else run


def _published(run: Params) -> Params:
    """Return the run with its committed models only, the values and steps that they were trained with, and one seed."""
    sections = {}
    training = {name: own.model_copy(update={"seeds": own.seeds[:1]}) for name, own in run.training.items()}
    for name in run.models:
        path = published_folder(run.reports / "checkpoint", name) / "model.json"
        if path.is_file():
            try:
                about = json.loads(path.read_text(encoding="utf-8"))
                sections[name] = MODELS[name].model_validate(about["config"])
                training[name] = training[name].model_copy(update={"steps": about["steps"]})
            except (OSError, ValueError, KeyError, TypeError) as error:
                fault = " ".join(str(error).split())[:300]
                raise ParamsError(f"{path}: does not describe a model: {fault}; restore the committed file") from None
    own = {"preset": PUBLISHED, "models": list(sections), "training": training}
    return run.model_copy(update=sections | own)


def published_folder(folder: Path, name: str) -> Path:
    """Return where a checkpoint folder has a model: Q-MVAE at its top, others in a subfolder of their name."""
    return folder if name == "qmvae" else folder / name


def explain(path: Path, error: ValidationError) -> str:
    """Return every fault of a file in one message, with its key, what was found and what was expected."""
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]")  # which pydantic adds for a key
        found = "" if fault["type"] in ("missing", "value_error") or not where else f" (found {fault['input']!r:.60})"
        kind = fault.get("ctx", {}).get("pattern", fault["type"])
        text = TEXTS.get(kind, fault["msg"].removeprefix("Value error, "))
        lines.append(f"  {where + ': ' if where else ''}{text}{found}")
    return f"{path} cannot be used:\n" + "\n".join(dict.fromkeys(lines))


def switch(root: Path, **values: str) -> None:
    """Change top-level values of params.yaml (`preset`, `folder`) and keep every other character.

    The file stays as it was where the result would not be valid. Raises ParamsError.
    """
    path = (root / "params.yaml").resolve()  # a link stays a link
    yaml = YAML()
    yaml.width = 4096
    document = parse(path, yaml)
    if not isinstance(document, CommentedMap):
        raise ParamsError(f"{path}: expected a mapping with the keys {', '.join(File.model_fields)}")
    if all(document.get(key) == value for key, value in values.items()):
        return
    lines = path.read_bytes().decode("utf-8").splitlines(keepends=True)
    for key in values.keys() & document.keys():
        row, column = document.lc.value(key)
        scalar = io.StringIO()
        yaml.dump({key: values[key]}, scalar)
        value = scalar.getvalue().strip().removeprefix(f"{key}: ").replace("\\", r"\\")
        lines[row] = lines[row][:column] + re.sub(SCALAR, value, lines[row][column:], count=1)
    text = "".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_bytes(text)
        try:
            if parse(Path(folder) / "params.yaml") != document | values:
                keys = " and ".join(f"{key}: {value}" for key, value in values.items())
                raise ParamsError(f"{path}: cannot be changed by a program; write {keys} into it by hand")
            load(root=Path(folder))
        except ParamsError as error:
            raise ParamsError(str(error).replace(folder, str(root))) from None
    with files.replacing(path) as partial:
        partial.write_bytes(text)
        shutil.copymode(path, partial)
