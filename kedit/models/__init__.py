"""Models as kedit loads them, and what differs between their families."""
