"""Commands on run folders: ``holdfast report|cross-play|video|eval|record|export|...``.

Everything heavy is imported inside the commands, as in :mod:`holdfast.cli`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from holdfast.errors import UsageError
from holdfast.printing import console, print_markdown, write_file

app = typer.Typer()

Stages = Literal["last", "all"]
Form = Literal["onnx", "torch-export"]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import and start what the scenarios in the run folders name; without it, only for "
        "runs of your own.",
    ),
]


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
    smooth: Annotated[
        int, typer.Option(min=1, help="Evaluation points that curves are averaged over.")
    ] = 1,
) -> None:
    """Print the comparison of finished cells, and write it: page, markdown, CSV, LaTeX, figure.

    Folders of one scenario are taken together; several scenarios stand side by side, and have a
    section each.
    """
    from holdfast.continual.reports.report import report as make_report

    made = make_report(*paths, into=output, smooth=smooth)
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
    trust_code: TrustCode = False,
) -> None:
    """Play policies of runs with each other: win rates, Elo, returns of mixed teams.

    In games they play each other, a random player and whom they were measured against. In teams one
    group, or one agent, acts by one policy, and all others by another. The runs stay as they are.
    """
    from holdfast.continual.policies.meeting import Plan
    from holdfast.continual.tools import cross_play as meeting
    from holdfast.progress import counted

    with counted(console(), "cross-play") as tell:
        plan = Plan(games, deterministic, seed, tell)
        made = meeting.cross_play(path, plan, stages=stages, task=task, trust_code=trust_code)
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
    trust_code: TrustCode = False,
) -> None:
    """Film each task: with the final policy, and with the one that was best at it.

    MP4 where imageio-ffmpeg is installed (holdfast[video]), else GIF; into the run's videos/, with
    thumbnails in TensorBoard. Needs no display.
    """
    from holdfast.continual.tools.video import film

    how: dict[str, Any] = {"episodes": episodes, "longest": longest, "trust_code": trust_code}
    for path in film(run, tasks=task or (), **how):
        print(f"Written: {path}", flush=True)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A cell: runs/<scenario>/<method>/seed-<k>.")],
    task: Annotated[str | None, typer.Option(help="Where; the task trained last.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the episodes; the run's own, as it was measured.")
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic/--sampled", help="Which actions; as it was measured."),
    ] = None,
    stage: Annotated[
        int | None, typer.Option(min=0, help="The policy at this stage's end, from 0; the last.")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Another environment in the task's place: an id.")
    ] = None,
    kwargs: Annotated[
        str | None, typer.Option(help="Its arguments, as YAML: '{gravity: 20}'.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every episode into this file.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Measure a trained policy in a task: mean return, success rate, their intervals.

    By default the episodes are those of the run's own record. The run folder stays as it is.
    """
    from holdfast.continual.tools.measure import Plan, measure

    given = None if kwargs is None else _mapping(kwargs)
    plan = Plan(task, episodes, seed, deterministic, stage, env, given)
    made = measure(run, plan, trust_code=trust_code)
    print(made.text)
    if csv is not None:
        write_file(csv, made.csv)
        print(f"\nWritten: {csv}")


@app.command()
def record(
    source: Annotated[
        Path, typer.Argument(help="A cell, whose policy acts; or a scenario, for another actor.")
    ],
    task: Annotated[str, typer.Option(help="Where.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file: NAME.safetensors.", show_default=False)
    ],
    controller: Annotated[
        str | None, typer.Option(help="Who acts: module:callable, an observation to an action.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Who acts: a Stable-Baselines3 zip of the scenario's agent.")
    ] = None,
    minari: Annotated[
        str | None, typer.Option(help="Episodes of a Minari data set. Needs holdfast[minari].")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
    stage: Annotated[
        int | None, typer.Option(min=0, help="The policy at this stage's end, from 0; the last.")
    ] = None,
    successes: Annotated[
        bool, typer.Option("--successes", help="Keep only episodes that end in success.")
    ] = False,
    trust_code: TrustCode = False,
) -> None:
    """Record demonstrations of a task into a file, for demonstrations: of a scenario's task.

    By the policy of a run, a zip of Stable-Baselines3's, a function of yours, or from Minari.
    """
    from holdfast.continual.results.formatting import plural
    from holdfast.continual.tools import recording
    from holdfast.progress import counted

    plan = recording.Plan(task, episodes, seed, stage, successes)
    who: dict[str, Any] = {"controller": controller, "policy": policy, "minari": minari}
    with counted(console(), "record") as tell:
        made = recording.record(source, plan, output, **who, trust_code=trust_code, tell=tell)
    mean = sum(made.returns) / len(made.returns)
    told = "" if made.successes is None else f", {made.successes} ended in success"
    count = plural(len(made.returns), "episode")
    print(f"Written: {made.path}: {count}, {made.transitions:,} transitions")
    print(f"  mean return {mean:,.2f}{told}")


Kept = Literal["newest", "all", "none"]


@app.command()
def clean(
    path: Annotated[Path, typer.Argument(help="runs/<scenario>, or a folder in it.")],
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT...",
            help="leftovers reports videos exports (the default: they come again), tensorboard "
            "logs old-checkpoints cells.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go.")] = False,
) -> None:
    """Remove from run folders what can be made again, or what you name, after a list of it.

    A cell that another process runs is left alone; the exit code is then 6.
    """
    from holdfast.continual.results.formatting import plural
    from holdfast.continual.tools import cleaning

    going = cleaning.listed(path, cleaning.asked(what or ()))
    print(cleaning.table(going, path))
    if dry_run or not going:
        return
    count = plural(len(going), "item")
    if not yes and not sys.stdin.isatty():
        raise UsageError(f"{count} would go; nobody can be asked here: say --yes")
    if not yes and not typer.confirm(f"Remove {count} for good?"):
        raise typer.Exit(0)
    done = cleaning.clean(going, path)
    print(f"Removed: {plural(len(done.gone), 'item')}")
    if done.left:
        raise done.left[0]


