"""How the programs end where what they were given is wrong: with one line, not with a traceback."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def on(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Ends the program with `what` and the error's text if one of these errors is raised inside.

    Example:
      >>> with on("cifar.py", OSError):
      ...     open("missing")
      Traceback (most recent call last):
      SystemExit: cifar.py: [Errno 2] No such file or directory: 'missing'
    """
    try:
        yield
    except errors as error:
        raise SystemExit(f"{what}: {error}") from error
