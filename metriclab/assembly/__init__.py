"""From a checked recipe to the objects that run it.

In: a `Recipe`, or the folder of a finished run. Out: the splits of its data set and a `Training` of data, views,
sampler, method, optimizer and schedule on this rank's device; or an `Embedder`, images in and embeddings out.
"""
