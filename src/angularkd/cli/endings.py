"""How a command ends: in one line and with a code that says why, whatever happens in it."""

from __future__ import annotations

import errno
import platform
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import angularkd
from angularkd.cli.printing import OutputError, guarded_output, one_line
from angularkd.cli.printing import stop as stop_process
from angularkd.config import with_flags
from angularkd.errors import InputError
from angularkd.system.processes import is_lost_process, last_words, process_count
from angularkd.system.stopping import Stopped, stopped_by_signals

USAGE_ERROR, UNFORESEEN, MACHINE, INTERRUPTED, CLOSED_PIPE = 2, 70, 74, 130, 141
SIGNALLED = 128
"""Exit codes: those of sysexits.h, and of a shell for what a signal ends, 128 and its number."""
MACHINE_ERRORS = {
    errno.EPIPE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
    errno.ENXIO,
}
"""What a file system refuses, and no command can foresee or mend."""
OS_ERROR = re.compile(r"([^:]*)\(os error (\d+)\)")
"""What libraries written in Rust say of an error of the operating system."""
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "unable to allocate")
"""What torch and NumPy say then, in errors of several kinds."""
GOES_ON = (("train",), ("distill",))
LOST = "another process of this run is gone, which was killed where it does not say why, or cannot be reached ({}){}"
"""What a process of several says that has lost one."""


def stop(text: str, code: int, *, lost: bool = False) -> NoReturn:
    """End the process with a line and an exit code; of the processes of one run, the first that ends says why."""
    speaks, code = last_words(code, lost=lost)
    if speaks:
        stop_process(text, code)
    raise SystemExit(code)


@contextmanager
def ending(arguments: Sequence[str]) -> Iterator[None]:
    """Turn the exception that ends the command inside into one line and an exit code.

    Args:
        arguments: of the command line.

    Raises:
        SystemExit: with the codes above.
    """
    try:
        with guarded_output(), stopped_by_signals():
            yield
    except InputError as error:
        stop(with_flags(str(error)), USAGE_ERROR)
    except KeyboardInterrupt:
        stop(f"interrupted{_goes_on(arguments)}", INTERRUPTED)
    except Stopped as asked:
        interrupted = asked.number == signal.SIGINT
        what = "interrupted" if interrupted else f"stopped by {signal.Signals(asked.number).name}"
        stop(f"{what}{_goes_on(arguments, asked.saved)}", SIGNALLED + asked.number)
    except OutputError as error:
        if error.errno == errno.EPIPE:
            raise SystemExit(CLOSED_PIPE) from None
        stop(f"what is printed cannot be written: {error.strerror}", MACHINE)
    except Exception as error:
        if process_count() > 1 and is_lost_process(error):
            stop(LOST.format(one_line(str(error))[:200], _goes_on(arguments)), MACHINE, lost=True)
        if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
            stop(f"{error.strerror}{f': {error.filename}' if error.filename else ''}", MACHINE)
        refused = OS_ERROR.search(str(error))
        if refused is not None and int(refused[2]) in MACHINE_ERRORS:
            stop(refused[1].strip(), MACHINE)
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY):
            what = str(error)[:200] or "MemoryError"
            stop(f"there is not enough memory ({what}): use smaller images, batches or options of losses", MACHINE)
        _report(error, arguments)


def _goes_on(arguments: Sequence[str], saved: bool = False) -> str:
    """Return what to say of a run that may have a checkpoint, or has one."""
    if tuple(arguments[:1]) == ("study",):
        return "; the same command goes on"
    if saved:
        return "; all is saved: it goes on where it was with --resume"
    return "; if a checkpoint was written, it goes on with --resume" if tuple(arguments[:1]) in GOES_ON else ""


def _report(error: Exception, arguments: Sequence[str]) -> None:
    """Write the traceback of an error that nobody foresaw to a file, and stop with one line that names both."""
    report = "".join(traceback.format_exception(error))
    about = f"angularkd {angularkd.__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    command = f"angularkd {shlex.join(arguments)}\n"
    what = one_line(f"{type(error).__name__}: {error}")
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="angularkd-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(about + command + "\n" + report)
    except OSError:
        print(report, file=sys.stderr)  # there is no other place for it
        stop(f"this was not foreseen ({what}): please report it with the lines above", UNFORESEEN)
    stop(f"this was not foreseen ({what[:300]}): please report it with the file {file.name}", UNFORESEEN)
