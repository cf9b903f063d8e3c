"""Copies in the searched folder, as groups: a part of the tab for neighbours. No file is changed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from dinoscope.data.finding import resolve_split
from dinoscope.data.sources import images_in_folder
from dinoscope.demo.pictures import Refused
from dinoscope.demo.site import Site, literal, refusals_shown
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.near_duplicates import Duplicates, Kind, Member, find_duplicates
from dinoscope.report.duplicates import picture_of
from dinoscope.text import printable

MAX_IMAGES = 20_000
"""Images of a folder that are compared; a larger one is left to `dinoscope duplicates`, as half of it has no copies."""
MAX_GROUPS, MAX_MEMBERS = 20, 8
"""Groups that are shown, and images of each."""


@dataclass(frozen=True)
class Copies:
    """Groups of copies in a folder. pictures: addresses (data:) of the images that are shown, by their position."""

    duplicates: Duplicates
    pictures: dict[int, str]

    @staticmethod
    def find(folder: Path, progress: Callable[[int, int], None], limit: int = MAX_IMAGES) -> Copies:
        """Compare the images of a folder, or of its training split.

        progress: called with (images done, of all), then with (pairs of images done, of all).

        Raises UserError if there are no images or none can be read, Refused if there are more than `limit`.
        """
        images = images_in_folder(resolve_split(folder, "train"))
        if len(images) > limit:
            raise Refused("copies_too_many", images=len(images), most=limit)
        found = find_duplicates(images, context=Context(watch=lambda _: contextlib.nullcontext(progress)))
        shown = [member for group in found.groups[:MAX_GROUPS] for member in group[:MAX_MEMBERS]]
        return Copies(found, {member.index: picture_of(images, member).source for member in shown})


class CopiesPart:
    """A button, and the groups that it finds: looked for once, and kept for everybody as long as the page is served.

    searched: gives the folder. name: of the folder, as it is shown; None for drawn scenes.
    """

    def __init__(self, site: Site, searched: Callable[[], Path], name: str | None) -> None:
        self.site, self.searched, self.name = site, searched, name
        self._found: Copies | None = None
        self._finding = threading.Lock()
        with gr.Column(elem_id="copies", elem_classes="copies"):
            gr.Markdown(site.words.label("copies_hint"), elem_classes="hint")
            find = site.button("copies_find", scale=0, min_width=220)
            complaint = site.complaint("copies")
            view = gr.HTML(elem_id="copies-view", js_on_load=None, min_height=90, visible=False)
        # images are read, and no network is run: nobody who waits for one waits for this
        find.click(lambda: gr.HTML(visible=True), None, [view], api_visibility="private", show_progress="hidden").then(
            self.show, None, [view, complaint], concurrency_id="copies", concurrency_limit=1, api_visibility="private"
        )

    @refusals_shown([gr.update(visible=False)])
    def show(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
    ) -> list[str]:
        """Look for copies, unless that was done, and show them."""
        what = self.site.words.plain(request, "copies_finding")

        def show_progress(done: int, total: int) -> None:
            progress((done, total), desc=what)

        with self._finding:
            if self._found is None:
                try:
                    self._found = Copies.find(self.searched(), show_progress)
                except UserError as error:
                    raise Refused("neighbours_failed", reason=error) from error
            return [self._html(self._found, request)]

    def _html(self, found: Copies, request: gr.Request) -> str:
        say, groups = self.site.words.say, found.duplicates.groups
        numbers = {"images": len(found.duplicates.images), "folder": self.name or say(request, "neighbours_drawn")}
        if not groups:
            parts = [f"<p>{say(request, 'copies_none', **numbers)}"]
        else:
            copies = sum(map(len, groups)) - len(groups)
            parts = [f"<p>{say(request, 'copies_found', copies=copies, groups=len(groups), **numbers)}"]
        if unreadable := len(found.duplicates.unreadable):
            parts.append(say(request, "neighbours_caption_unreadable", unreadable=unreadable))
        parts.append("</p>")
        for number, group in enumerate(groups[:MAX_GROUPS], 1):
            parts += self._group(found, number, group, request)
        if len(groups) > MAX_GROUPS:
            parts.append(f"<p>{say(request, 'copies_rest', count=len(groups) - MAX_GROUPS)}</p>")
        return f'<div class="prose stored">{"".join(parts)}</div>'

    def _group(self, found: Copies, number: int, group: tuple[Member, ...], request: gr.Request) -> Iterator[str]:
        say = self.site.words.say
        yield f"<h4>{say(request, 'copies_group', number=number, count=len(group))}</h4><ul class='group'>"
        for member in group[:MAX_MEMBERS]:
            name, what = literal(printable(member.key)), say(request, word_for(member.kind), cosine=_cosine(member))
            yield (
                f'<li class="{member.kind}"><img src="{found.pictures[member.index]}" alt="">'
                f'<span class="name" title="{name}">{name}</span>'
                f"<span>{what}</span><span class='small'>{member.width} × {member.height} px</span></li>"
            )
        yield "</ul>"
        if len(group) > MAX_MEMBERS:
            yield f"<p class='small'>{say(request, 'copies_more', count=len(group) - MAX_MEMBERS)}</p>"


def word_for(kind: Kind) -> str:
    """Return the name of the text that says what a member of a group is."""
    return f"copies_{kind}"


def _cosine(member: Member) -> str:
    return f"{member.cosine:.3f}"
