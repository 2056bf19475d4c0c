"""The command line: `python -m qmvae <stage>`. DVC runs its stages in this way; each of them can be run alone."""

import argparse
import importlib
import os
import sys

from qmvae.pipeline import messages

TEXTS = {  # the stages in the order of a run, then other commands
    "code": "hash the code of every stage, from which DVC finds stale results",
    "inputs": "hash the image files that the preset reads, from which DVC finds stale images",
    "data": "read or make the images of the preset and pair them",
    "classifiers": "train the classifiers that label generated images",
    "train": "train models with every one of their seeds",
    "evaluate": "compute the numbers of Tables 1 and 2, and more, of trained models",
    "metrics": "collect the numbers of all models in reports/<preset>/metrics.json",
    "notebook": "run one notebook, such as 01_data, into reports/<preset>",
    "repro": "run `dvc repro`: all stages whose inputs changed",
    "plan": "check params.yaml and print what will be trained",
    "publish": "write the first seed of the models of `subset`, and its classifiers, into reports/subset/checkpoint",
    "check-notebooks": "look for metadata and paths of one machine in the notebooks",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    main = argparse.ArgumentParser(
        prog="python -m qmvae",
        description="Reproduce Q-MVAE (Chen et al. 2022). params.yaml chooses the preset, the images and the models.",
        epilog="`make repro` installs everything and runs all stages in order. See README.md.",
    )
    commands = main.add_subparsers(dest="stage", required=True, metavar="<stage>")
    command = {
        name: commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        for name, text in TEXTS.items()
    }
    for name in ("train", "evaluate"):
        command[name].add_argument("model", nargs="?", help="one model; all models of params.yaml if none is given")
    command["train"].add_argument("--seed", type=int, help="this seed only, in this process")
    command["classifiers"].add_argument("modality", nargs="?", help="one modality; all of them if none is given")
    command["notebook"].add_argument("name", help="its name without .ipynb")
    command["notebook"].add_argument("--preset", help="instead of that of params.yaml; `published` needs no run")
    for name in ("repro", "plan"):
        command[name].add_argument("--preset", help="write this preset into params.yaml")
        command[name].add_argument("--data", help="write this data folder into params.yaml")
    command["repro"].add_argument("targets", nargs="*", help="stages of dvc.yaml; all if none is given")
    return main


def run(arguments: argparse.Namespace) -> int | None:
    """Run one command; return its exit status, or None for success."""
    from qmvae.pipeline import params  # late: the imports of a stage take seconds, `--help` should not

    root, name = params.find_root(), arguments.stage
    if name in ("repro", "plan"):
        repro = importlib.import_module("qmvae.pipeline.repro")
        switches = arguments.preset, arguments.data
        if arguments.preset == params.PUBLISHED:
            text = f"nothing is trained; open a notebook, set preset = {params.PUBLISHED!r}, and run it"
            raise params.ParamsError(f"preset {params.PUBLISHED!r}: {text}")
        return repro.repro(arguments.targets, *switches) if name == "repro" else repro.plan(*switches) and None
    if name == "check-notebooks":
        return importlib.import_module("qmvae.pipeline.notebooks").check(root)
    if name == "code":
        return importlib.import_module("qmvae.pipeline.stages.code").run(root)
    if name == "publish":
        return importlib.import_module("qmvae.pipeline.published").publish(params.load(params.SOURCE, root))
    settings = params.load(arguments.preset if name == "notebook" else None, root)
    for kind, known in (("model", settings.training), ("modality", settings.modalities)):
        if (given := getattr(arguments, kind, None)) not in (None, *known):
            raise params.ParamsError(f"{kind} {given!r}: expected one of {', '.join(known)}")
    model = getattr(arguments, "model", None)
    models = [model] if model else settings.models
    if (seed := getattr(arguments, "seed", None)) is not None:
        if model is None:
            raise params.ParamsError(f"--seed {seed}: expected a model before it")
        if seed not in (seeds := settings.training[model].seeds):
            raise params.ParamsError(f"--seed {seed}: expected one of {model}'s seeds: {', '.join(map(str, seeds))}")
    values = {
        "train": lambda: (models, arguments.seed),
        "evaluate": lambda: (models,),
        "classifiers": lambda: (arguments.modality,),
        "notebook": lambda: (arguments.name,),
    }.get(name, tuple)()
    return importlib.import_module(f"qmvae.pipeline.stages.{name}").run(settings, *values)


def main() -> None:
    """Parse the command line and run it. Errors that users can correct end in one message, without a traceback."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed, as by `>&-`: the next file that is opened must not get its number
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # gets the lowest free one
            os.set_inheritable(number, True)  # by the processes of a run
    arguments = parser().parse_args()
    for stream in (sys.stdout, sys.stderr):  # a title may have letters that the terminal's encoding has not
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with messages.one_message(arguments.stage):
        if os.environ.get("QMVAE_JOB"):
            importlib.import_module("qmvae.pipeline.jobs").end_with_parent()
        sys.exit(run(arguments))


if __name__ == "__main__":
    main()
