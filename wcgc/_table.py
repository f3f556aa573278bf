"""Tables as plain text, in colour by rich, and as HTML."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

GAP = "  "
READABLE = 38
NARROWEST = 12


@dataclasses.dataclass(frozen=True)
class Row:
    """The cells of one row.

    Attributes:
      cells: one text per column.
      muted: whether the row is of lesser interest, and set in a fainter colour.
    """

    cells: tuple[str, ...]
    muted: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a title above it and a summary below.

    Attributes:
      title: what the table shows.
      headings: one text per column.
      right: the columns, counted from 0, that are flush right.
      rows: the rows.
      summary: what the rows come to.
    """

    title: str
    headings: tuple[str, ...]
    right: frozenset[int]
    rows: tuple[Row, ...]
    summary: str

    @property
    def width(self) -> int:
        """How many columns of text the rows take."""
        return _total(self._widths())

    def elided(self, width: int) -> "Table":
        """The table in `width` columns, with the middle of texts left out where they do not fit.

        The first column makes room for the others, down to `READABLE`; then what runs over empty
        cells is shortened. Where that does not help, the first column goes down to `NARROWEST`.
        """
        if self.width <= width:
            return self
        first, *others = self._widths(spanning=False)
        beside = width - len(GAP) - _total(others)
        longest = max(_width_behind_first(row.cells, others) for row in self.rows)
        first = min(first, beside, max(READABLE, width - longest))
        widths = [max(first, NARROWEST), *others]
        room = max(width, _total(widths))
        rows = tuple(
            dataclasses.replace(row, cells=_fitted(row.cells, widths, room)) for row in self.rows
        )
        return dataclasses.replace(self, rows=rows)

    def __str__(self) -> str:
        return self.plain()

    def plain(self) -> str:
        """The table in aligned columns."""
        rule, heading, *lines = self._lines()
        return "\n".join([self.title, "", heading, rule, *lines, rule, self.summary])

    def rich(self) -> Any:
        """The same in the colours of rich, which folds the lines of a narrower terminal."""
        from rich.text import Text

        rule, heading, *lines = self._lines()
        first = self._widths()[0]
        rows = [
            Text.assemble((text[:first], "cyan"), text[first:], style="dim" if row.muted else "")
            for text, row in zip(lines, self.rows, strict=True)
        ]
        bar = Text(rule.replace("-", "─"), style="dim")
        head = [Text(self.title, style="bold"), Text(), Text(heading, style="bold"), bar]
        return Text("\n", overflow="fold").join([*head, *rows, bar, Text(self.summary)])

    def _widths(self, spanning: bool = True) -> list[int]:
        """The width of each column, for cells that run over empty ones behind them to fit, too."""
        rows = [self.headings, *(row.cells for row in self.rows)]
        widths = [
            max(len(cells[column]) for cells in rows if column < _last(cells) or cells is rows[0])
            for column in range(len(self.headings))
        ]
        for cells in rows:
            last = _last(cells)
            if spanning:
                widths[last] += max(0, len(cells[last]) - _total(widths[last:]))
        return widths

    def _lines(self) -> list[str]:
        """A rule, the headings and the rows."""
        widths = self._widths()
        lines = [GAP.join("-" * width for width in widths)]
        for cells in (self.headings, *(row.cells for row in self.rows)):
            padded = (
                cell.rjust(width) if column in self.right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            last = _last(cells)
            ahead = list(padded)[:last]
            end = cells[last].rjust(widths[last]) if last in self.right else cells[last]
            lines.append(GAP.join([*ahead, end]).rstrip())
        return lines

    def html(self) -> str:
        """The table for a notebook."""

        def line(tag: str, row: Row) -> str:
            cells = (
                f'<{tag} style="text-align: {"right" if column in self.right else "left"}">'
                f"{html.escape(cell)}</{tag}>"
                for column, cell in enumerate(row.cells)
            )
            style = ' style="opacity: 0.55"' if row.muted else ""
            return f"<tr{style}>{''.join(cells)}</tr>"

        return "\n".join(
            [
                "<table>",
                '<caption style="text-align: left; caption-side: top; font-weight: bold">'
                f"{html.escape(self.title)}</caption>",
                f"<thead>{line('th', Row(self.headings))}</thead>",
                "<tbody>",
                *(line("td", row) for row in self.rows),
                "</tbody>",
                f'<tfoot><tr><td colspan="{len(self.headings)}" style="text-align: left">'
                f"{html.escape(self.summary)}</td></tr></tfoot>",
                "</table>",
            ]
        )


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _last(cells: Sequence[str]) -> int:
    """The last column that is not empty."""
    return max((column for column, cell in enumerate(cells) if cell), default=0)


def _width_behind_first(cells: Sequence[str], others: Sequence[int]) -> int:
    """The columns of text that a row needs behind its first cell, gap included."""
    last = _last(cells)
    return len(GAP) + _total([*others[: last - 1], len(cells[last])]) if last else 0


def _fitted(cells: tuple[str, ...], widths: Sequence[int], width: int) -> tuple[str, ...]:
    """The cells shortened to their columns; the last that is not empty runs over those behind."""
    last = _last(cells)
    room = width - _total([*widths[:last], 0])
    return tuple(
        _shortened(cell, room if column == last else widths[column])
        for column, cell in enumerate(cells)
    )


def _shortened(text: str, width: int) -> str:
    """The text without its middle, since ends tell more of a path and of a reason."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
