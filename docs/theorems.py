"""Writes ``theorems.md``: every theorem that ``nf.check`` knows, held against a run.

``python docs/theorems.py`` makes the page again; a test compares the two.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ntk_fed as nf
from ntk_fed import theory
from ntk_fed.checks import THEOREMS, certified_pyramid
from ntk_fed.measured import Enclosure
from ntk_fed.theory import TheoremCheck
from ntk_fed.theory.condition import WORDING

PAGE = Path(__file__).resolve().parent / "theorems.md"
ROUNDS = 10


@dataclasses.dataclass(frozen=True)
class Scene:
    """A small run that some theorems speak about.

    Attributes:
        title: what it is, in one line.
        build: gives model, partition, options of the run, options of the simulation
            only, and observers.
    """

    title: str
    build: Callable[[], tuple[Any, Any, dict[str, Any], dict[str, Any], list[Any]]]


def two_layer():
    """20 points on the sphere, two clients, one local step."""
    data = nf.data.load("sphere", n=20, targets="sign")
    split = nf.data.partition(data, "shards", clients=2)
    model = nf.models.TwoLayerReLU(data.x.shape[1], 2048, seed=0)
    o = nf.observers
    watch = [o.loss(model, split), o.displacement(model, split)]
    watch += [o.kernel(model, split), o.kernel_asymmetry(model, split)]
    kernel = nf.federated_kernel(
        nf.gram(model, data.x), split, local_steps=1, step_size=1.0
    )
    watch += [o.contraction(model, split, kernel=kernel)]
    watch += [o.consensus_error(model, split)]
    return model, split, {"local_steps": 1, "step_size": 1.0}, {}, watch


def deep():
    """A ReLU network of two hidden layers, 30 digits, three clients."""
    data = nf.data.load("digits", n=30, targets="sign")
    split = nf.data.partition(data, "shards", clients=3)
    model = nf.models.MLP([64, 128, 128, 1], seed=0)
    o = nf.observers
    watch = [o.loss(model, split), o.semi_lipschitz(model, split)]
    watch += [o.consensus_error(model, split), o.kernel(model, split)]
    return model, split, {"local_steps": 5, "step_size": 0.1}, {}, watch


def pyramid():
    """Six points, a smooth pyramid of widths 10-4-3-1 at its certified start."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    split = nf.data.partition(nf.data.Dataset(x, y), "iid", clients=2)
    model = certified_pyramid(split, 10, [4, 3, 1], seed=0)
    song2023, options = theory.song2023, {"local_steps": 5, "step_size": 1e-30}
    found = nf.check(model, split, theorems=["song2023.a_priori"], **options)[0]
    s, j, mu = (found.constants[name].value for name in ("S", "J", "mu"))
    amount = song2023.spread(split.sizes)
    most = song2023.step_size_limit(smoothness=s, jacobian=j, pl=mu, spread=amount)
    options["step_size"] = 0.99 * most / 5
    o = nf.observers
    watch = [o.loss(model, split), o.kernel(model, split)]
    watch += [o.displacement(model, split)]
    return model, split, options, {}, watch


def lecun():
    """Six points, a smooth pyramid of widths 10-4-3-1 at the usual random start."""
    _, split, _, _, _ = pyramid()
    inputs = split.dataset.x.shape[1]
    model = nf.models.Pyramid(
        inputs, 10, [4, 3, 1], activation="smooth_leaky_relu", seed=0
    )
    o = nf.observers
    watch = [o.loss(model, split), o.kernel(model, split, every=200)]
    watch += [o.displacement(model, split)]
    options = {"local_steps": 5, "step_size": 0.4}
    return model, split, options, {"rounds": 400}, watch


def linear():
    """A linear model that fits its 24 labels exactly, three clients, uniform."""
    split = _linear_split(lambda x, w: x @ w)
    model = nf.models.Linear(3)
    options = {"local_steps": 4, "step_size": 0.005, "weights": "uniform"}
    watch = [
        nf.observers.loss(model, split, weights="uniform"),
        nf.observers.local_sgd(model, split, local_steps=4),
    ]
    return model, split, options, {"steps": True}, watch


