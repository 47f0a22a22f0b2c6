"""Studies of where a model stores facts and relations.

Each study is a function that takes a model, facts and settings, and returns a typed result, which
can be printed, plotted and saved. The commands of `experiments` call these functions.
"""
