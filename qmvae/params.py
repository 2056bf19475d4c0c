"""The parameters of a run: params.yaml read, checked to the last key, and frozen.

`load()` gives the one preset that is switched on, so that nothing behind it asks which preset it serves.
`python -m qmvae.params` checks the file and prints the plan; `--preset` and `--data` first change those lines of it.
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(gt=0, le=10**9)]
BatchSize = Annotated[int, Field(ge=2, le=2**16)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Width = Annotated[int, Field(gt=0, le=4096)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ParamsError(ValueError):
    """params.yaml is not usable; the message names each key, what was found and what was expected."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def changed(self, where: str, changes: dict[str, Any]):
        """This section with these keys set otherwise, checked again; in a mapping the keys that are not named stay.

        where: how messages call the place of the changes. Raises ValueError.
        """
        before = self.model_dump()
        if unknown := set(changes) - set(before):
            raise ValueError(f"{where}.{min(unknown)}: unknown key; there are {', '.join(sorted(before))}")
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(before[key], dict)
            before[key] = before[key] | value if both else value
        try:
            return type(self).model_validate(before)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, (where, *fault["loc"])))
            raise ValueError(f"{key}: {fault['msg']} (found {fault['input']!r:.60})") from None


class Modality(Section):
    net: Literal["mlp", "conv"]


class Images(Section):
    source: Literal["builtin", "archive", "torchvision"]
    titles: dict[Name, str]  # how figures and tables call the images of each modality
    seed: Seed = 0  # of the images that `builtin` draws


class Pairs(Section):
    multiplier: Annotated[int, Field(gt=0, le=1000)]
    redraw: bool
    seed: Seed


class Judges(Section):
    epochs: Count
    strong_steps: Count
    batch_size: BatchSize
    lr: Positive
    seed: Seed


class Training(Section):
    seeds: Annotated[list[Seed], Field(min_length=1)]
    steps: Count
    batch_size: BatchSize
    lr: Positive
    precision: Literal["float32", "bfloat16"]  # of the networks; weights and losses are float32
    cooldown: Fraction  # of training, at its end, in which the learning rate falls to 0 in a straight line
    checkpoint_every: Count
    log_every: Count

    @model_validator(mode="after")
    def _agree(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat; give each seed once")
        if self.checkpoint_every % self.log_every:  # so that a resumed run closes the log's windows at the same steps
            raise ValueError(
                f"checkpoint_every: {self.checkpoint_every} is not a multiple of log_every, {self.log_every}"
            )
        return self


class Evaluation(Section):
    conditions: Count | Literal["all"]  # test pairs judged in each direction of Table 1
    probe_pairs: Count | Literal["all"]  # training pairs that Table 2's linear layer is fitted on
    seed: Seed


class Preset(Section):
    images: Images
    pairs: Pairs
    judges: Judges
    training: Training
    evaluation: Evaluation
    # by model: keys of `training` (steps, batch_size, lr) or of the model's own section that this preset sets otherwise
    overrides: dict[Name, dict[str, Any]]


class Likelihood(Section):
    family: Literal["laplace", "gaussian", "bernoulli"]
    scale: Positive = 1.0  # of the Laplace or the Gaussian; the Bernoulli has none
    weight: Weight = 1.0


class Negatives(Section):
    policy: Literal["random", "semihard", "hardest"]
    start: Fraction
    distinct: bool
    labels: bool


class QMVAE(Section):
    objective: Literal["weighted", "printed"]
    shared: Width
    private: Width
    likelihood: dict[Name, Likelihood]
    kl_shared: Weight
    kl_private: dict[Name, Weight]
    alpha1: Weight
    alpha2: Weight
    beta: Weight
    quadruplet: list[Literal["first", "second", "third"]]
    prior_expert: bool
    unimodal_elbos: bool
    negatives: Negatives
    test_time: Literal["mean", "sample"]


class Ablations(Section):
    seed: Seed
    steps: Count
    changes: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]  # by ablation: keys of the section qmvae


class MVAE(Section):
    shared: Width
    likelihood: dict[Name, Likelihood]
    warm_up: Fraction
    subsets: Annotated[int, Field(ge=0, le=64)]
    test_time: Literal["mean", "sample"]


class MMVAE(Section):
    objective: Literal["dreg", "elbo"]
    samples: Annotated[int, Field(gt=0, le=1000)]
    shared: Width
    likelihood: dict[Name, Likelihood]
    test_time: Literal["mean", "sample"]


