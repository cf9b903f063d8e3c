"""The section that compares the models: accuracy, size and speed."""

from __future__ import annotations

from dinoscope.evaluation.compare import best_first, display_table
from dinoscope.report.charts import accuracy, are_alike, svg
from dinoscope.report.comparison import bars_line, panels
from dinoscope.report.page import Block, Figure, Notice, Section
from dinoscope.report.runs import Material
from dinoscope.report.sections.evaluations import elsewhere

NOTHING = (
    "Nothing is kept of k-NN, linear probe or speed: give --data FOLDER with train/CLASS/... and val/CLASS/..., and "
    "what is missing is measured and kept."
)


def section(material: Material) -> Section | None:
    """Show table and figure, or how to get them; None without models."""
    if material.comparison is None:
        return None
    comparison = best_first(material.comparison)
    kept = any(row.cell(name) for row in comparison.rows for name in comparison.columns)
    blocks: list[Block] = [display_table(comparison, published=False, intervals=True)] if kept else [Notice(NOTHING)]
    drawn, x_title = panels(comparison)
    if any(len(panel.points) > 1 for panel in drawn):
        drawing = svg(accuracy(drawn, x_title, size=(4.3, 3.9))).decode("utf-8")
        what, reading = ("", "best on top") if are_alike(drawn) else (f" against {x_title}", "further up is better")
        caption = f"Accuracy{what}: {reading}. {bars_line(comparison)}."
        blocks.append(Figure(drawing, caption, f"Accuracy of each model{what}"))
    lead = "Accuracy of frozen features, size and speed." if kept else ""
    if any(row.marks for row in comparison.rows):
        lead += " Small numbers refer to the notes below the table."
    return Section("Comparison", "comparison", lead, (*blocks, *elsewhere(material)))
