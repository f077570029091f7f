"""Scenarios and overrides with mistakes of every sort: each is read, or refused in plain words.

A case is a number: the same number makes the same input. A scenario that ships or that a small cell
of the golden record uses is taken, changed a few times as data and as text, and loaded. What loads
must come back equal from its own YAML, and have cells.
"""

from __future__ import annotations

import copy
import itertools
import random
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from soak.lanes import Case, is_made
from soak.watch import CANARY, Watch

ROOT = Path(__file__).parents[2]
MEMORY = 6 * 2**30
"""Bytes of address space that a process may take: a bomb must not take the machine with it."""

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The one in C, where it is there: some inputs are large."""

Mutation = Callable[[Any, random.Random], Any]

# -- values ----------------------------------------------------------------------------------------

NUMBERS: list[Any] = [0, -1, 1, 2, 7, 2**31, 2**40, 2**63, 10**9, 10**12, 10**30, 10**400]
NUMBERS += [0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")]
TEXTS = [
    "",
    " ",
    "no",
    "null",
    "~",
    "0",
    "1e5",
    "naive",
    "ewc",
    "ppo",
    "all",
    "success",
    "a" * 5_000,
]
TEXTS += [
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\con",
    ".",
    "..",
    "a/b",
    "\x00",
    "\x1b[31mred",
    "\u202e",
]
TEXTS += [
    f"{CANARY}:Env",
    f"{CANARY}.inner:make",
    "os:system",
    "builtins:exec",
    "ewc'; drop",
    "${HOME}",
]
TEXTS += ["é" * 100, "\U0001f600", "=1+1", "<script>", "{{ 7*7 }}", "%s%n", "CartPole-v1", "mpe2"]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, {1: 2}, {None: []}]


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return any value: a number, a text, a list, a mapping."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return rng.choice(TEXTS)
    if kind < 0.85 or depth > 3:
        return copy.deepcopy(rng.choice(OTHERS))
    if kind < 0.92:
        return [value(rng, depth + 1) for _ in range(rng.choice((1, 2, 3, 40)))]
    return {rng.choice(TEXTS): value(rng, depth + 1) for _ in range(rng.choice((1, 2, 3)))}


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) in data."""
    pairs = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, below in list(pairs):
        yield data, key
        yield from places(below)


# -- mutations of data -----------------------------------------------------------------------------


def _replaced(data: Any, rng: random.Random) -> Any:
    container, key = rng.choice(list(places(data)))
    container[key] = value(rng)
    return data


def _removed(data: Any, rng: random.Random) -> Any:
    container, key = rng.choice(list(places(data)))
    del container[key]
    return data


def _renamed(data: Any, rng: random.Random) -> Any:
    named = [(c, k) for c, k in places(data) if isinstance(c, dict)]
    container, key = rng.choice(named)
    letters = list(str(key))
    if letters:
        letters.insert(rng.randrange(len(letters) + 1), rng.choice("aeiou_-. "))
        del letters[rng.randrange(len(letters))]
    container["".join(letters)] = container.pop(key)
    return data


def _added(data: Any, rng: random.Random) -> Any:
    containers = [data, *(c[k] for c, k in places(data) if isinstance(c[k], dict | list))]
    chosen = rng.choice(containers)
    if isinstance(chosen, dict):
        chosen[rng.choice(KEYS)] = value(rng)
    else:
        chosen.insert(rng.randrange(len(chosen) + 1), value(rng))
    return data


def _scaled(data: Any, rng: random.Random) -> Any:
    numbers = [(c, k) for c, k in places(data) if type(c[k]) in (int, float)]
    if numbers:
        container, key = rng.choice(numbers)
        container[key] = rng.choice((-1, 0, 0.1, 3, 1e6, 1e300)) * container[key]
    return data


def _moved(data: Any, rng: random.Random) -> Any:
    found = list(places(data))
    (one, first), (other, second) = rng.choice(found), rng.choice(found)
    one[first] = copy.deepcopy(other[second])
    return data


def _multiplied(data: Any, rng: random.Random) -> Any:
    lists = [(c, k) for c, k in places(data) if isinstance(c[k], list) and c[k]]
    if lists:
        container, key = rng.choice(lists)
        container[key] = container[key] * rng.choice((2, 3, 50, 1_000))
    return data


def _deepened(data: Any, rng: random.Random) -> Any:
    container, key = rng.choice(list(places(data)))
    for _ in range(rng.choice((1, 3, 30, 150))):
        container[key] = [container[key]] if rng.random() < 0.5 else {"a": container[key]}
    return data


