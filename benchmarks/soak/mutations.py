"""Contents of files spoiled on purpose: of a wrong shape, raw, under a right hash, or at random."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

DEEP = b"[" * 100_000 + b"]" * 100_000
LONG_NUMBER = b"9" * 5000
WRONG: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "no text": b"\xff\xfe\x00",
    "cut": b'{"schema": 1, "stage',
    "deep": DEEP,
    "a long number": LONG_NUMBER,
}


def with_raw(content: bytes, key: str, value: bytes) -> bytes:
    """Return a JSON object with raw text at a key: no writer would write some of it."""
    found = json.loads(content) | {key: "@@"}
    return json.dumps(found).encode().replace(b'"@@"', value)


def put_member(checkpoint: Path, name: str, content: bytes) -> None:
    """Replace a member of a checkpoint and write its size and hash into the manifest."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "MANIFEST.json").read_bytes())
    manifest[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest), "utf-8")


# -- at random -------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**18, 10**400, float("nan"), float("inf"), "", "x", "../x"),
    *([], {}, [[[]]], {"a": {"b": None}}, "\x1b[31m", "=1+1", "\ud7ff" * 50),
)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a file of a run folder, spoiled at random, as structured as it is.

    Args:
        content: Of a JSON file, JSON lines, YAML or anything else.
        rng: Decides everything.
    """
    if rng.random() < 0.6:
        lines = content.split(b"\n")
        place = rng.randrange(len(lines))
        for start, piece in ((None, content), (place, lines[place])):
            try:
                found = json.loads(piece)
            except (ValueError, RecursionError):
                continue
            spoiled = json.dumps(_swapped(found, rng)).encode()
            if start is None:
                return spoiled
            return b"\n".join([*lines[:place], spoiled, *lines[place + 1 :]])
    return rng.choice(_RAW)(content, rng)


def _swapped(found: Any, rng: random.Random) -> Any:
    """Return plain data with one value, key or level changed."""
    if isinstance(found, dict) and found and rng.random() < 0.8:
        key = rng.choice(sorted(found))
        if rng.random() < 0.15:
            return {name: value for name, value in found.items() if name != key}
        if rng.random() < 0.1:
            return {**found, f"{key}x": found[key]}
        return {**found, key: _swapped(found[key], rng)}
    if isinstance(found, list) and found and rng.random() < 0.8:
        place = rng.randrange(len(found))
        return [*found[:place], _swapped(found[place], rng), *found[place + 1 :]]
    if rng.random() < 0.1:
        for _ in range(rng.choice((3, 40, 900))):
            found = [found]
        return found
    return rng.choice(_VALUES)


def _bit(content: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(content or b"\0")
    spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def _shorter(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _without_piece(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.randrange(1, 40) :]


def _twice(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start : start + 200] + content[start:]


def _word(content: bytes, rng: random.Random) -> bytes:
    words = (
        b"null",
        b"[]",
        b"-1",
        b"1e999",
        LONG_NUMBER,
        b"NaN",
        b"{",
        b"\0",
        b"!!python/name:os ",
    )
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice(words) + content[start + rng.randrange(0, 8) :]


def _number(content: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"\d+(\.\d+)?", content))
    if not found:
        return _bit(content, rng)
    one = rng.choice(found)
    new = rng.choice((b"0", b"-1", b"1" + b"0" * 400, LONG_NUMBER, b"0.5", b"1e308", b"7"))
    return content[: one.start()] + new + content[one.end() :]


_RAW = (_bit, _bit, _shorter, _without_piece, _twice, _word, _number, _number)
