"""A command, and the folder of its run: options, inputs, versions, lock."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock

from experiments._early import require_possible
from experiments._folder import CONFIG, RunFolder, write_whole

if TYPE_CHECKING:
    from rich.console import Console

Config = TypeVar("Config", bound=Any)
RESULTS = Path("results")
INTERRUPTED = 130  # the exit status of what Ctrl-C ends, as shells have it: 128 and SIGINT's 2
LONGEST = 160  # bytes of a file's name, so that there is room for what is added to it
PACKAGES = ("kedit", "torch", "transformer-lens", "transformers", "numpy")


def command(
    config_class: type[Config],
    run: Callable[[Config], Path],
    default: Config | None = None,
    exit_code: Callable[[Path], int] = lambda folder: 0,
):
    """Parses the command line and runs; what a user can mend is told in one line.

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
def open_run(experiment: str, config: Any, outside: tuple[str, ...] = ()) -> Iterator[RunFolder]:
    """The folder of this experiment and configuration: new, or with what an earlier run finished.

    Args:
        config: a dataclass with `out` ("" for a name of its own) and `model`.
        outside: fields that change how results are drawn, not what is measured.

    Raises:
        InputError: an option cannot be used (`require_possible`), another process works in the
            folder, it cannot be written, or it holds a run of another experiment or configuration,
            or of files whose contents were others.
    """
    from kedit.data.inputs import inputs_of
    from kedit.errors import InputError

    require_possible(config, experiment)  # in a notebook no command has done so
    fields = dataclasses.asdict(config)
    kept = {name: value for name, value in fields.items() if name not in ("out", *outside)}
    measured = json.loads(json.dumps(kept))  # as a folder gives it back: without tuples
    inputs = inputs_of(measured)
    identity = json.dumps([measured, inputs], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    name = f"{Path(str(fields['model'])).stem}-{digest}"
    path = Path(fields["out"]) if fields["out"] else RESULTS / experiment / name
    try:
        path.mkdir(parents=True, exist_ok=True)
        # held by the system, which lets go of it when the process ends, however it does
        lock = filelock.FileLock(path / "lock")
        try:
            held = lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(f"{path} is in use by another process") from None
        with held:
            told = {"experiment": experiment, "measured": measured, "inputs": inputs}
            weights = _require_same(path, told)
            told |= {"weights": weights, "all": fields}
            write_whole(path / CONFIG, json.dumps(told, indent=1))
            versions = {package: importlib.metadata.version(package) for package in PACKAGES}
            versions |= {"python": platform.python_version(), "machine": platform.platform()}
            if commit := _commit():
                versions["commit"] = commit
            write_whole(path / "versions.json", json.dumps(versions, indent=1))
            yield RunFolder(path)
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise  # of a network, or of a screen that nobody reads any more
        place = error.filename or path
        raise InputError(f"{place} cannot be read or written: {error.strerror}") from error


def _commit() -> str:
    """The commit that kedit's own checkout is at, with a + for changes; "" where there is none."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(root), *asked], capture_output=True, text=True, check=True,
                timeout=10,
            ).stdout.strip()
            for asked in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""  # no git, or not one that reads this checkout
    return head + "+" * bool(changes)


def _require_same(path: Path, told: Mapping[str, Any]) -> str:
    """The fingerprint of the model that the run in `path` is of; "" for a new one.

    Raises:
        InputError: config.json cannot be read, or is of a run that is not the one told.
    """
    from kedit.errors import InputError

    saved, way_on = path / CONFIG, "choose another --out, or remove that folder"
    if not saved.exists():
        return ""
    try:
        found = json.loads(saved.read_text(encoding="utf-8"))
        before = {**found["measured"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{saved} is damaged, so that nobody knows its run: {way_on}") from None
    ran = found.get("experiment", told["experiment"])
    if ran != told["experiment"]:
        raise InputError(f"{path} holds a run of {ran}, this is {told['experiment']}")
    for option, value in told["measured"].items():
        if value != before.get(option):
            raise InputError(
                f"{path} holds a run with {option}={before.get(option)!r}, this one has "
                f"{value!r}: {way_on}"
            )
    inputs, weights = found.get("inputs"), found.get("weights")
    if not isinstance(inputs, dict) or not isinstance(weights, str):
        raise InputError(
            f"{path} holds a run of an earlier kedit, which did not note what its files and its "
            f"model held: {way_on}"
        )
    for file in {**inputs, **told["inputs"]}:
        if inputs.get(file) != told["inputs"].get(file):
            raise InputError(
                f"{path} holds a run with another {file}, which has changed since: {way_on}"
            )
    return weights


def file_name(text: str) -> str:
    """`text` as the name of a file, without its suffix: on one line, without / and not too long."""
    name = "".join(one if one.isprintable() and one not in "/\\" else "_" for one in text)
    name = name.encode("utf-8", "replace").decode()
    if len(name.encode()) <= LONGEST:
        return name
    # what is cut off is told by a digest, for another name may begin in the same way
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode('utf-8', 'ignore')}-{digest}"


def console(width: int = 0) -> "Console":
    """Where tables are printed; wide enough for them where nobody looks at a terminal.

    Square brackets are printed as they are: subjects, relations and paths may hold them.
    """
    from rich.console import Console

    return Console(width=None if Console().is_terminal else max(128, width), markup=False)
