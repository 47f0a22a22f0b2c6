"""Options that were renamed: an error names the new spelling, before anything is loaded."""

from collections.abc import Collection, Sequence

_EDITING_COMMANDS = ("compare_editors", "tune_editors", "choose_sites", "ablate_attention")
_WITH_TEXT_STATISTICS = (*_EDITING_COMMANDS, "edit_fact")

# for each command: old spelling -> new spelling
RENAMED: dict[str, dict[str, str]] = {
    "score_model": {"--text": "--held-out", "--texts": "--n-texts"},
    "train_mend": {
        "--text": "--locality-text",
        "--held-out": "--n-validate",
        "--validate": "--validate-every",
        "--but": "--exclude",
    },
    "say_text": {"--held-out": "--held-out-share"},
    "find_neurons": {
        "--limit": "--facts-per-relation",
        "--relations": "--n-relations",
        "--steps": "--gradient-steps",
    },
    "edit_fact": {"--true": "--old", "--more": "--paraphrases"},
    "ablate_attention": {"--heads": "--n-random-heads"},
    "choose_sites": {"--neighbours": "--n-neighbours"},
}
for _command in _EDITING_COMMANDS:
    _new_names = {"--window": "--chunk-tokens", "--probes": "--prompts-per-kind"}
    RENAMED[_command] = _new_names | RENAMED.get(_command, {})
for _command in _WITH_TEXT_STATISTICS:
    RENAMED[_command] = RENAMED[_command] | {"--tokens-a-key": "--tokens-per-dim"}

MEANINGS = {
    "--chunk-tokens": "tokens per chunk of held-out text",
    "--exclude": "files whose subjects are left out",
    "--facts-per-relation": "most facts of each relation",
    "--gradient-steps": "steps of the integrated gradients",
    "--held-out": "text on which perplexity is measured",
    "--held-out-share": "share of the text that is held out",
    "--locality-text": "running text whose likelihoods should stay",
    "--n-neighbours": "number of neighbours of each case",
    "--n-random-heads": "number of random heads per layer",
    "--n-relations": "number of relations",
    "--n-texts": "number of cases for which texts are generated",
    "--n-validate": "number of requests for validation",
    "--old": "the old object",
    "--paraphrases": "other wordings of the prompt",
    "--prompts-per-kind": "number of test prompts per kind",
    "--tokens-per-dim": "tokens of text per dimension of a key",
    "--validate-every": "steps between validations",
}


def require_no_old_spelling(
    command: str, arguments: Sequence[str], options: Collection[str]
) -> None:
    """Raises InputError for an option that was renamed or is spelled with underscores.

    Args:
        command: such as "score_model".
        arguments: of the command line, without the command itself.
        options: all that the command has, such as "--held-out".
    """
    from kedit.errors import InputError

    for argument in arguments:
        given = argument.partition("=")[0]
        if not given.startswith("--") or given in options:
            continue
        dashed = "--" + given[2:].replace("_", "-")
        if new := RENAMED.get(command, {}).get(dashed):
            raise InputError(f"{given} was renamed: use {new} ({MEANINGS[new]})")
        if dashed in options:
            raise InputError(f"{given}: options are spelled with dashes, use {dashed}")
