"""Opens a page in the browser: trace a fact, look at heads, edit it, undo or save the edit."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import _options as options
from experiments._command import command

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


@dataclass(frozen=True)
class Config:
    """Which model is explored, and where its page is served."""

    model: str = options.model()
    port: int = 5006
    """The port of this machine at which the page is served; 0: any free port."""
    no_browser: bool = False
    """Whether to print the address only, instead of opening the page in a browser."""
    device: str = options.device()
    dtype: str = options.dtype()


def explore(model: "HookedTransformer") -> Any:
    """Returns the page of `kedit explore` for a notebook: trace, edit, undo and save.

    It needs the extra `explore`. Between two clicks the model is unedited.

    Raises:
        InputError: Panel is not installed.
    """
    from kedit.models.load import name_of

    _require_panel()
    import panel

    panel.extension()
    return _page(model, name_of(model))


def run(config: Config) -> Path:
    """Serves the page to this machine until the command is interrupted."""
    from experiments._printing import say
    from kedit.cache import cache_dir
    from kedit.models.load import load

    _require_panel()
    import panel

    model = load(config.model, config.device, config.dtype)
    panel.extension(nthreads=1)  # all windows share the model, which belongs to one thread
    say("Press Ctrl-C to stop.")
    panel.serve(
        lambda: _page(model, config.model), port=config.port, address="127.0.0.1",
        show=not config.no_browser, title=f"kedit: {config.model}",
    )  # fmt: skip
    return cache_dir()


def _page(model: "HookedTransformer", name: str) -> Any:
    from experiments._edit_example import example_of
    from experiments._explorer import Explorer

    return Explorer(model, example_of(name)).form.page()


def _require_panel() -> None:
    from kedit.errors import InputError

    if importlib.util.find_spec("panel") is None:
        raise InputError("explore needs Panel: pip install 'kedit[explore]'")


if __name__ == "__main__":
    command(Config, run)
