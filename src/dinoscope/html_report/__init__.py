"""One self-contained HTML file about one or more runs."""

from __future__ import annotations

from dinoscope.html_report.writing import Request, Written, write_report

__all__ = ["Request", "Written", "write_report"]
