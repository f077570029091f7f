r"""Tables as LaTeX, to be read into a paper with ``\input``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast.continual.results.document import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
}
_ANY = re.compile("|".join(map(re.escape, _SPECIAL)))
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")

HEAD = r"""% Tables of a report by Holdfast. In the preamble: \usepackage{booktabs,graphicx}
"""


def latex(tables: Iterable[tuple[str, Table]]) -> str:
    """Return tables as LaTeX floats in the style of ``booktabs``.

    Args:
        tables: Each with a word that goes before its label: ``<word>-<name>``.
    """
    return "\n".join([HEAD, *(_float(word, table) for word, table in tables)])


def escaped(text: str) -> str:
    r"""Return text that LaTeX takes for text, a minus before a number as one.

    >>> print(escaped("ewc_strength=10 & 50% ± -0.5"))
    ewc\_strength=10 \& 50\% $\pm$ $-$0.5
    """
    text = _ANY.sub(lambda found: _SPECIAL[found[0]], " ".join(text.split()))
    return _MINUS.sub("$-$", text)


def _float(word: str, table: Table) -> str:
    columns = "l" + "r" * (len(table.head) - 1)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.caption)}}}",
        rf"  \label{{tab:{_label(word)}-{table.name}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        _row(table.head),
        r"    \midrule",
        *map(_row, table.rows),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[Cell]) -> str:
    # Braces: a cell that begins with a bracket would be read as an argument of the "\\" before.
    return "    " + " & ".join(f"{{{escaped(cell.text)}}}" for cell in cells) + r" \\"


def _label(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", word)
