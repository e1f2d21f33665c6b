"""A template filled, and a page written.

Floor 9.
"""

from pathlib import Path
from typing import Any

import jinja2

from ntk_fed.records import write_atomically
from ntk_fed.report.words import maths


def filled(name: str, **values: Any) -> str:
    """The text of a template with its values, escaped; a missing one is an error.

    Args:
        name: of a file in ``report/templates``.
        values: what it asks for.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ntk_fed.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["maths"] = maths
    return environment.get_template(name).render(**values)


def write(path: Path, text: str) -> Path:
    """A page or a note, atomically; gives its path."""
    write_atomically(path, lambda file: file.write(text.encode()))
    return path
