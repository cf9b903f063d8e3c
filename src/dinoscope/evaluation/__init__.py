"""Evaluations of models, one file each, and what they share."""

from dinoscope.evaluation import (
    copies,
    correspondence,
    davis,
    explain,
    fewshot,
    finetune,
    knn,
    lidar,
    linear,
    rank,
    retrieval,
    throughput,
    voc,
)
from dinoscope.evaluation.base import Evaluation

EVALUATIONS: dict[str, Evaluation] = {
    "throughput": throughput.EVALUATION,
    "linear": linear.EVALUATION,
    "knn": knn.EVALUATION,
    "fewshot": fewshot.EVALUATION,
    "retrieval": retrieval.EVALUATION,
    "copies": copies.EVALUATION,
    "finetune": finetune.EVALUATION,
    "voc": voc.EVALUATION,
    "davis": davis.EVALUATION,
    "explain": explain.EVALUATION,
    "correspondence": correspondence.EVALUATION,
    "rank": rank.EVALUATION,
    "lidar": lidar.EVALUATION,
}
"""name -> evaluation, in the order of a table's columns."""
