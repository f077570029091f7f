"""Control characters in what environments print, raise and are called: shown, never obeyed.

A terminal takes an escape sequence for an order: it clears the screen, moves the cursor, answers as
if keys were pressed. Only the standard library is imported here: a worker process takes this file
along, under Python 3.8 as well.
"""

from __future__ import annotations

from typing import Any

_CONTROLS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
_OF_STREAMS = {n: text for n, text in _CONTROLS.items() if n != ord("\r")}  # bars begin again
_BYTES = bytes(ord("?") if n < 32 and n not in b"\n\t\r" else n for n in range(256))


def visible(text: str) -> str:
    r"""Return text whose control characters are written out.

    >>> visible("\x1b[2J a\tb")
    '\\x1b[2J a\tb'
    """
    return text.translate(_CONTROLS)


def without_controls(content: bytes) -> bytes:
    r"""Return content of the same length, with ``?`` for control characters.

    >>> without_controls(b"\x1b[31mred\n")
    b'?[31mred\n'
    """
    return content.translate(_BYTES)


class Escaped:
    """A text stream that writes control characters out; all else is that of the stream inside.

    Args:
        stream: Such as ``sys.stdout``.
    """

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream  # where rich writes, whose sequences are its own

    def write(self, text: str) -> Any:
        """Write a text."""
        return self.rich_proxied_file.write(text.translate(_OF_STREAMS))

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what the stream inside has."""
        return getattr(self.rich_proxied_file, name)


def inside(stream: Any) -> Any:
    """Return the stream inside an escaped one, any other as it is."""
    return stream.rich_proxied_file if isinstance(stream, Escaped) else stream
