"""Studies of edits: functions that take a model and data and return a typed result."""
