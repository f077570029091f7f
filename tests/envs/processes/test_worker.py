from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from holdfast.envs.processes import wire, worker
from holdfast.envs.processes.wire import (
    Unusable,
    assembled,
    decoded,
    describe_space,
    encoded,
    leaves,
    space_of,
)


def through_json(value):
    return json.loads(json.dumps(value), object_hook=decoded)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1 + 0.2,
        float("inf"),
        "ü",
        [1, [2.5, None]],
        {"a": {"b": [1]}},
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([[1, 2], [3, 4]], np.uint8).T,
        np.zeros((0, 3), np.int64),
        np.array(7.0),
        np.array([True, False]),
    ],
)
def test_values_come_back_as_they_were(value):
    found = through_json(encoded(value))
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert np.array_equal(found, value)
        assert found.flags.writeable
    else:
        assert found == value


def test_numpy_numbers_become_pythons_and_tuples_lists():
    assert through_json(encoded({"a": np.float32(0.5), "b": (np.int64(2), np.bool_(True))})) == {
        "a": 0.5,
        "b": [2, True],
    }


@pytest.mark.parametrize("value", [object(), {1: 2}, [len], np.array([object()]), {3}, b"x"])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match="cannot travel between processes"):
        encoded(value)


SPACES = [
    Box(-1, 1, (3,)),
    Box(np.array([-1.0, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64),
    Box(0, 255, (4, 5, 3), np.uint8),
    Discrete(4),
    Discrete(3, start=-1),
    MultiDiscrete([3, 2]),
    MultiDiscrete([[1, 2], [3, 4]], start=[[1, 0], [0, 2]]),
    MultiBinary(4),
    MultiBinary([2, 3]),
    Dict([("z", Box(-1, 1, (2,))), ("a", Dict({"inner": Discrete(3)}))]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back_equal_and_have_a_layout(space):
    found = space_of(through_json(describe_space(space)))
    assert found == space
    assert type(found) is type(space)
    assert found.dtype == space.dtype
    space.seed(3)
    found.seed(3)
    value = space.sample()
    arrays = {leaf.path: np.zeros(leaf.shape, leaf.dtype) for leaf in leaves(space)}
    for path, array in arrays.items():
        entry = value
        for key in path:
            entry = entry[key]
        assert np.asarray(entry).dtype == array.dtype
        array[...] = entry
    assert space.contains(assembled(arrays)) or isinstance(space, Discrete | Dict)
    if isinstance(space, Dict):
        assert list(found.spaces) == list(space.spaces)
        assert assembled(arrays)["a"]["inner"] == value["a"]["inner"]


@pytest.mark.parametrize("space", [Text(3), Tuple([Discrete(2)]), Dict({"a": Text(3)}), None])
def test_a_space_without_a_layout_is_named(space):
    with pytest.raises(Unusable, match=r"cannot travel between processes; Box, Discrete"):
        describe_space(space)


@pytest.mark.parametrize(("module", "ours"), [(wire, set()), (worker, {"holdfast"})])
def test_the_program_is_written_for_python_3_8(module, ours):
    """In our own process the worker's module takes the package's ``wire``: see its first lines."""
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"gymnasium", "numpy"} | ours
