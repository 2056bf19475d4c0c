"""Q-MVAE (Chen et al. 2022) and the models that its paper compares with, behind the numbered notebooks."""

import sys

__version__ = "0.1.0"


def load(folder, device="cpu"):
    """The trained model in `folder`; see qmvae.checkpoint.load."""
    from qmvae.checkpoint import load  # here, so that `import qmvae` costs nothing

    return load(folder, device)


def _say(kind, error, trace, otherwise=sys.excepthook) -> None:
    """What a stage prints instead of a traceback where the fault is not in the code: Ctrl-C, a full disk, no rights."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped; `make repro` goes on from here", file=sys.stderr)
    elif issubclass(kind, OSError):
        print(f"cannot go on: {error}; when that is mended, `make repro` goes on from here", file=sys.stderr)
    else:
        otherwise(kind, error, trace)


if sys.argv[0] == "-m":  # `python -m qmvae.<stage>`: set before the stage's imports, which take seconds
    sys.excepthook = _say
