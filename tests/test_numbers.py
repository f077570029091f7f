"""The numbers on the pages are those of the files in ``benchmarks/results``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from result_tables import cells_of, lines_of, short
from scipy.stats import t

from holdfast.continual.results.statistics import estimate

ROOT = Path(__file__).parents[1]
ENGINE = (ROOT / "docs" / "engine.md").read_text("utf-8")


def shown(page: str, first: str) -> list[list[str]]:
    """Return the cells below the head of the table on a page whose head begins with ``first``."""
    lines = page[page.index(f"\n| {first} |") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


LEARNED = {
    "PPO, CartPole": "ppo-cartpole",
    "PPO, Acrobot": "ppo-acrobot",
    "DQN, CartPole, twenty seeds": "dqn-cartpole",
    "SAC, Pendulum": "sac-pendulum",
    "TD3, Pendulum": "td3-pendulum",
    "SAC, HalfCheetah": "sac-cheetah",
    "TD3, HalfCheetah": "td3-cheetah",
    "SAC, drawer-close (success)": "sac-drawer",
    "TD3, drawer-close (success), {} seeds": "td3-drawer",
}


def welch(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Return Welch's 95% interval of the difference of means, by its formula."""
    errors = [values.var(ddof=1) / len(values) for values in (ours, theirs)]
    squares = [e**2 / (len(v) - 1) for e, v in zip(errors, (ours, theirs), strict=True)]
    freedom = sum(errors) ** 2 / sum(squares)
    half = t.ppf(0.975, freedom) * np.sqrt(sum(errors))
    middle = ours.mean() - theirs.mean()
    return middle - half, middle + half


def ends(case: str, engine: str, *, whole: bool = False) -> np.ndarray:
    """Return what each seed of a case ended with, or its mean since learning began."""
    curves = [line[3:] for line in lines_of("engines-learning.csv") if line[:2] == [case, engine]]
    values = np.array(curves, dtype=float)
    return values[:, 1:].mean(axis=1) if whole else values[:, -1]


def test_what_agents_learn_under_both_engines() -> None:
    table = shown(ENGINE, "mean return at the end")
    for (name, *numbers), (words, case) in zip(table, LEARNED.items(), strict=True):
        ours, theirs = (ends(case, engine) for engine in ("compiled", "sb3"))
        assert len(ours) == len(theirs) >= 10
        assert name == words.format(len(ours))
        low, high = welch(ours, theirs)
        form = ".2f" if "success" in name else ".0f"
        spreads = [f"{v.mean():{form}} ± {v.std(ddof=1):{form}}" for v in (ours, theirs)]
        assert numbers == [*spreads, f"{low:{form}} to {high:{form}}"], name


def test_the_means_of_the_curves_of_dqn() -> None:
    ours, theirs = (ends("dqn-cartpole", engine, whole=True) for engine in ("compiled", "sb3"))
    low, high = welch(ours, theirs)
    words = re.sub(r"\s+", " ", ENGINE)
    told = f"is {ours.mean():.0f} here and {theirs.mean():.0f} there ({low:.0f} to {high:.0f})"
    assert told in words


TIMED = {
    "PPO, CartPole, 8 environments": "ppo",
    "the same, 8 seeds at once, all counted": "ppo-8-seeds",
    "the same with EnvPool under the compiled engine": "ppo-envpool",
    "with EnvPool, 8 seeds at once": "ppo-envpool-8-seeds",
    "DQN, CartPole": "dqn",
    "SAC, Pendulum, 2x128, batch 128": "sac-2x128",
    "SAC, Pendulum, 2x256, batch 256": "sac-2x256",
    "SAC, Pendulum, 4x256, batch 128": "sac-4x256",
    "TD3, Pendulum, 2x256, batch 256": "td3-2x256",
}


def test_how_fast_the_engines_are() -> None:
    cells = {cell["case"]: cell for cell in cells_of("engines-speed.csv")}
    table = shown(ENGINE, "case")
    assert {TIMED[row[0]] for row in table} == set(cells)
    for name, *numbers in table:
        cell = cells[TIMED[name]]
        speeds = [f"{int(cell[f'{side}_steps_per_s']):,}" for side in ("sb3", "compiled", "sbx")]
        wanted = [*speeds[:2], cell["ratio"], speeds[2], cell["ratio_sbx"]]
        assert numbers == [*wanted, f"{cell['first_turns_s']} s"], name


@pytest.mark.parametrize(("row", "algorithm"), [("PPO, 2x64", "ppo"), ("SAC, 2x256", "sac")])
def test_what_methods_cost_in_compiled_updates(row: str, algorithm: str) -> None:
    ratios = {
        cell["method"]: f"{float(cell['ratio']):.2f}"
        for cell in cells_of("updates-compiled.csv")
        if cell["algorithm"] == algorithm
    }
    names = re.findall(r"`(.+?)`", ENGINE[ENGINE.index("\n| ratio |") :].splitlines()[1])
    found = {label: numbers for label, *numbers in shown(ENGINE, "ratio")}
    assert found[row] == [ratios[name] for name in names]


BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
TEAMS = (ROOT / "docs" / "teams.md").read_text("utf-8")


def says(page: str, text: str) -> bool:
    """Return whether a page says so, wherever its lines break."""
    return re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", page)


def result(name: str, measure: str) -> float:
    """Return the one result of a file whose measure begins so."""
    (found,) = (c["result"] for c in cells_of(name) if c["measure"].startswith(measure))
    return float(found)


def test_what_holdfast_costs() -> None:
    sac, ppo = (result("overhead.csv", f"naive / plain, {name}") for name in ("SAC", "PPO"))
    assert says(BENCHMARKS, f"missed its goal there ({sac:.3f}, twelve pairs of 400 steps)")
    assert says(BENCHMARKS, f"PPO gave {ppo:.3f}")
    (first,) = (
        float(cell["now"])
        for cell in cells_of("starting.csv")
        if cell["measure"] == "first step, --jobs 1, wall s"
    )
    assert says(BENCHMARKS, f"The first step came after {first:.1f} s")


def test_how_fast_environments_and_teams_are() -> None:
    bare = "EnvPool, adapter / bare, "
    cheetah = result("throughput.csv", f"{bare}HalfCheetah")
    go1 = result("throughput.csv", f"{bare}Go1Handstand-v1, n_envs 64")
    assert says(BENCHMARKS, f"HalfCheetah ({cheetah:.3f}) and 64 copies of Go1Handstand")
    assert says(BENCHMARKS, f"which falls every 20 steps ({go1:.3f})")
    step, learn = (result("teams.csv", name) for name in ("stepping", "learning"))
    assert says(BENCHMARKS, f"is {step:.2f} times SuperSuit's speed in `results/teams.csv`")
    assert says(BENCHMARKS, f"Learning is {learn:.2f} times as fast")


def test_what_teams_learn_beside_skrl() -> None:
    words = {
        ("simple_speaker_listener_v4", "ippo"): "{0:.1f} for IPPO, skrl's {1:.1f} (difference "
        "{2:.2f}, 95% interval {3:.2f} to {4:.2f}, {5:.1f}%)",
        ("simple_speaker_listener_v4", "mappo"): "{0:.1f} for MAPPO, skrl's {1:.1f} ({2:.2f}, "
        "{3:.2f} to {4:.2f}, {5:.1f}%)",
        ("simple_spread_v3", "ippo"): "{0:.1f} for IPPO, skrl's {1:.1f} ({2:.2f}, {3:.2f} to "
        "{4:.2f}, {5:.1f}%)",
        ("simple_spread_v3", "mappo"): "{0:.1f} for MAPPO, skrl's {1:.1f} ({2:.2f}, {3:.2f} to "
        "{4:.2f}, {5:.1f}%)",
    }
    for cell in cells_of("peers.csv"):
        if cell["seed"] == "IQM":
            names = ("holdfast", "skrl", "difference", "low", "high")
            numbers = [*(float(cell[name]) for name in names), 100 * float(cell["of_return"])]
            told = words.pop((cell["environment"], cell["algorithm"])).format(*numbers)
            assert says(BENCHMARKS, told), told
    assert not words


def test_what_teams_keep() -> None:
    cells = cells_of("spread-wirings.csv")
    for method in ("naive", "ewc", "cloning", "packnet"):
        own = [cell for cell in cells if cell["method"] == method]
        assert len(own) == 5
        columns = ("average_performance/cw", "forgetting/cw")
        values = [np.array([float(cell[name]) for cell in own]) for name in columns]
        told = " / ".join(f"{short(v.mean())} ±{short(v.std(ddof=1))}" for v in values)
        assert says(TEAMS, f"{method} {told}"), told


def test_who_wins_at_connect_four() -> None:
    games = {(c["player"], c["opponent"]): c for c in cells_of("connect-four-cross-play.csv")}

    def told(player: str, opponent: str) -> str:
        cell = games[player, opponent]
        rate, low, high = (short(float(cell[name])) for name in ("win_rate", "low", "high"))
        return f"{rate} ({low} to {high})"

    learned, later = "naive-seed-0-1", "naive-seed-0-2"
    assert says(TEAMS, f"against a random player {told(learned, 'random')}")
    assert says(TEAMS, f"minimax of two moves {told(learned, 'minimax-2')}")
    assert says(TEAMS, f"alone {told(later, 'random')} and {told(later, 'minimax-2')}")


METHODS = (ROOT / "docs" / "methods.md").read_text("utf-8")


