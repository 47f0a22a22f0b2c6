"""The README.txt texts of edit_fact's run folders."""

_FILES = """\
config.json        the options
versions.json      the versions of the packages, and the machine
edit.safetensors   the edit: the change of each weight, and what it was made from. Read it with
                   kedit.editing.edit.Edit.load; report.md has the code that applies it
report.md          what the command printed: verdict, tables, and the code that applies the edit
before-after.png, .pdf   the figure
"""
_FIELDS = """\
model, spec, seed  the model, and the editor as it was given with --editor
request            the edited prompts, with subject, old object and target
editor, settings   the editor and all of its settings
seconds            the time that the edit took
changed            for each changed weight the norm of its change, the same relative to the norm of
                   the weight, and how many of its numbers changed
perplexity         of the held-out text, before and after the edit
outcome, prices    the verdict (works, at a price, fails), and each number beyond its limit
"""

EXPLAINED_ONE = f"""\
{_FILES}report.json        the numbers, with these fields:

{_FIELDS}rows               one entry per prompt: its role (edited, removed, paraphrase, other side,
                   neighbour), whether its answer should change or stay and does ("as wanted"), and
                   before and after the edit: the likeliest next tokens, the probabilities of the
                   new and the old answer (exp of the mean log-probability of their tokens), and
                   the generated text
"""

EXPLAINED_MANY = f"""\
{_FILES}report.json        the numbers, with these fields:

{_FIELDS}facts              one entry per fact: its id, its own verdict, and in "rows" every prompt
                   with probabilities and generated text before and after the edit
skipped            records of the file that are not in the edit, with the reason
"""
