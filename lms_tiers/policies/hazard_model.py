"""What the `hazard` policy has learned: how soon chunks of each class return, and what a chunk is worth at each age.

Survival analysis with few parameters. A class is a use count and the shape of the request that used the chunk last.
The discrete hazard (returns at an age per chunk that reached it) is estimated per use count, and multiplied by one
effect per feature, as in D. R. Cox, "Regression Models and Life-Tables", J. R. Stat. Soc. B 34(2), 1972; effects are
fitted in turn to observed over expected returns, and shrunk towards 1. Chunks that have not returned yet count as
censored (E. L. Kaplan and P. Meier, JASA 53, 1958). Worth is J. C. Gittins' index ("Bandit Processes and Dynamic
Allocation Indices", J. R. Stat. Soc. B 41(2), 1979): the most returns per second of stay that any further stay earns.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
#: In buckets: uses, new chunks of the request, its length, uses of its last known chunk, seconds since the use before.
Features = tuple[int, int, int, int, int]

#: Age bins: logarithmic, so many to a factor of two, from a quarter of a second to 18 hours.
BINS: Final = 110
_PER_OCTAVE: Final = 6
_FIRST: Final = 0.25
_EDGES: Final = np.concatenate(([0.0], _FIRST * 2.0 ** (np.arange(BINS) / _PER_OCTAVE)))
_WIDTHS: Final = np.diff(_EDGES)

#: Uses told apart: one by one to 8, then by powers of two.
USES: Final = 13
_MAX_CLASSES: Final = 4096
#: Chunks' worth of belief that a use count returns like all others, and a feature's level like the rest of its count.
_SHRINK_USES: Final = 50.0
_SHRINK_EFFECT: Final = 300.0
#: Before anything is learned: the same small chance to return in every bin, so that older means worth less.
_PRIOR: Final = 0.002
_ROUNDS: Final = 3
#: Effects are told apart in steps of this ratio.
_STEP: Final = 0.12
#: Learned returns are halved beyond this, so that old habits fade.
_MEMORY: Final = 1 << 20


def age_bin(seconds: float) -> int:
    """The bin of an age."""
    if seconds < _FIRST:
        return 0
    return min(1 + int(math.log2(seconds / _FIRST) * _PER_OCTAVE), BINS - 1)


def uses_bucket(uses: int) -> int:
    """The bucket of a use count.

    Examples
    --------
    >>> [uses_bucket(n) for n in (1, 8, 9, 16, 1000)]
    [0, 7, 8, 9, 12]
    """
    return uses - 1 if uses <= 8 else min(7 + (uses >> 3).bit_length(), USES - 1)


class ReturnModel:
    """Counts returns by class and age, and prices ages. Nothing here knows keys."""

    def __init__(self) -> None:
        self._ids: dict[Features, int] = {}
        self._features: list[Features] = []
        self._returns: Floats = np.zeros((64, BINS))
        self._lost: Floats = np.zeros((64, BINS))
        #: Returns counted since the last `learn`, and before.
        self.fresh = 0
        self.known = 0
        #: Worth by row and age bin, and the row of each class.
        self.worth: list[list[float]] = []
        self.rows: list[int] = []
        self.learn(())

    def class_of(self, features: Features) -> int:
        """The class of these features; beyond the limit, of the use count alone."""
        number = self._ids.get(features)
        if number is not None:
            return number
        if len(self._ids) >= _MAX_CLASSES:
            features = (features[0], 0, 0, 0, 0)
            if features in self._ids:
                return self._ids[features]
        number = self._ids[features] = len(self._ids)
        self._features.append(features)
        self.rows.append(features[0])  # rows 0 … USES − 1 are the use counts' own
        if number == len(self._returns):
            self._returns = np.concatenate((self._returns, np.zeros_like(self._returns)))
            self._lost = np.concatenate((self._lost, np.zeros_like(self._lost)))
        return number

    def returned(self, number: int, age: float, count: int) -> None:
        """`count` chunks of a class were used again at `age`."""
        self._returns[number, age_bin(age)] += count
        self.fresh += count

    def lost(self, number: int, age: float, count: int) -> None:
        """`count` chunks of a class were forgotten at `age` without having returned."""
        self._lost[number, age_bin(age)] += count

    def learn(self, waiting: Iterable[tuple[int, float, int]]) -> None:
        """Price every class anew; `waiting` tells (class, age, count) of the chunks that may still return."""
        self.known += self.fresh
        self.fresh = 0
        if self.known > _MEMORY:
            self._returns *= 0.5
            self._lost *= 0.5
            self.known >>= 1
        n = len(self._features)
        returns, censored = self._returns[:n], self._lost[:n].copy()
        for number, age, count in waiting:
            censored[number, age_bin(age)] += count
        # A chunk censored within a bin was at risk for half of it.
        left = returns + censored
        at_risk = np.cumsum(left[:, ::-1], axis=1)[:, ::-1] - 0.5 * censored
        features = np.array(self._features, dtype=np.int64).reshape(n, 5)
        hazards = _by_uses(features[:, 0], returns, at_risk)
        effects = _effects(features, returns.sum(axis=1), (at_risk * hazards[features[:, 0]]).sum(axis=1))
        levels = np.rint(np.log(effects) / _STEP).astype(np.int64)
        base = np.stack((np.arange(USES), np.zeros(USES, dtype=np.int64)), axis=1)
        pairs = np.stack((features[:, 0], levels), axis=1)
        extra, row = np.unique(pairs, axis=0, return_inverse=True)
        rows = np.concatenate((base, extra))
        scaled = np.minimum(hazards[rows[:, 0]] * np.exp(rows[:, 1:] * _STEP), 1.0)
        self.worth = _worth(scaled).tolist()
        self.rows = (row.reshape(-1) + USES).tolist()

    def save(self) -> dict[str, array[Any]]:
        """What was learned, as arrays."""
        n = len(self._features)
        number, age = np.nonzero(self._returns[:n] + self._lost[:n])
        return {
            "classes": array("q", [value for features in self._features for value in features]),
            "cells": array("q", (number * BINS + age).tolist()),
            "returns": array("d", self._returns[number, age].tolist()),
            "lost": array("d", self._lost[number, age].tolist()),
        }

    def load(self, saved: dict[str, array[Any]]) -> None:
        """Add what `save` gave."""
        classes = saved["classes"]
        numbers = [self.class_of(_features(classes[i : i + 5])) for i in range(0, len(classes) // 5 * 5, 5)]
        for cell, returns, lost in zip(saved["cells"], saved["returns"], saved["lost"], strict=True):
            number, age = divmod(cell, BINS)
            self._returns[numbers[number], age] += returns
            self._lost[numbers[number], age] += lost
            self.known += int(returns)
        self.learn(())


def _features(values: array[Any]) -> Features:
    uses, new, length, boundary, gap = (int(v) for v in values)
    return min(max(uses, 0), USES - 1), new, length, boundary, gap


def _by_uses(uses: npt.NDArray[np.int64], returns: Floats, at_risk: Floats) -> Floats:
    """Hazards by use count and bin, each shrunk towards all counts' hazards scaled to its own number of returns."""
    own_returns, own_risk = np.zeros((USES, BINS)), np.zeros((USES, BINS))
    np.add.at(own_returns, uses, returns)
    np.add.at(own_risk, uses, at_risk)
    overall = (own_returns.sum(axis=0) + _PRIOR) / (own_risk.sum(axis=0) + 1.0)
    expected = (own_risk * overall).sum(axis=1)
    scale = (own_returns.sum(axis=1) + _SHRINK_USES) / (expected + _SHRINK_USES)
    belief = np.minimum(scale[:, None] * overall, 1.0)
    hazards: Floats = (own_returns + _SHRINK_USES * belief) / (own_risk + _SHRINK_USES)
    return np.minimum(hazards, 1.0)


