"""The sections of the page of analysis 04."""

from typing import Any

from ntk_fed.report import Panel, Part, Shown

Table = Any  # a pandas table


def parts(tables: dict[str, Table]) -> tuple[Part, ...]:
    """Sections for what there is."""
    found = []
    if "limits" in tables:
        found.append(_limit())
    if "widths" in tables:
        found.append(_width())
    if "numbers" in tables:
        found.append(_number(tables["numbers"]))
    return tuple(found)


def _limit() -> Part:
    panels = (
        Panel(
            "limits", "delta", "limit", "ReLU, infinite width",
            "One line per seed. Should run along the dashed slope 1 at small δ; a "
            "steeper or a flatter line would refute it.",
            unit=("seed",), log="xy", slope=1.0, xlabel="δ", ylabel="λ_min(H∞)",
        ),
        Panel(
            "limits", "delta", "scaled", "The constant",
            "Should be 1 at the left end; another value there would refute the "
            "constant. The nearest pair allows 1 + πδ/2 + … and no more.",
            unit=("seed",), log="x", levels=((1.0, "1/(2π)"),),
            xlabel="δ", ylabel="2π λ_min(H∞) / δ",
        ),
        Panel(
            "limits", "delta", "tanh", "Control: tanh in place of ReLU",
            "Should run along slope 2: a smooth network tells near samples apart much "
            "worse. Slope 1 would say that the kink is not the reason.",
            unit=("seed",), log="xy", slope=2.0, xlabel="δ",
            ylabel="λ_min(Θ_0), first layer, width 4096",
        ),
    )  # fmt: skip
    columns = {
        "delta": "δ", "runs": "draws", "limit": "λ_min(H∞), median",
        "least": "2π λ_min/δ, smallest", "most": "largest",
        "room": "over what the nearest pair allows, largest",
        "tanh": "tanh, median", "linear": "linear, largest size with rounding",
    }  # fmt: skip
    shown = Shown("by_delta", "Smallest eigenvalues, over the draws.", columns)
    return Part("Separation, at infinite width", (), panels, (shown,))


def _width() -> Part:
    notes = (
        "About m δ/π gates tell a pair apart. Where that number is small, some pair is "
        "told apart by none, and the network is as smooth to it as any.",
    )
    panels = (
        Panel(
            "widths", "gates", "ratio", "Finite over infinite width",
            "Every run. From some ten gates on, all distances should lie on one curve "
            "that goes to 1; curves apart would refute that m δ decides. With less "
            "than one gate each should be flat, at a level of order δ.",
            hue="delta", log="xy", levels=((1.0, "as in the limit"), (0.5, "half")),
            xlabel="gates expected to tell a pair apart, m δ/π",
            ylabel="λ_min(Θ_0) / λ_min(H∞)",
        ),
        Panel(
            "some", "delta", "finite", "Smallest eigenvalue at some widths",
            "Every run of them. Each width should leave the slope 1 of the wide "
            "networks where m δ/π passes some ten, and in the end fall with slope 2.",
            hue="width", log="xy", slope=2.0, xlabel="δ", ylabel="λ_min(Θ_0)",
        ),
        Panel(
            "required", "delta", "required", "Width at which half is reached",
            "Every run whose crossing lies within the widths. Should run along the "
            "dashed slope −1.",
            log="xy", slope=-1.0, xlabel="δ",
            ylabel="width with λ_min(Θ_0) = λ_min(H∞)/2",
        ),
    )  # fmt: skip
    columns = {
        "decade": "m δ", "runs": "runs", "min": "smallest ratio",
        "median": "median", "max": "largest ratio",
    }  # fmt: skip
    shown = Shown("spread", "λ_min(Θ_0) / λ_min(H∞) by decades of m δ.", columns)
    return Part("Separation, at finite width", notes, panels, (shown,))


def _number(numbers: Table) -> Part:
    notes = (
        "Points drawn uniformly from the sphere, no pairs, drawn anew for every n. The "
        "nearest of n points has δ ~ n^(−2/(d − 1)), and λ_min(H∞) falls no more "
        "slowly in the end; where the last column is far below 1 the nearest pair "
        "alone does not decide.",
    )
    panels = [
        Panel(
            "numbers", "samples", "limit", f"d = {dimension}",
            "Every draw, and medians. Should fall; a rising line would refute it. "
            "Dashed: the exponent of δ in theory.",
            log="xy", slope=round(-2 / (dimension - 1), 2),
            where=(("dimension", dimension),), xlabel="n", ylabel="λ_min(H∞)",
        )
        for dimension in sorted(set(numbers["dimension"].tolist()))
    ]  # fmt: skip
    columns = {
        "dimension": "d", "seeds": "seeds", "limit": "exponent of λ_min(H∞)",
        "limit lower": "from", "limit upper": "to", "separation": "exponent of δ",
        "separation lower": "from ", "separation upper": "to ",
        "expected": "−2/(d − 1)", "difference": "difference",
        "difference lower": " from", "difference upper": " to",
        "room": "over what the nearest pair allows, largest n",
    }  # fmt: skip
    shown = Shown("exponents", "Exponents in n, with 95 % t intervals.", columns)
    return Part("Number of samples", notes, tuple(panels), (shown,))
