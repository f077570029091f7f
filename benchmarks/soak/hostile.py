"""Hostile run folders, made by a script from one real run: links, wrong shapes, code, bit flips.

``corpus`` copies a finished run and spoils each copy in one way. Around the copies lies an
``Outside`` that nobody who reads them may change: a canary in a file, a canary in a folder, and a
module that leaves a mark when it is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from soak.mutations import DEEP, LONG_NUMBER, WRONG, put_member, with_raw

Expected = Literal["refused", "ignored"]
"""What ``holdfast eval`` does: exits with 5, or does not look at what was spoiled and works."""

MODULE = "hostile_module"
_CODE = """import pathlib
pathlib.Path({mark!r}).touch()
import gymnasium
class Env(gymnasium.Env): pass
class Wrap(gymnasium.Wrapper): pass
class Method: pass
"""
_SHADOWED = ("codecarbon", "imageio_ffmpeg", "onnxscript", "cartpole", "sitecustomize")


class Hostile(NamedTuple):
    """One hostile run folder.

    Attributes:
        name: What was done to it.
        folder: The folder of the cell.
        expected: What ``holdfast eval`` must do.
    """

    name: str
    folder: Path
    expected: Expected


class Outside:
    """What lies outside the run folders and must stay as it is.

    Args:
        folder: Where it is put; it does not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.inner = folder, folder / "canary.txt", folder / "inner"
        self.code, self.mark = folder / "code", folder / "code-ran"
        self.inner.mkdir(parents=True)
        self.code.mkdir()
        self.file.write_bytes(b'{"status": "finished"}\n')
        (self.inner / "canary.txt").write_bytes(b"inner\n")
        (self.inner / "task-0.tmp-7").mkdir()
        (self.inner / "task-0.tmp-7" / "kept.txt").write_bytes(b"kept\n")
        for name in (MODULE, *_SHADOWED):
            (self.code / f"{name}.py").write_text(_CODE.format(mark=str(self.mark)), "utf-8")
        program = self.code / "python"
        program.write_text(f"#!/bin/sh\ntouch {self.mark}\n", "utf-8")
        program.chmod(0o755)
        self._before = self._contents()

    def changes(self) -> list[str]:
        """Return what is there no more, is new, or differs; nothing where all is well."""
        now = self._contents()
        names = {name for name in {*now, *self._before} if now.get(name) != self._before.get(name)}
        return sorted(name for name in names if "__pycache__" not in name)

    def _contents(self) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
        }


Spoil = Callable[[Path, Outside], None]


def corpus(run: Path, target: Path, outside: Outside) -> Iterator[Hostile]:
    """Yield every hostile variant of a run, one after another.

    Args:
        run: The folder of a finished cell with two stages or more; it is only read.
        target: Where the copies are made, each in ``<number>/<scenario>/<method>/<seed>``.
        outside: What they lead to.
    """
    for number, (name, expected, spoil) in enumerate(variants(run)):
        folder = target / f"{number:03d}" / Path(*run.absolute().parts[-3:])
        shutil.copytree(run, folder)
        spoil(folder, outside)
        yield Hostile(name, folder, expected)


def variants(run: Path) -> Iterator[tuple[str, Expected, Spoil]]:
    """Yield name, expectation and spoiling of every variant of a run."""
    newest = max((run / "checkpoints").glob("task-*"), key=lambda path: int(path.name[5:])).name
    yield from _strange_entries(f"checkpoints/{newest}")
    yield from _strange_json(f"checkpoints/{newest}")
    yield from _strange_tensors(f"checkpoints/{newest}")
    yield from _strange_scores()
    yield from _strange_scenarios()


# -- entries of the folder that are no regular files -----------------------------------------------

_READ = ("scenario.yaml", "run.json")
_UNREAD = (
    *("scores.jsonl", "log.txt", "log-earlier.txt", "lock", "plasticity.json"),
    *("plasticity.safetensors", "environment_failures.jsonl", "README.md", ".run.json.tmp-1"),
)


