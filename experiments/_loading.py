"""Loads the model of a command, and checks what could not be checked without it."""

from typing import TYPE_CHECKING, Any

from experiments._verbosity import log_stage

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


def loaded(config: Any, folder: Any, masked: bool = False) -> "HookedTransformer":
    """Loads the model of a configuration, and stores its fingerprint in the folder if there is one.

    Args:
        folder: the run's folder, a worker's journal, or None.
        masked: whether the command also takes BERT and T5; then it reads no text.

    Raises:
        InputError: the model cannot be loaded, or is BERT or T5 without `masked`; the folder holds
            a run of other weights; or a text has fewer tokens than the run reads.
    """
    from experiments._text_length import require_bytes, require_tokens
    from kedit.editing.provenance import fingerprint
    from kedit.models.load import load
    from kedit.models.masked import require_decoder
    from kedit.models.split import devices_of

    require_bytes(config)
    model = load(config.model, config.device, config.dtype)
    if not masked:
        require_decoder(model, "this command")
        require_tokens(config, model)
    devices = " and ".join(map(str, devices_of(model)))
    log_stage(f"Loaded {config.model}: {model.cfg.n_layers} layers, on {devices}")
    if folder is not None:
        folder.require_weights(fingerprint(model))
    return model
