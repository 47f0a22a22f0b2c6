"""The frame of every command: parses and checks the options, and opens the run's folder."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments._early import require_possible
from experiments._log import log_run, require_library
from experiments._spread import spread_of, suffix
from experiments._verbosity import log_stage, verbosity

if TYPE_CHECKING:
    from kedit.run_folder import RunFolder

Config = TypeVar("Config", bound=Any)
RESULTS = Path("results")
INTERRUPTED = 130  # exit status after Ctrl-C, as in shells: 128 plus 2, the number of SIGINT
STOPPED = "\nstopped: finished work is kept, and the same command continues from there\n"
log = logging.getLogger("kedit")


def command(
    config_class: type[Config],
    run: Callable[[Config], Path],
    default: Config | None = None,
    exit_code: Callable[[Path], int] = lambda folder: 0,
) -> None:
    """Parses the command line and runs the command; an error that a user can fix is one line.

    Args:
        default: this command's default options, where they are not those of `config_class`.
        exit_code: gives the exit status of the process, from the finished run's folder.
    """
    from experiments._parsing import parsed
    from kedit.batching import at_most
    from kedit.errors import InputError
    from kedit.progress import starting
    from kedit.screen import print_anything

    print_anything()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        told = parsed(config_class, default, sys.modules[run.__module__].__doc__)
        with verbosity(told.quiet, told.verbose), at_most(told.batch_tokens or None):
            log.debug("Options: %s", told.config)
            require_possible(told.config, Path(sys.argv[0]).stem)
            require_library(told.log)
            log_stage("Checked the options")
            with starting("importing torch and TransformerLens"):
                folder = run(told.config)
            log_run(folder, told.log)
            log_stage("Finished")
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write(STOPPED)
        sys.exit(INTERRUPTED)
    if code := exit_code(folder):
        sys.exit(code)


@contextlib.contextmanager
def open_run(experiment: str, config: Any, outside: tuple[str, ...] = ()) -> "Iterator[RunFolder]":
    """Opens the folder of this experiment and configuration: new, or with an earlier run's records.

    Args:
        config: a dataclass with `out` ("": the folder is named after the options) and `model`.
        outside: fields that do not change what is measured: the run is the same without them.

    Raises:
        InputError: an option or the folder cannot be used (see `kedit.run_folder.open_folder`).
    """
    from kedit.data.inputs import inputs_of
    from kedit.run_folder import open_folder

    require_possible(config, experiment)  # a notebook calls `run` without `command`
    fields = dataclasses.asdict(config)
    fields.pop("spread", None)  # of this call, not of the run: it may be continued in another way
    outside = ("out", *outside)
    inside = {name: value for name, value in fields.items() if name not in outside}
    measured = json.loads(json.dumps(inside))  # tuples become lists, as in the folder's config.json
    inputs = inputs_of(measured)
    digest = hashlib.sha256(json.dumps([measured, inputs], sort_keys=True).encode()).hexdigest()[:8]
    name = f"{Path(config.model).stem}-{digest}{suffix(config)}"
    path = Path(fields["out"] or RESULTS / experiment / name)
    with open_folder(path, experiment, measured, inputs, fields) as folder:
        for file, content in inputs.items():
            log.debug("Input file %s, digest %s", file, content)
        folder.shard = spread_of(config).parts
        log_stage(f"Opened {path}: {len(folder.records)} finished records")
        yield folder
        log_stage(f"Measured and saved: {len(folder.records)} finished records")
