"""What a model makes of a benchmark case, and what an edit changes of that."""
