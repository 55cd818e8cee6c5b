"""From an encoder and its splits to numbers.

In: an encoder, queries and gallery. Out, one way: `embed` makes rows of images, `evaluate` makes scores of rows, and
`result` lays them beside baselines and costs, as they stand in result.json.
"""
