"""Runs the rules of policies on one policy and tells which held; reference models where one exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lms_conformance.policies.checks import CHECKS
from lms_conformance.policies.drive import Driver, PolicyMaker, PolicyViolation, require
from lms_conformance.policies.models import MODELS
from lms_tiers.policies.base import AccessContext


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rule: its name, what broke it (None: it held), and the seconds it took."""

    rule: str
    error: str | None
    seconds: float


def check_policy(make: PolicyMaker, name: str = "") -> Iterator[Outcome]:
    """Run every rule, and the agreement with the reference model of `name` where there is one.

    Parameters
    ----------
    make : callable
        ``make(capacity, clock)`` gives a fresh policy.
    name : str
        The built-in policy whose model it should agree with.
    """
    rules: list[Callable[[PolicyMaker], None]] = list(CHECKS)
    if name in MODELS:
        rules.append(lambda maker: agrees_with_the_model(maker, name))
        rules[-1].__name__ = "agrees_with_the_model"
    for rule in rules:
        started = time.perf_counter()
        error: str | None = None
        try:
            rule(make)
        except PolicyViolation as violation:
            error = f"broke: {violation}"
        except Exception as failure:  # a policy may raise anything; the report must go on
            error = f"raised {type(failure).__name__}: {failure}"
        yield Outcome(rule.__name__, error, time.perf_counter() - started)


def agrees_with_the_model(make: PolicyMaker, name: str) -> None:
    """Hit for hit on single accesses."""
    for seed in range(5):
        driver, model = Driver(make, 20, seed), MODELS[name](20)
        for i in range(2000):
            driver.now += 1.0
            key = f"k{int(driver.rng.paretovariate(0.7)) % 80}"
            driver.use(key, 1, AccessContext(driver.now))
            require(driver.hits[-1] == model(key), f"the same hit or miss as the model at access {i} of seed {seed}")
