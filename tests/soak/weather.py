"""What goes wrong in the storm: chances per request, broken watches, a Vault that is sealed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from support import faults
from support.fault_proxy import Fault, FaultProxy, Request, Rule
from support.faulty import Ways
from support.stage import Stage

READS: Sequence[Fault] = (
    faults.status(429, retry_after=1),
    faults.status(500),
    faults.status(503),
    faults.slow(0.3),
    faults.drop_before,
    faults.cut,
    faults.drip(0.002, size=256),
)
WRITES: Sequence[Fault] = (*READS, faults.status(409), faults.drop_after, faults.status_after(500))
VAULT: Sequence[Fault] = (
    faults.vault_errors(429),
    faults.vault_errors(412),
    faults.vault_errors(500),
    faults.vault_errors(503, "Vault is sealed"),
    faults.slow(0.3),
    faults.drop_before,
    faults.drop_after,
    faults.cut,
)
GATEWAY: Sequence[Fault] = (faults.drop_before, faults.drop_after, faults.cut, faults.slow(0.5))
CHANCE = 0.02
VAULT_CHANCE = 0.01
WATCH_SECONDS = (4.0, 12.0)
SEALED_EVERY, SEALED_SECONDS = 6, 2.0
"""Vault is sealed with every sixth loss of the watches."""


class Weather:
    """Fair until the storm."""

    def __init__(self, stage: Stage, ways: Ways, gateway: FaultProxy, seed: int) -> None:
        self.ways = ways
        self._stage = stage
        self._gateway = gateway
        self._seed = seed
        self._rules: dict[str, Rule] = {}
        self._watches = 0
        self._seals = 0

    @property
    def spoilt(self) -> int:
        """How many requests met a fault."""
        return sum(len(rule.hits) for rule in self._rules.values())

    def counts(self) -> dict[str, int]:
        """How often what went wrong."""
        made = {name: len(rule.hits) for name, rule in self._rules.items()}
        return made | {"watches lost": self._watches, "Vault sealed": self._seals}

    @contextmanager
    def storm(self) -> Iterator[None]:
        """Let everything go wrong by chance."""
        self._spoil("reads", self.ways.api, lambda r: r.method == "GET", READS, CHANCE)
        self._spoil("writes", self.ways.api, lambda r: r.method != "GET", WRITES, CHANCE)
        self._spoil("Vault", self.ways.vault, lambda r: True, VAULT, VAULT_CHANCE)
        self._spoil("gateway", self._gateway, lambda r: True, GATEWAY, CHANCE)
        over = threading.Event()
        thread = threading.Thread(target=self._break_watches, args=[over], daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            for proxy in (self.ways.api, self.ways.vault, self._gateway):
                proxy.clear()

    def _spoil(
        self,
        name: str,
        proxy: FaultProxy,
        which: Callable[[Request], bool],
        choice: Sequence[Fault],
        chance: float,
    ) -> None:
        dice = random.Random(f"{self._seed} {name}")

        def matches(request: Request) -> bool:
            return not request.is_watch and which(request) and dice.random() < chance

        self._rules[name] = proxy.on(matches, faults.any_of(dice, choice), times=None)

    def _break_watches(self, over: threading.Event) -> None:
        dice = random.Random(f"{self._seed} watches")
        losses: list[Callable[[FaultProxy], object]] = [
            faults.drop_watches,
            faults.expire_watches,
            faults.silence_watches,
        ]
        while not over.wait(dice.uniform(*WATCH_SECONDS)):
            dice.choice(losses)(self.ways.api)
            self._watches += 1
            if self._watches % SEALED_EVERY == 0:
                self._stage.openbao.seal()
                over.wait(SEALED_SECONDS)
                self._stage.openbao.unseal()
                self._seals += 1
