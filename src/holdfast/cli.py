"""The command line: ``holdfast run|tune|validate|schema|list|check-env|new``, results and probes.

Everything heavy is imported inside the commands, so that ``--help`` and ``validate`` stay quick.
Exit codes are those of :mod:`holdfast.errors`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from typer.core import TyperGroup

from holdfast.cli_probes import app as of_probes
from holdfast.cli_results import app as of_results
from holdfast.envs.processes.escapes import Escaped
from holdfast.errors import HoldfastError, InUse, ScenarioError, UsageError
from holdfast.printing import (
    console,
    errors_told,
    failure_of,
    print_labelled,
    print_markdown,
    print_note,
    stop_told,
    tell_failure,
    write_file,
)

if TYPE_CHECKING:
    from holdfast.continual.jobs.queue import Outcome
    from holdfast.scenarios.schema.scenario import Scenario


class Commands(TyperGroup):
    """All commands, whose errors of ours are told without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named; exit with the code of its error."""
        with errors_told():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that was named.

        Raises:
            UsageError: It goes by another name here, or takes a key where an option was written.
        """
        from holdfast.registry import closest  # here: --help needs none of it

        name, *rest = args
        meant = closest(name, [*self.commands, *_MEANT]) if name not in self.commands else None
        if meant in _MEANT:
            raise UsageError(f"no command '{name}'; did you mean 'holdfast {_MEANT[meant]}'?")
        if name in ("run", "tune", "validate"):
            _check_options(name, self.commands[name], rest)
        return super().resolve_command(ctx, args)


_MEANT = {
    **dict.fromkeys(("train", "start", "resume", "continue"), "run"),
    **dict.fromkeys(("check", "lint"), "validate"),
    **dict.fromkeys(("plot", "compare", "results"), "report"),
    **dict.fromkeys(("create", "init"), "new"),
}
"""Commands that others have, and what does it here."""


def _check_options(name: str, command: Any, arguments: Sequence[str]) -> None:
    """Raise UsageError where a key of the scenario is written as an option."""
    from holdfast.registry import closest

    known = [option for parameter in command.params for option in parameter.opts]
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("--") and len(option) > 2 and not closest(option, [*known, "--help"]):
            raise UsageError(
                f"no option '{option}' (holdfast {name} -h lists them); a key of the scenario is "
                "written without dashes: agent.learning_rate=1e-4 'seeds=[0, 1]'"
            )


app = typer.Typer(
    name="holdfast",
    cls=Commands,
    help="Train agents on a stream of tasks, and measure what they forget.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 usage or configuration, 3 environment failed, 4 training "
    "diverged, 5 checkpoint or run folder unusable, 6 a cell in use elsewhere or left out, "
    "75 stopped and resumable.",
)

ScenarioFile = Annotated[
    Path, typer.Argument(help="A scenario file, or a shipped one's name: cw10.", show_default=False)
]
Runs = Annotated[Path, typer.Option(help="The folder of all results.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values that replace the file's: agent.learning_rate=1e-4 'seeds=[0, 1]'; "
        "@FILE takes those of a file.",
        show_default=False,
    ),
]


TrustOthers = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import what earlier runs name that the scenario plays against or with; its own code "
        "needs no such word.",
    ),
]


ONE_COLOUR = "http://localhost:6006/?runColorGroup=regex:([^/]*)/seed"
"""Where TensorBoard gives the seeds of a method one colour; runs are named by their folders."""

What = Literal["envs", "agents", "methods", "changes", "presets", "scenarios"]
Kind = Literal["env", "scenario", "method"]
Executor = Literal["processes", "ray"]


def main() -> None:
    """Run the command line and exit with its code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # to the end
        # A locale without some letter or sign must not end a run: print '?' instead.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
        setattr(sys, name, Escaped(stream))
    if sys.platform != "linux":  # elsewhere nobody takes in the orphans of a process
        app()
        return
    from holdfast.watch import watched

    watched(app)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take what stands before a command."""
    if version:
        import holdfast

        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.command()
