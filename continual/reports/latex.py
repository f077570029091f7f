r"""Tables as LaTeX, to be read into a paper with ``\input``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast.continual.reports.templates import environment
from holdfast.continual.results.document import Table

_SPECIAL = {
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
}
_ANY = re.compile("|".join(map(re.escape, _SPECIAL)))
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")


def latex(tables: Iterable[tuple[str, Table]]) -> str:
    """Return tables as LaTeX floats in the style of ``booktabs``.

    Args:
        tables: Each with a word that goes before its label: ``<word>-<name>``.
    """
    made = environment(keep_trailing_newline=True)
    made.filters |= {"escaped": escaped, "label": _label}
    return made.get_template("report.tex").render(tables=tables)


def escaped(text: str) -> str:
    r"""Return text that LaTeX takes for text, a minus before a number as one.

    >>> print(escaped("ewc_strength=10 & 50% ± -0.5"))
    ewc\_strength=10 \& 50\% $\pm$ $-$0.5
    """
    text = _ANY.sub(lambda found: _SPECIAL[found[0]], " ".join(text.split()))
    return _MINUS.sub("$-$", text)


def _label(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", word)
