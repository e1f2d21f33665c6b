"""Numbers and short texts as a reader wants them printed.

Floor 9: imports nothing of the package.
"""

import math
import re
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

from markupsafe import Markup, escape

NOTHING = "—"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; powers of ten for large and small."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 <= int(exponent) < 6:
        text = f"{value:.{max(digits - 1 - int(exponent), 0)}f}"
    else:
        text = f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}"
    return text.replace("-", "−")


def signed(value: float, decimals: int = 1) -> str:
    """With its sign, for margins and exponents; zero has none."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def percent(value: float | None) -> str:
    """A fraction in per cent: one decimal, or two digits below one per cent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) < 0.01:
        return f"{number(100 * value, 2)} %"
    return f"{100 * value:.1f} %".replace("-", "−")


def enclosure(lower: float, upper: float) -> str:
    """An interval as its common digits, then ``[end of lower, end of upper]``.

    Both ends are rounded outwards, to two digits of the width of the interval.

    Example:
        >>> enclosure(0.5, 0.53125)
        '0.5[00, 32]'
    """
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return f"[{number(lower, 6)}, {number(upper, 6)}]"
    if lower == upper:
        return number(lower, 6)
    with localcontext(prec=800):  # floats are exact decimals of at most 770 digits
        low, high = Decimal(lower), Decimal(upper)
        unit = Decimal(1).scaleb((high - low).adjusted() - 1)
        a = f"{low.quantize(unit, ROUND_FLOOR):f}"
        b = f"{high.quantize(unit, ROUND_CEILING):f}"
    if float(unit) < 1e-30:
        return f"[{number(lower, 6)}, {number(upper, 6)}]"
    same = [x == y for x, y in zip(a, b, strict=False)]
    common = a[: same.index(False) if False in same else len(same)]
    ends = a[len(common) :], b[len(common) :]
    known = len(common.strip("-0.")) > 0 and len(a) == len(b)
    if not known or any("." in end for end in ends):
        common, ends = "", (a, b)
    return f"{common}[{ends[0]}, {ends[1]}]".replace("-", "−")


def span(values: Sequence[float], show=number) -> str:
    """Smallest to largest, or the one value when all print alike."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


_SUBSCRIPT = re.compile(
    r"(?<![.])(?<!(?!ᵀ)\w)(max|min|\w̄?)_"  # what has it: one letter, or these
    r"((?:(?!ᵀ)\w)+|[⊥*]|\{[^}]*\})"
)
_SUPERSCRIPT = re.compile(r"(?<=[\w)])\^(−?½|[Tt](?!\w)|\([^()]*\)|\{[^}]*\})")


def maths(text: str) -> Markup:
    """``λ_min`` and ``P^½`` with their indices lowered and raised, for the page."""
    safe = str(escape(text))
    safe = safe.replace("λ0", "λ_0")
    safe = _SUBSCRIPT.sub(lambda m: f"{m[1]}<sub>{m[2].strip('{}')}</sub>", safe)
    return Markup(_SUPERSCRIPT.sub(lambda m: f"<sup>{m[1].strip('(){}')}</sup>", safe))


def mathtext(text: str) -> str:
    """The same for the labels of a figure."""
    text = text.replace("λ0", "λ_0").replace("θ̄", r"$\bar{\theta}$")
    text = _SUBSCRIPT.sub(
        lambda m: f"{m[1]}$_{{\\mathrm{{{m[2].strip('{}')}}}}}$", text
    )
    return _SUPERSCRIPT.sub(lambda m: f"$^{{{m[1].strip('(){}')}}}$", text)


def counted(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def paragraphs(text: str) -> list[tuple[str, list[Markup]]]:
    """A small part of Markdown: headings, lists, paragraphs, code and bold words.

    Returns:
        ``(kind, lines)`` with kind ``"heading"``, ``"list"`` or ``"text"``; every line
        escaped.
    """
    blocks: list[tuple[str, list[str]]] = []
    kind = ""
    for line in text.splitlines():
        if not line.strip():
            kind = ""
        elif line.startswith("#"):
            blocks.append(("heading", [line.lstrip("# ")]))
            kind = ""
        elif line.startswith(("- ", "* ")):
            if kind != "list":
                blocks.append(("list", []))
            kind = "list"
            blocks[-1][1].append(line[2:])
        elif kind:
            blocks[-1][1][-1] += " " + line.strip()
        else:
            blocks.append(("text", [line.strip()]))
            kind = "text"
    return [(kind, [_inline(line) for line in lines]) for kind, lines in blocks]


def _inline(line: str) -> Markup:
    safe = str(maths(line))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe))