def run(
    scenario: ScenarioFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Cells to run side by side. Default: 1; with ray: all."),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a cell that crashed is tried again.")
    ] = 2,
    executor: Annotated[Executor, typer.Option(help="What runs the cells.")] = "processes",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster: HOST:6379, or auto. Default: RAY_ADDRESS, or one started here."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete results that are there; start over.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would take; run nothing.")
    ] = False,
    trust_code: TrustOthers = False,
) -> None:
    """Run every cell of a scenario: each method with each seed.

    Running the same command again continues what was interrupted and skips what is finished.
    A cell that another process runs is left to it. The exit code is 0 if every cell is finished.
    """
    from holdfast.scenarios.load import load

    loaded = load(scenario, overrides or ())
    loaded = loaded.trusting_code() if trust_code else loaded
    # Said before the imports below, which take seconds.
    print(f"{loaded.name}: {_counts(loaded)}", flush=True)
    if dry_run:
        from holdfast.dry_run import dry_run as measured

        settled = _settled(loaded, runs, overwrite=overwrite)
        print(measured(settled, runs=runs, jobs=jobs or 1))
        return
    with stop_told():
        how = _How(jobs, retries, executor, address)
        # Absolute: an environment may change the working folder.
        outcomes = _run(loaded, runs.absolute(), how, overwrite=overwrite)
    _tell_results(loaded, runs, outcomes)
    code = _code(outcomes)
    if code:
        raise typer.Exit(code)


@app.command()
def tune(
    scenario: ScenarioFile,
    overrides: Overrides = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many in the end; the scenario says by default.")
    ] = None,
    runs: Runs = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Cells to run side by side.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the study that is there; start over.")
    ] = False,
    trust_code: TrustOthers = False,
) -> None:
    """Look for the best values of keys, on the first percent of the stream or on held-out seeds.

    Running the same command again continues what was interrupted; with more --trials, it goes on.
    """
    from holdfast.continual.jobs.trials import BEST, PAGE, command
    from holdfast.continual.jobs.tune import tune as run_trials
    from holdfast.continual.jobs.tuning_plan import plan
    from holdfast.continual.results.formatting import plural
    from holdfast.continual.run_folder.readers import read_file
    from holdfast.progress import Display
    from holdfast.scenarios.load import load

    loaded = load(scenario, overrides or ())
    loaded = loaded.trusting_code() if trust_code else loaded
    made = plan(loaded, runs)
    count = trials or made.tune.trials
    print(
        f"{loaded.name}: {plural(count, 'trial')} of {made.method.label}, on {made.protocol}",
        flush=True,
    )
    steps = made.trial({}, made.seeds[0]).total_steps
    with stop_told(), Display(console(), count * len(made.seeds), steps) as shown:
        folder = run_trials(
            loaded,
            runs=runs.absolute(),  # an environment may change the working folder
            trials=trials,
            jobs=jobs,
            overwrite=overwrite,
            watcher=shown,
        )
    print()
    print_markdown(read_file(folder / PAGE).decode("utf-8"))
    print(f"\nBest values: {made.folder / BEST}")
    print(f"Run them:    {command(made, loaded.source)}")


@app.command()
def validate(
    scenarios: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|KEY=VALUE",
            help="Scenario files, or names of shipped ones, and values that replace theirs.",
        ),
    ],
    build: Annotated[
        bool, typer.Option("--build", help="Also build the environments and the agents.")
    ] = False,
    trust_code: TrustOthers = False,
) -> None:
    """Check scenario files and report every mistake at once, with its place."""
    overrides = [text for text in scenarios if _is_override(text)]
    failed: list[HoldfastError] = []
    paths = [text for text in scenarios if not _is_override(text)]
    for path in paths:
        try:
            _validate(path, overrides, build=build, trust_code=trust_code)
        except HoldfastError as error:
            tell_failure(failure_of(error))
            failed.append(error)
    if failed:
        raise typer.Exit(failed[0].exit_code)
    stepping = f"what environments do when they are stepped (holdfast check-env {paths[-1]})"
    building = "whether environments and agents can be built (--build), nor "
    print(f"Not looked at: {'' if build else building}{stepping}.")


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file instead.")
    ] = None,
) -> None:
    """Print the JSON Schema of scenario files, for completion in editors."""
    import json

    from holdfast.scenarios.json_schema import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if output is None:
        print(text, end="")
    else:
        write_file(output, text)


