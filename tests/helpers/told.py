"""The command line, run in this process."""

from typer.testing import CliRunner

from holdfast.cli import app


class Told:
    """What a command printed, and its exit code."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