def test_the_quickstart_under_both_engines() -> None:
    """Over seeds 0 to 4: Welch's interval of each method's difference holds 0."""
    means, intervals = [], []
    for method in ("naive", "ewc", "cloning", "progressive", "isolated"):
        ours, theirs = (
            np.array(
                [
                    np.mean([float(cell[name]) for name in cell if name.startswith("final ")])
                    for cell in cells_of(name)
                    if cell["method"] == method and int(cell["seed"]) < 5
                ]
            )
            for name in ("quickstart.csv", "quickstart-sb3.csv")
        )
        means.append(short(theirs.mean()))
        intervals.append(welch(ours, theirs))
    assert all(low <= 0 <= high for low, high in intervals if low == low)
    low, high = max(intervals, key=lambda ends: ends[1] - ends[0])
    told = f"{', '.join(means[:-1])} and {means[-1]} over seeds 0 to 4"
    assert says(METHODS, told), told
    assert says(METHODS, f"the widest is {short(low)} to +{short(high)}"), (low, high)


SCIENCE = (ROOT / "docs" / "science.md").read_text("utf-8")


def test_how_often_intervals_hold_the_truth() -> None:
    """And how often some of ten methods like the baseline are told apart from it."""
    found = {c["seeds"]: {k: float(v) for k, v in c.items()} for c in cells_of("coverage.csv")}
    bootstrap = {seeds: f"{row['coverage_mean']:.2f}" for seeds, row in found.items()}
    students = sorted(row["coverage_student"] for row in found.values())
    low, high = (f"{rate:.2f}" for rate in (students[0], students[-1]))
    several = [row for row in found.values() if row["seeds"] >= 5]
    alarms = sorted(row["any_of_ten"] for row in several)
    few, many = (f"{rate:.2f}" for rate in (alarms[0], alarms[-1]))
    assert max(row["any_of_ten_holm"] for row in several) <= 0.05
    for told in (
        f"{bootstrap['3']} with three seeds, {bootstrap['5']} with five, "
        f"{bootstrap['10']} with ten, {bootstrap['20']} with twenty",
        f"held the truth in {low} to {high}",
        f"told apart in {few} to {many} of the studies with five seeds or more",
    ):
        assert says(BENCHMARKS, told), told
    for told in (
        f"held the truth in {low[2:]} to {high[2:]}% of them",
        f"did in {bootstrap['3'][2:]}% with three seeds and {bootstrap['5'][2:]}% with five",
        f"in {few[1:]} to {many[1:]} of simulated studies with five seeds or more",
    ):
        assert says(SCIENCE, told), told


def test_what_is_learned_alone_of_continual_world() -> None:
    """Of the tasks that cw10-lite has others for, and of its own."""
    source = (ROOT / "scenarios" / "continual_world" / "cw10-lite.yaml").read_text("utf-8")
    head = re.sub(r"\s+", " ", source.replace("\n# ", " "))
    lines = lines_of("single-tasks.csv")
    curves = {(line[0], line[2]): [float(rate) for rate in line[3:]] for line in lines}
    told = (
        "hammer, push-wall, push-back, stick-pull and peg-unplug-side succeed at most twice in 20 "
        "episodes even after 120,000 steps, push and shelf-place after 60,000"
    )
    assert told in head
    for task in ("Hammer", "PushWall", "PushBack", "StickPull", "PegUnplugSide"):
        assert max(curves[task, "120000"]) <= 2 / 20, task
    for task in ("Push", "ShelfPlace"):
        assert max(curves[task, "60000"]) <= 2 / 20, task
    tasks = re.findall(r"env: MetaWorld/(\w+)-v3", source)
    own = {task: curves[task, "90000" if task == "FaucetClose" else "60000"] for task in tasks}
    assert len(own) == 10
    weak = {task: curve for task, curve in own.items() if curve[-1] < 0.9}
    assert set(weak) == {"FaucetOpen", "WindowClose"}
    opened, closed = (weak[task] for task in ("FaucetOpen", "WindowClose"))
    told = f"faucet-open at {short(opened[-1])} and window-close at {short(closed[-1])}"
    assert f"{told} ({short(max(closed))} a little before)" in head


def test_how_many_tasks_fail_on_continual_control() -> None:
    failed: dict[str, int] = {}
    for cell in cells_of("continual-control.csv"):
        failed[cell["method"]] = failed.get(cell["method"], 0) + int(cell["failed"])
    assert says(SCIENCE, f"`naive` fails in {failed.pop('naive')} of its 40 shifted tasks")
    never = "`isolated`, `l2-init` and `shrink-perturb` fail in none, nor does `fire`"
    assert says(SCIENCE, never)
    assert {method for method, count in failed.items() if not count} == set(never.split("`")[1::2])
    counts = sorted((count, method) for method, count in failed.items() if count)
    (least, first), *others = [(count, f"`{method}`") for count, method in counts]
    assert says(SCIENCE, f"{first} in {least}, `redo` in {failed['redo']}")
    for count, method in others:
        assert says(SCIENCE, f"{method} in {count}"), method


def test_the_points_that_were_tried_on_continual_control() -> None:
    """Returns: a score of 1 is 400 steps, one of 0 is 22."""
    scores: dict[str, list[float]] = {}
    for cell in cells_of("continual-control-tuning.csv"):
        scores.setdefault(cell["method"], []).append(float(cell["auc/cw"]))
    means = {label: f"{22 + 378 * np.mean(values):.0f}" for label, values in scores.items()}
    for method, _, told, _ in shown(METHODS, "method | points"):
        own = [mean for label, mean in means.items() if label.startswith(f"{method}-")]
        assert told == ", ".join(own), method


