"""What a browser would load and run of a page, read without a browser."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}
_LOADING = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background", "ping"}


class Page(HTMLParser):
    """A parsed page: its elements in their order, what it would load, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.policy = ""
        self.styles: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        for name, value in attrs:
            if name in _LOADING or name.endswith(":href"):
                self.loads.append(value or "")
            if name.startswith("on") or name == "style":
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
        elif data.strip():
            self.texts.append(data)


def require_harmless(page: Page) -> None:
    """It loads nothing, runs nothing, and every element is closed."""
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "link", "img", "form"} & set(page.tags)
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert page.handlers == []
    assert not any(re.search(r"url\(|@import", style) for style in page.styles)


def parsed(svg: str) -> ElementTree.Element:
    """The root of an SVG, which has to be XML."""
    return ElementTree.fromstring(svg)
