"""Results of all studies: plain data that can be saved, loaded and shown without a model."""
