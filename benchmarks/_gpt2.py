"""What benchmarks measure on: a model of GPT-2 small's shape, its noisy runs, ROME's patching loop.

The weights are random, which changes no timing and needs no download. `needed_flops` computes the
arithmetic that an exact sweep cannot avoid, so that a measured time can be compared with the
machine's peak.
"""

from collections.abc import Sequence

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import GPT2LMHeadModel

from kedit.forward.runs import Run
from kedit.models.load import quiet
from probes.patch import Patch

LAYERS, WIDTH, HEADS, VOCAB = 12, 768, 12, 50257
TOKENS, SPAN, SAMPLES, WINDOW = 12, 4, 10, 10


def gpt2_small() -> HookedTransformer:
    """Builds a HookedTransformer of GPT-2 small's shape with random weights."""
    with quiet():
        return HookedTransformer(
            HookedTransformerConfig(
                n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=WIDTH // HEADS,
                d_mlp=4 * WIDTH, n_ctx=1024, d_vocab=VOCAB, act_fn="gelu_new",
                normalization_type="LN", seed=0, device="cpu",
            )
        )  # fmt: skip


def noisy_runs(model: HookedTransformer, samples: int, n_pos: int = TOKENS) -> tuple[Run, Run]:
    """Makes a clean run of random tokens, and a corrupted run with noise on the first SPAN."""
    tokens = torch.randint(0, model.cfg.d_vocab, (1, n_pos))
    noise = torch.randn(samples, SPAN, model.cfg.d_model)

    def corrupt(embed: torch.Tensor, hook: object) -> torch.Tensor:
        embed = embed.clone()
        embed[-samples:, :SPAN] += noise
        return embed

    return Run(tokens), Run(tokens.expand(samples, -1), (("hook_embed", corrupt),))


def rome_cell(hf: GPT2LMHeadModel, rows: torch.Tensor, layer: int, pos: int) -> torch.Tensor:
    """Computes one cell as the published code does: a whole forward pass of clean and noisy rows.

    The clean row's residual is copied over the noisy rows' at one layer and position.
    """
    noise = torch.randn(len(rows) - 1, SPAN, WIDTH)

    def corrupt(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        output[1:, :SPAN] += noise
        return output

    def restore(module: object, inputs: object, output: object) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, torch.Tensor)
        hidden[1:, pos] = hidden[0, pos]
        return output

    handles = [
        hf.transformer.wte.register_forward_hook(corrupt),
        hf.transformer.h[layer].register_forward_hook(restore),
    ]
    try:
        return hf(rows).logits[1:, -1].softmax(-1).mean(0)
    finally:
        for handle in handles:
            handle.remove()


def needed_flops(patch: Patch, positions: Sequence[int]) -> float:
    """Counts the multiplications and additions that an exact sweep needs.

    - Norms and nonlinearities are not counted.
    - A cell needs only the layers above its own, and its own position and later ones (causality).
    - Cells whose windows begin at the same layer share their computation until one is released.
    - A held module is not computed at the held position.
    - After the last block, only the last position is needed. Nothing is counted that nothing reads.
    """
    qkvo, mlp = 8 * WIDTH**2, 16 * WIDTH**2
    unembed = 2 * WIDTH * VOCAB
    total = 0.0
    for pos in positions:
        # a residual restored at the first corrupted position equals the clean run: not computed
        equals_clean = patch.site == "resid_post" and pos == 0
        n_new = TOKENS - pos - equals_clean
        cells = []
        for layer in range(LAYERS):
            window = [layer] if patch.site == "resid_post" else patch.layers(layer, LAYERS)
            if window[0] < LAYERS - 1 or pos == TOKENS - 1:
                cells.append((window[0], window[-1]))
        starts = {start for start, _ in cells}
        total += unembed * len({(start, end) for start, end in cells})
        if patch.site == "attn_out":
            total += mlp * len(starts)  # the first layer's MLP reads the restored attention
        for layer in range(1, LAYERS):
            held = {start for start, end in cells if start < layer <= end}
            free = [1 for start, end in cells if end < layer]
            if layer == LAYERS - 1:
                keys = n_new * qkvo / 2
                held_last = pos == TOKENS - 1
                attention = qkvo / 2 + 4 * WIDTH * TOKENS
                per_free = keys + attention + mlp
                skipped = (mlp if patch.site == "mlp_out" else attention) if held_last else 0
            else:
                # queries and keys: 2 x 2 WIDTH operations for each pair of positions
                scores = sum(4 * WIDTH * (TOKENS - later) for later in range(n_new))
                per_free = n_new * (qkvo + mlp) + scores
                skipped = mlp if patch.site == "mlp_out" else qkvo / 2 + 4 * WIDTH * (pos + 1)
            total += len(free) * per_free + len(held) * (per_free - skipped)
    return total * SAMPLES
