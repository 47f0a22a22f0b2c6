"""Keeps the settings of editors that a user had tuned, one JSON file for each model.

The files lie in `settings/` in the user's folder for configuration: KEDIT_CONFIG, else
XDG_CONFIG_HOME/kedit or ~/.config/kedit. `make_editor` looks there before it looks at kedit's own
settings.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock

from kedit.errors import InputError
from kedit.records import from_record, to_record
from kedit.run_folder import file_name, write_whole


@dataclass(frozen=True)
class SavedEditor:
    """The settings of one editor, and how they were found.

    Args:
        settings: all settings that are not the editor's defaults, as `label_of` writes them.
        tried: the spec with which these settings were tried.
        score: the Score of their edits; NaN if it could not be measured.
        n_cases: number of cases that were edited.
        seed: of the tuning.
        saved: date and time.
        version: of kedit.
    """

    settings: str
    tried: str
    score: float
    n_cases: int
    seed: int
    saved: str
    version: str


@dataclass(frozen=True)
class SavedSettings:
    """The saved settings of a model's editors, by name and side, such as "rome relation"."""

    model: str
    editors: Mapping[str, SavedEditor]


def settings_file(model: str) -> Path:
    """Returns the file for a model with this short name (see `kedit.models.outline.short_name`)."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    folder = Path(os.environ.get("KEDIT_CONFIG") or Path(base) / "kedit")
    return folder / "settings" / f"{file_name(model)}.json"


def read_settings(model: str) -> Mapping[str, SavedEditor]:
    """Returns the saved settings of a model's editors; empty if none were saved.

    Args:
        model: its short name.

    Raises:
        InputError: the file is damaged, or is not a file of this model's settings.
    """
    file = settings_file(model)
    try:
        found = from_record(SavedSettings, json.loads(file.read_text(encoding="utf-8")))
        if found.model != model:
            raise ValueError(f"it is of the model {found.model!r}")
        return dict(found.editors)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read as the saved settings of {model} ({error!s:.200}): remove it, "
            "or save the settings again (python -m experiments.tune_editors --save)"
        ) from error


def save_settings(model: str, editors: Mapping[str, SavedEditor]) -> Path:
    """Adds or replaces settings of a model's editors; those of its other editors stay.

    Args:
        model: its short name.
        editors: by name and side.

    Raises:
        InputError: the file that is there already is damaged, or no file can be written.
    """
    file = settings_file(model)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_suffix(".lock")):
            whole = SavedSettings(model, {**read_settings(model), **editors})
            write_whole(file, json.dumps(to_record(whole), indent=1, ensure_ascii=False))
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
    return file