def interpolating():
    """A linear model of 30 inputs, 12 samples in three clients of unequal size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    split = nf.data.Partition(nf.data.Dataset(x, y), list(torch.arange(12).split(5)))
    model = nf.models.Linear(30)
    target = {"weight": (torch.linalg.pinv(x) @ y).T}
    watch = [nf.observers.loss(model, split)]
    watch += [nf.observers.distance(model, split, target=target)]
    return model, split, {"local_steps": 5, "step_size": 2e-4}, {}, watch


def classification():
    """A linear classifier on separable points, logistic loss."""
    split = _linear_split(lambda x, w: torch.sign(x @ w))
    model = nf.models.Linear(3)
    x, y = split.dataset.x.numpy(), split.dataset.y.numpy().ravel()
    aim = torch.tensor(theory.zhu2024.max_margin(x, y))[None]
    watch = [nf.observers.direction(model, split, target={"weight": aim})]
    options = {"local_steps": 4, "step_size": 1.0}
    return model, split, options, {"loss": "logistic", "rounds": 200}, watch


def representation():
    """A shared representation of rank 2, ten clients with heads of their own."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d, k, clients, step_size = 8, 2, 10, 0.1
    truth, heads = torch.linalg.qr(draw(d, k)).Q, draw(clients, k)
    x = math.sqrt(d) * torch.eye(d, dtype=torch.float64)  # moments are the identity
    y = torch.cat([x @ truth @ head for head in heads])[:, None]
    data = nf.data.Dataset(x.repeat(clients, 1), y)
    split = nf.data.Partition(data, list(torch.arange(len(y)).split(d)))
    near = torch.linalg.qr(truth + 0.01 * draw(d, k)).Q / math.sqrt(step_size)
    model = nf.models.SharedRepresentation(d, k, start=near)
    watch = [nf.observers.subspace(model, split, truth=truth)]
    options = {"local_steps": 5, "step_size": step_size, "weights": "uniform"}
    return model, split, options, {"rounds": 40}, watch


def _linear_split(label):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    return nf.data.partition(nf.data.Dataset(x, label(x, w)), "iid", clients=3)


SCENES = {
    function.__name__: Scene((function.__doc__ or "").rstrip("."), function)
    for function in (
        two_layer,
        deep,
        pyramid,
        lecun,
        linear,
        interpolating,
        classification,
        representation,
    )
}
SHOWN = {  # where each paper's theorems are shown
    "lazy": "two_layer",
    "du2019": "two_layer",
    "arora2019": "two_layer",
    "huang2021": "two_layer",
    "deng2022": "deep",
    "nguyen2020": "pyramid",
    "song2023": "pyramid",
    "song2023.wide_layer": "lecun",
    "song2023.a_posteriori": "interpolating",
    "qin2022": "linear",
    "zhu2024.regression_limit": "interpolating",
    "zhu2024.direction": "classification",
    "collins2022": "representation",
    "jian2025": "deep",
}


def scene_of(name: str) -> str:
    """The scene a theorem is shown in."""
    return SHOWN.get(name) or SHOWN[name.split(".")[0]]


STARTS = ("nguyen2020.gradient_descent", "song2023.wide_layer", "song2023.a_priori")


@functools.cache
def in_scene(scene: str) -> dict[str, TheoremCheck]:
    """The theorems shown in a scene, held against its run."""
    names = {name for name in THEOREMS if scene_of(name) == scene}
    names |= set(STARTS) if scene in ("pyramid", "lecun") else set()
    model, split, options, more, watch = SCENES[scene].build()
    rounds = more.get("rounds", ROUNDS)
    more = {key: value for key, value in more.items() if key != "rounds"}
    run = nf.simulate(model, split, rounds=rounds, observers=watch, **options, **more)
    found = nf.check(model, split, run=run, theorems=sorted(names), **options)
    return {one.name: one for one in found}