@pytest.mark.parametrize(("domain", "learner"), [("discrete", "PPO"), ("continuous", "SAC")])
def test_the_strengths_that_were_tried(domain: str, learner: str) -> None:
    cells = cells_of(f"methods-{domain}-tuning.csv")
    for method, strengths, _, mean, others in shown(METHODS, f"method | strengths with {learner}"):
        labels = dict.fromkeys(
            c["method"] for c in cells if c["method"].startswith(f"{method}-")
        )  # in the order of the strengths
        means = [
            np.mean([float(c["average_performance/cw"]) for c in cells if c["method"] == label])
            for label in labels
        ]
        assert (len(means), short(max(means))) == (6, mean), method
        if learner == "PPO":
            tried = [float(strength) for strength in strengths.split(", ")]
            assert tried == [float(label.rpartition("=")[2]) for label in labels], method
            best = int(np.argmax(means))
            assert others.split(", ") == [short(m) for m in means[:best] + means[best + 1 :]]


def test_what_is_read_from_the_table_of_methods() -> None:
    """Gains, and areas under the curves, with PPO."""
    own: dict[str, list[dict[str, str]]] = {}
    for cell in cells_of("methods-discrete.csv"):
        own.setdefault(cell["method"], []).append(cell)

    def mean(method: str, column: str) -> float:
        return float(np.mean([float(cell[column]) for cell in own[method]]))

    gains = {
        method: mean(method, "average_performance/cw") - mean("naive", "average_performance/cw")
        for method in own
        if method not in ("naive", "isolated", "joint", "frozen")
    }
    below = ("redo", "shrink-perturb", "continual-backprop", "l2-init", "parseval")
    losses = sorted(-gains.pop(method) for method in below)
    assert says(METHODS, f"end {short(losses[0])} to {short(losses[-1])} below `naive`")
    slow = gains.pop("progress-compress")
    assert says(METHODS, f"`progress-compress` gains +{short(slow)}")
    assert all(gains.pop(method) < 0.1 for method in ("l2", "vcl"))
    least = min(gains, key=lambda method: gains[method])
    told = f"gain from +{short(gains[least])} (`{least}`) to +{short(max(gains.values()))}"
    assert says(METHODS, told), told
    alone = mean("isolated", "average_performance/cw") - mean("naive", "average_performance/cw")
    assert says(METHODS, f"where `isolated` gains +{short(alone)};")
    assert says(METHODS, f"`fame` keeps all three tasks (+{short(gains['fame'])})")
    areas = [short(mean(method, "auc/cw")) for method in ("fame", "naive", "isolated")]
    told = "area under the curves is {}, that of `naive` {}, of `isolated` {};".format(*areas)
    assert says(METHODS, told), told


def test_what_penalties_gain_with_heads() -> None:
    """And the others that the text below the table names, with SAC."""
    own: dict[str, list[float]] = {}
    for cell in cells_of("methods-continuous.csv"):
        own.setdefault(cell["method"], []).append(float(cell["average_performance/cw"]))
    means = {method: float(np.mean(values)) for method, values in own.items()}
    gains = {method: f"+{short(mean - means['naive'])}" for method, mean in means.items()}
    penalties = sorted(gains[method] for method in ("l2", "ewc", "mas", "si", "rwalk", "vcl"))
    for told in (
        f"gain between {penalties[0]} and {penalties[-1]}",
        f"`cloning` ({gains['cloning']}), `packnet` ({gains['packnet']})",
        f"agents of their own ({gains['isolated']})",
        f"learn less, {gains['replay']} and {gains['perfect-memory']}",
        f"`joint` ends below them ({short(means['joint'])})",
    ):
        assert says(METHODS, told), told


STREAMING = (ROOT / "docs" / "streaming.md").read_text("utf-8")


def test_what_a_long_life_takes() -> None:
    """Memory does not grow from a tenth of it on; disk by the points of the record alone."""
    page = " ".join((ROOT / "docs" / "endless.md").read_text("utf-8").split())
    points = {int(step): (float(mb), float(kb)) for step, mb, kb in lines_of("endless-life.csv")}
    early, late, end = (points[step] for step in (100_000, 950_000, 1_000_000))
    assert end[0] - early[0] < 10
    assert f"{early[0]:,.0f} MB after 100,000 steps and {end[0]:,.0f} MB at the end" in page
    assert f"from {early[1]:,.0f} kB to {late[1]:,.0f} kB after 950,000 steps" in page


LEARNED_ALONE = {
    "CartPole, 10,000": ("cartpole", "dqn"),
    "Acrobot, 100,000": ("acrobot", "ppo"),
    "MinAtar Breakout, 100,000": ("breakout", "dqn"),
    "Hopper, 50,000": ("hopper", "ppo"),
}
"""Words of the page, with the case and the learner that keeps what it has seen."""