@app.command("list")
def list_(
    what: Annotated[What, typer.Argument(help="What to list.", show_default=False)],
) -> None:
    """List environments, agents (algorithms), methods, changes, presets of agents, or scenarios."""
    from holdfast import listing

    print(getattr(listing, what)())


@app.command("check-env")
def check_env(
    target: Annotated[
        str,
        typer.Argument(
            help="Id-v0, module:Class, module:Id-v0; a module or file.py, for all in it; or a "
            "scenario.yaml or a shipped one's name, for every task's.",
            show_default=False,
        ),
    ],
    kwargs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Arguments of its constructor; of a scenario: values that replace the file's.",
        ),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="Another interpreter, to run it with its packages.")
    ] = None,
    trust_code: TrustOthers = False,
) -> None:
    """Say whether an environment will work here, before an hour is spent. Exit code 3 if not."""
    from holdfast.checking import check_named, check_scenario, is_scenario

    if is_scenario(target):
        from holdfast.scenarios.load import load

        if python is not None:
            raise UsageError("--python: a scenario's tasks name it: 'tasks[0].python=...'")
        loaded = load(target, kwargs or ())
        loaded = loaded.trusting_code() if trust_code else loaded
        code = check_scenario(_settled(loaded, Path("runs"), overwrite=True))
    else:
        code = check_named(target, _values(kwargs or ()), Path.cwd(), python)
    if code:
        raise typer.Exit(code)


@app.command("new")
def new_(
    kind: Annotated[Kind, typer.Argument(help="What to write.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Its name, as a module: my_arm.")],
) -> None:
    """Write a working skeleton here: an environment, a scenario or a method, with tests."""
    from holdfast.new import new

    written = new(kind, name, Path.cwd())
    print(f"Written: {', '.join(path.name for path in written)}")
    if kind != "scenario":
        print(f"Test:    pytest test_{name}.py")
    print(f"Run:     holdfast run {name}.yaml")


app.add_typer(of_results)
app.add_typer(of_probes)


# -- run -------------------------------------------------------------------------------------------


class _How(NamedTuple):
    """Options of ``run`` that say how cells are run."""

    jobs: int | None
    retries: int
    executor: Executor
    address: str | None


def _run(scenario: Scenario, runs: Path, how: _How, *, overwrite: bool) -> list[Outcome]:
    """Build everything once, then run the cells under a display, and let them adapt."""
    from holdfast.continual.jobs.run import made_executor, run_cells
    from holdfast.continual.jobs.run_folders import prepare
    from holdfast.continual.probes.adaptation import adapt_held_out, check_held_out
    from holdfast.progress import Display

    scenario = _settled(scenario, runs, overwrite=overwrite)
    if not overwrite:
        check_held_out(runs, scenario)

    def watched(count: int, steps: int) -> Display:
        return Display(console(), count, steps)

    with made_executor(how.executor, scenario, jobs=how.jobs, address=how.address) as execute:
        execute.build(scenario)
        folders = prepare(runs, scenario, overwrite=overwrite, tell=print_note)
        with watched(len(folders), scenario.total_steps) as shown:
            outcomes = run_cells(folders, retries=how.retries, watcher=shown, execute=execute)
        adapt_held_out(folders, scenario, watched, execute=execute)
        return outcomes