def _strange_entries(newest: str) -> Iterator[tuple[str, Expected, Spoil]]:
    members = tuple(f"{newest}/{name}" for name in ("MANIFEST.json", "state.json"))
    members += (f"{newest}/policy.safetensors",)
    for name in (*_READ, *members, *_UNREAD):
        expected: Expected = "ignored" if name in _UNREAD else "refused"
        yield f"{name} is a link", expected, _linked(name, lambda o: o.file)
        yield f"{name} is a FIFO", expected, _replaced(name, os.mkfifo)
        yield f"{name} is a folder", expected, _replaced(name, Path.mkdir)
        yield f"{name} is a device", expected, _linked(name, lambda _: Path("/dev/zero"))
    for name in ("scenario.yaml", "scores.jsonl"):
        expected = "refused" if name in _READ else "ignored"
        yield f"{name} leads nowhere", expected, _linked(name, lambda o: o.folder / "none")
        yield f"{name} is a socket", expected, _replaced(name, _socket)
    for name in ("checkpoints", newest):
        yield f"{name} is a link", "refused", _linked(name, lambda o: o.inner)
        yield f"{name} is a file", "refused", _replaced(name, Path.touch)
    for name in ("tb", "drift", "videos", "exports", "checkpoints/task-0.tmp-3"):
        yield f"{name} is a link", "ignored", _linked(name, lambda o: o.inner)
    for name in ("scores.jsonl", "log.txt"):
        yield f"{name} is a hard link", "ignored", _hard_linked(name)
    yield "the cell's folder is a link", "refused", _moved


def _linked(name: str, leads: Callable[[Outside], Path]) -> Spoil:
    def spoil(folder: Path, outside: Outside) -> None:
        _gone(folder / name).symlink_to(leads(outside))

    return spoil


def _hard_linked(name: str) -> Spoil:
    def spoil(folder: Path, outside: Outside) -> None:
        _gone(folder / name).hardlink_to(outside.file)

    return spoil


def _replaced(name: str, make: Callable[[Path], object]) -> Spoil:
    return lambda folder, _: void(make(_gone(folder / name)))


def void(_: object) -> None:
    """Return nothing."""


