"""Losses that optimise a ranking, and losses of several centres a class, for metriclab."""

from metriclab_ranking.average_precision import SmoothAP, SupAP
from metriclab_ranking.decoupled_contrastive import DecoupledContrastive
from metriclab_ranking.recall_at_k import RecallAtK
from metriclab_ranking.roadmap import Roadmap
from metriclab_ranking.soft_triple import SoftTriple
from metriclab_ranking.sub_centre_arcface import SubCentreArcFace

__all__ = ["DecoupledContrastive", "RecallAtK", "Roadmap", "SmoothAP", "SoftTriple", "SubCentreArcFace", "SupAP"]
