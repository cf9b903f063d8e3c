"""An SVG file made fit to stand within an HTML page: its names its own, and nothing in it that could run or fetch."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

_GROUPS = ("svg", "g", "defs", "clipPath", "mask", "marker", "symbol", "use", "title", "desc", "style")
_SHAPES = ("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "textPath", "image")
_PAINTS = ("linearGradient", "radialGradient", "stop", "pattern")
_ELEMENTS = frozenset(_GROUPS + _SHAPES + _PAINTS)
"""Elements that draw or describe; what is not among them may run (script), fetch or nest a page."""

_DROPPED = frozenset({"metadata"})
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_OUTSIDE = re.compile(r"url\((?!['\"]?#)|@import|expression\(", re.IGNORECASE)


def inline_svg(text: str, prefix: str) -> str:
    """The drawing as an element of an HTML page.

    prefix: is set before every id, so that drawings on one page do not take each other's clips and markers.
    A style sheet inside is made to hold for this drawing alone.

    Raises ValueError for what is no SVG, or holds an element, an event handler or an address that could run or fetch.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"the drawing is not well-formed XML: {error}") from error
    if _name(root.tag) != "svg":
        raise ValueError(f"the drawing is not SVG: its root is {_name(root.tag)!r}")
    _clean(root, prefix)
    root.set("id", prefix + "drawing")
    if root.get("viewBox"):  # then the page may set the size; the file's own is in points
        root.attrib.pop("height", None)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _clean(element: Element, prefix: str) -> None:
    """Check the element and those in it, and rename what they define and refer to."""
    element.tag = name = _name(element.tag)
    if name not in _ELEMENTS:
        raise ValueError(f"a drawing may not hold the element {name!r}")
    element.attrib = {_name(key): _value(_name(key), value, prefix) for key, value in element.attrib.items()}
    if name == "style":
        rules = _RULE.findall(_style(element.text or ""))
        element.text = "".join(f"#{prefix}drawing {selector.strip()}{{{body}}}" for selector, body in rules)
    for child in list(element):
        if _name(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, prefix)


def _value(key: str, value: str, prefix: str) -> str:
    """An attribute's value with references to the new names."""
    if key.lower().startswith("on"):
        raise ValueError(f"a drawing may not have the event handler {key!r}")
    if key == "id":
        return prefix + value
    if key == "href":
        if value.startswith("#"):
            return f"#{prefix}{value[1:]}"
        if not value.startswith("data:image/png;base64,"):
            raise ValueError(f"a drawing may not refer to {value[:60]!r}")
        return value
    return re.sub(r"url\((['\"]?)#", rf"url(\1#{prefix}", _style(value))


def _style(value: str) -> str:
    if _OUTSIDE.search(value):
        raise ValueError(f"a drawing may not refer to what is outside of it: {value[:60]!r}")
    return value


def _name(tag: str) -> str:
    """A tag's or attribute's name without its namespace."""
    return tag.rpartition("}")[2]