def _moved(folder: Path, _: Outside) -> None:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # its name may have some hundred letters only
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def _gone(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


# -- JSON of a wrong shape -------------------------------------------------------------------------


def _strange_json(newest: str) -> Iterator[tuple[str, Expected, Spoil]]:
    for what, content in WRONG.items():
        yield f"run.json is {what}", "refused", _written("run.json", content)
        yield f"state.json is {what}", "refused", _member(newest, "state.json", content)
        manifest = f"{newest}/MANIFEST.json"
        yield f"MANIFEST.json is {what}", "refused", _written(manifest, content)
        plasticity = _written("plasticity.json", content)
        yield f"plasticity.json is {what}", "ignored", plasticity
    for key, value in _RUN_INFO:
        yield f"run.json: {key} is {value[:20]!r}", "refused", _set_raw("run.json", key, value)
    for key, value in _STATE:
        spoil = _state(newest, key, value)
        yield f"state.json: {key} is {value[:20]!r}", "refused", spoil
    for name in ("../../../canary.txt", "/etc/passwd", "a/b.safetensors", ".x.safetensors"):
        yield f"manifest names {name}", "refused", _listed(newest, name, None)
    for name in ("policy.pkl", "policy.pth", "policy.safetensors\n", "a\0.safetensors", "x" * 300):
        yield f"manifest names {name[:20]!r}", "refused", _listed(newest, name, None)
    for what, entry in _ENTRIES.items():
        yield f"manifest: {what}", "refused", _listed(newest, "policy.safetensors", entry)
    yield "manifest: one is missing", "refused", _written(f"{newest}/MANIFEST.json", b"{}")


_RUN_INFO = (
    *(("status", b"3"), ("status", b'"odd"'), ("reason", b"[]"), ("failures", b"3")),
    *(("failures", b"[null]"), ("sweep", b"[]"), ("position", b'"x"'), ("position", b"-1")),
    *(("wall_s", b"NaN"), ("wall_s", b"1e999"), ("wall_s", b"-1"), ("parameters", LONG_NUMBER)),
    *(("parameters", b"1" + b"0" * 400), ("versions", b"[1]"), ("folder", b"{}"), ("x", DEEP)),
    *(("stages", b"7"), ("stages", b"1.5"), ("information", b"null")),
)
_STATE = (
    *(("schema", b"99"), ("schema", b"null"), ("stage", b'"1"'), ("stage", b"-1"), ("stage", b"0")),
    *(("stage", b"1" + b"0" * 400), ("scores_bytes", b"-5"), ("scores_bytes", b"1e999")),
    *(("kept_bytes", b"{}"), ("kept_bytes", b"[[]]"), ("spent", b"[]"), ("wall_s", b"NaN")),
    *(("training_steps", LONG_NUMBER), ("training_s", b"true"), ("x", DEEP)),
)
_ENTRIES: dict[str, Any] = {
    "an entry is null": None,
    "a hash is no hash": {"sha256": "z" * 64, "bytes": 1},
    "a hash is a number": {"sha256": 3, "bytes": 1},
    "a size is below 0": {"sha256": "0" * 64, "bytes": -1},
    "a size is huge": {"sha256": "0" * 64, "bytes": 10**30},
    "a size is a text": {"sha256": "0" * 64, "bytes": "1"},
    "an entry lacks its size": {"sha256": "0" * 64},
}


def _written(name: str, content: bytes) -> Spoil:
    return lambda folder, _: void((folder / name).write_bytes(content))


def _set_raw(name: str, key: str, value: bytes) -> Spoil:
    """Return what puts raw text at a key of a JSON object: no writer would write some of it."""

    def spoil(folder: Path, _: Outside) -> None:
        (folder / name).write_bytes(with_raw((folder / name).read_bytes(), key, value))

    return spoil


def _member(newest: str, name: str, content: bytes) -> Spoil:
    """Return what replaces a member of a checkpoint, with the right size and hash."""

    def spoil(folder: Path, _: Outside) -> None:
        put_member(folder / newest, name, content)

    return spoil


def _state(newest: str, key: str, value: bytes) -> Spoil:
    def spoil(folder: Path, _: Outside) -> None:
        content = (folder / newest / "state.json").read_bytes()
        put_member(folder / newest, "state.json", with_raw(content, key, value))

    return spoil


def _listed(newest: str, name: str, entry: Any) -> Spoil:
    def spoil(folder: Path, _: Outside) -> None:
        path = folder / newest / "MANIFEST.json"
        manifest = json.loads(path.read_bytes())
        path.write_text(json.dumps(manifest | {name: entry}), "utf-8")

    return spoil


# -- tensors ---------------------------------------------------------------------------------------


def _strange_tensors(newest: str) -> Iterator[tuple[str, Expected, Spoil]]:
    policy = "policy.safetensors"
    for what, content in {
        "empty": b"",
        "garbage": b"garbage" * 100,
        "a huge header": struct.pack("<Q", 2**60) + b"{}",
        "a deep header": struct.pack("<Q", len(DEEP)) + DEEP,
        "a pickle": b"\x80\x04cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        "no tensors": struct.pack("<Q", 2) + b"{}",
    }.items():
        yield f"{policy} is {what}, under its hash", "refused", _member(newest, policy, content)
    for what, change in _TENSORS.items():
        yield f"{policy}: {what}, under its hash", "refused", _changed(newest, change)
    for name in (policy, "state.json", "MANIFEST.json"):
        yield f"one bit of {name} differs", "refused", _flipped(f"{newest}/{name}")
        yield f"{name} of the newest is missing", "refused", _removed(f"{newest}/{name}")
        yield f"{name} is cut", "refused", _cut(f"{newest}/{name}")
    yield "the newest checkpoint is missing", "refused", _removed(newest)
    yield "the newest is a copy of the first", "refused", _copied("checkpoints/task-0", newest)
    yield "a stage that no stream has", "refused", _copied(newest, "checkpoints/task-99")


def _first(tensors: dict[str, Any]) -> str:
    return next(name for name, tensor in tensors.items() if tensor.dim() == 2)


_TENSORS: dict[str, Callable[[dict[str, Any]], object]] = {
    "one is missing": lambda t: t.pop(_first(t)),
    "one has another name": lambda t: t.update({"other": t.pop(_first(t))}),
    "one too many": lambda t: t.update({"other": t[_first(t)].clone()}),
    "another shape": lambda t: t.update({_first(t): t[_first(t)].T.contiguous()[:1].clone()}),
    "another type": lambda t: t.update({_first(t): t[_first(t)].double()}),
    "whole numbers": lambda t: t.update({_first(t): t[_first(t)].long()}),
}


def _changed(newest: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path, _: Outside) -> None:
        from safetensors.torch import load, save

        tensors = load((folder / newest / "policy.safetensors").read_bytes())
        change(tensors)
        put_member(folder / newest, "policy.safetensors", save(tensors))

    return spoil


def _flipped(name: str) -> Spoil:
    def spoil(folder: Path, _: Outside) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))

    return spoil


def _cut(name: str) -> Spoil:
    return lambda folder, _: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def _removed(name: str) -> Spoil:
    return lambda folder, _: void(_gone(folder / name))


def _copied(source: str, target: str) -> Spoil:
    return lambda folder, _: void(shutil.copytree(folder / source, _gone(folder / target)))


# -- scores and scenarios --------------------------------------------------------------------------


def _strange_scores() -> Iterator[tuple[str, Expected, Spoil]]:
    line = {
        "stage": 0,
        "step": 0,
        "task": "t0",
        "episode": 0,
        "return": 1.0,
        "length": 7,
        "success": None,
        "unseen": False,
    }
    raw = (
        *(("return", b"NaN"), ("return", b"1e999"), ("return", b'"1"'), ("return", b"true")),
        *(("return", b"1" + b"0" * 400), ("step", b"-1"), ("step", b"1.5"), ("step", LONG_NUMBER)),
        *(("stage", b"99"), ("stage", b"-1"), ("task", b'"none"'), ("task", b"null")),
        *(("length", b"[]"), ("success", b"[]"), ("unseen", b"0"), ("agents", b"[]")),
        *(("agents", b'{"a": "b"}'), ("opponent", b"3"), ("x", DEEP)),
    )
    for key, value in raw:
        content = with_raw(json.dumps(line).encode(), key, value) + b"\n"
        yield f"scores.jsonl: {key} is {value[:20]!r}", "ignored", _appended(content)
    for what, content in WRONG.items():
        yield f"scores.jsonl has {what}", "ignored", _appended(content + b"\n")
    yield "scores.jsonl has an endless line", "ignored", _appended(b'{"stage": ' + b"1" * 3_000_000)