def brief(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"


def test_what_streaming_learners_learn() -> None:
    """Each with ten seeds, beside a learner with memory at equal steps."""
    lines = lines_of("streaming-learning.csv")
    table = shown(STREAMING, "task, steps")
    named = [(LEARNED_ALONE[task][0], label.strip("`")) for task, label, *_ in table]
    assert sorted(named) == sorted({(line[0], line[1]) for line in lines})
    curves = {
        own: np.array([line[3:] for line in lines if (line[0], line[1]) == own], dtype=float)
        for own in named
    }
    for (task, _, *numbers), own in zip(table, named, strict=True):
        case, other = LEARNED_ALONE[task]
        last, theirs = curves[own][:, -1], curves[case, other][:, -1]
        assert len(last) == 10
        apart = "" if own[1] == other else " to ".join(map(brief, welch(last, theirs)))
        middle, area = np.median(last), curves[own][:, 1:].mean()
        spread = f"{brief(last.mean())} ± {brief(last.std(ddof=1))}"
        assert numbers == ["10", spread, brief(middle), brief(area), apart], own
    for label, ended in (("stream_q", 3), ("stream_ac", 6)):  # as the page has it in words
        own_curves = curves["acrobot", label][:, 1:]
        assert (own_curves == -500).all(axis=1).sum() == 4
        assert (own_curves[:, -1] > -130).sum() == ended
    assert (curves["cartpole", "stream_q"][:, 1:] < 20).all(axis=1).sum() == 2


def test_how_fast_streaming_learners_are() -> None:
    names = {
        "`stream_q`, CartPole, 2x32": "stream_q",
        "`stream_ac`, CartPole, 2x128": "stream_ac",
        "`stream_ac`, Pendulum, 2x128": "stream_ac-box",
    }
    cells = {cell["case"]: cell for cell in cells_of("engines-streaming.csv")}
    table = shown(STREAMING, "case")
    assert {names[row[0]] for row in table} == set(cells)
    for name, *numbers in table:
        cell = cells[names[name]]
        speeds = [f"{float(cell[side]):,.0f}" for side in ("torch", "streaming")]
        assert numbers == [*speeds, f"{float(cell['ratio']):.2f}"], name


def over_seeds(column: list[str]) -> str:
    """Return the mean of a column, with its interval where seeds differ; "none" of no numbers."""
    values = [float(value) for value in column if value]
    if not values:
        return "none"
    mean = float(np.mean(values))
    if len(set(values)) == 1:
        return f"{mean:,g}"
    made = estimate(np.array(values))
    assert made.low <= mean <= made.high
    return f"{mean:,.4g} [{made.low:,.4g}, {made.high:,.4g}]"


def of_changes(lines: list[list[str]]) -> list[str]:
    """Return what was missed, false alarms and delays; none can be missed where nothing changes."""
    missed, alarms, delay = (over_seeds([line[column] for line in lines]) for column in (5, 6, 7))
    return [missed if any(float(line[4]) for line in lines) else "none", alarms, delay]


def test_what_detectors_find() -> None:
    """Means over seeds, with intervals where seeds differ."""
    page = (ROOT / "docs" / "detection.md").read_text("utf-8")
    lines = lines_of("detection.csv")
    table = shown(page, "signal and test")
    names = {(line[1], line[0]) for line in lines if not line[1].endswith("recurring")}
    told = {(row[0].replace("`", "").replace(",", ""), row[1].strip("`")): row[2:] for row in table}
    assert told.keys() == names
    for (detector, stream), numbers in told.items():
        own = [line for line in lines if line[:2] == [stream, detector]]
        assert numbers == [str(len(own)), *of_changes(own)], (detector, stream)
        assert len(own) == (1 if stream == "none" else 20)
    silent = [line[6] for line in lines if line[:2] == ["none", "dynamics page_hinkley"]]
    assert set(silent) == {"0"}
    assert len(silent) == 1


def test_which_slots_detectors_recognise() -> None:
    """Totals of what came again, means over seeds of the rest."""
    page = (ROOT / "docs" / "detection.md").read_text("utf-8")
    names = {"no": "dynamics page_hinkley", "yes": "dynamics page_hinkley recurring"}
    table = {(row[0].strip("`"), row[1]): row[2:] for row in shown(page, "stream")}
    assert {(stream, "yes") for stream in ("recurring", "gradual", "abrupt")} < set(table)
    for (stream, recurs), cells in table.items():
        lines = [line for line in lines_of("detection.csv") if line[:2] == [stream, names[recurs]]]
        came, found = (sum(int(line[column] or 0) for line in lines) for column in (8, 9))
        told = [*of_changes(lines), f"{found} of {came}" if came else "none"]
        told.append(over_seeds([line[10] for line in lines]))
        assert cells == [str(len(lines)), *told], (stream, recurs)


def test_what_methods_keep_where_boundaries_are_detected() -> None:
    """Gains are seed by seed, over naive under the same boundaries."""
    page = (ROOT / "docs" / "detection.md").read_text("utf-8")
    lines = lines_of("detected-methods.csv")

    def told(values: np.ndarray) -> str:
        made = estimate(values)
        return (
            f"{made.value:.2f} [{made.low:.2f}, {made.high:.2f}]"
            if np.ptp(values)
            else f"{made.value:.2f}"
        )

    numbers = {
        names: np.array([line[3:5] for line in lines if tuple(line[:2]) == names], dtype=float).T
        for names in {(line[0], line[1]) for line in lines}
    }
    table = {(row[0], row[1]): row[2:] for row in shown(page, "boundaries")}
    assert table.keys() == numbers.keys()
    for (boundaries, method), (performance, forgetting) in numbers.items():
        gain = told(performance - numbers[boundaries, "naive"][0]) if method != "naive" else ""
        assert table[boundaries, method] == ["5", told(performance), told(forgetting), gain]
    counts = np.array([line[5:] for line in lines if line[0] == "detected"], dtype=int).sum(axis=0)
    words = " ".join(page.split())
    kept = [
        (numbers[one, "cloning"][0] - numbers[one, "naive"][0]).mean()
        for one in ("detected", "known")
    ]
    assert f"({kept[0] / kept[1]:.2f} of what it gains where they are known)" in words
    found = f"found {counts[0] - counts[1]} of the {counts[0]} changes of these runs"
    assert f"{found}, and told of {counts[2]} that were none" in words
    untold = lines_of("detected-untold.csv")
    assert [line[1:4] for line in untold] == [["2", "0", "0"]] * 3
    late = [float(delay) for line in untold for delay in line[4:]]
    assert f"{min(late):.0f} to {max(late):.0f} steps late" in words


def test_what_limits_cost_and_who_keeps_them() -> None:
    """Of the first task of each stream, over five seeds."""
    page = (ROOT / "docs" / "safety.md").read_text("utf-8")
    lines = [line for line in lines_of("safety.csv") if line[4] in ("careful", "limited")]
    table = {tuple(row[:3]): row[3:] for row in shown(page, "scenario")}
    assert {(line[0], line[1], line[2]) for line in lines} == table.keys()
    for named, told in table.items():
        own = [[float(cell) for cell in line[5:]] for line in lines if tuple(line[:3]) == named]
        total, cost, broken, cost_end, broken_end, training = np.array(own).T
        assert told == [
            *("5", around(total), around(cost), f"{broken.mean():.2f}", around(training, 0)),
            *(around(cost_end), f"{broken_end.mean():.2f}"),
        ]


def test_what_is_said_of_limits() -> None:
    """That they are kept within a tenth, what share of the score is left, and what is forgotten."""
    page = " ".join((ROOT / "docs" / "safety.md").read_text("utf-8").split())

    def cells(name: str, constraint: str, method: str = "naive") -> np.ndarray:
        own = [line for line in lines_of("safety.csv") if line[:3] == [name, constraint, method]]
        first = [line[5:] for line in own if line[4] in ("careful", "limited")]
        return np.array(first, dtype=float)

    moving = ("pid", "lagrangian", "pid, critic")
    for name, limit in (("safe-reach", 3), ("safe-cheetah", 40)):
        assert all(cells(name, rule)[:, 1].mean() <= 1.1 * limit for rule in moving)
        assert (cells(name, "pid, critic")[:, 1] <= 1.1 * limit).all()
    assert all((cells("safe-reach", rule)[:, 1] <= 1.1 * 3).all() for rule in moving)
    over = [cells("safe-cheetah", rule)[:, 1] for rule in ("lagrangian", "pid")]
    assert [(costs > 1.1 * 40).sum() for costs in over] == [1, 1]
    assert f"in one of five ({over[0].max():.1f} and {over[1].max():.1f})" in page
    steady = cells("safe-cheetah", "pid, critic")[:, 1]
    told = (
        f"between {steady.min():.1f} and {steady.max():.1f} over the seeds of safe-cheetah, without"
    )
    assert f"{told} it between {over[1].min():.1f} and {over[1].max():.1f}" in page

    def score(constraint: str) -> float:
        return float((cells("safe-reach", constraint)[:, 0].mean() + 42) / (42 - 4.6))

    def left(constraint: str, method: str = "naive") -> str:
        own, free = cells("safe-cheetah", constraint, method), cells("safe-cheetah", "none")
        return f"{own[:, 0].mean() / free[:, 0].mean():.2f}".replace("0.", ".")

    assert f"`pid` keeps {score('pid') / score('none'):.2f} of".replace("0.", ".") in page
    assert f"below its limit, {score('lagrangian') / score('none'):.2f}:".replace("0.", ".") in page
    told = f"`lagrangian` keeps {left('lagrangian')} of the return, `pid` {left('pid')} and"
    assert f"{told} `pid, critic` {left('pid, critic')}." in page
    returns = [cells("safe-cheetah", rule)[:, 0] for rule in ("pid", "pid, critic")]
    assert abs(returns[0].mean() - returns[1].mean()) < min(np.std(own, ddof=1) for own in returns)
    kept = cells("safe-cheetah", "pid", "cloning")
    assert kept[:, 3].mean() <= 1.1 * 40
    told = f"stays at {kept[:, 3].mean():.1f}, within a tenth of the limit, and"
    assert f"{told} {kept[:, 4].mean():.2f} of the".replace(" 0.", " .") in page
    for method in ("cloning", "packnet"):
        assert (cells("safe-reach", "pid", method)[:, 4] == 0).all()
    pruned = cells("safe-cheetah", "pid", "packnet")
    told = f"in {1 - pruned[:, 4].mean():.2f} of the episodes (cost {pruned[:, 3].mean():.1f})"
    assert told.replace(" 0.", " .") in page
    above = [
        f"{cells(name, 'pid', method)[:, 4].mean():.2f}".replace("0.", ".")
        for method in ("ewc", "ewc by cost")
        for name in ("safe-reach", "safe-cheetah")
    ]
    told = f"{above[0]} of the episodes are above it there, {above[1]} on safe-cheetah; `by_cost`"
    assert f"{told} changes little, {above[2]} and {above[3]}." in page
    streams = ("safe-reach", "safe-cheetah")
    assert all((cells(name, "price of 5", "ewc")[:, 4] == 0).all() for name in streams)
    assert (cells("safe-reach", "fixed")[:, 4] == 0).all()
    paid = cells("safe-cheetah", "price of 5", "ewc")[:, 1].mean()
    told = f"a price of 5 keeps {left('price of 5', 'ewc')} of the return at a cost of {paid:.1f}."
    assert told in page
    second = [
        around(np.array([float(ln[5]) for ln in lines_of("safety.csv") if ln[:3] + ln[4:5] == of]))
        for rule in ("price of 5", "pid")
        for of in (["safe-reach", rule, "ewc", "fast"], ["safe-cheetah", rule, "ewc", "free"])
    ]
    told = f"({second[0]} and {second[1]}, where `pid` and `ewc` have {second[2]} and {second[3]})"
    assert told in page
    for name in ("safe-reach", "safe-cheetah"):
        broken = cells(name, "pid")[:, 4]
        assert broken.mean() > 0.9 > (broken < 0.8).mean()


def around(values: np.ndarray, digits: int = 1) -> str:
    """Return mean and standard deviation over seeds."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


PROBES = (ROOT / "docs" / "probes.md").read_text("utf-8")


def measured(probe: str, **wanted: str) -> list[dict[str, str]]:
    """Return the lines of a probe of the quickstart that have these entries."""
    lines = cells_of(f"probes/{probe}.csv")
    return [line for line in lines if all(line[key] == one for key, one in wanted.items())]


def mean_of(lines: list[dict[str, str]], column: str) -> float:
    return float(np.mean([float(line[column]) for line in lines]))


def test_how_robust_the_quickstart_is() -> None:
    """Areas by the trapezoidal rule from no change on, means over the tasks."""

    def area(own: list[dict[str, str]]) -> float:
        """Return the mean over tasks of the area of one change, over its greatest level."""
        found = []
        for task in dict.fromkeys(line["task"] for line in own):
            points = sorted(
                (float(ln["level"]), float(ln["score"])) for ln in own if ln["task"] == task
            )
            levels, scores = np.array(points).T
            found.append(np.trapezoid(scores, levels) / levels[-1])
        return float(np.mean(found))

    tasks = list(dict.fromkeys(line["task"] for line in measured("stress")))
    for label, *told in shown(PROBES, "area"):
        method, when = label.split(", ")
        own = measured("stress", method=method)
        own = [
            line
            for line in own
            if line["stage"] == ("2" if when == "at the end" else str(tasks.index(line["task"])))
        ]
        plain = [line for line in own if line["change"] == "unchanged"]
        areas = [
            area([*plain, *(line for line in own if line["change"] == change)])
            for change in ("observation_noise", "action_delay", "attack")
        ]
        assert told == [f"{number:.2f}" for number in (mean_of(plain, "score"), *areas)], label


def test_how_fast_the_quickstart_adapts() -> None:
    """Jumpstart, area and gain; no agent reaches the threshold."""

    def area(method: str, stage: str) -> float:
        own = measured("adapt", method=method, stage=stage)
        steps = [float(line["step"]) for line in own]
        assert max(float(line["score"]) for line in own) < 0.8
        return float(np.trapezoid([float(line["score"]) for line in own], steps) / steps[-1])

    for method, start, jumpstart, told, gain, reached in shown(PROBES, "method"):
        stage = start.removeprefix("stage ")
        (first,) = measured("adapt", method=method, stage=stage, step="0")
        assert (jumpstart, told) == (f"{float(first['score']):.2f}", f"{area(method, stage):.2f}")
        more = area(method, stage) - area(method, "fresh")
        assert (gain, reached) == ("n/a" if stage == "fresh" else f"{more:.2f}", "n/a")


def test_what_the_quickstart_has_lost() -> None:
    """Values of states: of what another policy, action or world would have made of them."""
    table = PROBES[PROBES.index("| method | states |") - 1 :]
    for method, states, factual, lost, *thirds, worse, other, actions, sensors in shown(
        table, "method"
    ):
        final = measured("counterfactual", method=method, branch="policy")
        assert (states, factual) == (str(len(final)), f"{mean_of(final, 'factual'):.1f}")
        gone = np.array([float(line["factual"]) - float(line["return"]) for line in final])
        assert worse == f"{(gone > 0).mean():.2f}"
        steps, rest = (np.array([float(ln[key]) for ln in final]) for key in ("step", "factual"))
        part = (3 * steps / (steps + rest)).astype(int)  # a reward of 1 for each step
        assert [lost, *thirds] == [
            three_digits(gone),
            *(three_digits(gone[part == third]) for third in range(3)),
        ]
        action = measured("counterfactual", method=method, branch="action")
        assert other == three_digits(mean_of(action, "factual") - mean_of(action, "return"))
        for world, told in (("swapped-actions", actions), ("swapped-sensors", sensors)):
            own = measured("counterfactual", method=method, branch="world", of=world)
            assert told == three_digits(mean_of(own, "factual") - mean_of(own, "return"))


def three_digits(values: np.ndarray | float) -> str:
    """Return a mean as pages show it: two digits below 1, else one."""
    mean = float(np.mean(values))
    return f"{mean:.1f}" if abs(mean) >= 100 else f"{mean:.3g}" if mean else "0.00"


def test_what_the_quickstart_hangs_on() -> None:
    """The three largest shares, what removing the largest moves more than others, departures."""
    table = PROBES[PROBES.index("| method | task | stage | hangs on |") - 1 :]
    for method, task, stage, *told in shown(table, "method"):
        assert told == explained(measured("explain", method=method, task=task, stage=stage))


def test_what_pixels_and_robots_hang_on() -> None:
    names = {"catch": "explain-catch.csv.xz", "safe-cheetah": "explain-safe-cheetah.csv"}
    table = shown(PROBES, "scenario")
    assert {row[0] for row in table} == set(names)
    for scenario, *place, hangs, check, departs in table:
        lines = cells_of(f"probes/{names[scenario]}")
        own = [
            line for line in lines if [line[key] for key in ("method", "task", "stage")] == place
        ]
        assert [hangs, check, departs] == explained(own)


def explained(own: list[dict[str, str]]) -> list[str]:
    """Return what a table says of one stage in one task, of which there is a line for each entry.

    Of vectors the three largest shares; of pictures the fewest cells that hold half, and the first.
    """
    shares = sorted(own, key=lambda line: -float(line["share"]))
    hangs = ", ".join(f"entry {ln['entry']} ({float(ln['share']):.0%})" for ln in shares[:3])
    if ":" in own[0]["entry"]:
        held = np.cumsum([float(line["share"]) for line in shares])
        half = 1 + sum(held < held[-1] / 2)
        places = np.array([line["entry"].split(":") for line in own], dtype=int)
        rows, columns = places.max(axis=0) + 1
        row, column = shares[0]["entry"].split(":")
        hangs = f"half of it on {half / len(own):.1%} of the picture, most at row {row} of {rows}, "
        hangs += f"column {column} of {columns}"
    top, random, low, high, gone = (
        float(own[0][key]) for key in ("top", "random", "more_low", "more_high", "departs")
    )
    assert low > 0
    more, *ends = (f"{n:.1f}" if abs(n) >= 10 else f"{n:.2f}" for n in (top - random, low, high))
    return [hangs, f"{more} [{', '.join(ends)}]", f"{gone:.2f}"]


ARMS = {
    "one update per step": ("plain", ""),
    "four updates per step": ("ratio", "plain"),
    "one, and demonstrations": ("demonstrations", "plain"),
    "one, and demonstrations that are cloned": ("cloning", "plain"),
    "four, and demonstrations": ("both", "ratio"),
}
"""Words of the page, with the arm and what it is compared with."""


def test_steps_to_success_with_and_without() -> None:
    """Of a seed that did not come there, the steps that were looked at count: a lower bound."""
    page = (ROOT / "docs" / "efficiency.md").read_text("utf-8")
    found: dict[str, list[list[float]]] = {}
    for arm, _, reach, push, seen in lines_of("reach-and-push.csv"):
        told = [float(reach), float(push or int(seen) - 1000)]
        found.setdefault(arm, []).append([*told, sum(told)])
    means = {arm: np.mean(cells, axis=0) for arm, cells in found.items()}
    table = {cells[0]: cells[1:] for cells in shown(page, "steps to 80% success")}
    assert table.keys() == ARMS.keys()
    for words, (arm, without) in ARMS.items():
        assert len(found[arm]) == 5
        share = f"{means[arm][-1] / means[without][-1]:.2f}" if without else ""
        assert table[words] == [*(f"{mean:,.0f}" for mean in means[arm]), share], words