@app.command()
def pack(
    path: Annotated[Path, typer.Argument(help="runs/<scenario>, or a folder in it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The archive; <scenario>.zip here.")
    ] = None,
    checkpoints: Annotated[Kept, typer.Option(help="Which of each cell go in.")] = "newest",
    with_paths: Annotated[
        bool,
        typer.Option("--with-paths", help="Pack texts that name absolute paths or the user."),
    ] = False,
) -> None:
    """Pack runs into one checked file for sharing: scenario, scores, records, checkpoints.

    Logs, TensorBoard's files, films, exports and what names the machine stay here.
    """
    from holdfast.continual.results.formatting import plural
    from holdfast.continual.tools import archive

    target = output or Path(f"{path.resolve().name}.zip")
    members = archive.pack(path, target, checkpoints=checkpoints, with_paths=with_paths)
    cells, size = archive.cells_of(members), target.stat().st_size / 1e6
    print(f"Written: {target}: {plural(len(cells), 'cell')}, {size:,.1f} MB")
    print("Open it elsewhere: holdfast unpack", target.name)


@app.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="A file that `holdfast pack` has written.")],
    runs: Annotated[Path, typer.Option(help="The folder of all results.")] = Path("runs"),
    most_gb: Annotated[
        float, typer.Option(min=0, help="Gigabytes that may come out of it.")
    ] = 20.0,
) -> None:
    """Open an archive of runs, as data: every size, hash, name and record is checked first.

    Nothing of it is imported or started. Code that its scenarios name is listed.
    """
    from holdfast.continual.tools.archive import unpack as opened

    found = opened(archive, runs, most_gb=most_gb)
    for cell in found:
        print(f"Written: {cell.path}")
    named = dict.fromkeys(str(code) for cell in found for code in cell.code)
    if named:
        print("Its scenarios name code, which commands import with --trust-code alone:")
        print("\n".join(f"  {line}" for line in named))


def _mapping(text: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--kwargs: not YAML: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--kwargs: write a mapping, like '{{gravity: 20}}'; got {text!r}")
    return found


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A cell: runs/<scenario>/<method>/seed-<k>.")],
    form: Annotated[Form, typer.Option("--format", help="What is written.")],
    task: Annotated[
        str | None, typer.Option(help="As which task it acts; the one trained last.")
    ] = None,
    stage: Annotated[
        int | None, typer.Option(min=0, help="The policy at this stage's end, from 0; the last.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file; of a team the folder. The run's exports/.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Write a policy as a file for other programs: observations in, most likely actions out.

    The file is compared with the policy on observations of the task before it is kept.
    """
    from holdfast.continual.tools.export import export as exported

    what: dict[str, Any] = {"task": task, "stage": stage, "output": output}
    for one in exported(run, form, **what, trust_code=trust_code):
        inputs = ", ".join(f"{name} {shape}" for name, shape in one.inputs.items())
        print(f"Written: {one.path} (the policy after stage {one.stage})")
        print(f"  inputs: {inputs}")
        print(f"  {one.compared} observations: actions differ by at most {one.difference:.3g}")
        print(
            f"  one observation takes {one.latency_ms:.3f} ms on this CPU, in torch "
            f"{one.policy_ms:.3f} ms (medians)",
            flush=True,
        )