def checked() -> dict[str, TheoremCheck]:
    """Every theorem, each in its scene."""
    return {name: in_scene(scene_of(name))[name] for name in THEOREMS}


def starts() -> list[str]:
    """The certified and the usual random start of a pyramid, beside each other."""
    certified, usual = in_scene("pyramid"), in_scene("lecun")
    lines = [
        "",
        "## Two starts of one pyramid",
        "",
        "Certified: W_2 = 0 and scaled orthonormal tails, so that the hypotheses hold, "
        "with the step size the theorem allows. LeCun: the usual random weights, with "
        "a step size people use. Same data, same widths.",
        "",
        "| theorem | what is compared | certified | | LeCun | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in STARTS:
        both = [
            [*check.hypotheses, check.conclusion]
            for check in (certified[name], usual[name])
        ]
        for one, other in zip(*both, strict=True):
            cells = [
                cell
                for own in (one, other)
                for cell in (
                    f"{_number(own.left)} {own.relation} {_number(own.right)}",
                    str(own.verdict),
                )
            ]
            lines.append(f"| {name} | {_escaped(one.name)} | {' | '.join(cells)} |")
    return lines


def page() -> str:
    """The whole page."""
    lines = [
        "# Theorems that `nf.check` knows",
        "",
        "Made by `python docs/theorems.py` from the modules themselves; the numbers "
        "are those of small runs where it was made. A hypothesis that fails beside a "
        "conclusion that holds is a normal outcome: hypotheses are sufficient, not "
        "necessary. Margins are orders of magnitude to spare.",
        "",
        "| status | in words |",
        "| --- | --- |",
        *(f"| {status} | {words} |" for status, words in WORDING.items()),
    ]
    paper = ""
    for name, check in checked().items():
        if (own := name.split(".")[0]) != paper:
            paper = own
            module = getattr(theory, paper).__doc__ or ""
            lines += ["", f"## {paper}", "", module.strip().splitlines()[0]]
            lines += _slips(paper)
        lines += ["", *_theorem(check, SCENES[scene_of(name)].title)]
    lines += starts()
    return "\n".join(lines) + "\n"


def _slips(paper: str) -> list[str]:
    """What the paper gets wrong, where this package uses the corrected constants."""
    slips = getattr(getattr(theory, paper), "SLIPS", ())
    if not slips:
        return []
    said = "Slips in the paper, corrected here (derived in this project):"
    return ["", said, "", *(f"* {slip}" for slip in slips)]


def _theorem(check: TheoremCheck, scene: str) -> list[str]:
    """One theorem: statement, status, source, and what came out."""
    rows = [("hypothesis", h) for h in check.hypotheses]
    rows.append(("conclusion", check.conclusion))
    lines = [
        f"### {check.name}",
        "",
        f"{check.statement} *{check.source}; {WORDING[check.status]}.*",
        "",
        f"Example: {scene}. Hypotheses: **{check.verdict}**; conclusion: "
        f"**{check.conclusion.verdict}**.",
        "",
        "| | what is compared | left | | right | margin | verdict | form, note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, own in rows:
        margin = "" if math.isnan(own.margin) else f"{own.margin:+.1f}"
        notes = [f"{own.form} form" if own.form else "", own.note]
        if own.status != check.status:
            notes.append(WORDING[own.status])
        words = "; ".join(note for note in notes if note)
        lines.append(
            f"| {kind} | {_escaped(own.name)} | {_number(own.left)} | "
            f"{own.relation} | {_number(own.right)} | {margin} | {own.verdict} | "
            f"{_escaped(words)} |"
        )
    if check.constants:
        values = [f"{key} {_number(value)}" for key, value in check.constants.items()]
        lines += ["", f"Constants: {_escaped('; '.join(values))}."]
    return lines


def _number(found: Enclosure | None) -> str:
    return "not measured" if found is None else f"{found.value:.3g}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
