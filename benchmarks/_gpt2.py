"""GPT-2 small's shape with random weights, a corruption of it, and what patching it must cost."""

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
    """GPT-2 small's shape with random weights, as TransformerLens makes it."""
    with quiet():
        return HookedTransformer(
            HookedTransformerConfig(
                n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, d_head=WIDTH // HEADS,
                d_mlp=4 * WIDTH, n_ctx=1024, d_vocab=VOCAB, act_fn="gelu_new",
                normalization_type="LN", seed=0, device="cpu",
            )
        )  # fmt: skip


def noisy_runs(model: HookedTransformer, samples: int, n_pos: int = TOKENS) -> tuple[Run, Run]:
    """A clean run of random tokens, and one with noise on the first SPAN embeddings."""
    tokens = torch.randint(0, model.cfg.d_vocab, (1, n_pos))
    noise = torch.randn(samples, SPAN, model.cfg.d_model)

    def corrupt(embed: torch.Tensor, hook: object) -> torch.Tensor:
        embed = embed.clone()
        embed[-samples:, :SPAN] += noise
        return embed

    return Run(tokens), Run(tokens.expand(samples, -1), (("hook_embed", corrupt),))


def rome_cell(hf: GPT2LMHeadModel, rows: torch.Tensor, layer: int, pos: int) -> torch.Tensor:
    """One cell as the published code does it: whole forward, the clean row's state copied over."""
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
    """Multiplications and additions that an exact sweep cannot avoid (norms and activations aside).

    By causality a cell needs the layers above its own, on the positions from its own on; cells
    whose windows begin together share what they have in common; a held half is not computed at the
    held position; behind the last block only the last position counts; what nothing reads is free.
    """
    qkvo, mlp = 8 * WIDTH**2, 16 * WIDTH**2
    unembed = 2 * WIDTH * VOCAB
    total = 0.0
    for pos in positions:
        exact_column = patch.site == "resid_post" and pos == 0  # all clean from there on
        n_new = TOKENS - pos - exact_column
        cells = []
        for layer in range(LAYERS):
            window = [layer] if patch.site == "resid_post" else patch.layers(layer, LAYERS)
            if window[0] < LAYERS - 1 or pos == TOKENS - 1:
                cells.append((window[0], window[-1]))
        starts = {start for start, _ in cells}
        total += unembed * len({(a, b) for a, b in cells})
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
                scores = sum(4 * WIDTH * (TOKENS - later) for later in range(n_new))
                per_free = n_new * (qkvo + mlp) + scores
                skipped = mlp if patch.site == "mlp_out" else qkvo / 2 + 4 * WIDTH * (pos + 1)
            total += len(free) * per_free + len(held) * (per_free - skipped)
    return total * SAMPLES
