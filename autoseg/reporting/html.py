"""Sections of blocks in, one self-contained HTML page out.

The page must open offline, anywhere, years later: no script, no font, no request; a Content-Security-Policy says
so to the browser. Everything that is text goes through jinja2's autoescaping, since names of cases and classes come
from files of strangers; only SVG drawn by `figures` is inserted as it is (matplotlib escapes its texts).
"""

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Paragraph:
    """A line of text."""

    text: str
    kind: str = "paragraph"


@dataclass(frozen=True)
class Command:
    """A command to type, shown when a stage has not run yet or how something was made."""

    text: str
    why: str = ""
    kind: str = "command"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first `num_text_columns` are left-aligned, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    num_text_columns: int = 1
    kind: str = "table"


@dataclass(frozen=True)
class Drawing:
    """An SVG chart, drawn by this package."""

    svg: str
    caption: str
    kind: str = "drawing"


@dataclass(frozen=True)
class Picture:
    """A raster picture as a data URI, with the text that stands for it."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, with the colours of what is drawn in them."""

    pictures: tuple[Picture, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """Name and CSS colour of each class."""
    kind: str = "gallery"


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when the reader opens them."""

    summary: str
    blocks: tuple["Block", ...]
    kind: str = "folded"


Block = Paragraph | Command | Table | Drawing | Gallery | Folded


@dataclass(frozen=True)
class Section:
    """One chapter of the page; `anchor` is its link target."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Fact:
    """One number at the top of the page, with what it is."""

    value: str
    name: str


def render_page(title: str, subtitle: str, facts: tuple[Fact, ...], sections: tuple[Section, ...]) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=PackageLoader("autoseg.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup
    template = environment.get_template("report.html.j2")
    return template.render(title=title, subtitle=subtitle, facts=facts, sections=sections)
