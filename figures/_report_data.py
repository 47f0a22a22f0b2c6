"""The numbers that a report's page draws by itself: average effects, and single facts."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from figures._run_files import RunFiles
from figures.style import METRIC_NAMES, SIGNED, SITES, site_name
from kedit.stats import enough
from kedit.tables import EFFECT_UNITS

if TYPE_CHECKING:
    from kedit.results.grids import EffectGrid
    from kedit.results.traces import FactTrace

DIGITS = 4  # significant ones: a page of 40 facts stays at a few megabytes


def page_data(files: RunFiles, n_facts: int) -> dict[str, Any]:
    """Plain values for one block of JSON; "maps" and "facts" are empty for a run without traces.

    Args:
        n_facts: so many single facts at most.
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
    """Floats to DIGITS significant digits; None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _title(name: str, window: int) -> str:
    return site_name(name, window) if name.partition("-")[0] in SITES else name


def _fact(by_part: "Mapping[str, FactTrace]", names: Mapping[str, str]) -> dict[str, Any]:
    """One fact's maps.

    Args:
        names: of relations, by their ids.
    """
    fields = ("part", "labels", "corrupted", "corruption", "answer", "foil")
    one = next(iter(by_part.values()))
    told = {name: getattr(one, name) for name in ("subject", "object", "prompt")}
    return told | {
        "relation": names.get(one.relation, one.relation),
        "parts": [
            {name: getattr(trace, name) for name in fields}
            | {"grids": [_grid(grid, trace.corrupted[0]) for grid in trace.grids.values()]}
            for trace in by_part.values()
        ],
    }


def _grid(grid: "EffectGrid", first: int) -> dict[str, Any]:
    """One fact's scores by metric, layer and token; of a grid by head, those of the head with the
    largest effect of either sign in each cell, and which it is.

    Args:
        first: corrupted position; before it there is no effect, and nothing to estimate.
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
        # both: what is left of two rounded scores has lost the digits of a small effect
        "restored": restored.tolist(),
        "effect": effect.tolist(),
        "estimated": None if grid.screen is None else estimated.tolist(),
        "heads": heads,
    }