class DMVAE(Section):
    shared: Width
    private: Width
    likelihood: dict[Name, Likelihood]
    kl_private: dict[Name, Weight]
    warm_up: Fraction
    gamma: Weight
    temperature: Positive
    delta: dict[Name, Weight]
    discriminator: Annotated[int, Field(ge=2, le=4096)]
    test_time: Literal["mean", "sample"]


MODELS: dict[str, type[Section]] = {"qmvae": QMVAE, "mvae": MVAE, "mmvae": MMVAE, "dmvae": DMVAE}
ModelName = Literal["qmvae", "mvae", "mmvae", "dmvae"]


class Params(Section):
    """One preset of params.yaml, with what all presets share and the folders that the run reads and writes."""

    root: Path  # the folder of params.yaml; every relative path hangs on it
    preset: str
    data: Path
    device: Literal["auto", "cpu", "cuda"]
    models: list[ModelName]
    modalities: dict[Name, Modality]
    images: Images
    pairs: Pairs
    judges: Judges
    seeds: list[Seed]  # every model is trained once with each
    training: dict[str, Training]  # by model
    evaluation: Evaluation
    ablations: Ablations
    qmvae: QMVAE
    mvae: MVAE
    mmvae: MMVAE
    dmvae: DMVAE

    @property
    def artifacts(self) -> Path:
        """What the run leaves for machines."""
        return self.root / "artifacts" / self.preset

    @property
    def reports(self) -> Path:
        """What the run leaves for people."""
        return self.root / "reports" / self.preset

    def model_folder(self, name: str, seed: int) -> Path:
        """Where the model trained with this seed lies; see qmvae.load."""
        return self.artifacts / "models" / name / f"seed-{seed}"


class _File(Section):
    """params.yaml as it stands."""

    preset: Name
    folder: Annotated[str, Field(min_length=1)]
    device: Literal["auto", "cpu", "cuda"]
    models: Annotated[list[ModelName], Field(min_length=1)]
    modalities: Annotated[dict[Name, Modality], Field(min_length=2)]
    presets: Annotated[dict[Name, Preset], Field(min_length=1)]
    ablations: Ablations
    qmvae: QMVAE
    mvae: MVAE
    mmvae: MMVAE
    dmvae: DMVAE

    @model_validator(mode="after")
    def _agree(self):
        if self.preset not in self.presets:
            raise ValueError(f"preset: {self.preset!r} is not one of {', '.join(self.presets)}")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models: {self.models} repeats a model; name each once")
        names = set(self.modalities)
        per_modality = {f"presets.{name}.images.titles": p.images.titles for name, p in self.presets.items()}
        for model in MODELS:
            fields = {key: value for key, value in getattr(self, model) if isinstance(value, dict)}
            per_modality |= {f"{model}.{key}": value for key, value in fields.items()}
        for key, value in per_modality.items():
            if set(value) != names:
                raise ValueError(f"{key}: has {sorted(value)}, expected one entry for each modality, {sorted(names)}")
        for preset in self.presets:
            self.settings(preset)
        for name, changes in self.ablations.changes.items():
            self.qmvae.changed(f"ablations.changes.{name}", changes)
        return self

    def settings(self, preset: str) -> dict[str, tuple[Section, Training]]:
        """By model: its section and its training in this preset, overrides applied. Raises ValueError."""
        chosen = self.presets[preset]
        if set(chosen.overrides) != set(MODELS):  # DVC tracks each model's entry, so that it must be there
            raise ValueError(
                f"presets.{preset}.overrides: expected one entry, which may be {{}}, for each of {', '.join(MODELS)}"
            )
        result = {}
        for model, changes in chosen.overrides.items():
            sections = getattr(self, model), chosen.training
            known = [set(type(section).model_fields) - {"seeds"} for section in sections]
            where = f"presets.{preset}.overrides.{model}"
            if unknown := set(changes) - known[0] - known[1]:
                raise ValueError(
                    f"{where}.{min(unknown)}: unknown key; {model} and training have "
                    f"{', '.join(sorted(known[0] | known[1]))}"
                )
            parts = [{key: value for key, value in changes.items() if key in keys} for keys in known]
            result[model] = tuple(section.changed(where, part) for section, part in zip(sections, parts, strict=True))
            if not all(set(value) == set(self.modalities) for _, value in result[model][0] if isinstance(value, dict)):
                raise ValueError(f"{where}: expected one entry for each modality, {sorted(self.modalities)}")
        return result


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here the second one is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} appears twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


