"""metriclab: metric learning assembled from recipes and measured by one harness.

Importing the package costs nothing: the public surface, which needs torch, is `metriclab.api`.
"""

__version__ = "0.1.0"
