"""What every page of ours must be, read with the standard library's parser: nested rightly, and fetching nothing."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link"}
DATA = "data:image/"
ADDRESSES = ("src", "href", "xlink:href", "srcset", "poster", "action", "data", "background")


class Page(HTMLParser):
    """The page's elements and text; raises AssertionError for what is not as it must be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.shown: list[str] = []
        assert text.startswith("<!doctype html>")
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        ids = [values["id"] for _, values in self.elements if "id" in values]
        assert len(set(ids)) == len(ids), "two elements have one id"
        anchors = [values["href"][1:] for name, values in self.elements if name == "a"]
        assert set(anchors) <= set(ids), "a link leads nowhere"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), f"an attribute of {tag} is there twice"
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), f"the page holds a {tag}"
        assert not any(name.startswith("on") for name in values), f"{tag} has an event handler"
        for name in ADDRESSES:
            assert values.get(name, "#").startswith(("#", DATA)), f"{tag} refers to {values[name][:80]}"
        assert "://" not in values.get("style", "")
        self.elements.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "style":
            assert "@import" not in data
            assert "url(" not in data.replace("url(#", "")
        elif inside != "script":
            self.shown.append(data)

    @property
    def text(self) -> str:
        """All text that is shown."""
        return " ".join(" ".join(self.shown).split())

    def count(self, tag: str) -> int:
        """How many elements of this name there are."""
        return sum(name == tag for name, _ in self.elements)

    def images(self) -> list[dict[str, str]]:
        """The attributes of each picture that is not drawn."""
        return [values for name, values in self.elements if name == "img"]
