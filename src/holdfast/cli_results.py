"""The commands that read run folders: ``holdfast report|cross-play|video``.

Everything heavy is imported inside the commands, as in :mod:`holdfast.cli`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holdfast.printing import console, errors_told, print_markdown

app = typer.Typer()

Stages = Literal["last", "all"]


@app.command()
def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="runs/<scenario>, or a folder in it.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write; the folder itself, or what holds them all."
        ),
    ] = None,
) -> None:
    """Print the comparison of finished cells, and write it: page, markdown, CSV, LaTeX, figure.

    Folders of one scenario are taken together; other scenarios have a section each.
    """
    with errors_told():
        from holdfast.continual.report import report as make_report

        made = make_report(*paths, into=output)
        print_markdown(made.markdown)
        print(f"\nWritten: {made.folder / 'report.md'} (with {', '.join(made.files[1:])})")


@app.command("cross-play")
def cross_play(
    path: Annotated[Path, typer.Argument(help="runs/<scenario>, or a folder in it.")],
    games: Annotated[
        int, typer.Option(min=2, help="Games of each two; of a team, episodes of each mixture.")
    ] = 100,
    stages: Annotated[
        Stages, typer.Option(help="Policies of each run: that of its last stage, or of all.")
    ] = "last",
    task: Annotated[str | None, typer.Option(help="Where they meet; the last one.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Most likely actions rather than samples.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Let the policies of runs meet: win rates and Elo of games, returns of mixed teams.

    In games they play each other, a random player and whom they were measured against. In teams one
    group, or one agent, acts by one policy, and all others by another. The runs stay as they are.
    """
    with errors_told():
        from holdfast.continual import cross_play as meeting
        from holdfast.progress import counted

        with counted(console(), "cross-play") as tell:
            plan = meeting.Plan(games, deterministic, seed, tell)
            made = meeting.cross_play(path, plan, stages=stages, task=task)
        print_markdown(made.markdown)
        print(f"\nWritten: {made.folder / 'cross-play.md'} (with cross-play.csv)")


@app.command()
def video(
    run: Annotated[Path, typer.Argument(help="A cell: runs/<scenario>/<method>/seed-<k>.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; may be given again.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each.")] = 1,
    longest: Annotated[int, typer.Option(min=1, help="Most steps of an episode.")] = 1000,
) -> None:
    """Film each task: with the final policy, and with the one that was best at it.

    MP4 where imageio-ffmpeg is installed (holdfast[video]), else GIF; into the run's videos/, with
    thumbnails in TensorBoard. Needs no display.
    """
    with errors_told():
        from holdfast.continual.video import film

        for path in film(run, tasks=task or (), episodes=episodes, longest=longest):
            print(f"Written: {path}", flush=True)
