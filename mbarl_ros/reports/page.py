"""The HTML of a report: every text is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already and is not escaped again."""


Content = str | Html
_Children = Content | Iterable[Content]

_STYLE = """\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2126; --quiet: #5a646e;
  --line: #d5dade; --box: #f3f6f8; --bad: #b3261e; --good: #1b7a3d; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e6eaed; --quiet: #a3adb6;
  --line: #39424a; --box: #1e252b; --bad: #ff8a80; --good: #6fd394; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Liberation Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 28px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 17px; margin: 22px 0 4px; }
p { margin: 6px 0 10px; max-width: 92ch; overflow-wrap: anywhere; }
.note, figcaption { color: var(--quiet); font-size: 14.5px; }
.box { background: var(--box); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 20px; margin: 16px 0; }
.box p:first-child { margin-top: 0; }
.big { font-size: 20px; font-weight: 600; }
.bad { color: var(--bad); } .good { color: var(--good); }
figure { margin: 14px 0 20px; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure.film img { width: auto; max-width: 100%; }
.scroll { overflow-x: auto; margin: 10px 0 18px; }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 4px 18px 4px 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; }
tbody th { font-weight: 400; color: var(--quiet); }
td.number, th.number { text-align: right; white-space: nowrap; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px;
  font: 13px/1.45 ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; }
details.run > summary { font-size: 18px; font-weight: 600; padding: 8px 0; }
@media screen and (max-width: 700px) {
  main { padding: 16px 14px 48px; } figure { overflow-x: auto; }
  figure svg { width: 720px; }
}
@page { size: A4; margin: 14mm 13mm; }
@media print {
  :root { color-scheme: light; --paper: #ffffff; --ink: #1c2126; --quiet: #4a545e; --line: #d5dade;
    --box: #f3f6f8; --bad: #b3261e; --good: #1b7a3d; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  .scroll { overflow: visible; } table { font-size: 9.5pt; } pre { font-size: 7.5pt; columns: 2; }
  h2, h3, summary { break-after: avoid; }
  figure, tr, .box { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  details.run { break-before: page; }
}
"""


def join(*parts: _Children) -> Html:
    """Contents one after the other; plain text is escaped."""
    pieces: Iterable[Content] = itertools.chain.from_iterable(
        [part] if isinstance(part, str) else part for part in parts
    )
    return Html(''.join(p if isinstance(p, Html) else html.escape(p) for p in pieces))


def tag(name: str, *children: _Children, kind: str = '') -> Html:
    """An element; ``kind`` is its class."""
    start = f'{name} class="{html.escape(kind)}"' if kind else name
    return Html(f'<{start}>{join(*children)}</{name}>')


def paragraph(text: Content, kind: str = '') -> Html:
    """A paragraph; ``note``, ``bad``, ``good`` and ``big`` are its kinds."""
    return tag('p', text, kind=kind)


def facts(rows: Iterable[tuple[str, Content]]) -> Html:
    """A table of two columns: what, and its value."""
    body = [tag('tr', tag('th', name), tag('td', value)) for name, value in rows]
    return tag('div', tag('table', tag('tbody', body)), kind='scroll')


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], *, texts: int = 1) -> Html:
    """A table; its first ``texts`` columns are text, the others numbers, which are set right."""

    def cells(name: str, row: Sequence[Content]) -> list[Html]:
        return [tag(name, cell, kind='number' * (i >= texts)) for i, cell in enumerate(row)]

    header = tag('thead', tag('tr', cells('th', head)))
    body = tag('tbody', [tag('tr', cells('td', row)) for row in rows])
    return tag('div', tag('table', header, body), kind='scroll')


def figure(picture: Html, caption: Content, kind: str = '') -> Html:
    """A picture with its caption below."""
    return tag('figure', picture, tag('figcaption', caption), kind=kind)


def image(data: bytes, kind: str, about: str) -> Html:
    """A picture inside the page; ``kind`` such as ``gif``, ``about`` for those who see none."""
    text = base64.b64encode(data).decode()
    return Html(f'<img src="data:image/{kind};base64,{text}" alt="{html.escape(about)}">')


def folded(title: str, *children: _Children, kind: str = '') -> Html:
    """Contents that open with a click; on paper they are open."""
    return tag('details', tag('summary', title), *children, kind=kind)


def document(title: str, *children: _Children) -> str:
    """The whole page."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = f'<style>\n{_STYLE}</style>'
    body = f'<body><main>\n{join(*children)}\n</main></body>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}{view}{style}</head>\n{body}</html>\n'
