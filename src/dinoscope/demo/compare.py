"""The tab for stored verdicts: which model to take for a folder of images, as `dinoscope verdict` found it.

Only what the page was started with is shown; whoever visits it chooses among these by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath

import gradio as gr

from dinoscope.demo.site import LIGHT, Site, literal
from dinoscope.evaluation.evidence import Verdict
from dinoscope.report.charts import line_chart, svg
from dinoscope.report.page import Figure
from dinoscope.report.verdict import few_labels_chart, notice_kind, verdict_tables
from dinoscope.tables import LineChart, Table, joined_sections
from dinoscope.text import printable

_PANEL = (4.6, 3.6)  # inches


class CompareTab:
    """The tab's components and handlers; build it inside `tab`. results: verdicts by the names that are shown."""

    def __init__(self, site: Site, results: Mapping[str, Verdict], tab: gr.Tab) -> None:
        self.site, self.verdicts = site, list(results.values())
        self._charts: dict[int, list[Figure]] = {}
        if not results:
            gr.Markdown(site.words.label("compare_none"), elem_id="compare-none")
            return
        gr.Markdown(site.words.label("compare_hint"), elem_classes="hint")
        names = [(printable(name), place) for place, name in enumerate(results)]
        choice = gr.Dropdown(
            names,
            value=0,
            label=site.words.label("compare_which"),
            filterable=False,
            visible=len(names) > 1,
            elem_id="compare-which",
        )
        view = gr.HTML(elem_id="compare-view", js_on_load=None)
        tab.select(self.draw, [choice], [view], **LIGHT)
        choice.input(self.draw, [choice], [view], **LIGHT)

    def draw(self, place: int, request: gr.Request) -> str:
        """Return one of the verdicts as HTML; all that was stored is text in it."""
        verdict = self.verdicts[place]
        if place not in self._charts:
            chart = few_labels_chart(verdict)
            self._charts[place] = [] if chart is None else [_figure(chart, at) for at in range(len(chart.panels))]
        return f'<div class="prose stored">{"".join(self._parts(verdict, self._charts[place], request))}</div>'

    def _parts(self, verdict: Verdict, charts: list[Figure], request: gr.Request) -> Iterator[str]:
        say = self.site.words.say
        yield f'<p class="verdict {notice_kind(verdict)}" lang="en">{_text(verdict.sentence)}</p>'
        key = "compare_images" if verdict.train else "compare_images_unlabelled"
        # not where the images lie on this machine
        place = printable(PurePath(verdict.data).name or verdict.data)
        yield f"<p class='small'>{say(request, key, data=place, train=verdict.train, test=verdict.images)}</p>"
        *measured, costs = verdict_tables(verdict)
        titles = ("compare_accuracies", "compare_others")
        for title, table in zip(titles, measured, strict=False):
            yield from _table(say(request, title), table)
        if charts:
            yield f"<h3>{say(request, 'compare_labels')}</h3><div class='charts'>"
            for figure in charts:
                yield f'<img src="{figure.source}" alt="{_text(figure.alt)}">'
            yield f"</div><p class='small' lang='en'>{_text(charts[0].caption)}</p>"
        if verdict.checks:
            yield f"<h3>{say(request, 'compare_checks')}</h3><ul class='checks'>"
            for check in sorted(verdict.checks, key=lambda check: check.kind != "warning"):
                what, text = say(request, f"compare_check_{check.kind}"), _text(check.text)
                yield f"<li class='{check.kind}'><strong>{what}</strong> <span lang='en'>{text}</span></li>"
            yield "</ul>"
        yield from _table(say(request, "compare_costs"), costs)


def _figure(chart: LineChart, place: int) -> Figure:
    # one panel of the chart: panels next to each other could not be read on a telephone
    panel = chart.panels[place]
    drawn = line_chart(replace(chart, panels=(panel,), note=""), _PANEL)
    return Figure(svg(drawn).decode("utf-8"), chart.note, f"{chart.title}: {panel.title}")


def _table(title: str, table: Table) -> Iterator[str]:
    # HTML and not Markdown, so that a wide table scrolls within the page, by keyboard too
    yield f"<h3>{title}</h3><div class='wide' tabindex='0' role='region' aria-label='{title}'>"
    yield "<table lang='en'><thead><tr>"
    for column in table.columns:
        yield f"<th scope='col' class='{column.align}'>{_text(column.title)}</th>"
    yield "</tr></thead><tbody>"
    for row in (row for section in joined_sections(table.sections) for row in section.rows):
        yield "<tr>"
        for at, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
            text = f"<strong>{_text(cell)}</strong>" if at in row.best else _text(cell)
            yield f"<th scope='row'>{text}</th>" if at == 0 else f"<td class='{column.align}'>{text}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"
    for remark in table.remarks:
        yield f"<p class='small' lang='en'>{_text(remark)}</p>"


def _text(text: str) -> str:
    return literal(printable(text))
