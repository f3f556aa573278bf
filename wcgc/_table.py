"""Tables as plain text, in colour for terminals, and as HTML."""

import dataclasses
import html
import importlib.util
import sys
from typing import Any


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

    def __str__(self) -> str:
        """In colour if rich is installed and a terminal listens, as plain text otherwise."""
        if importlib.util.find_spec("rich") is not None and sys.stdout.isatty():
            from rich.console import Console

            console = Console()
            with console.capture() as capture:
                console.print(self.rich())
            return capture.get().rstrip("\n")
        return self.plain()

    def plain(self) -> str:
        """The table in aligned columns."""
        lines = [self.headings, *(row.cells for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = "  ".join("-" * width for width in widths)
        aligned = [
            "  ".join(
                cell.rjust(width) if column in self.right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        ]
        return "\n".join([self.title, "", aligned[0], rule, *aligned[1:], rule, self.summary])

    def rich(self) -> Any:
        """The table as rich draws it."""
        import rich.box
        import rich.table
        import rich.text

        table = rich.table.Table(
            title=rich.text.Text(self.title),
            caption=rich.text.Text(self.summary),
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title_style="bold",
            title_justify="left",
            caption_style="",
            caption_justify="left",
            header_style="bold",
        )
        for column, heading in enumerate(self.headings):
            table.add_column(
                rich.text.Text(heading),
                justify="right" if column in self.right else "left",
                style="cyan" if column == 0 else "",
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*map(rich.text.Text, row.cells), style="dim" if row.muted else "")
        return table

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
