"""Pages do what they say: their examples run, their links and commands exist."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from holdfast.cli import app
from holdfast.continual.run_folder.record import RunFolder
from holdfast.registry import ALGORITHMS, COMPILED, METHODS, NOT_COMPILED
from holdfast.scenarios.load import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"),
    ROOT / "benchmarks" / "README.md", ROOT / "runs" / "README.md",
)}  # fmt: skip

# A block is marked by the comment above it: the file that it is, or that it is to be run.
MARKED = re.compile(r"<!-- (file: (?P<file>\S+)|run) -->\n```(?P<kind>\w*)\n(?P<text>.*?)```", re.S)
FENCED = re.compile(r"^ *```.*?^ *```", re.M | re.S)


def origins(page: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the default and the origin of every argument in the table of defaults."""
    table = page.partition("## Every default and its origin")[2]
    rows = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().strip("`") for cell in row] for row in rows]
    found = {(name, key): (default, origin) for name, key, default, origin in cells}
    assert len(found) == len(rows)
    return found


def schema_defaults() -> dict[tuple[str, str], str]:
    """Return the default of every argument of every method, as the schema for editors tells it."""
    schema = json.loads((ROOT / "scenarios" / "scenario.schema.json").read_text("utf-8"))
    (methods,) = (form for form in schema["$defs"]["Method"]["anyOf"] if "properties" in form)
    return {
        (name, key): about["description"].rpartition("default ")[2]
        for name in METHODS
        for key, about in methods["properties"][name]["properties"].items()
        if key != "paper"
    }


def test_the_page_of_the_engine_names_what_it_takes() -> None:
    page = PAGES["docs/engine.md"]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", page, re.M))
    assert rows == NOT_COMPILED
    (line,) = re.findall(r"^\| algorithms \| (.+) \|$", page, re.M)
    assert set(re.findall(r"`(\w+)`", line)) == COMPILED <= set(ALGORITHMS)


def test_every_default_has_its_origin() -> None:
    """The table has the methods, arguments and values of the schema, and nothing else."""
    table, schema = origins(PAGES["docs/science.md"]), schema_defaults()
    assert {name for name, _ in table} == set(METHODS)
    assert {pair for pair in table if pair[1]} == set(schema)
    for pair, text in schema.items():
        try:
            told = json.loads(table[pair][0])
        except json.JSONDecodeError:
            told = table[pair][0]
        assert told == ast.literal_eval(text), pair
    for pair, (_, origin) in table.items():
        kind, _, where = origin.partition(": ")
        assert kind in ("paper", "code", "ours"), pair
        assert where, pair


def files(page: str) -> dict[str, str]:
    return {m["file"]: m["text"] for m in MARKED.finditer(page) if m["file"]}


def to_run(page: str, kind: str) -> str:
    (text,) = (m["text"] for m in MARKED.finditer(page) if not m["file"] and m["kind"] == kind)
    return text


def cheap(scenario: str) -> str:
    """Return the scenario with budgets that take a second."""
    scenario, tasks = re.subn(r"steps: \d+", "steps: 64", scenario)
    scenario, agents = re.subn(r"algorithm: ppo", "algorithm: ppo, n_steps: 64", scenario)
    assert (tasks, agents) == (2, 1)
    return scenario + "evaluation: {episodes: 1}\n"


