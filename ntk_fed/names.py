"""Names: of what a caller can misspell, and of functions that a run was made with.

Floor 1: imports ``errors``.
"""

import difflib
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from ntk_fed.errors import UnknownNameError


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known name closest to ``name``, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def require_known(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        UnknownNameError: says what is known, and which name is nearest.
    """
    known = list(known)
    if name not in known:
        listed = ", ".join(map(repr, known)) or "none"
        raise UnknownNameError(
            f"unknown {what} {name!r}; known: {listed}.{nearest(name, known)}"
        )


def defined(function: Callable[..., Any]) -> str:
    """Where a function is defined; a ``functools.partial`` shows its arguments.

    Of any other object that can be called the type is named: what it holds is not on
    record.
    """
    if isinstance(function, functools.partial):
        given = [repr(value) for value in function.args]
        given += [f"{name}={value!r}" for name, value in function.keywords.items()]
        return f"functools.partial({', '.join([defined(function.func), *given])})"
    owner = _owner(function)
    return f"{owner.__module__}.{owner.__qualname__}"


def definition(function: Callable[..., Any]) -> str:
    """:func:`defined` and a digest of the source, so that a changed one is another.

    Without it for our own functions, whose version is on record, and where there is no
    source to read. Values that a function takes from around it are not on record.
    """
    words = defined(function)
    while isinstance(function, functools.partial):
        function = function.func
    owner = _owner(function)
    try:
        ours = owner.__module__.startswith("ntk_fed.")
        source = "" if ours else inspect.getsource(owner)
    except (OSError, TypeError):
        source = ""
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{words} (source {mark})" if source else words


def _owner(function: Callable[..., Any]) -> Any:
    return function if hasattr(function, "__qualname__") else type(function)
