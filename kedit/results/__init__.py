"""Results of tracing and scoring: plain data that is saved and loaded without a model."""
