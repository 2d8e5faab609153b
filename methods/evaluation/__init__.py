"""Protocols that judge a representation."""

from methods.evaluation.fine_tune import FineTune
from methods.evaluation.knn import KNNEval
from methods.evaluation.linear import LinearEval
