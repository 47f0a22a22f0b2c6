"""What options call records and texts that lie in no file of the user's."""

RECORDS = ("auto", "builtin", "toy")
KEDIT = "kedit"  # written by Gemma 3 270M (experiments.say_text), for statistics of keys
HELD_OUT = "kedit:held-out"  # other documents of the same text, to see what an edit costs
SELF = "self"  # what the model itself says
HUB = "hf:"  # opens the name of a data set of the Hugging Face hub
NO_FILES = ("", *RECORDS, KEDIT, HELD_OUT, SELF)
