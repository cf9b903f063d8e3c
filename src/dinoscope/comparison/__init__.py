"""The table of the field: several runs, measured alike, as tables and figures in a folder."""

from dinoscope.comparison.writing import Request, Result, compare_runs

__all__ = ["Request", "Result", "compare_runs"]
