"""Forward passes: runs and their metrics, patched cells, and many prompts at once."""
