"""Workers asked for by a script without a guard, by ``python -c``, a prompt and standard input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """\
tasks: [{name: a, env: CartPole-v1, steps: 32}]
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, n_epochs: 1}
evaluation: {episodes: 1}
seeds: [0, 1]
"""
HEAD = "import sys, holdfast\nprint('top', file=sys.stderr)\nscenario = holdfast.load('s.yaml')\n"
CALL = "found = holdfast.run(scenario, jobs=2)"
SHOWN = "print([run.status for run in found])"
DONE = "['finished', 'finished']\n"


@pytest.fixture
def python(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(SCENARIO)

    def python(*arguments: str, stdin: str = "", within_s: float = 240) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return python


@pytest.mark.thorough
@pytest.mark.parametrize(
    "body",
    [
        CALL,
        f"def main():\n    {CALL}\n\nmain()",
        f"for _ in range(2):\n    {CALL}",
    ],
)
def test_a_script_without_a_guard_is_shown_one(tmp_path: Path, python, body: str) -> None:
    (tmp_path / "script.py").write_text(HEAD + body + "\n")
    code, _, err = python("script.py", within_s=60)
    assert code == 1
    assert err.count("top\n") == 1  # no worker was started, that would say it again
    told = err.partition("UsageError: ")[2]
    *_, last = body.splitlines()
    shown = body.splitlines()[0] if body.startswith("for") else last
    assert told.startswith("jobs=2 starts worker processes")
    assert f'    if __name__ == "__main__":\n        {shown}' in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.thorough
def test_tuning_and_cells_of_ones_own_ask_for_it_as_well(tmp_path: Path, python) -> None:
    body = "from holdfast.continual.jobs.run import run_cells\nrun_cells([], jobs=2)\n"
    (tmp_path / "script.py").write_text(body)
    code, _, err = python("script.py", within_s=60)
    assert code == 1
    assert "        run_cells([], jobs=2)" in err


@pytest.mark.parametrize(
    "arguments",
    [["script.py"], ["-m", "script"], ["-c", "import script; script.main()"], ["-i", "later.py"]],
)
def test_where_there_is_a_guard_or_nothing_to_import_it_is_left_alone(
    tmp_path: Path, python, arguments: list[str]
) -> None:
    head = "from holdfast.continual.jobs.main_guard import check_guard\n"
    call = "check_guard(2)\n    print('good')\n"
    guard = 'if __name__ == "__main__":\n    main()\n'
    (tmp_path / "script.py").write_text(f"{head}\ndef main():\n    {call}\n{guard}")
    (tmp_path / "later.py").write_text(f"{head}\ndef main():\n    {call}\n")
    stdin = "main()\n" if "-i" in arguments else ""
    _, out, _ = python(*arguments, stdin=stdin, within_s=60)
    assert out == "good\n"


@pytest.mark.thorough
def test_a_line_that_no_guard_keeps_from_a_worker_is_refused_there(tmp_path: Path, python) -> None:
    """As at a prompt, after a script that itself runs one cell at a time."""
    (tmp_path / "script.py").write_text(HEAD + "holdfast.run(scenario)\n")
    text = (
        "import runpy\n"
        "try: runpy.run_path('script.py', run_name='__mp_main__')\n"
        "except Exception as error: print(error)\n"
    )
    _, out, _ = python("-c", text, within_s=60)
    assert out.startswith("this starts worker processes")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_guarded_script_runs(tmp_path: Path, python) -> None:
    body = f'if __name__ == "__main__":\n    {CALL}\n    {SHOWN}\n'
    (tmp_path / "script.py").write_text(HEAD + body)
    code, out, err = python("script.py")
    assert (code, out) == (0, DONE), err


@pytest.mark.slow
def test_python_c_runs(python) -> None:
    code, out, err = python("-c", f"{HEAD}{CALL}\n{SHOWN}")
    assert (code, out) == (0, DONE), err


@pytest.mark.slow
def test_a_prompt_after_a_script_runs(tmp_path: Path, python) -> None:
    (tmp_path / "script.py").write_text(HEAD)
    code, out, err = python("-i", "script.py", stdin=f"{CALL}\n{SHOWN}\n")
    assert (code, out) == (0, DONE), err


@pytest.mark.slow
def test_standard_input_runs(python) -> None:
    code, out, err = python("-", stdin=f"{HEAD}{CALL}\n{SHOWN}\n")
    assert (code, out) == (0, DONE), err


@pytest.mark.slow
def test_ipython_runs(python) -> None:
    pytest.importorskip("IPython")
    given = f"{HEAD}{CALL}\n{SHOWN}\n"
    code, out, err = python("-m", "IPython", "--quick", "--colors=NoColor", "-c", given)
    assert (code, out.splitlines()[-1]) == (0, DONE.strip()), err
