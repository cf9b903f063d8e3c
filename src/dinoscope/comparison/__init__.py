"""The table of the field: several runs, measured alike, as tables and figures in a folder."""

from dinoscope.comparison.writing import Compared, Request, compare_runs

__all__ = ["Compared", "Request", "compare_runs"]
