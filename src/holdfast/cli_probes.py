"""The commands that probe trained agents: ``holdfast stress|adapt|counterfactual|explain``.

Everything heavy is imported inside the commands, as in :mod:`holdfast.cli`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli_results import TrustCode
from holdfast.errors import UsageError
from holdfast.printing import console, print_markdown, stop_told

app = typer.Typer()

Cells = Annotated[Path, typer.Argument(metavar="RUN", help="runs/<scenario>, or a folder in it.")]
StagesAsked = Annotated[
    list[int] | None, typer.Option("--stage", min=0, help="Only this stage; may be given again.")
]
Again = Annotated[
    bool, typer.Option("--overwrite", help="Delete what was found by another plan; start over.")
]


@app.command()
def stress(
    run: Cells,
    levels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHANGE=[LEVEL, ...]",
            help="Changes and levels: 'observation_noise=[0.1, 0.2]', action_delay, action_gain, "
            "dead_actuators, observation_mask (entries, or each), attack. Default: all of them.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; may be given again.")
    ] = None,
    stage: StagesAsked = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each level.")] = 5,
    overwrite: Again = False,
    trust_code: TrustCode = False,
) -> None:
    """Measure every stage's policy under changes and attacks: what does remembering cost?

    Noise, delays, dead actuators, gains, masked entries, and the worst small perturbation of
    observations. What is on file is not measured again. The report has it as a section.
    """
    from holdfast.continual.probes import outcomes
    from holdfast.continual.probes import stress as probe
    from holdfast.continual.probes.record import probed_cells
    from holdfast.continual.reports.probe_report import stress_sections
    from holdfast.progress import counted

    plan, choice = probe.plan_of(levels or (), episodes), probe.Choice(task, stage)
    cells = probed_cells(run, "stress", trust_code=trust_code)
    with stop_told(), counted(console(), "stress") as tell:
        probe.stress(cells, plan, choice, tell, overwrite=overwrite)
    _written(run, "stress", stress_sections(cells), outcomes.stress_table(cells))


@app.command()
def adapt(
    run: Cells,
    task: Annotated[str, typer.Option(help="The task that is learned.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Environment steps of it.", show_default=False)],
    of: Annotated[
        str | None,
        typer.Option(
            help="Where the task is, if it is none of the run's own: a scenario's file or name, or "
            "a file with one task.",
        ),
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, help="Steps between measurements. Default: 20 of them.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of a measurement.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score that counts as learned. Default: 0.8; of raw returns, what fresh "
            "agents reach.",
            show_default=False,
        ),
    ] = None,
    stage: StagesAsked = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages that learn side by side.")] = 1,
    overwrite: Again = False,
    trust_code: TrustCode = False,
) -> None:
    """Let every stage of runs learn one more task, beside a fresh agent: does knowing help?

    The runs stay as they are. What was interrupted continues; the report has it as a section.
    """
    from holdfast.continual.probes import adaptation as probe
    from holdfast.continual.probes import outcomes
    from holdfast.continual.probes.longer_stream import given_task
    from holdfast.continual.probes.record import probed_cells
    from holdfast.continual.reports.probe_report import adapt_sections
    from holdfast.progress import Display

    given = None if of is None else given_task(of, task)
    cells = probed_cells(run, "adapt", trust_code=trust_code)
    plan = probe.plan_of(cells[0].scenario, task, steps, every=every, episodes=episodes)
    with stop_told(), Display(console(), probe.count(cells, stage), steps) as shown:
        how: dict[str, Any] = {"jobs": jobs, "watcher": shown, "overwrite": overwrite}
        probe.adapt(cells, plan, given=given, stages=stage, **how)
    _written(
        run, "adapt", adapt_sections(cells, plan, threshold), outcomes.adapt_table(cells, plan)
    )


@app.command()
def counterfactual(
    run: Cells,
    task: Annotated[str, typer.Option(help="Whose states.", show_default=False)],
    states: Annotated[int, typer.Option(min=1, help="How many, over the whole episodes.")] = 100,
    world: Annotated[
        list[str] | None,
        typer.Option(
            help="Another task, whose changes are tried; may be given again. Default: those that "
            "differ in changes alone, at most 4.",
        ),
    ] = None,
    no_worlds: Annotated[
        bool, typer.Option("--no-worlds", help="Leave the changes of other tasks out.")
    ] = False,
    overwrite: Again = False,
    trust_code: TrustCode = False,
) -> None:
    """Go back to states of a task, and play on: another action, policy or world.

    The value of what was lost, state by state, by real steps. Episodes of the record are repeated
    and checked; a state that cannot be reached again is an error.
    """
    from holdfast.continual.probes import counterfactual as probe
    from holdfast.continual.probes import outcomes
    from holdfast.continual.probes.record import probed_cells
    from holdfast.continual.reports.probe_report import counterfactual_sections
    from holdfast.progress import counted

    cells = probed_cells(run, "counterfactual", trust_code=trust_code)
    worlds = [] if no_worlds else world or None
    plan = probe.plan_of(cells[0].scenario, task, states, worlds)
    with stop_told(), counted(console(), "counterfactual") as tell:
        probe.counterfactual(cells, plan, tell, overwrite=overwrite)
    sections = counterfactual_sections(cells, plan)
    _written(run, "counterfactual", sections, outcomes.counterfactual_table(cells, plan))


@app.command()
def explain(
    run: Cells,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; may be given again.")
    ] = None,
    states: Annotated[int, typer.Option(min=2, help="States of each task.")] = 200,
    overwrite: Again = False,
    trust_code: TrustCode = False,
) -> None:
    """Say what each stage's actions hang on, and in which states it acts otherwise than before.

    Integrated gradients of the policy, checked by deletion; the states in which a later policy
    departs from that of the task's end, by kind. Needs holdfast[explain].
    """
    from holdfast.continual.probes import explanation as probe
    from holdfast.continual.probes import reasons
    from holdfast.continual.probes.record import probed_cells
    from holdfast.continual.reports.explanation_report import explain_sections
    from holdfast.progress import counted

    cells = probed_cells(run, "explain", trust_code=trust_code)
    with stop_told(), counted(console(), "explain") as tell:
        probe.explain(cells, reasons.ExplainPlan(states=states), task, tell, overwrite=overwrite)
    _written(run, "explain", explain_sections(cells), reasons.explain_table(cells))


def _written(folder: Path, name: str, sections: list[Any], table: str) -> None:
    """Print what a probe found, and write it as a page and a table."""
    from holdfast.continual.results.markdown_page import markdown
    from holdfast.continual.run_folder.files import write_whole

    text = markdown(sections)
    try:
        write_whole(folder / f"{name}.md", text.encode())
        write_whole(folder / f"{name}.csv", table.encode())
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror}") from error
    print_markdown(text)
    print(f"\nWritten: {folder / f'{name}.md'} (with {name}.csv)")
