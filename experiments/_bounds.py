"""What options of the commands may be, by name; looked at before a model is loaded."""

from typing import Any

OF_LISTS = ("sites", "positions", "halves")  # of these there has to be one


def require_options_in_bounds(config: Any) -> None:
    """Raises InputError, which names the option, for a number out of bounds or an empty list."""
    from kedit.bounds import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, Bound, require_in_bounds
    from kedit.errors import InputError

    bounds = {
        **dict.fromkeys(
            ("limit", "skip", "texts", "probes", "relations", "heatmaps", "decoded", "controls",
             "neighbours", "heads", "strongest", "tune", "validate", "test", "seen"),
            NOT_NEGATIVE,
        ),
        **dict.fromkeys(
            ("samples", "window", "screen_steps", "chunks", "draws", "tries", "steps", "wordings",
             "best", "tokens_a_key", "n_heads", "choose"),
            AT_LEAST_ONE,
        ),
        **dict.fromkeys(("screen", "threshold", "agree_wordings", "agree_facts"), SHARE),
        "seed": Bound(0, 2**63 - 1),
    }  # fmt: skip
    require_in_bounds(config, bounds, "--{field} {value}")
    for name in OF_LISTS:
        if getattr(config, name, None) == []:
            raise InputError(f"--{name}: at least one is wanted")
