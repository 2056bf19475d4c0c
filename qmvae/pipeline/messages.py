"""How a command ends: in one message, without a traceback, where a user can correct the error."""

import contextlib
import sys
from collections.abc import Iterator

EXPECTED = ("ParamsError", "DataError", "TrainingError", "FileError", "JobError")  # by name: their imports take seconds


@contextlib.contextmanager
def one_message(what: str, again: str = "`make repro`", *errors: type[Exception]) -> Iterator[None]:
    """End the process in one message on Ctrl-C and on errors that users can correct.

    what: the command, for messages. again: the command that continues. errors: others whose text is enough.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(f"\nstopped; {again} continues from here")
    except errors as error:
        sys.exit(f"{what}: {error}")
    except OSError as error:
        sys.exit(f"cannot continue: {error}; correct that, and {again} continues from here")
    except (ValueError, RuntimeError) as error:
        if type(error).__name__ not in EXPECTED:
            raise
        sys.exit(f"{what}: {error}")
