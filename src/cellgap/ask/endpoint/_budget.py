"""What calls cost, counted as they are made, and a limit that is checked before each of them."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cellgap.ask._answer import Usage
from cellgap.errors import ConfigError, EndpointError

_CHARACTERS_PER_TOKEN = 4


class BudgetSpent(EndpointError):
    """The next request could pass the budget, so it was not sent."""


@dataclass(frozen=True)
class Budget:
    """Most that a client may use; None is no limit.

    A request is sent only where the budget is kept even if the model writes as much as it may (``max_tokens``).

    Parameters
    ----------
    requests
        Attempts, repetitions among them; replies from the cache are none.
    tokens
        Of prompts and completions together.
    cost
        In the currency of the prices.

    Raises
    ------
    ConfigError
        A limit is negative.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: int | float | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "tokens", "cost"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"Budget({name}=...) is a limit of 0 or more, or None, found {value!r}.")


class Tally:
    """Adds up what calls cost, by stage; calls that fail are added too. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, Usage] = {}

    def add(self, stage: str, usage: Usage) -> None:
        """Add the usage of one call."""
        with self._lock:
            self._stages[stage] = self._stages.get(stage, Usage()) + usage

    @property
    def usage(self) -> Usage:
        """All stages together."""
        return sum(self.by_stage.values(), Usage())

    @property
    def by_stage(self) -> dict[str, Usage]:
        """A copy of the counts of each stage."""
        with self._lock:
            return dict(self._stages)


class Meter:
    """The count of a client against its budget: what was used, and what is under way.

    Parameters
    ----------
    budget
        None is no limit.
    prices
        For a million tokens of prompts and completions; None: unknown.
    """

    def __init__(self, budget: Budget | None, prices: Mapping[str, float] | None) -> None:
        if budget is not None and budget.cost is not None and prices is None:
            raise ConfigError("Budget(cost=...) needs to know what a token costs: give ChatEndpoint(prices=...) too.")
        self._budget = budget or Budget()
        self._prices = prices
        self._lock = threading.Lock()
        self._under_way: list[Usage] = []
        self.tally = Tally()

    def reserve(self, prompt: int, completion: int) -> Usage:
        """Set the most that a request can use aside and return it.

        Raises
        ------
        BudgetSpent
            There is not as much left.
        """
        ask = Usage(requests=1, prompt_tokens=prompt, completion_tokens=completion, cost=self.cost(prompt, completion))
        with self._lock:
            sum_of = sum(self._under_way, self.tally.usage) + ask
            for name, limit, would_be in (
                ("requests", self._budget.requests, sum_of.requests),
                ("tokens", self._budget.tokens, sum_of.prompt_tokens + sum_of.completion_tokens),
                ("cost", self._budget.cost, sum_of.cost),
            ):
                if limit is not None and would_be is not None and would_be > limit:
                    raise BudgetSpent(
                        f"The budget of {limit:g} {name} does not reach for another request "
                        f"({would_be:g} with it, at most), which was not sent."
                    )
            self._under_way.append(ask)
        return ask

    def settle(self, reserved: Usage, used: Usage, stage: str) -> Usage:
        """Replace what was set aside by what was used, and return that with its cost."""
        cost = self.cost(used.prompt_tokens, used.completion_tokens)
        used = replace(used, cost=cost)
        with self._lock:
            self._under_way.remove(reserved)
            self.tally.add(stage, used)
        return used

    def cost(self, prompt: int, completion: int) -> float | None:
        """Return what tokens cost, None where the prices are unknown."""
        if self._prices is None:
            return None
        return (prompt * self._prices["prompt"] + completion * self._prices["completion"]) / 1e6


def estimated_tokens(*texts: str) -> int:
    """Return about how many tokens texts have: a quarter of their bytes, rounded up."""
    return -(-sum(len(text.encode("utf-8", "replace")) for text in texts) // _CHARACTERS_PER_TOKEN)
