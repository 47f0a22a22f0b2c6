"""What does loading cost beside plain Hugging Face? python -m benchmarks.load

Compares `kedit.load` with `AutoModelForCausalLM.from_pretrained` and its tokenizer on the same
folder. Each loads in processes of its own, on one thread, and the figures are medians over rounds:
  cpu_*      CPU seconds of the whole process, imports included
  peak_*     the largest memory of the process, in MB (mapped pages of the file are part of it)
  weights_*  the memory of the weights themselves, in MB
Hugging Face maps the file and reads it only when it is needed, so the plain process reads each
weight once, as kedit does when it checks them. kedit has two embeddings where Hugging Face's Gemma
has one: TransformerLens' W_E is scaled, and W_U is not. The last line is JSON: ratios of kedit to
the plain way, and of each peak to that process's weights.
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import median

from benchmarks._timing import report

# prints where the weights are, and makes the folder if it is missing
FIND = """
from kedit.models.load import folder_of
print(folder_of({name!r}) or {name!r})
"""
PLAIN = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained({folder!r})
with torch.no_grad():
    assert all(weight.sum().isfinite() for weight in model.parameters())
"""
OURS = """
import kedit
model = kedit.load({name!r}, device="cpu")
"""
MEASURE = """
import json, resource, sys, time
cpu, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
storages = [weight.untyped_storage() for weight in model.parameters()]
by_place = {at.data_ptr(): at.nbytes() for at in storages}
kilo = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes, Linux kilobytes
print(json.dumps([cpu, peak * kilo / 1e6, sum(by_place.values()) / 1e6]))
"""


def output(code: str) -> str:
    """Runs `code` in a fresh process, on one thread; returns its last line."""
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=told
    )
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m", help="or a Hugging Face folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args()
    name = options.model
    folder = output(FIND.format(name=name))
    ways = {"plain": PLAIN.format(folder=folder), "kedit": OURS.format(name=name)}
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(1 if options.quick else options.rounds):
        for way, code in ways.items():
            found[way].append(json.loads(output(code + MEASURE)))
    cpu, peak, weights = (
        {way: median(one[column] for one in found[way]) for way in ways} for column in range(3)
    )
    for way in ways:
        print(
            f"{way}: {cpu[way]:.1f} s of CPU, peak {peak[way]:.0f} MB for {weights[way]:.0f} MB "
            "of weights"
        )
    report(
        {
            "cpu_ratio": cpu["kedit"] / cpu["plain"],
            "peak_ratio": peak["kedit"] / peak["plain"],
            "plain_peak_over_weights": peak["plain"] / weights["plain"],
            "kedit_peak_over_weights": peak["kedit"] / weights["kedit"],
        }
    )


if __name__ == "__main__":
    main()
