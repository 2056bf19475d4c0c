"""params.yaml as a whole: how its sections must agree, and how a preset's overrides apply."""

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, model_validator

from qmvae.pipeline.sections import (
    MODELS,
    Ablations,
    Classifiers,
    Device,
    Evaluation,
    Images,
    Modalities,
    Modality,
    ModelName,
    Models,
    Name,
    Network,
    Pairs,
    ParamsError,
    Preset,
    Section,
    Training,
)  # fmt: skip


class Params(Models):
    """One preset of params.yaml, with what all presets share and the folders that the run reads and writes."""

    root: Path  # the folder of params.yaml, which relative paths start from
    preset: str
    data: Path
    device: Device
    models: list[ModelName]
    modalities: dict[Name, Modality]
    images: Images
    pairs: Pairs
    classifiers: Classifiers
    training: dict[str, Training]  # by model
    evaluation: Evaluation
    ablations: Ablations

    def batch_size_key(self, model: str) -> str:
        """Return the place of a model's batch size in params.yaml, for messages."""
        return f"presets.{self.preset}.training.batch_size, or overrides.{model}.batch_size where it has one,"

    @property
    def networks(self) -> dict[str, str]:
        """The kind of network of each modality."""
        return {name: modality.net for name, modality in self.modalities.items()}

    @property
    def artifacts(self) -> Path:
        """The folder of what stages leave for each other."""
        return self.root / "artifacts" / self.preset

    @property
    def reports(self) -> Path:
        """The folder of what stages leave for people."""
        return self.root / "reports" / self.preset

    def model_folder(self, name: str, seed: int | None = None) -> Path:
        """Return the folder of the model trained with this seed, the model's first if None."""
        seed = self.training[name].seeds[0] if seed is None else seed
        return self.artifacts / "models" / name / f"seed-{seed}"


class File(Models):
    """params.yaml as it is written."""

    preset: Name
    folder: Annotated[str, Field(min_length=1)]
    device: Device
    modalities: Annotated[dict[Name, Modality], Field(min_length=2)]
    presets: Annotated[dict[Name, Preset], Field(min_length=1)]
    ablations: Ablations

    @model_validator(mode="after")
    def _agree(self):
        if self.preset not in self.presets:
            raise ValueError(f"preset: {self.preset!r} is not one of {', '.join(self.presets)}")
        for name, preset in self.presets.items():
            if len(set(preset.models)) < len(preset.models):
                raise ValueError(f"presets.{name}.models: {preset.models} repeats a model; name each once")
            titles = [preset.images.titles.get(modality, modality) for modality in self.modalities]
            if len(set(titles)) < len(titles):
                raise ValueError(f"presets.{name}.images.titles: {titles} repeats a title; tables need different ones")
            if "both" in titles:
                raise ValueError(f"presets.{name}.images.titles: 'both' is a column of Table 2; give another title")
        taken = ("both", "joint", "all", *get_args(Network))
        if wrong := sorted(n for n in self.modalities if n in taken or "_to_" in f"_{n}_" or n.startswith("subset_")):
            raise ValueError(f"modalities: {wrong[0]!r} would be mistaken for another key; rename it")
        for preset in self.presets:
            self.settings(preset)
        qmvae, _ = self.settings(self.preset)["qmvae"]
        for name, changes in self.ablations.changes.items():
            where = f"ablations.changes.{name}"
            qmvae.changed(where, by_name(where, qmvae, changes, self.modalities))
        return self

    def settings(self, preset: str) -> dict[str, tuple[Section, Training]]:
        """Return by model its section and its training in this preset, overrides applied. Raises ValueError."""
        chosen = self.presets[preset]
        result = {}
        for model in MODELS:
            changes = chosen.overrides.get(model, {})  # type: ignore[call-overload]
            where = f"presets.{preset}.overrides.{model}"
            section = by_modality(model, getattr(self, model), self.modalities)
            result[model] = with_changes(where, model, section, chosen.training, changes, self.modalities)
            seeds, first = result[model][1].seeds, chosen.training.seeds[0]
            if seeds[0] != first:  # which notebooks and the published models take of each model
                expected = f"expected {first} first, as in presets.{preset}.training.seeds; correct one of the two"
                raise ValueError(f"{where}.seeds: {seeds}: {expected}")
        return result


def with_changes(
    where: str, model: str, section: Section, training: Training, changes: dict[str, Any], modalities: Modalities
) -> tuple[Section, Training]:
    """Return a model's section and its training with other values; each key of `changes` is one of either.

    where: the place of the changes, for messages. section: as `by_modality` returns it, and so is the result.
    Raises ParamsError on unknown keys and wrong values.
    """
    own, shared = (set(type(part).model_fields) for part in (section, training))
    if unknown := set(changes) - own - shared:
        known = ", ".join(sorted(own | shared))
        raise ParamsError(f"{where}.{min(unknown)}: unknown key; {model} and training have {known}")
    of_section, of_training = ({key: value for key, value in changes.items() if key in of} for of in (own, shared))
    of_section = by_name(where, section, of_section, modalities)
    return section.changed(where, of_section), training.changed(where, of_training)


def by_modality(where: str, section: Section, modalities: Modalities) -> Section:
    """Return the section with one entry for each modality in each mapping by modality.

    where: the place of the section, for messages. Raises ParamsError on other and on missing entries, see `by_name`.
    """
    changes = by_name(where, section, dict(section), modalities)
    for key, entries in section:
        if isinstance(entries, dict) and (missing := [name for name in modalities if name not in changes[key]]):
            name, kind = missing[0], modalities[missing[0]].net
            fault = f"no entry for the modality {name}; expected one named {name}, {kind} or all"
            raise ParamsError(f"{where}.{key}: {fault}")
    return section.model_copy(update=changes)


def by_name(where: str, section: Section, changes: dict[str, Any], modalities: Modalities) -> dict[str, Any]:
    """Return changes of a section, with the entries of mappings by modality under the modalities' names.

    An entry of params.yaml may have the name of a modality, the kind of its network, or `all`; the first of these that
    is there counts. where: the place of the changes, for messages. Raises ParamsError on other entries.
    """
    result = dict(changes)
    for key, entries in changes.items():
        if isinstance(entries, dict) and isinstance(getattr(section, key, None), dict):
            known = [*modalities, *get_args(Network), "all"]
            if unknown := sorted(set(entries) - set(known), key=str):
                raise ParamsError(f"{where}.{key}.{unknown[0]}: expected a modality, a kind or all: {', '.join(known)}")
            found = {name: [e for e in (name, part.net, "all") if e in entries] for name, part in modalities.items()}
            result[key] = {name: entries[names[0]] for name, names in found.items() if names}
    return result
