"""Comparisons: folders of finished runs come in, a `verdicts.Comparison` of plain values goes out.

`finished` reads the folders, groups runs by recipe and refuses what cannot be ranked, `statistics` tests,
and `compare` puts it together. `suite` reads a file of entries, `search` tunes them, and `launch` runs what is missing.
"""
