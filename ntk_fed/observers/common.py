"""What all observers share: when to report, and on which models.

Floor 7.
"""

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ntk_fed import records
from ntk_fed.data import Partition
from ntk_fed.fedavg import LocalStep, Round
from ntk_fed.measured import Enclosure
from ntk_fed.names import definition
from ntk_fed.params import Params, trainable
from ntk_fed.records import Row

Moment = Round | LocalStep
Observer = Callable[[Moment], Iterable[Row]]


def due(moment: Moment, every: int) -> bool:
    """Is this round to be looked at? The last one always is."""
    index = moment.index if isinstance(moment, Round) else moment.round
    return moment.last or (index + 1) % every == 0


def observer(factory: Callable[..., Observer]) -> Callable[..., Observer]:
    """Give what a factory makes a description, which identifies a recorded run."""

    @functools.wraps(factory)
    def described(model: Any, partition: Any, **options: Any) -> Observer:
        every = options.get("every", 1)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(
                f"every must be a whole number of rounds, at least 1; got {every!r}."
            )
        observe = factory(model, partition, **options)
        words = ", ".join(f"{name}={shown(v)}" for name, v in options.items())
        observe.description = f"{factory.__name__}({words})"  # pyright: ignore
        if "loss" not in options and "loss" in known:
            observe.assumed_loss = known["loss"].default  # pyright: ignore
        return observe

    known = inspect.signature(factory).parameters
    described.builds = factory.__name__  # pyright: ignore
    return described


def check_observers(observers: Any, loss: Any) -> None:
    """Refuse what is no observer, and one that took another loss for the run's.

    Args:
        observers: what the user gave.
        loss: of the run.

    Raises:
        ValueError: not a sequence of functions; a factory that was not called; a loss
            that nobody named and that is not the run's.
    """
    if not isinstance(observers, Sequence) or isinstance(observers, str):
        raise ValueError(
            f"observers must be a list of functions, got {type(observers).__name__}. "
            "Write [nf.observers.loss(model, partition)]."
        )
    for watch in observers:
        if name := getattr(watch, "builds", None):
            raise ValueError(
                f"observers: nf.observers.{name} builds an observer and is none. Call "
                f"it: nf.observers.{name}(model, partition)."
            )
        if not callable(watch):
            raise ValueError(
                f"observers must be functions of a round or local step, got {watch!r}. "
                "Build ours first: nf.observers.loss(model, partition)."
            )
        assumed = getattr(watch, "assumed_loss", loss)
        if assumed is not loss and assumed != loss:
            name = described_as(watch)
            raise ValueError(
                f"observers: {name} was built for loss={assumed!r}, its default; the "
                f"run has loss={loss!r}. Give loss= to the observer as well."
            )


def described_as(watch: Callable[[Moment], Any]) -> str:
    """What identifies an observer in the record of a run."""
    return getattr(watch, "description", None) or definition(watch)


def shown(value: Any) -> str:
    """An option in words that differ where the option does, as far as can be told."""
    if isinstance(value, Tensor):
        return f"tensor {records.digest({'': value})[:16]}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(shown, value))})"
    return definition(value) if callable(value) else repr(value)


def own_start(model: torch.nn.Module) -> Params:
    """The model's parameters now, kept even if the model is trained later."""
    return {name: value.clone() for name, value in trainable(model).items()}


def global_models(moment: Moment, every: int) -> Iterator[tuple[int, Params]]:
    """Global models to report on: (rounds done, parameters), the start included."""
    if not isinstance(moment, Round):
        return
    if moment.index == 0:
        yield 0, moment.start
    if due(moment, every):
        yield moment.index + 1, moment.params


def local_models(moment: Moment, every: int) -> list[Params] | None:
    """The local models of this moment if it is due, else ``None``."""
    if not due(moment, every):
        return None
    return [moment.locals.client(k) for k in range(len(moment.clients))]


def moment_of(moment: Moment) -> tuple[int, int | None]:
    """(round, step) of what happens inside a round."""
    if isinstance(moment, Round):
        return moment.index + 1, None
    return moment.round + 1, moment.step


def measured(
    when: tuple[int, int | None],
    quantity: str,
    found: Enclosure | float,
    *,
    client: int | None = None,
    layer: str | None = None,
) -> Row:
    """The row of a number, with its ends and status if it has them."""
    if isinstance(found, Enclosure):
        status = "certified" if found.certified else "estimate"
        ends = found.lower, found.upper
        return Row(*when, client, layer, quantity, found.value, *ends, status)
    return Row(*when, client, layer, quantity, found)


def at_least(
    when: tuple[int, int | None],
    quantity: str,
    found: float,
    *,
    client: int | None = None,
) -> Row:
    """The row of an estimate from below: the true number may be larger."""
    return Row(*when, client, None, quantity, found, found, None, "estimate")


def rows_of(watch: Callable[[Moment], Any], moment: Moment) -> list[Row]:
    """What an observer says of a moment, after a look at whether these are rows.

    Raises:
        ValueError: it returned something else than an iterable of :class:`Row`.
    """
    name = described_as(watch)
    try:
        found = watch(moment)
        if isinstance(found, Iterator):
            found = list(found)
    except Exception as error:
        done, step = moment_of(moment)
        when = f"round {done}" if step is None else f"round {done}, local step {step}"
        error.add_note(f"Raised by the observer {name} in {when}.")
        raise
    if isinstance(found, Row) or not isinstance(found, Iterable):
        got = "a single Row" if isinstance(found, Row) else type(found).__name__
        raise ValueError(
            f"observer {name} must return an iterable of Row (a list, or write it with "
            f"yield), got {got}. Return [row], or [] where there is nothing to say."
        )
    rows = list(found)
    for row in rows:
        if not isinstance(row, Row):
            raise ValueError(
                f"observer {name} must give rows nf.Row(round, step, client, layer, "
                f"quantity, value), got {type(row).__name__} {row!r:.80}."
            )
        if not isinstance(row.value, numbers.Real):
            raise ValueError(
                f"observer {name} gave {row.quantity!r} a value of type "
                f"{type(row.value).__name__}; a row holds one number. Use .item()."
            )
    return rows


def clients_data(partition: Partition) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of every client, in order."""
    return [partition.client(i) for i in range(partition.clients)]