def _grafted(data: Any, rng: random.Random) -> Any:
    """Take a section of another scenario."""
    other = copy.deepcopy(rng.choice(CORPUS))
    key = rng.choice(list(other))
    data[key] = other[key]
    return data


def _known(data: Any, rng: random.Random) -> Any:
    """Set a key that exists somewhere to a value that exists somewhere."""
    mappings = [data, *(c[k] for c, k in places(data) if isinstance(c[k], dict))]
    container, key = rng.choice(rng.choice(PLACES))
    rng.choice(mappings)[key if isinstance(key, str) else "tasks"] = copy.deepcopy(container[key])
    return data


DATA = [_replaced, _replaced, _removed, _renamed, _added, _scaled, _moved, _multiplied, _deepened]
DATA += [_grafted, _known, _known]

# -- mutations of text -----------------------------------------------------------------------------

BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)),
    ]
)
MERGES = "\n".join(
    [
        "m0: &m0 {k0: 1}",
        *(f"m{n}: &m{n}\n  <<: [*m{n - 1}, *m{n - 1}]\n  k{n}: 1" for n in range(1, 28)),
    ]
)
TAGS = [
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!binary aGk=",
    "!!set {a, b}",
]
TAGS += [
    f"!!python/module:{CANARY}",
    "!!timestamp 2020-01-01",
    "2020-13-99",
    "!!omap [a: 1]",
    "!x y",
    "&a *a",
]
TAGS += [
    "&a [*a]",
    "*nothing",
    "{<<: 1}",
    "<<: *x",
    "%YAML 9.9",
    "--- a\n--- b",
    "!!int '9" + "9" * 5_000 + "'",
]
TAGS += [
    "9" * 5_000,
    "0x" + "f" * 4_000,
    "1_000_000",
    "0o777",
    "1:30:00",
    ".inf",
    "- - - - - -",
    "? [a]\n: b",
]
TAGS += [
    "[" * 2_000,
    "{a: " * 1_500,
    "- " * 1_000,
    "'",
    '"',
    "|",
    ">",
    "@a",
    "`a`",
    "\t- a",
    "\u2028",
    "a: b: c",
]


