"""The index of several runs: a link to the page of each, and the options in which they differ."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures._templates import environment

if TYPE_CHECKING:
    from figures._run_files import RunFiles

NOT_COMPARED = ("out", "model")  # the model has a column of its own


def index(pages: Mapping[Path, "RunFiles"], out: Path) -> str:
    """Returns the index as text; its links are relative to the folder of `out`.

    Args:
        pages: the runs by the paths of their pages.
        out: the file of the index.
    """
    runs = list(pages.values())
    columns = differing([run.settings for run in runs])
    rows = [
        {
            "link": Path(os.path.relpath(page, out.parent)).as_posix(),
            "folder": run.path.name,
            "cells": [
                run.name, str(run.settings.get("model", "")), str(len(run.records)),
                *(shown(run.settings.get(column)) for column in columns),
            ],
        }
        for page, run in pages.items()
    ]  # fmt: skip
    return (
        environment()
        .get_template("report_index.html")
        .render(columns=["experiment", "model", "records", *columns], rows=rows)
    )


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the options that do not have the same value in all runs."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [
        name
        for name in names
        if name not in NOT_COMPARED and len({shown(one.get(name)) for one in settings}) > 1
    ]


def shown(value: Any) -> str:
    """Returns an option's value as text; "" if the run has no such option."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
