"""What the `hazard` policy has learned: how soon chunks of each class return, and what a chunk is worth at each age.

Survival analysis with few parameters. The discrete hazard (returns at an age per chunk that reached it) is estimated
per use count, smoothed over ages and lent from neighbouring use counts, and multiplied by one effect per feature, as
in D. R. Cox, "Regression Models and Life-Tables", J. R. Stat. Soc. B 34(2), 1972; effects are fitted in turn to
observed over expected returns, and shrunk towards 1. Chunks that have not returned yet count as censored
(E. L. Kaplan and P. Meier, JASA 53, 1958). Worth is J. C. Gittins' index ("Bandit Processes and Dynamic Allocation
Indices", J. R. Stat. Soc. B 41(2), 1979): the most returns per second of stay that any further stay earns.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Age bins: logarithmic, so many to a factor of two, from a quarter of a second to 18 hours.
BINS: Final = 110
_PER_OCTAVE: Final = 6
_FIRST: Final = 0.25
_EDGES: Final = np.concatenate(([0.0], _FIRST * 2.0 ** (np.arange(BINS) / _PER_OCTAVE)))
_WIDTHS: Final = np.diff(_EDGES)

#: Use counts told apart: one by one to 8, then by powers of two; and a row for chunks whose conversation went on
#: without them.
USES: Final = 13
_LEFT: Final = USES
_MAX_CLASSES: Final = 4096
#: Chunks of one run return together: a run of n counts as n to this power.
_CLUSTER: Final = 0.6
#: Ages are smoothed over so many bins, two thirds of an octave each way.
_SMOOTH: Final = 4.0
#: What a use count learns from the next one beside it, and so on in powers.
_LEND: Final = 0.3
#: Belief, in chunks, that a use count has its neighbours' hazard and level, and a feature's level the rest's.
_SHRINK_AGE: Final = 100.0
_SHRINK_SCALE: Final = 20.0
_SHRINK_EFFECT: Final = 150.0
_ROUNDS: Final = 3
#: Effects are told apart in steps of this ratio.
_STEP: Final = 0.12
#: Learned returns are halved beyond this, so that old habits fade.
_MEMORY: Final = 1 << 20


class Features(NamedTuple):
    """A chunk's class, in buckets.

    Attributes
    ----------
    uses : int
    new : int
        New chunks of the request that used it last.
    boundary : int
        Uses of that request's last known chunk.
    gap : int
        Seconds the chunk had waited for that use, 0 for none.
    depth : int
        Chunks from the start of its run to the end of that request.
    left : int
        Uses of the point where the conversation has since taken another way, 0 for none.
    """

    uses: int
    new: int
    boundary: int
    gap: int
    depth: int
    left: int = 0


def age_bin(seconds: float) -> int:
    """The bin of an age."""
    if seconds < _FIRST:
        return 0
    return min(1 + int(math.log2(seconds / _FIRST) * _PER_OCTAVE), BINS - 1)


def age_bins(seconds: Floats) -> Ints:
    """The bins of many ages."""
    octaves = np.log2(np.maximum(seconds, _FIRST) / _FIRST)
    bins: Ints = np.minimum((octaves * _PER_OCTAVE).astype(np.int64) + (seconds >= _FIRST), BINS - 1)
    return bins


def uses_bucket(uses: int) -> int:
    """The bucket of a use count.

    Examples
    --------
    >>> [uses_bucket(n) for n in (1, 8, 9, 16, 1000)]
    [0, 7, 8, 9, 12]
    """
    return uses - 1 if uses <= 8 else min(7 + (uses >> 3).bit_length(), USES - 1)


def weight(chunks: int) -> float:
    """What each of so many chunks that were last used together counts."""
    return float(chunks ** (_CLUSTER - 1.0))


class ReturnModel:
    """Counts returns by class and age, and prices ages. Nothing here knows keys."""

    def __init__(self) -> None:
        self._ids: dict[Features, int] = {}
        self._features: list[Features] = []
        #: Returned, gone without, and come from another class, by class and age.
        self._counts: Floats = np.zeros((3, 64, BINS))
        #: Chunks that returned since the last `learn`, and before.
        self.fresh = 0
        self.known = 0
        #: Worth by row and age bin, as lists and as an array, and the row of each class.
        self.worth: list[list[float]] = []
        self.table: Floats = np.zeros((0, BINS))
        self.rows: list[int] = []
        self.learn(())

    def class_of(self, features: Features) -> int:
        """The class of these features; beyond the limit, of the use count alone."""
        number = self._ids.get(features)
        if number is not None:
            return number
        if len(self._ids) >= _MAX_CLASSES:
            features = Features(features.uses, 0, 0, 0, 0, min(features.left, 1))
            if features in self._ids:
                return self._ids[features]
        number = self._ids[features] = len(self._ids)
        self._features.append(features)
        # The rows from 0 to USES are the use counts' own, and that of chunks left behind.
        self.rows.append(_LEFT if features.left else features.uses)
        if number == self._counts.shape[1]:
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)), axis=1)
        return number

    def features(self, number: int) -> Features:
        """The features of a class."""
        return self._features[number]

    def price(self, number: int, age: float) -> float:
        """The worth of a chunk of a class at an age."""
        return self.worth[self.rows[number]][age_bin(age)]

    def returned(self, number: int, age: float, chunks: int, each: float) -> None:
        """Chunks of a class were used again at `age`; each counts `each`."""
        self._counts[0, number, age_bin(age)] += chunks * each
        self.fresh += chunks

    def lost(self, number: int, age: float, amount: float) -> None:
        """Chunks of a class left it at `age` without having returned."""
        self._counts[1, number, age_bin(age)] += amount

    def entered(self, number: int, age: float, amount: float) -> None:
        """Chunks came into a class at `age`: before, they were not at risk there."""
        self._counts[2, number, age_bin(age)] += amount

    def learn(self, waiting: Iterable[tuple[int, float, float]]) -> None:
        """Price every class anew; `waiting` tells (class, age, amount) of the chunks that may still return."""
        self.known += self.fresh
        self.fresh = 0
        if self.known > _MEMORY:
            self._counts *= 0.5
            self.known >>= 1
        n = len(self._features)
        returns, censored, entries = self._counts[0, :n], self._counts[1, :n].copy(), self._counts[2, :n]
        still = list(waiting)
        if still:
            numbers, ages, amounts = (np.array(column) for column in zip(*still, strict=True))
            np.add.at(censored, (numbers, age_bins(ages)), amounts)
        # A chunk censored within a bin was at risk for half of it, and so was one that entered within it.
        at_risk = np.maximum(_from(returns + censored - entries) - 0.5 * (censored - entries), 0.0)
        features = np.array(self._features, dtype=np.int64).reshape(n, len(Features._fields))
        base = np.where(features[:, 5] > 0, _LEFT, features[:, 0])
        hazards = _by_uses(base, returns, at_risk)
        effects = _effects(features, returns.sum(axis=1), (at_risk * hazards[base]).sum(axis=1))
        levels = np.rint(np.log(effects) / _STEP).astype(np.int64)
        own = np.stack((np.arange(USES + 1), np.zeros(USES + 1, dtype=np.int64)), axis=1)
        extra, row = np.unique(np.stack((base, levels), axis=1), axis=0, return_inverse=True)
        rows = np.concatenate((own, extra))
        self.table = _worth(np.minimum(hazards[rows[:, 0]] * np.exp(rows[:, 1:] * _STEP), 1.0))
        self.worth = self.table.tolist()
        self.rows = (row.reshape(-1) + USES + 1).tolist()

    def save(self) -> dict[str, array[Any]]:
        """What was learned, as arrays."""
        n = len(self._features)
        counts = self._counts[:, :n]
        number, age = np.nonzero(counts.any(axis=0))
        names = ("returned", "lost", "entered")
        cells = {name: array("d", table[number, age].tolist()) for name, table in zip(names, counts, strict=True)}
        return {
            "known": array("q", [self.known + self.fresh]),
            "classes": array("q", [value for features in self._features for value in features]),
            "cells": array("q", (number * BINS + age).tolist()),
            **cells,
        }

    def load(self, saved: dict[str, array[Any]]) -> None:
        """Add what `save` gave."""
        classes, width = saved["classes"], len(Features._fields)
        numbers = []
        for i in range(0, len(classes) // width * width, width):
            uses, *others = classes[i : i + width]
            numbers.append(self.class_of(Features(min(max(uses, 0), USES - 1), *(min(max(v, 0), 15) for v in others))))
        for cell, *amounts in zip(saved["cells"], saved["returned"], saved["lost"], saved["entered"], strict=True):
            number, age = divmod(cell, BINS)
            self._counts[:, numbers[number], age] += amounts
        self.known += sum(saved["known"])
        self.learn(())


def _from(amounts: Floats) -> Floats:
    """Sums over all bins from each on."""
    sums: Floats = np.cumsum(amounts[:, ::-1], axis=1)[:, ::-1]
    return sums


def _kernel() -> Floats:
    bins = np.arange(BINS)
    kernel = np.exp(-0.5 * ((bins[:, None] - bins) / _SMOOTH) ** 2)
    normal: Floats = kernel / kernel.sum(axis=1, keepdims=True)
    return normal


_KERNEL: Final = _kernel()
_LENT: Final = np.zeros((USES + 1, USES + 1))
_LENT[:USES, :USES] = _LEND ** np.abs(np.arange(USES)[:, None] - np.arange(USES))
_LENT[_LEFT, _LEFT] = 1.0


def _by_uses(base: Ints, returns: Floats, at_risk: Floats) -> Floats:
    """Hazards by use count and bin: each shrunk towards its neighbours' hazards, scaled to its own returns.

    An age that nobody has reached has the mean hazard of all ages: with bins that widen, the older is worth less.
    """
    own_returns, own_risk = np.zeros((USES + 1, BINS)), np.zeros((USES + 1, BINS))
    np.add.at(own_returns, base, returns)
    np.add.at(own_risk, base, at_risk)
    mean = (own_returns.sum() + 1.0) / (own_risk.sum() + BINS)
    own_returns, own_risk = own_returns @ _KERNEL, own_risk @ _KERNEL
    lent = (_LENT @ own_returns + mean) / (_LENT @ own_risk + 1.0)
    expected = (own_risk * lent).sum(axis=1)
    scale = (own_returns.sum(axis=1) + _SHRINK_SCALE) / (expected + _SHRINK_SCALE)
    belief = np.minimum(scale[:, None] * lent, 1.0)
    hazards: Floats = (own_returns + _SHRINK_AGE * belief) / (own_risk + _SHRINK_AGE)
    return np.minimum(hazards, 1.0)


def _effects(features: Ints, observed: Floats, expected: Floats) -> Floats:
    """Each class's hazard over that of its use count: a product of one effect per feature."""
    effects = np.ones(len(features))
    if not len(features):
        return effects
    group = np.digitize(features[:, 0], (1, 3))  # features act differently on first, second and later uses
    levels = [
        np.unique(group * 64 + features[:, f], return_inverse=True)[1].reshape(-1) for f in range(1, features.shape[1])
    ]
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
