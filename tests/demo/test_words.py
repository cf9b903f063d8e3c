"""Every text is there in both languages, and the right one is spoken."""

from __future__ import annotations

import html
import re
import string
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from dinoscope.demo.languages import LANGUAGES, preferred
from dinoscope.demo.site import Words, literal

WORDS = Words()


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def asking(accepted: str | None) -> SimpleNamespace:
    return SimpleNamespace(headers={} if accepted is None else {"accept-language": accepted})


def test_both_languages_have_the_same_texts_and_placeholders() -> None:
    english = WORDS.texts["en"]
    assert len(english) > 80
    for language in LANGUAGES:
        theirs = WORDS.texts[language]
        assert theirs.keys() == english.keys()
        for key, text in theirs.items():
            assert placeholders(text) == placeholders(english[key]), key
            assert text.strip(), key


def test_keys_are_names_and_most_texts_differ() -> None:
    english, spanish = WORDS.texts["en"], WORDS.texts["es"]
    assert all(key.isidentifier() for key in english)  # dots would be paths to Gradio
    same = [key for key in english if english[key] == spanish[key]]
    assert len(same) < 0.1 * len(english), same


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("es-MX,es;q=0.9,en;q=0.8", "es"),
        ("en-US,en;q=0.9,es;q=0.1", "en"),
        ("fr;q=1,es;q=0.5,en;q=0.4", "es"),
        ("fr", "en"),
        ("", "en"),
        ("es;q=nonsense, en;q=0.2", "en"),
    ],
)
def test_what_the_browser_asks_for(accepted: str, expected: str) -> None:
    assert preferred(accepted) == expected


def test_a_forced_language_is_spoken_everywhere() -> None:
    forced = Words("es")
    text = WORDS.texts["es"]["picture_empty"]
    assert forced.say(asking("en"), "picture_empty") == text
    assert forced.translations().translations_dict["en"]["picture_empty"] == text
    assert WORDS.say(asking("es"), "picture_empty") == text
    assert WORDS.say(asking(None), "picture_empty") == WORDS.texts["en"]["picture_empty"]


def test_an_unknown_text_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        WORDS.label("no_such_text")


def test_names_are_text_and_never_markup() -> None:
    name = "![x](http:&#47;&#47;tracker.example&#47;x.png)<img src=x onerror=alert(1)> **b** www.tracker.example $$a$$"
    shown = literal(name)
    assert html.unescape(shown) == name
    assert not re.search(r"[^\w\s&#;]", shown)  # nothing is left that Markdown, HTML or an autolink could begin with
    said = WORDS.say(None, "neighbours_caption_class", label=name, votes=3, count=9)
    assert shown in said
    assert "9" in said
    for number in ("65.4", "12 × 9", "98%", "1:33"):
        assert literal(number) == number
