"""What every command does: parse options, check them, open the run's folder, load the model."""

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

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.run_folder import RunFolder

Config = TypeVar("Config", bound=Any)
RESULTS = Path("results")
INTERRUPTED = 130  # the exit status of what Ctrl-C ends, as shells have it: 128 and SIGINT's 2


def command(
    config_class: type[Config],
    run: Callable[[Config], Path],
    default: Config | None = None,
    exit_code: Callable[[Path], int] = lambda folder: 0,
) -> None:
    """Parses the command line and runs; what a user can mend is said in one line.

    Args:
        exit_code: of the process, by what the finished run's folder holds.
    """
    import simple_parsing

    from kedit.progress import starting
    from kedit.screen import print_anything

    print_anything()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("kedit").setLevel(logging.INFO)
    config = simple_parsing.parse(
        config_class,
        default=default,
        prog=f"python -m {Path(sys.argv[0]).parent.name}.{Path(sys.argv[0]).stem}",
        add_config_path_arg=False,
        add_option_string_dash_variants=simple_parsing.DashVariant.DASH,
        description=sys.modules[run.__module__].__doc__,
    )
    from kedit.errors import InputError

    try:
        require_possible(config, Path(sys.argv[0]).stem)
        with starting("importing torch and TransformerLens"):
            folder = run(config)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nstopped: what was finished is kept, the same command goes on from there\n"
        )
        sys.exit(INTERRUPTED)
    if code := exit_code(folder):
        sys.exit(code)


@contextlib.contextmanager
def open_run(experiment: str, config: Any, outside: tuple[str, ...] = ()) -> "Iterator[RunFolder]":
    """The folder of this experiment and configuration: new, or with what an earlier run finished.

    Args:
        config: a dataclass with `out` ("" for a name of its own) and `model`.
        outside: fields that change how results are drawn, not what is measured.

    Raises:
        InputError: an option cannot be used, or the folder cannot be (`kedit.run_folder.opened`).
    """
    from kedit.data.inputs import inputs_of
    from kedit.run_folder import open_folder

    require_possible(config, experiment)  # in a notebook no command has done so
    fields = dataclasses.asdict(config)
    kept = {name: value for name, value in fields.items() if name not in ("out", *outside)}
    measured = json.loads(json.dumps(kept))  # as a folder gives it back: without tuples
    inputs = inputs_of(measured)
    digest = hashlib.sha256(json.dumps([measured, inputs], sort_keys=True).encode()).hexdigest()[:8]
    name = f"{Path(str(fields['model'])).stem}-{digest}"
    path = Path(fields["out"]) if fields["out"] else RESULTS / experiment / name
    with open_folder(path, experiment, measured, inputs, fields) as folder:
        yield folder


def loaded(config: Any, folder: "RunFolder") -> "HookedTransformer":
    """The model that a configuration names, whose fingerprint the folder keeps.

    Raises:
        InputError: it cannot be loaded, is another one than the folder's, or a text is too short
            for what is to be read of it.
    """
    from experiments._text_length import require_bytes, require_tokens
    from kedit.editing.provenance import fingerprint
    from kedit.models.load import load

    require_bytes(config)
    model = load(config.model, config.device, getattr(config, "dtype", None))
    folder.require_weights(fingerprint(model))
    require_tokens(config, model)
    return model