def _line_cut(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return "".join(lines)


def _line_twice(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return "".join(lines)


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def _odd(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    odd = rng.choice(
        (*TAGS, "\t", "\r", "\ufeff", "\x07", "\x00", "#", ": ", "- ", "}", "]", "*", "&x ")
    )
    return text[:place] + odd + text[place:]


def _tagged(text: str, rng: random.Random) -> str:
    """Put an odd value behind a key."""
    ends = [index for index, sign in enumerate(text) if text.startswith(": ", index)]
    if not ends:
        return text
    place = rng.choice(ends) + 2
    return text[:place] + rng.choice(TAGS) + " " + text[place:]


def _indented(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    index = rng.randrange(len(lines))
    lines[index] = rng.choice((" ", "   ", "\t", "")) + lines[index].lstrip()
    return "".join(lines)


def _bombed(text: str, rng: random.Random) -> str:
    return f"{rng.choice((BOMB, MERGES))}\n{text}"


def _swapped(text: str, rng: random.Random) -> str:
    letters = list(text)
    one, other = rng.randrange(len(letters)), rng.randrange(len(letters))
    letters[one], letters[other] = letters[other], letters[one]
    return "".join(letters)


TEXT = [_line_cut, _line_twice, _cut, _odd, _odd, _tagged, _tagged, _indented, _swapped]


def _bytes(content: bytes, rng: random.Random) -> bytes:
    """Change bytes below the text: odd encodings, flips, a file that is not text."""
    kind = rng.randrange(5)
    if kind == 0:
        return b"\xef\xbb\xbf" + content
    if kind == 1:
        return content.decode().encode(rng.choice(("utf-16", "utf-32")), "surrogatepass")
    if kind == 2:
        return rng.randbytes(rng.choice((0, 1, 100, 10_000)))
    place = rng.randrange(len(content))
    return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]


# -- the corpus ------------------------------------------------------------------------------------


def _corpus() -> list[dict[str, Any]]:
    """Return shipped scenarios and the golden record's, as data."""
    from golden_record.cells import cells

    files = sorted((ROOT / "scenarios").rglob("*.yaml"))
    shipped = [yaml.safe_load(file.read_text()) for file in files]
    return [one for one in (*shipped, *cells().values()) if "tasks" in one]


CORPUS = _corpus()
PLACES = [list(places(one)) for one in CORPUS]
KEYS = sorted({str(key) for one in PLACES for container, key in one if isinstance(container, dict)})
KEYS += [
    "",
    "__class__",
    "folder",
    "python",
    "checkpoint",
    "keep",
    "most_steps",
    "sweep",
    "tune",
    "<<",
]


def mutated(case: int) -> bytes:
    """Return the scenario file of a case."""
    rng = random.Random(case)
    data = copy.deepcopy(rng.choice(CORPUS))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        if not isinstance(data, dict) or not data or _is_large(data):
            break
        data = rng.choice(DATA)(data, rng)
    try:
        text = yaml.dump(data, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError, RecursionError):
        text = repr(data)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        if text:
            text = rng.choice(TEXT)(text, rng)
    if rng.random() < 0.01:
        text = _bombed(text, rng)
    content = text.encode("utf-8", "surrogatepass")
    return _bytes(content, rng) if content and rng.random() < 0.03 else content


def _is_large(data: Any) -> bool:
    """Return whether more mutations would take longer than what is tested may."""
    return len(list(itertools.islice(places(data), 20_001))) > 20_000


def overrides(case: int) -> list[str]:
    """Return the overrides of a case."""
    rng = random.Random(f"override {case}")
    return [_override(rng) for _ in range(rng.choice((1, 1, 2, 4)))]


def _override(rng: random.Random) -> str:
    path = ".".join(_path(rng.choice(CORPUS), rng)) or "tasks"
    if rng.random() < 0.3:
        letters = list(path)
        letters[rng.randrange(len(letters))] = rng.choice(
            ("", ".", "[", "]", "=", "0", "\x00", "é", "[9]", "[-1]")
        )
        path = "".join(letters)
    given = rng.choice(
        (
            lambda: str(value(rng)),
            lambda: rng.choice(TAGS),
            lambda: yaml.safe_dump(value(rng), default_flow_style=True).strip(),
            lambda: BOMB if rng.random() < 0.1 else "",
        )
    )()
    return rng.choice((f"{path}={given}",) * 8 + (path, f"@{path}", f"={given}", f"@{ROOT}"))


def _path(data: Any, rng: random.Random) -> list[str]:
    parts: list[str] = []
    while isinstance(data, dict | list) and data and (not parts or rng.random() < 0.8):
        key = rng.choice(list(data)) if isinstance(data, dict) else rng.randrange(len(data))
        parts.append(str(key))
        data = data[key]
    return parts


# -- the cases -------------------------------------------------------------------------------------


def make_files(_lane: int) -> Case:
    """Return what loads the mutated scenario of a case."""
    load_one = _loader()

    def run(case: int) -> tuple[str, str]:
        return load_one(mutated(case), [])

    return run


def make_overrides(_lane: int) -> Case:
    """Return what loads a scenario with the overrides of a case."""
    load_one = _loader()
    files = [yaml.safe_dump(one, sort_keys=False).encode() for one in CORPUS]

    def run(case: int) -> tuple[str, str]:
        return load_one(files[case % len(files)], overrides(case))

    return run


def _loader() -> Callable[[bytes, list[str]], tuple[str, str]]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import holdfast
    from holdfast.errors import HoldfastError
    from holdfast.scenarios.load import load_resolved

    folder = Path(tempfile.mkdtemp(prefix="soak-scenarios-"))
    (folder / f"{CANARY}.py").write_text("class Env: ...\n")
    file, resolved, watch = folder / "mutated.yaml", folder / "resolved.yaml", Watch(folder)

    def load_one(content: bytes, given: list[str]) -> tuple[str, str]:
        file.write_bytes(content)
        is_made()
        watch.begin()
        try:
            scenario = holdfast.load(file, given)
            resolved.write_text(scenario.to_yaml())
            if load_resolved(resolved) != scenario:
                return "changed", "its own YAML loads as another scenario"
            first = next(itertools.chain(scenario.cells()), None)
            if first is None:
                return "empty", "it has no cell"
            scenario.only(first)
            word, text = "fine", ""
        except HoldfastError as error:
            word, text = "refused", str(error)
        finally:
            seen = watch.end()
        if seen:
            return "touched", "; ".join(seen)
        if "Traceback" in text:
            return "unclear", text
        return word, text

    return load_one
