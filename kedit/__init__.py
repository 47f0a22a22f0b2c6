"""kedit traces where a language model keeps a relation, and measures what editing a fact changes.

    import kedit

    model = kedit.load("gemma-3-270m")
    fact = kedit.Fact.of("The capital of {} is called", "Japan", "Tokyo", relation="capital")
    kedit.trace(model, fact, corrupt="relation").plot()

The public names are imported only when they are used, so that `import kedit` is quick.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedit import collector

if "torch" not in sys.modules:
    # Threads that spin while they wait make everything several times slower as soon as one other
    # process is busy. OpenMP reads this variable once, when torch is loaded; a value that the user
    # has set is not changed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from experiments._explore import explore as explore
    from kedit import editors as editors
    from kedit.data import load_cases as load_cases
    from kedit.data import load_facts as load_facts
    from kedit.editing.edit import Edit as Edit
    from kedit.editing.export import export as export
    from kedit.editing.export import export_adapter as export_adapter
    from kedit.editors.registry import make_editor as make_editor
    from kedit.errors import InputError as InputError
    from kedit.facts import EditCase as EditCase
    from kedit.facts import EditRequest as EditRequest
    from kedit.facts import Fact as Fact
    from kedit.facts import Relation as Relation
    from kedit.journal import Journal as Journal
    from kedit.models.load import load as load
    from kedit.studies.before_after import edit_and_ask as edit_and_ask
    from kedit.studies.comparing import compare as compare
    from kedit.studies.comparison import Comparison as Comparison
    from kedit.studies.frontiers import compare_frontiers as compare_frontiers
    from kedit.studies.many_edits import compare_many as compare_many
    from kedit.studies.many_facts import edit_many as edit_many
    from kedit.studies.mend import train_mend as train_mend
    from kedit.studies.scoring import score_cases as score_cases
    from kedit.studies.tuning import tune as tune
    from kedit.tables import Table as Table
    from probes.anatomy import explain_edit as explain_edit
    from probes.prompts import patch as patch
    from probes.studies.anatomy import explain_edits as explain_edits
    from probes.studies.heads import ask_heads as ask_heads
    from probes.studies.neurons import find_neurons as find_neurons
    from probes.studies.tracing import trace_fact as trace  # noqa: F401
    from probes.studies.tracing import trace_facts as trace_facts
    from probes.studies.write_sites import choose_sites as choose_sites

# The public names. The value is the module that defines the name, "module:NAME" if the name
# differs there, or "" if the name is a module of kedit itself.
PUBLIC = {
    "editors": "",
    "load": "kedit.models.load",
    "Fact": "kedit.facts",
    "Relation": "kedit.facts",
    "EditRequest": "kedit.facts",
    "EditCase": "kedit.facts",
    "load_facts": "kedit.data",
    "load_cases": "kedit.data",
    "make_editor": "kedit.editors.registry",
    "Edit": "kedit.editing.edit",
    "export": "kedit.editing.export",
    "export_adapter": "kedit.editing.export",
    "compare": "kedit.studies.comparing",
    "compare_frontiers": "kedit.studies.frontiers",
    "compare_many": "kedit.studies.many_edits",
    "score_cases": "kedit.studies.scoring",
    "tune": "kedit.studies.tuning",
    "explain_edit": "probes.anatomy",
    "explain_edits": "probes.studies.anatomy",
    "edit_and_ask": "kedit.studies.before_after",
    "edit_many": "kedit.studies.many_facts",
    "trace": "probes.studies.tracing:trace_fact",
    "trace_facts": "probes.studies.tracing",
    "patch": "probes.prompts",
    "ask_heads": "probes.studies.heads",
    "find_neurons": "probes.studies.neurons",
    "choose_sites": "probes.studies.write_sites",
    "explore": "experiments._explore",
    "train_mend": "kedit.studies.mend",
    "Comparison": "kedit.studies.comparison",
    "Journal": "kedit.journal",
    "Table": "kedit.tables",
    "InputError": "kedit.errors",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"kedit has no {name!r}; its public names: {', '.join(PUBLIC)}")
    module, _, name_there = PUBLIC[name].partition(":")
    if not module:
        return import_module(f"kedit.{name}")
    with collector.paused():
        return getattr(import_module(module), name_there or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
