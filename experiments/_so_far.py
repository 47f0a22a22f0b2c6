"""Draws the figures of averages while facts are traced, so that the first come in minutes."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments._printing import say
from experiments._trace import Config

if TYPE_CHECKING:
    from kedit.results.traced import Traces
    from kedit.run_folder import RunFolder

log = logging.getLogger("kedit")


def drawn_so_far(config: Config, folder: "RunFolder") -> "Callable[[Traces, str], None]":
    """Makes the function that draws the figures of the facts so far, under their usual names.

    Its first call prints where the figures are. If a call fails, the log says so, and no figure is
    drawn before all facts are traced.
    """
    from figures.style import save_for_now
    from figures.traced import every

    has_drawn = has_failed = False

    def draw(traces: "Traces", so_far: str) -> None:
        nonlocal has_drawn, has_failed
        if has_failed:
            return
        try:
            averages = traces.averages(config.metric, config.baseline)
            files = [
                save_for_now(figure, folder.path, name) for name, figure in every(averages, so_far)
            ]
        except Exception as error:  # of any kind: it should not end hours of tracing
            has_failed = True
            log.warning("Figures of %s could not be drawn; tracing goes on: %r", so_far, error)
            return
        if not has_drawn:
            say(f"First figures, of {so_far}: {files[0]} (drawn again as more facts are traced)")
        has_drawn = True

    return draw
