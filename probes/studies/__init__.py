"""Studies of where a model keeps things: functions from a model and facts to a typed result."""
