from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import registry
from holdfast.registry import ALGORITHMS, METHODS, closest
from holdfast.signature import find_source, module_names, signature


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_signature_equals_that_of_the_imported_class(name: str) -> None:
    pytest.importorskip("torch")
    known = signature(ALGORITHMS[name].target)
    real = inspect.signature(registry.load(ALGORITHMS[name].target).__init__).parameters
    assert [argument.name for argument in known.arguments] == [n for n in real if n != "self"]
    for argument in known.arguments:
        default = real[argument.name].default
        assert argument.required == (default is inspect.Parameter.empty)
        if not argument.required and argument.default is not None:
            assert argument.default == default


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_can_be_read(name: str) -> None:
    known = signature(METHODS[name])
    assert known.summary
    assert set(known.attributes.get("doors", ())) <= {
        "gradients", "memory", "networks", "lifecycle", "output"
    }  # fmt: skip
    assert set(known.attributes.get("needs", ())) <= {
        "boundaries",
        "task_id",
        "evaluation_task_id",
        "task_count",
        "score",
    }


def test_signature_imports_nothing() -> None:
    code = (
        "import sys\nfrom holdfast.registry import ALGORITHMS, METHODS\n"
        "from holdfast.signature import signature\n"
        "for entry in ALGORITHMS.values(): signature(entry.target)\n"
        "for target in METHODS.values(): signature(target)\n"
        "print({n.partition('.')[0] for n in sys.modules} & "
        "{'torch', 'stable_baselines3', 'sb3_contrib', 'avalanche', 'gymnasium', 'numpy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def own(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_inherited_and_imported_classes_are_followed(tmp_path: Path) -> None:
    own(
        tmp_path,
        base="import typing as t\nclass Base:\n    needs: t.ClassVar = ('a',)\n    doors = ()\n"
        "    def __init__(self, x: int, *, y: float = -1.5, z=object()): ...\n",
        mine="import base as b\nclass Mine(b.Base):\n    '''One.\n\n    Two.'''\n"
        "    doors = ('m',)\n",
        again="try:\n    from mine import Mine as Yours\nexcept ImportError:\n    pass\n",
        star="from again import *\n",
    )
    known = signature("star:Yours", tmp_path)
    assert known.target == "mine:Mine"
    assert known.summary == "One."
    assert known.bases == ("base:Base",)
    assert known.attributes == {"needs": ("a",), "doors": ("m",)}
    x, y, z = known.arguments
    assert (x.name, x.annotation, x.required) == ("x", "int", True)
    assert (y.name, y.default, y.default_text) == ("y", -1.5, "-1.5")
    assert (z.default, z.default_text, z.required) == (None, "object()", False)


def test_a_dataclass_takes_its_fields(tmp_path: Path) -> None:
    (tmp_path / "held.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from typing import Annotated, ClassVar\n"
        "@dataclass(kw_only=True)\n"
        "class Base:\n"
        "    needs = ('boundaries',)\n"
        "    logs: ClassVar[dict[str, str]] = {'a': 'b'}\n"
        "    samples: Annotated[int, (1, None)] = 5\n"
        "    kind: str = 'x'\n"
        "    _seen: int = field(init=False, default=0)\n"
        "@dataclass(kw_only=True)\n"
        "class Held(Base):\n"
        "    share: Annotated[float, (0, 1)]\n"
        "    kind: str = 'y'\n"
    )
    known = signature("held:Held", tmp_path)
    found = [(a.name, a.annotation, a.default, a.limits) for a in known.arguments]
    assert found == [
        ("share", "float", None, (0, 1)),
        ("kind", "str", "y", None),
        ("samples", "int", 5, (1, None)),
    ]
    assert known.arguments[0].required
    assert known.attributes["needs"] == ("boundaries",)


def test_annotations_by_an_alias_are_written_out(tmp_path: Path) -> None:
    text = (
        "from typing import Literal\nKind = Literal['a', 'b']\n"
        "class M:\n    def __init__(self, k: Kind | None = None, *rest, **more): ...\n"
    )
    known = signature("alias:M", own(tmp_path, alias=text))
    assert known.arguments[0].annotation == "Literal['a', 'b'] | None"
    assert known.takes_any


def test_relative_imports_in_a_package(tmp_path: Path) -> None:
    own(
        tmp_path,
        pack____init__="from .inner import Net\n",
        pack__inner="from . import base\nclass Net(base.Base): ...\n",
        pack__base="class Base:\n    def __init__(self, width: int = 3): ...\n",
    )
    (tmp_path / "pack" / "__init__.py").write_text("from .inner import Net\n")
    known = signature("pack:Net", tmp_path)
    assert known.target == "pack.inner:Net"
    assert [argument.name for argument in known.arguments] == ["width"]


def test_classes_that_go_in_circles_end(tmp_path: Path) -> None:
    own(tmp_path, one="from two import A\n", two="from one import A\n")
    with pytest.raises(AttributeError, match="module 'one' has no class 'A'"):
        signature("one:A", tmp_path)
    own(tmp_path, loop="class A(B): ...\nclass B(A): ...\n")
    assert signature("loop:A", tmp_path).arguments == ()


def test_what_is_not_there(tmp_path: Path) -> None:
    own(tmp_path, bad="def (:\n", null="x = 1\0\n", good="class A: ...\n")
    with pytest.raises(ModuleNotFoundError, match="no module 'gone'"):
        signature("gone:A", tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"no module 'good\.deeper'"):
        signature("good.deeper:A", tmp_path)
    with pytest.raises(AttributeError, match="no class 'B'"):
        signature("good:B", tmp_path)
    for broken in ("bad", "null"):
        with pytest.raises(SyntaxError):
            signature(f"{broken}:A", tmp_path)


def test_the_folder_shadows_nothing_installed(tmp_path: Path) -> None:
    own(tmp_path, pydantic="class BaseModel: ...\n", mine="")
    assert find_source("pydantic", tmp_path).parent.name == "pydantic"
    assert find_source("mine", tmp_path) == tmp_path / "mine.py"
    assert str(tmp_path) not in sys.path


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    own(tmp_path, fresh="class A:\n    def __init__(self, a): ...\n")
    assert signature("fresh:A", tmp_path).arguments[0].name == "a"
    own(tmp_path, fresh="class A:\n    def __init__(self, other): ...\n")
    assert signature("fresh:A", tmp_path).arguments[0].name == "other"


def test_names_of_a_module(tmp_path: Path) -> None:
    own(tmp_path, here="from there import *\n_x = 1\ny = 2\n", there="class Z: ...\n")
    assert module_names("here", tmp_path) == ("y", "Z")


@pytest.mark.parametrize(
    ("name", "expected"), [("EWC", "ewc"), ("lotto", None), ("cloing", "cloning"), ("", None)]
)
def test_closest(name: str, expected: str | None) -> None:
    assert closest(name, METHODS) == expected