# 1e-05, as DVC writes a number that `dvc exp run -S` sets: a float in YAML 1.2, text in the YAML 1.1 that PyYAML reads
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def find_root(start: Path | None = None) -> Path:
    """The folder of params.yaml: `start` (the working directory) or the nearest one above it. Raises ParamsError."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise ParamsError(f"no params.yaml in {start} or above it; run from inside the project's folder")


def load(preset: str | None = None, root: Path | None = None) -> Params:
    """Read and check params.yaml.

    preset: use this one instead of the one that the file switches on.
    root: the folder of params.yaml; found from the working directory if not given.
    Raises ParamsError with every fault of the file in one message.
    """
    root = root or find_root()
    path = root / "params.yaml"
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: expected a mapping with the keys {', '.join(_File.model_fields)}")
    if preset is not None:
        document["preset"] = preset
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        raise ParamsError(_explain(path, error)) from None
    settings = file.settings(file.preset)
    shared = ("preset", "device", "models", "modalities", "ablations")
    chosen: dict[str, Any] = {name: getattr(file, name) for name in shared}
    chosen |= {name: value for name, value in file.presets[file.preset] if name not in ("training", "overrides")}
    chosen |= {name: section for name, (section, _) in settings.items()}
    return Params(
        root=root,
        data=root / file.folder,
        seeds=file.presets[file.preset].training.seeds,
        training={name: training for name, (_, training) in settings.items()},
        **chosen,
    )


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        found = "" if fault["type"] in ("missing", "value_error") or not where else f" (found {fault['input']!r:.60})"
        text = {"extra_forbidden": "unknown key; remove it or mend its spelling", "missing": "missing; add it"}.get(
            fault["type"], fault["msg"].removeprefix("Value error, ")
        )
        lines.append(f"  {where + ': ' if where else ''}{text}{found}")
    return f"{path} cannot be used:\n" + "\n".join(dict.fromkeys(lines))


def switch(root: Path, **lines: str) -> None:
    """Change top-level lines of params.yaml (`preset`, `folder`) in place, comments kept; not to an invalid file."""
    path = root / "params.yaml"
    before = path.read_text(encoding="utf-8")
    after = before
    for key, value in lines.items():
        value = value if re.fullmatch(r"[\w./~-]+", value) else json.dumps(value)  # quoted where YAML could misread it
        after, count = re.subn(rf"(?m)^({key}:)\s*[^#\n]*?(\s*(?:#.*)?)$", lambda m: f"{m[1]} {value}{m[2]}", after)
        if count != 1:
            raise ParamsError(f"{path}: expected one line that starts with `{key}:`, found {count}")
    if after == before:
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(after, encoding="utf-8")
        try:
            load(root=Path(folder))
        except ParamsError as error:
            raise ParamsError(str(error).replace(folder, str(root))) from None
    partial = path.with_suffix(".partial")
    partial.write_text(after, encoding="utf-8")
    os.replace(partial, path)


def plan(preset: str | None = None, data: str | None = None) -> None:
    """Check params.yaml, first with these lines of it changed, and print what will be trained. Exits with a message."""
    data = data and os.path.expanduser(data)  # DVC knows no ~
    try:
        switch(find_root(), **{key: value for key, value in (("preset", preset), ("folder", data)) if value})
        params = load()
        if not os.path.isdir(params.data):  # which says no to a name that no folder can have; Path's raises
            raise ParamsError(
                f"{params.root / 'params.yaml'}: folder: there is no {params.data}; name the folder that holds the "
                "image files (data/README.md says which), or `folder: data`, which is always there"
            )
    except ParamsError as error:
        raise SystemExit(str(error)) from None
    for name in params.models:
        training = params.training[name]
        print(
            f"preset {params.preset}: {name} on {' and '.join(params.images.titles.values())}, "
            f"{len(params.seeds)} seed(s), {training.steps:,} steps of {training.batch_size} pairs",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qmvae.params", description=__doc__)
    parser.add_argument("--preset", help="write this preset into params.yaml")
    parser.add_argument("--data", help="write this data folder into params.yaml")
    plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
