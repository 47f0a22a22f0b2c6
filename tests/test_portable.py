"""No module needs what only some systems have; a run's lock is held by whatever the system has."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import score_model
from experiments._command import open_run
from kedit.errors import InputError
from tests.test_rooms import MAY_IMPORT, imported

ROOT = Path(__file__).parent.parent

POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
IMPORTING = """
import sys
sys.modules |= dict.fromkeys(["fcntl", "resource"])  # importing one of them fails
import experiments._command, experiments.trace_relation, experiments.compare_editors
"""

HOLDING = """
import sys, time
from experiments import score_model
from experiments._command import open_run
with open_run("x", score_model.Config(model="toy", out=sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_module_imports_what_windows_lacks(room: str) -> None:
    for file in (ROOT / room).rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(file)} & POSIX_ONLY, file


def test_experiments_import_where_there_is_none_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_lock_lasts_as_long_as_its_process_and_no_longer(tmp_path: Path) -> None:
    config = score_model.Config(model="toy", out=str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"), open_run("x", config):
            pass
    finally:
        holder.kill()  # which leaves it no time to tidy up
        holder.communicate()
    for _ in range(2):  # and the lock of a run that ended leaves nothing either
        with open_run("x", config) as folder:
            assert folder.path == tmp_path
