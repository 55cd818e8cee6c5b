"""The run folder: the one place that knows its files.

In: the recipe, environment, state and result of a run. Out: files that are whole or absent, and from them, checked,
what was put in; those of earlier versions in today's names.
"""
