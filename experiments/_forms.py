"""The forms of data and text that options accept, as sentences for the help."""

FACTS_FORMS = (
    "The facts: builtin, toy, or a file, such as your own facts (JSON Lines or CSV), "
    "known_1000.json, CounterFact, or a relation file of evandez/relations. auto: toy for the "
    "model toy, else builtin."
)
CASES_FORMS = (
    "The cases: builtin, toy, or a file, such as your own facts with targets (JSON Lines or CSV), "
    "rake.jsonl of experiments.build_rake, CounterFact, KnowEdit, EasyEdit's form, MQuAKE or zsRE. "
    "auto: toy for the model toy, else the rake.jsonl that build_rake wrote by default, else "
    "builtin."
)
# the forms of an option that names text
TEXT_FORMS = (
    "a text file, hf:NAME for a data set of the Hugging Face hub, self for text sampled from the "
    "model itself, or empty for"
)
PUBLISHED = (
    "GPT-2 and GPT-J have published settings; the published ROME is "
    "rome:key=legacy:moments=('FILE.npz',), with the authors' C."
)
