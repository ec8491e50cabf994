"""The routing report: does the router know the task, measured against chance?"""

from .statistics import Observations, routing_statistics

__all__ = ["Observations", "routing_statistics"]
