"""Evaluations of models, one file each, and what they share."""

from dinoscope.evaluation import correspondence, davis, explain, fewshot, knn, lidar, linear, rank, throughput, voc
from dinoscope.evaluation.base import Evaluation

EVALUATIONS: dict[str, Evaluation] = {
    "throughput": throughput.EVALUATION,
    "linear": linear.EVALUATION,
    "knn": knn.EVALUATION,
    "fewshot": fewshot.EVALUATION,
    "voc": voc.EVALUATION,
    "davis": davis.EVALUATION,
    "explain": explain.EVALUATION,
    "correspondence": correspondence.EVALUATION,
    "rank": rank.EVALUATION,
    "lidar": lidar.EVALUATION,
}
"""name -> evaluation, in the order of a table's columns."""
