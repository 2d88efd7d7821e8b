"""Errors a user can mend: one line on the screen, the traceback only with --debug."""

import errno
import os
import sys
import traceback
from collections.abc import Callable

STOPPED = "stopped; what was prepared is kept, so the same command goes on from there"


class UserError(Exception):
    """A mistake the user can mend; the message says what was found, where, and the cure."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM after everything worth keeping was saved; the message says how to go on."""


def run_main(main: Callable[[], int]) -> None:
    """Runs `main` and leaves the process with its exit code.

    1 for a mistake the user can mend (one line on stderr), 130 after Ctrl-C, 141 where the reader
    of a pipe left, as `head` does. `--debug` anywhere on the command line shows the traceback
    instead of the line.
    """
    debug = "--debug" in sys.argv[1:]
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still unsaid
        code = 141
    except (UserError, OSError) as error:
        # An OSError without a file and without a disk behind it is our bug, not the user's mistake.
        message = describe_os_error(error) if isinstance(error, OSError) else str(error)
        if debug or message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        code = 1
    except (Interrupted, KeyboardInterrupt) as stop:
        if debug:
            traceback.print_exc()
        print(f"\n{str(stop) or STOPPED}", file=sys.stderr)
        code = 130
    sys.exit(code)


def describe_os_error(error: OSError) -> str | None:
    """One line with the file and the cure, or None where the error names no file and no disk."""
    path = error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {path}" if path else ""
        return f"the disk is full{where}: free some space and run again, a training with --resume"
    if path is None:
        return None
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{path} is in the way of a folder: rename it, or pass another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {path}: change its owner or mode (user id {os.geteuid()})"
    return f"{path}: {error.strerror}"
