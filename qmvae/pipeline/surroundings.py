"""The environment of a run: that of this process, without the settings of one person and of other programs."""

import contextlib
import getpass
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# settings that change what a notebook makes: figures, printed warnings, and whether its assertions count
PERSONAL = re.compile("MPL|MATPLOTLIB|IPYTHON|JUPYTER_|TQDM_|PYTHON(STARTUP|OPTIMIZE|WARNINGS|DEVMODE)")

QUIET = {  # of the kernel's messages: it calls the end of a run an error, and its sockets may be closed by then
    "log_level": 50,
    "logging_config": {"loggers": {"tornado.general": {"level": "CRITICAL"}}},  # of ZeroMQ's streams, not of cells
}


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Replace os.environ: kernels run this interpreter, and their settings lie in a folder of this run, not in HOME.

    Without MPLBACKEND a kernel chooses the backend that puts figures into a notebook.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
        place = Path(folder) / "kernels" / "python3" / "kernel.json"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(spec | {"display_name": "Python 3"}))
        profile = Path(folder) / "profile_default"
        profile.mkdir()
        (profile / "ipython_kernel_config.json").write_text(json.dumps({"IPKernelApp": QUIET}))
        own = {name: value for name, value in before.items() if not PERSONAL.match(name)}
        own |= dict.fromkeys(["IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR"], folder)
        own |= {"JUPYTER_CONFIG_DIR": folder, "JUPYTER_PREFER_ENV_PATH": "0"}
        if not os.access(os.path.expanduser("~"), os.R_OK | os.W_OK | os.X_OK):
            own |= {"HOME": folder}
        try:
            getpass.getuser()
        except (KeyError, OSError):  # a user without a name, as in `docker run -u 12345`; DVC and PyTorch ask for one
            own |= {"LOGNAME": str(os.getuid())}
        os.environ.clear()
        os.environ.update(own)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def write_fonts() -> None:
    """Write Matplotlib's list of the system's fonts for kernels, within own_settings.

    Without it each kernel makes the list, and may say so in a cell.
    """
    from matplotlib import font_manager  # late: it reads the settings in os.environ

    fonts = Path(os.environ["MPLCONFIGDIR"]) / f"fontlist-v{font_manager.FontManager.__version__}.json"
    font_manager.json_dump(font_manager.fontManager, fonts)


def for_dvc(root: Path) -> dict[str, str]:
    """Return os.environ with what a `dvc repro` in `root` needs: stages run this interpreter, and git may be missing.

    Writes small files below .dvc/tmp.
    """
    place = root / ".dvc" / "tmp" / "surroundings"
    place.mkdir(parents=True, exist_ok=True)
    python = place / "python"  # the folder of this interpreter may have no `python`, or that of another version
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    folders = [str(place), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    own = {"PATH": os.pathsep.join(folders)}
    if not (root / ".git").exists():  # a download without git; DVC's other settings win over those of the system
        (place / "config").write_text("[core]\n    no_scm = true\n")
        own |= {"DVC_SYSTEM_CONFIG_DIR": str(place)}
    return os.environ | own
