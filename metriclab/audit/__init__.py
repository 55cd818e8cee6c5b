"""What can be wrong with the data of a recipe.

In: a recipe. Out: a `DataReport`, from every image read once.
"""

from metriclab.audit.check import check_data
from metriclab.audit.report import DataReport, Finding, SplitSummary, count_of

__all__ = ["DataReport", "Finding", "SplitSummary", "check_data", "count_of"]
