"""Guard of a script: workers import it again, and must not find the call that started them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from holdfast.errors import UsageError

_IN_A_WORKER = "__mp_main__"  # what multiprocessing calls the script there


def check_guard(jobs: int) -> None:
    """Refuse to start workers from a line that every worker would come to as well.

    From ``python -c``, standard input, a prompt or a notebook there is nothing to import again.

    Args:
        jobs: How many workers; one cell at a time needs none.

    Raises:
        UsageError: The text shows the line below its guard.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    frame = sys._getframe()
    while frame is not None:
        name, file = frame.f_globals.get("__name__"), frame.f_code.co_filename
        if frame.f_code.co_name == "<module>":
            if name == _IN_A_WORKER:  # the script was not at hand when it started this process
                raise UsageError(_text(file, frame.f_lineno, "this", jobs))
            is_script = name == "__main__" and file == script
            if is_script and jobs > 1 and not _is_guarded(file, frame.f_lineno):
                raise UsageError(_text(file, frame.f_lineno, f"jobs={jobs}", jobs))
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop


def _statement(file: str, line: int) -> tuple[str, ast.stmt | None]:
    """Return the text of a script, and which of its outermost statements a line is in."""
    try:
        text = Path(file).read_bytes().decode()
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):  # gone, or changed since it was started
        return "", None
    for statement in tree.body:
        if statement.lineno <= line <= (statement.end_lineno or line):
            return text, statement
    return text, None


def _is_guarded(file: str, line: int) -> bool:
    _, statement = _statement(file, line)
    if statement is None:
        return True  # nothing to go by; multiprocessing itself ends a worker that starts others
    names = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
    return "__name__" in names


def _text(file: str, line: int, what: str, jobs: int) -> str:
    text, statement = _statement(file, line)
    found = (ast.get_source_segment(text, statement) or "") if statement is not None else ""
    lines = found.splitlines() or [f"holdfast.run(scenario, jobs={jobs})"]
    shown = "\n".join(f"        {line}" for line in lines[:8])
    return (
        f"{what} starts worker processes, and each of them imports {file} again, up to line "
        f"{line}, where it would start workers of its own. Put what only the script itself is to "
        f'do below a guard:\n\n    if __name__ == "__main__":\n{shown}\n'
    )