def _appended(content: bytes) -> Spoil:
    def spoil(folder: Path, _: Outside) -> None:
        with (folder / "scores.jsonl").open("ab") as file:
            file.write(content)

    return spoil


def _strange_scenarios() -> Iterator[tuple[str, Expected, Spoil]]:
    for what, content in WRONG.items():
        yield f"scenario.yaml is {what}", "refused", _written("scenario.yaml", content)
    bomb = b"a0: &a0 [1]\n" + b"".join(
        b"a%d: &a%d [*a%d,*a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 30)
    )
    merges = b"m0: &m0 {a: 1}\n" + b"".join(
        b"m%d: &m%d {<<: [*m%d, *m%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 15)
    )
    for what, text in {
        "code by a tag": b"name: !!python/object/apply:os.system [true]\n",
        "aliases that grow": bomb,
        "merges that grow": merges,
        "a cycle": b"a: &a [*a]\n",
        "a key twice": b"name: x\nname: y\n",
    }.items():
        yield f"scenario.yaml has {what}", "refused", _prepended(text)
    for keys, value in _TEXTS:
        what = f"scenario.yaml: {keys[-1]} is {value[:20]}"
        yield what, "refused", _valued(keys, value)
    for keys, value in _OWN_CODE:
        what = f"scenario.yaml names code: {keys[-1]}"
        yield what, "refused", _valued(keys, value, plant=True)
    yield "run.json names a folder of modules", "ignored", _planted


Keys = tuple[str | int, ...]
_FIRST = ("tasks", 0)
_TEXTS: tuple[tuple[Keys, str], ...] = (
    *(((*_FIRST, "steps"), "1" + "0" * 400), ((*_FIRST, "steps"), "-1")),
    *(((*_FIRST, "steps"), ".nan"), ((*_FIRST, "steps"), "9" * 5000)),
    *(((*_FIRST, "name"), "../../x"), ((*_FIRST, "changes", "reward_scale"), "1" + "0" * 400)),
    *((("stream", "repeat"), "0"), (("stream", "order"), "[none]"), (("seeds",), "[]")),
    *((("n_envs",), "[1]"), (("name",), "../x"), (("tasks",), "[]"), (("agent",), "null")),
    *((("agent", "policy_kwargs"), "{net_arch: [x]}"), (("agent", "n_steps"), "-7")),
    *((("agent", "policy"), "NoSuchPolicy"), (("agent", "odd"), "1"), (("methods",), "[]")),
)
_OWN_CODE: tuple[tuple[Keys, str], ...] = (
    ((*_FIRST, "env"), f"'{MODULE}:Env'"),
    ((*_FIRST, "wrappers"), f"['{MODULE}:Wrap']"),
    ((*_FIRST, "python"), "./python"),
    (("agent", "algorithm"), f"'{MODULE}:Method'"),
    (("methods",), f"['{MODULE}:Method']"),
    (("agent", "policy_kwargs"), f"{{features_extractor: '{MODULE}:Env'}}"),
)


def _valued(keys: Keys, value: str, *, plant: bool = False) -> Spoil:
    """Return what puts raw YAML at a key of the scenario, and modules where it would be imported.

    Args:
        keys: The path.
        value: As the file has it.
        plant: Whether the modules are put there.
    """

    def spoil(folder: Path, outside: Outside) -> None:
        path = folder / "scenario.yaml"
        data = place = yaml.safe_load(path.read_bytes())
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = "@@"
        text = yaml.safe_dump(data, sort_keys=False)
        path.write_text(text.replace("'@@'", value), "utf-8")
        if plant:
            _planted(folder, outside)

    return spoil


def _prepended(text: bytes) -> Spoil:
    def spoil(folder: Path, _: Outside) -> None:
        path = folder / "scenario.yaml"
        path.write_bytes(text + path.read_bytes())

    return spoil


def _planted(folder: Path, outside: Outside) -> None:
    info = json.loads((folder / "run.json").read_bytes()) | {"folder": str(outside.code)}
    (folder / "run.json").write_text(json.dumps(info), "utf-8")
    for file in outside.code.glob("*.py"):
        shutil.copy(file, folder)
