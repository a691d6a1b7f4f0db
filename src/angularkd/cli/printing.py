"""What reaches a terminal: text alone, whatever names of files and classes hold, and messages of one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.text import Text

NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What acts on a terminal instead of being seen, or is no character: ESC, reversed writing, undecodable bytes of a file's name."""
LONGEST_LINE = 1_000
"""Characters of a message."""
PIPED_WIDTH = 160
"""Characters of a line where nobody says how wide it may be."""


class OutputError(OSError):
    """An error of standard output itself, not of a file that a command writes."""


class _Output:
    """Standard output whose errors can be told from those of files; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text. Raises OutputError where the stream takes nothing more."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error

    def flush(self) -> None:
        """Flush the stream. Raises OutputError where it takes nothing more."""
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


@contextmanager
def guarded_output() -> Iterator[None]:
    """Raise OutputError where standard output takes nothing more, at the end of the block at the latest, and drop what is left then."""
    stream = sys.stdout
    if stream is None:  # closed before the process began: print is silent then
        yield
        return
    guard: Any = _Output(stream)
    sys.stdout = guard
    try:
        try:
            yield
        finally:
            guard.flush()
    except OutputError:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        raise
    finally:
        sys.stdout = stream


class TextConsole(Console):
    """A console that shows names as they are: no markup, no emoji, and what is no text escaped. A closed pipe is an error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text to print; all strings pass here, those in tables too."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Pass the error on, where rich would exit."""
        raise


def open_console() -> TextConsole:
    """Return the console of standard output: as wide as the terminal or the variable COLUMNS says, else PIPED_WIDTH."""
    console = TextConsole()
    said = os.environ.get("COLUMNS", "")
    return console if console.is_terminal or (said.isdigit() and int(said) > 0) else TextConsole(width=PIPED_WIDTH)


def printable(text: str) -> str:
    """Return a text with what is no text escaped."""
    return NOT_TEXT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(message: str) -> str:
    """Return a message as one printable line of bounded length, its end kept, where the remedy stands."""
    line = printable(" ".join(message.split()))
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE * 2 // 3]} ... {line[-LONGEST_LINE // 3 :]}"


def stop(message: str, code: int) -> NoReturn:
    """Print one line on standard error, and exit with a code."""
    with suppress(OSError):
        print(f"angularkd: {one_line(message)}", file=sys.stderr, flush=True)
    raise SystemExit(code)