def _settled(scenario: Scenario, runs: Path, *, overwrite: bool) -> Scenario:
    """Return the scenario with its backend settled, and say what it is where it was open."""
    if scenario.backend != "auto":
        return scenario
    from holdfast.continual.jobs.backend import settle

    settled = settle(scenario, runs, overwrite=overwrite)
    print(settled.reason, flush=True)
    return settled.scenario


def _code(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code: of the first failure, of a cell that was left out, or 0."""
    for outcome in outcomes:
        if outcome.failure is not None:
            return outcome.failure.exit_code
    is_whole = all(outcome.status in ("finished", "skipped") for outcome in outcomes)
    return 0 if is_whole else InUse.exit_code


def _tell_results(scenario: Scenario, runs: Path, outcomes: Sequence[Outcome]) -> None:
    """Print the comparison, where to find more, and every failure once."""
    from holdfast.continual.reports.report import report as make_report

    folder = runs / scenario.name
    if any(outcome.failure is None for outcome in outcomes):
        made = make_report(folder)
        print()
        print_markdown(made.overview)
        print(f"\nReport:      {folder / 'report.md'} (with {', '.join(made.files[1:])})")
        print(f"TensorBoard: tensorboard --logdir {runs}, one colour per method: {ONE_COLOUR}")
    told = set()
    for outcome in outcomes:
        failure = outcome.failure
        if failure is None or failure in told:
            continue
        told.add(failure)
        same = [other.cell for other in outcomes if other.failure == failure]
        tell_failure(failure, label=f"failed: {', '.join(same)}:")
    left = [f"{outcome.cell} ({outcome.user})" for outcome in outcomes if outcome.user]
    if left:
        text = f"in use elsewhere: {', '.join(left)}; run the command again once that has ended"
        print_labelled(console(stderr=True), "left out:", "yellow", text)


# -- validate, check-env ---------------------------------------------------------------------------


def _validate(path: str, overrides: Sequence[str], *, build: bool, trust_code: bool) -> None:
    from holdfast.scenarios.checks.papers import told
    from holdfast.scenarios.load import load

    scenario = load(path, overrides)
    scenario = scenario.trusting_code() if trust_code else scenario
    if scenario.tune is not None:
        from holdfast.continual.jobs.tuning_plan import plan

        plan(scenario.model_copy(update={"sweep": {}}), Path("runs"))
    if build:
        from holdfast.continual.training.preflight import build as build_all

        build_all(_settled(scenario, Path("runs"), overwrite=True))
    print(f"{path}: {'good, and builds' if build else 'good'}; {_counts(scenario)}", flush=True)
    for line in told(scenario.stated):
        print(f"  agent.preset: {line}", flush=True)


def _counts(scenario: Scenario) -> str:
    from holdfast.continual.results.formatting import plural

    cells, methods = scenario.cells(), plural(len(scenario.methods), "method")
    product = f"{methods} x {plural(len(scenario.seeds), 'seed')}"
    if scenario.sweep:
        swept = (f"{key} ({len(values)})" for key, values in scenario.sweep.items())
        product += f"; swept: {', '.join(swept)}"
    return (
        f"{plural(len(scenario.tasks), 'task')}, {plural(len(cells), 'cell')} ({product}) of "
        f"{scenario.total_steps:,} steps"
    )


def _is_override(text: str) -> bool:
    """Return whether an argument is key=value rather than a file."""
    key_value = re.match(r"[A-Za-z_][\w.:\[\]-]*=", text)
    return text[:1] == "@" or (key_value is not None and not Path(text).exists())


def _values(texts: Sequence[str]) -> dict[str, Any]:
    """Return key=value arguments as a mapping, each value read as YAML."""
    from holdfast.scenarios.source.override import override
    from holdfast.scenarios.source.yaml_file import read

    source = read(b"{}", "")
    for text in texts:
        override(source, text)
    if source.problems:
        raise ScenarioError(source.problems)
    values: dict[str, Any] = source.data
    return values
