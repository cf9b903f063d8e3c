"""Evaluations of models, one file each, and what they share."""

from dinoscope.evaluation import knn, linear, rank
from dinoscope.evaluation.base import Evaluation

EVALUATIONS: dict[str, Evaluation] = {
    "linear": linear.EVALUATION,
    "knn": knn.EVALUATION,
    "rank": rank.EVALUATION,
}
"""name -> evaluation, in the order of a table's columns."""
