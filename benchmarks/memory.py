"""How much memory do a trace and an edit take beside the weights? python -m benchmarks.memory

Prints the largest resident memory of the process, which includes Python and its packages (about
half a gigabyte) and the tokenizer, after each step: loading, the trace of a fact (residuals,
windows of MLP and attention outputs, every head; 12 tokens, one corrupted row), and a ROME edit
(statistics of keys included, over 21 contexts). Weights are random, and their values change no
size. The last line is JSON: each peak divided by the memory of the weights.
"""

import argparse
import gc
import resource

import torch
from transformer_lens import HookedTransformer

from benchmarks._shapes import SHAPES, hugging_face
from benchmarks._timing import report
from benchmarks.hooks import SITES, TOKENS, random_texts, trace
from kedit.editors.rome import ROME
from kedit.forward.runs import Run
from kedit.models import toy
from kedit.models.hugging_face import hooked
from kedit.models.load import prepare, quiet
from probes.trace import PAPER_WINDOW, patches_at

CONTEXTS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="qwen")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model, name = _model(options.shape)
    weights = _weight_bytes(model)
    print(f"{name}, {weights / 1e9:.2f} GB of weights")
    figures = {"loaded": _peak("loaded")}
    clean, corrupted = map(Run, random_texts(model))
    for patch in patches_at(SITES, PAPER_WINDOW):
        trace(model, clean, corrupted, patch, (1, TOKENS - 2))
    figures["trace"] = _peak("after a trace")
    case = toy.cases()[0]
    contexts = tuple(f"{fact.prompt} {fact.object}." for fact in toy.facts()[:CONTEXTS])
    assert model.cfg.d_mlp is not None
    # the fewest tokens with which the statistics of keys can be inverted, and some more
    editor = ROME(model.cfg.n_layers // 5, contexts=contexts, n_tokens=9 * model.cfg.d_mlp // 8)
    edit = editor(model, [case.entity])
    assert all(norm.delta > 0 for norm in edit.norms(model).values())
    figures["rome"] = _peak("after a ROME edit")
    report({step: peak / weights for step, peak in figures.items()})


def _model(shape: str) -> tuple[HookedTransformer, str]:
    hf, name = hugging_face(shape)
    with quiet():
        model = hooked(hf, torch.float32)
    del hf
    gc.collect()
    return prepare(model, toy.tokenizer()), name  # any tokenizer will do


def _peak(step: str) -> float:
    """Returns the largest resident memory so far, in bytes, and prints it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  {step}: peak of {peak / 1e9:.2f} GB", flush=True)
    return peak


def _weight_bytes(model: HookedTransformer) -> int:
    """The bytes of the weights; weights that share their memory count once."""
    return sum({weight.data_ptr(): weight.nbytes for weight in model.parameters()}.values())


if __name__ == "__main__":
    main()
