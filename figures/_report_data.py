"""The data from which a report's page draws its maps: average effects and single facts."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from figures._run_files import RunFiles
from figures.style import METRIC_NAMES, SIGNED, SITES, site_name
from kedit.results.site_names import within_tower
from kedit.stats import enough
from kedit.tables import EFFECT_UNITS

if TYPE_CHECKING:
    from kedit.results.grids import EffectGrid
    from kedit.results.traces import FactTrace

DIGITS = 4  # significant digits, so that a page of 40 facts has only a few megabytes


def page_data(files: RunFiles, n_facts: int) -> dict[str, Any]:
    """Plain values for the page's block of JSON; without traces, "maps" and "facts" are empty.

    Args:
        n_facts: largest number of single facts on the page.
    """
    return rounded(
        {
            "metrics": METRIC_NAMES,
            "units": EFFECT_UNITS,
            "metric": files.settings.get("metric", "prob"),
            "colours": [to_hex(colour) for colour in colormaps[SIGNED](range(256))],
            "maps": [
                effect
                | {"title": _title(effect["name"], effect["window"])}
                | {"enough": enough(effect["n_facts"])}
                for effect in files.averages.get("averages", [])
            ],
            "facts": [
                _fact(by_part, files.averages.get("relations", {}))
                for by_part in (files.traces(n_facts) if files.traced else ())
            ],
        }
    )


def rounded(value: Any) -> Any:
    """The value with all floats rounded to DIGITS significant digits; NaN and infinity are None."""
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _title(name: str, window: int) -> str:
    """The title of a map; a site that the figures do not know keeps its name."""
    return site_name(name, window) if within_tower(name).partition("-")[0] in SITES else name


def _fact(by_part: "Mapping[str, FactTrace]", names: Mapping[str, str]) -> dict[str, Any]:
    """The maps of one fact.

    Args:
        by_part: the fact's traces, by corrupted part.
        names: names of relations, by id.
    """
    fields = ("part", "labels", "corrupted", "corruption", "answer", "foil")
    first = next(iter(by_part.values()))
    fact = {name: getattr(first, name) for name in ("subject", "object", "prompt")}
    return fact | {
        "relation": names.get(first.relation, first.relation),
        "parts": [
            {name: getattr(trace, name) for name in fields}
            | {"grids": [_grid(grid, trace.corrupted[0]) for grid in trace.grids.values()]}
            for trace in by_part.values()
        ],
    }


def _grid(grid: "EffectGrid", first: int) -> dict[str, Any]:
    """One fact's scores by metric, layer and token.

    For a grid by head, each cell has the scores of the head with the largest effect of either
    sign, and this head's number.

    Args:
        first: first corrupted position. Cells before it have no effect, so none is an estimate.
    """
    import torch

    restored = grid.restored
    effect = torch.stack([grid.indirect_effect(metric) for metric in METRIC_NAMES])
    estimated, heads = torch.zeros_like(restored, dtype=torch.bool), None
    if grid.screen is not None:
        estimated[:] = ~(grid.screen.kept | grid.screen.sampled)
        estimated[:, :, [pos < first for pos in grid.positions]] = False
    if effect.ndim == 4:
        heads = effect.abs().argmax(-1, keepdim=True)
        restored, effect, estimated = (
            values.gather(-1, heads)[..., 0] for values in (restored, effect, estimated)
        )
        heads = heads[..., 0].tolist()
    return {
        "title": _title(grid.name, grid.window),
        "positions": grid.positions,
        "clean": grid.clean.tolist(),
        "corrupted": grid.corrupted.tolist(),
        # both are stored: the difference of two rounded scores loses the digits of a small effect
        "restored": restored.tolist(),
        "effect": effect.tolist(),
        "estimated": None if grid.screen is None else estimated.tolist(),
        "heads": heads,
    }