def _effects(features: npt.NDArray[np.int64], observed: Floats, expected: Floats) -> Floats:
    """Each class's hazard over that of its use count: a product of one effect per feature."""
    effects = np.ones(len(features))
    if not len(features):
        return effects
    group = np.digitize(features[:, 0], (1, 3))  # features act differently on first, second and later uses
    levels = [np.unique(group * 64 + features[:, f], return_inverse=True)[1].reshape(-1) for f in range(1, 5)]
    fitted = [np.ones(level.max() + 1) for level in levels]
    for _ in range(_ROUNDS):
        for f, level in enumerate(levels):
            seen = np.bincount(level, observed)
            due = np.bincount(level, expected * effects / fitted[f][level])
            now = (seen + _SHRINK_EFFECT) / (due + _SHRINK_EFFECT)
            effects *= (now / fitted[f])[level]
            fitted[f] = now
    clipped: Floats = np.clip(effects, 0.02, 50.0)
    return clipped


def _worth(hazards: Floats) -> Floats:
    """The index at each age: the best ratio of returns to seconds over all further stays, from the middle of a bin."""
    survival = np.maximum(np.cumprod(1.0 - hazards, axis=1), 1e-12)
    reach = np.concatenate((np.ones((len(hazards), 1)), survival[:, :-1]), axis=1)
    gain = np.cumsum(reach * hazards, axis=1)
    stay = np.cumsum(reach * _WIDTHS * (1.0 - hazards / 2), axis=1)
    gain_at = gain - reach * hazards / 2
    stay_at = stay - reach * _WIDTHS * (1.0 - hazards / 2) / 2
    worth = np.empty_like(hazards)
    for age in range(BINS):
        ratio = (gain[:, age:] - gain_at[:, age, None]) / (stay[:, age:] - stay_at[:, age, None] + 1e-300)
        worth[:, age] = ratio.max(axis=1)
    return worth
