"""Small runs of every study that keeps records, and what of their results is always the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# numbers that depend on the machine's load
MEASURED = ("seconds", "memory", "mib", "rss", "peak")  # a record's checksum covers them, too
# each study that keeps records, with little work
RUNS: Mapping[str, dict[str, Any]] = {
    "trace_relation": {"limit": 6, "window": 1},
    "patch_heads": {"relations": "2", "limit": 4, "sites": ["z"]},
    "ask_heads": {"choose": 3, "limit": 3, "n_heads": 3, "decoded": 40},
    "score_model": {"limit": 20, "n_texts": 2},
    "compare_editors": {
        "editors": "rome,joint", "limit": 4, "chunks": 1, "prompts_per_kind": 1,
    },
    "compare_frontiers": {
        "editors": "joint,w_out", "values": [0.1, 10.0], "limit": 3, "chunk_tokens": 32,
    },
    "tune_editors": {"editors": "rome,ft", "tries": 2, "limit": 2, "perspective": "entity"},
    "edit_many": {
        "editors": "rome,joint", "counts": [1, 3], "limit": 3, "chunks": 1, "prompts_per_kind": 1,
        "cases": "toy",
    },
    "explain_edit": {"editors": "rome", "limit": 4},
    "choose_sites": {"limit": 3, "layers": [0, 2], "n_neighbours": 4, "best": 2, "chunks": 1},
    "find_neurons": {
        "facts": "toy", "n_relations": 2, "facts_per_relation": 4, "gradient_steps": 5,
        "controls": 2,
    },
}  # fmt: skip
# files that say with what a run was made, which differs by its folder and time
ABOUT = ("config.json", "versions.json")


def records_of(out: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's records."""
    file = out / "records.jsonl"
    text = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def plain(value: Any) -> Any:
    """A record or result without the numbers that depend on the machine's load."""
    if isinstance(value, dict):
        return {
            key: plain(item)
            for key, item in value.items()
            if not any(word in key.lower() for word in (*MEASURED, "checksum"))
        }
    return [plain(item) for item in value] if isinstance(value, list) else value


def result_of(file: Path) -> Any:
    return plain(json.loads(file.read_text()))