def holdfast_command(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def statuses(runs: Path) -> dict[str, str]:
    found = {path.parent: json.loads(path.read_text("utf-8")) for path in runs.rglob("run.json")}
    return {path.relative_to(runs).as_posix(): info["status"] for path, info in found.items()}


@pytest.mark.slow
def test_the_environment_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = files(README)
    assert list(example) == ["cart.py", "cart.yaml"]
    lines = [line for text in example.values() for line in text.splitlines() if line.strip()]
    assert len(lines) <= 20
    (tmp_path / "cart.py").write_text(example["cart.py"], "utf-8")
    (tmp_path / "cart.yaml").write_text(cheap(example["cart.yaml"]), "utf-8")

    shell = to_run(README, "").replace(" --jobs 2", "")  # workers only cost imports here
    commands = [shlex.split(line, comments=True) for line in shell.splitlines()]
    assert {command[0] for command in commands} == {"holdfast"}
    assert [command[1] for command in commands] == ["check-env", "validate", "run", "report"]
    check, validated, _, report = [holdfast_command(tmp_path, *c[1:]) for c in commands]
    assert "error  " not in check
    assert "good; 2 tasks, 2 cells" in validated
    assert {"naive", "ewc"} <= set(re.findall(r"^\| (\w+) \|", report, re.M))

    monkeypatch.chdir(tmp_path)
    exec(to_run(README, "python"), {})
    assert re.fullmatch(r"finished \[-?[\d.e-]+\]\n", capsys.readouterr().out)
    assert statuses(tmp_path / "runs") == {
        f"cart/{method}/seed-{seed}": "finished" for method in ("naive", "ewc") for seed in (0, 1)
    }


@pytest.mark.thorough
def test_the_method_example_stays_nearer_and_at_strength_zero_is_naive(tmp_path: Path) -> None:
    import holdfast

    (tmp_path / "l2.py").write_text(files(CONTRIBUTING)["l2.py"], "utf-8")
    text = cheap(files(README)["cart.yaml"]).replace("cart:Cart", "Pendulum-v1")
    text = re.sub(r"kwargs: {.*?}", "kwargs: {g: 2.0}", text)
    entries = "naive, {l2:L2: {strength: 0.0}}, {l2:L2: {strength: 10.0}}"
    (tmp_path / "two.yaml").write_text(text.replace("naive, ewc", entries), "utf-8")
    cells = holdfast.run(holdfast.load(tmp_path / "two.yaml"), runs=tmp_path / "runs")
    naive, none, strong = (weights(cell.folder, 1) for cell in cells)
    assert none == naive
    start = weights(cells[0].folder, 0)
    assert distance(strong, start) < 0.9 * distance(naive, start)


def weights(folder: RunFolder, task: int) -> list[float]:
    from safetensors.numpy import load_file

    policy = load_file(folder.path / "checkpoints" / f"task-{task}" / "policy.safetensors")
    actor = [name for name in sorted(policy) if "policy_net" in name or "action_net" in name]
    assert actor
    return [float(value) for name in actor for value in policy[name].ravel()]


def distance(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5


def test_the_scenario_example_is_good(tmp_path: Path) -> None:
    path = tmp_path / "gravity.yaml"
    path.write_text(files(CONTRIBUTING)["gravity.yaml"], "utf-8")
    scenario = load(path)
    assert [method.label for method in scenario.methods] == ["naive", "isolated", "ewc"]
    assert scenario.tasks[1].changes.set == {"gravity": 24.8}


def test_the_agent_example_is_what_the_code_says() -> None:
    row, test_row = re.findall(r'^ *("tqc": .*),$', CONTRIBUTING, re.M)
    assert row in (ROOT / "src" / "holdfast" / "registry.py").read_text("utf-8")
    assert test_row in (ROOT / "tests" / "agents" / "sb3" / "test_algorithms.py").read_text("utf-8")


@pytest.mark.parametrize("what", ["an environment", "an agent", "a method", "a scenario"])
def test_a_how_to_is_short(what: str) -> None:
    _, rest = CONTRIBUTING.split(f"## Add {what}\n")
    lines = [line for line in rest.split("\n## ")[0].splitlines() if line.strip()]
    assert 5 <= len(lines) <= 20


def test_the_tables_name_every_method_and_agent() -> None:
    table, measured = METHODS_PAGE.split("<!-- quickstart:begin -->")
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.M) == list(METHODS)
    assert set(re.findall(r"^\| `([\w-]+)`", measured, re.M)) <= set(METHODS)
    words = METHODS_PAGE.casefold().replace("-", "")
    assert [name for name in ALGORITHMS if name.replace("_", "") not in words] == []


def test_measured_numbers_have_their_place() -> None:
    begin, end = "<!-- quickstart:begin -->\n", "<!-- quickstart:end -->\n"
    assert (METHODS_PAGE.count(begin), METHODS_PAGE.count(end)) == (1, 1)
    assert METHODS_PAGE.index(begin) < METHODS_PAGE.index(end)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = FENCED.sub("", PAGES[page])
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not _leads(ROOT / page, link)] == []


def _leads(page: Path, link: str) -> bool:
    """Return whether there is a file, and the heading of it where a link names one."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not anchor or not target.exists():
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", target.read_text("utf-8")), re.M)
    return anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_a_link_to_no_heading_leads_nowhere() -> None:
    page = ROOT / "docs" / "studies.md"
    assert _leads(page, "science.md#penalties-on-relu-networks")
    assert not _leads(page, "science.md#penalties")
    assert not _leads(page, "nowhere.md#penalties-on-relu-networks")


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    code = "\n".join([*FENCED.findall(PAGES[page]), *re.findall(r"`[^`\n]+`", PAGES[page])])
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    targets = {target for line in re.findall(r"\bmake ([a-z ]+)", code) for target in line.split()}
    assert targets <= rules
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group
    assert set(re.findall(r"\bholdfast ([a-z][a-z-]+)", code)) <= known
    paths = re.findall(r"\b(?:tests|scenarios|benchmarks|continual|agents|envs)/[\w./-]+\w", code)
    assert [path for path in paths if not (ROOT / path).exists()] == []
