"""The command that looks for values: ``holdfast tune``.

Everything heavy is imported inside the command, as in :mod:`holdfast.cli`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.printing import console, errors_told, print_markdown, stop_told

app = typer.Typer()


@app.command()
def tune(
    scenario: Annotated[
        Path, typer.Argument(help="A scenario file with tune:.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Values that replace the file's: tune.method=ewc tune.percent=5.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many in the end; the scenario says by default.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of all results.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Cells to run side by side.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the study that is there; start anew.")
    ] = False,
) -> None:
    """Look for the best values of keys, on the first percent of the stream or on held-out seeds.

    Running the same command again continues what was interrupted; with more --trials, it goes on.
    """
    with errors_told():
        from holdfast.continual.jobs.trials import BEST, PAGE, command
        from holdfast.continual.jobs.tune import plan
        from holdfast.continual.results.formatting import plural
        from holdfast.scenarios.load import load

        loaded = load(scenario, overrides or ())
        made = plan(loaded, runs)
        count = trials or made.tune.trials
        print(
            f"{loaded.name}: {plural(count, 'trial')} of {made.method.label}, on {made.protocol}",
            flush=True,
        )
        from holdfast.continual.jobs.tune import tune as run_trials
        from holdfast.progress import Display

        steps = made.trial({}, made.seeds[0]).total_steps
        with stop_told(), Display(console(), count * len(made.seeds), steps) as shown:
            folder = run_trials(
                loaded, runs=runs, trials=trials, jobs=jobs, overwrite=overwrite, watcher=shown
            )
        print()
        print_markdown((folder / PAGE).read_text("utf-8"))
        print(f"\nBest values: {folder / BEST}")
        print(f"Run them:    {command(made, loaded.source)}")
