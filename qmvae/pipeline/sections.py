"""The sections of params.yaml, with the range of each value.

A value that changes a result has no default here. It is in params.yaml, which DVC and the fingerprints depend on.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Sample = Annotated[int, Field(ge=10, le=10**9)]  # fewer images have no covariance, and perhaps one class only
BatchSize = Annotated[int, Field(ge=2, le=2**16)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Width = Annotated[int, Field(gt=0, le=4096)]
NAME, TITLE = r"^[a-z][a-z0-9_]*$", r"^[^\s_$][^\r\n$]*$"
Name = Annotated[str, Field(pattern=NAME)]
Title = Annotated[str, Field(pattern=TITLE)]  # a table has one line for each
Device = Literal["auto", "cpu", "cuda"]
TestTime = Literal["mean", "sample"]


class ParamsError(ValueError):
    """params.yaml is not usable; the message names each key, what was found and what was expected."""


def known_model(name: str) -> str:
    """Return the name of a model. Raises ValueError if `Models` has no section for it."""
    if name not in Models.model_fields:
        raise ValueError(f"model {name!r}: unknown; expected one of {', '.join(Models.model_fields)}")
    return name


ModelName = Annotated[str, AfterValidator(known_model)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def changed(self, where: str, changes: dict[str, Any]):
        """Return this section with other values under the given keys, checked again; a mapping keeps its other keys.

        where: the place of the changes, for messages. Raises ParamsError.
        """
        values = self.model_dump()
        if unknown := set(changes) - set(values):
            raise ParamsError(f"{where}.{min(unknown)}: unknown key; expected one of {', '.join(sorted(values))}")
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(values[key], dict)
            values[key] = values[key] | value if both else value
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, (where, *fault["loc"])))
            raise ParamsError(f"{key}: {fault['msg']} (found {fault['input']!r:.60})") from None


Network = Literal["mlp", "conv"]


class Modality(Section):
    net: Network


Modalities = Mapping[str, Modality]


class Images(Section):
    source: Literal["builtin", "archive", "torchvision"]
    titles: dict[Name, Title]  # by modality, of its images in figures and tables; default: the modality's name
    seed: Seed


class Pairs(Section):
    multiplier: Annotated[int, Field(gt=0, le=1000)]
    redraw: bool
    seed: Seed


class Classifiers(Section):
    epochs: Count
    strong_steps: Count
    batch_size: BatchSize
    lr: Positive
    seed: Seed


class Training(Section):
    seeds: Annotated[list[Seed], Field(min_length=1)]  # a model is trained once with each
    steps: Count
    batch_size: BatchSize
    lr: Positive
    precision: Literal["auto", "float32", "bfloat16"]  # of the networks (train.resolve_precision); weights are float32
    compile: Literal["auto", "on", "off"]  # torch.compile of the objective; auto: on a GPU
    cooldown: Fraction  # of training, at its end, in which the learning rate falls linearly to 0
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
    conditions: Sample | Literal["all"]  # test pairs for each direction of Table 1
    probe_pairs: Sample | Literal["all"]  # training pairs that Table 2's linear layer is fitted on
    seed: Seed


class Preset(Section):
    models: Annotated[list[ModelName], Field(min_length=1)]  # in the order of training
    images: Images
    pairs: Pairs
    classifiers: Classifiers
    training: Training
    evaluation: Evaluation
    overrides: dict[ModelName, dict[str, Any]]  # by model: other values of `training` or of the model's own section


class Likelihood(Section):
    family: Literal["laplace", "gaussian", "bernoulli"]
    scale: Positive = 1.0  # of the Laplace or the Gaussian; the Bernoulli has none
    weight: Weight | Literal["balanced"]  # balanced: the values of the largest image over those of this modality's

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any):
        if isinstance(values, dict) and values.get("family") in ("laplace", "gaussian") and "scale" not in values:
            raise ValueError(f"scale: missing; the family {values['family']} needs one")
        return values


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
    metric: Literal["across", "within"]
    prior_expert: bool
    unimodal_elbos: bool
    negatives: Negatives
    test_time: TestTime

    @model_validator(mode="after")
    def _terms_once(self):
        if len(set(self.quadruplet)) < len(self.quadruplet):
            raise ValueError(f"quadruplet: {self.quadruplet} repeats a term; give each term once")
        return self


class TranslatedQMVAE(QMVAE):
    digit: dict[Name, Weight]
    style: dict[Name, Weight]
    class_share: Weight
    cross_reconstruction: Weight
    shift: Annotated[int, Field(ge=0, le=8)]


class MVAE(Section):
    shared: Width
    likelihood: dict[Name, Likelihood]
    warm_up: Fraction
    kl: Weight  # the largest weight of the KL divergences
    subsets: Annotated[int, Field(ge=0, le=64)]
    test_time: TestTime


class MMVAE(Section):
    objective: Literal["dreg", "elbo"]
    samples: Annotated[int, Field(gt=0, le=1000)]
    epsilon: BelowOne
    shared: Width
    likelihood: dict[Name, Likelihood]
    test_time: TestTime


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
    discriminator_lr: Weight  # of its own Adam; 0: it shares the model's
    test_time: TestTime


class JMVAE(Section):
    shared: Width
    features: Width  # of each modality in the joint encoder
    likelihood: dict[Name, Likelihood]
    alpha: Weight
    kl: Weight
    warm_up: Fraction
    test_time: TestTime


class MOPOE(Section):
    shared: Width
    likelihood: dict[Name, Likelihood]
    kl: Weight
    prior_expert: bool
    test_time: TestTime


class CVAE(Section):
    shared: Width
    features: Width  # of each image, for the decoder and the recognition network
    likelihood: dict[Name, Likelihood]
    kl: Weight
    warm_up: Fraction
    test_time: TestTime


class VCCA(Section):
    shared: Width
    private: Width
    likelihood: dict[Name, Likelihood]
    kl_shared: Weight
    kl_private: dict[Name, Weight]
    dropout: BelowOne  # of the sampled codes, in training
    test_time: TestTime


class MMVAEPLUS(Section):
    objective: Literal["iwae", "dreg"]
    samples: Annotated[int, Field(gt=0, le=1000)]
    epsilon: BelowOne
    shared: Width
    private: Width
    likelihood: dict[Name, Likelihood]
    kl: Weight
    test_time: TestTime


class Models(Section):
    """The section of each model."""

    qmvae: QMVAE
    translated: TranslatedQMVAE
    mvae: MVAE
    mmvae: MMVAE
    dmvae: DMVAE
    jmvae: JMVAE
    mopoe: MOPOE
    cvae: CVAE
    vcca: VCCA
    mmvaeplus: MMVAEPLUS


MODELS: dict[str, Any] = {name: field.annotation for name, field in Models.model_fields.items()}


class Ablations(Section):
    seed: Seed
    steps: Count
    changes: dict[Name, dict[str, Any]]  # by ablation: values of the section qmvae

    @model_validator(mode="after")
    def _complete(self):
        compared = ("as_it_is", "printed_objective", "no_quadruplet_loss")
        if missing := [name for name in compared if name not in self.changes]:
            raise ValueError(f"changes: {missing[0]} is missing; notebooks 09 and 10 compare with it, so keep it")
        return self
