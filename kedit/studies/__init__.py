"""Studies of edits: functions from a model and data to a typed result."""
