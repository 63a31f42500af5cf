"""Repeated steps of a traced function as a loop, so that what XLA compiles does not grow with the depth of a network.

The program is put in an order in which what one layer does stands together: operands before their use, those with the longest history
first. Layers that are alike are then a sequence of equations that repeats with a period, each reading from its own period, from the one
before, or from what was there before the first: the body of ``jax.lax.scan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, is_key, same_array
from sigprop.tracing.compat import ClosedJaxpr, Jaxpr, Literal, part_of

_LEAST = 8  # periods that make a loop


class Repeat(NamedTuple):
    """``period`` equations ``times`` times, from ``start``."""

    start: int
    period: int
    times: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.times


class Row(NamedTuple):
    """One of the values that a loop has stacked."""

    rows: Any
    number: int


def rolled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of pytrees of traced arrays, with the same values, whose repeated steps are loops."""

    @wraps(function)
    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        jaxpr = closed.jaxpr
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *jax.tree.leaves(args)], strict=True))
        jaxpr, kinds = _merged(jaxpr, closed.consts)
        order = _ordered(jaxpr)
        equations = [jaxpr.eqns[k] for k in order]
        low = 0
        for repeat in [] if jaxpr.effects else _repeats(equations, kinds[order]):
            _straight(jaxpr, equations, low, repeat.start, env)
            _loop(jaxpr, equations, repeat, env)
            low = repeat.stop
        _straight(jaxpr, equations, low, len(equations), env)
        return jax.tree.unflatten(jax.tree.structure(shape), [_read(env, v) for v in jaxpr.outvars])

    return run


def _read(env: dict[Any, Any], atom: Any) -> Any:
    found = atom.val if isinstance(atom, Literal) else env[atom]
    return found.rows[found.number] if isinstance(found, Row) else found


def _merged(jaxpr: Any, consts: Sequence[Any]) -> tuple[Any, np.ndarray]:
    """Equal constants are one, as are equations that do the same with the same operands: every layer has its own of them.

    With equal numbers for the equations that do the same with any operands.
    """
    first: dict[Any, Any] = {}
    table: dict[Any, int] = {}
    values: dict[Any, Any] = {}
    one: dict[Any, Any] = {}  # for each variable the first of its value
    for v, a in zip(jaxpr.constvars, consts, strict=True):
        one[v] = values.setdefault(_value(a), v)
    kept, kinds = [], []
    for e in jaxpr.eqns:
        kind = table.setdefault(_kind(e), len(table))
        operands = [v if isinstance(v, Literal) else one.get(v, v) for v in e.invars]
        found = first.setdefault((kind, tuple(None if isinstance(v, Literal) else v for v in operands)), e)
        if found is e:
            kept.append(e.replace(invars=operands))
            kinds.append(kind)
        one.update(zip(e.outvars, found.outvars, strict=True))
    outputs = [v if isinstance(v, Literal) else one.get(v, v) for v in jaxpr.outvars]
    return jaxpr.replace(eqns=kept, outvars=outputs), np.array(kinds, int)


def _value(array: Any) -> Any:
    return same_array(np.asarray(array) if concrete(array) and not is_key(array) else array)


def _kind(e: Any) -> Any:
    """Equal for equations that do the same with operands and literals that are alike."""
    operands = tuple((str(v.aval), str(v.val)) if isinstance(v, Literal) else str(v.aval) for v in e.invars)
    return e.primitive.name, _setting(e.params), operands, tuple(str(v.aval) for v in e.outvars)


def _setting(value: Any) -> Any:
    """Parameters of an equation as a key. The text of a function that it calls lacks the constants of that function."""
    if isinstance(value, dict):
        return tuple((name, _setting(value[name])) for name in sorted(value))
    if isinstance(value, tuple | list):
        return tuple(map(_setting, value))
    if isinstance(value, ClosedJaxpr):
        return (*map(_value, value.consts), _setting(value.jaxpr))
    if isinstance(value, Jaxpr):
        return (str(value), *(_setting(e.params) for e in value.eqns))
    return same_array(value) if isinstance(value, np.ndarray) else str(value)


def _ordered(jaxpr: Any) -> list[int]:
    """Numbers of the equations that the outputs need: before each what it reads, first what has the most behind it."""
    made = {v: k for k, e in enumerate(jaxpr.eqns) for v in e.outvars}
    read = [{made[v] for v in e.invars if not isinstance(v, Literal) and v in made} for e in jaxpr.eqns]
    behind: list[int] = []  # bits of all equations that lead to one
    for needed in read:
        bits = 0
        for k in needed:
            bits |= behind[k] | 1 << k
        behind.append(bits)
    size = [bits.bit_count() for bits in behind]
    order: dict[int, None] = {}
    stack = sorted({made[v] for v in jaxpr.outvars if not isinstance(v, Literal) and v in made}, key=lambda k: (size[k], k))
    while stack:
        missing = [k for k in read[stack[-1]] if k not in order]
        if missing:
            stack.append(max(missing, key=lambda k: (size[k], k)))
        else:
            order.setdefault(stack.pop())
    return list(order)


def _repeats(equations: Sequence[Any], kinds: np.ndarray) -> list[Repeat]:
    """Loops, in order, none overlapping, those that save most first; ``kinds`` are equal for equations that do the same."""
    reads = _reads(equations)
    found: list[Repeat] = []
    todo = [(0, len(equations))]
    while todo:
        low, high = todo.pop()
        best = _longest(kinds, reads, low, high)
        if best is not None:
            found.append(best)
            todo += [(low, best.start), (best.stop, high)]
    return sorted(found)


def _reads(equations: Sequence[Any]) -> np.ndarray:
    """``[equation, operand]``: number of the equation and output that made it, from 0; below 0 for what is given; alike for literals."""
    width = max((len(e.invars) for e in equations), default=0)
    outputs = max((len(e.outvars) for e in equations), default=1)
    numbers: dict[Any, int] = {}
    found = np.full((len(equations), width), -1)
    for k, e in enumerate(equations):
        for j, v in enumerate(e.invars):
            if not isinstance(v, Literal):
                found[k, j] = numbers.setdefault(v, -2 - len(numbers))
        for j, v in enumerate(e.outvars):
            numbers[v] = k * outputs + j
    return np.stack([np.where(found < 0, found, found // outputs), np.where(found < 0, 0, found % outputs)], -1)


def _longest(kinds: np.ndarray, reads: np.ndarray, low: int, high: int) -> Repeat | None:
    """The repetition between two equations that saves most; of equal ones the shorter period."""
    best, saved = None, 0
    for period in range(1, (high - low) // _LEAST + 1):
        alike = kinds[low:high - period] == kinds[low + period:high]
        for start, length in _runs(alike):
            if length >= max(_LEAST * period, saved + 1):
                repeat = _flowing(reads, low + start, period, length)
                if repeat is not None and (repeat.times - 1) * period > saved:
                    best, saved = repeat, (repeat.times - 1) * period
    return best


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and length of the stretches that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _flowing(reads: np.ndarray, start: int, period: int, length: int) -> Repeat | None:
    """The longest part of a run of equations alike whose operands come one period later each time, or from before all of them."""
    one, two = reads[start:start + length], reads[start + period:start + period + length]
    later = (two[..., 0] - one[..., 0] == period) & (one[..., 1] == two[..., 1]) & (one[..., 0] >= 0)
    for begin, size in sorted(_runs(np.all(later | (two[..., 0] < start), -1)), key=lambda run: -run[1]):
        count = size // period  # the last one stays outside, and with it what is read of it alone
        if count < _LEAST:
            return None
        first, whole = start + begin, (count, period, reads.shape[1])
        moves = later[begin:begin + count * period].reshape(whole)
        made = two[begin:begin + count * period, :, 0].reshape(whole)
        near = first + period - made[0] <= period  # made in the period itself or in the one before
        if np.all(np.all(moves, 0) & near | np.all(made < first, 0)):
            return Repeat(first, period, count)
    return None


def _needed(equations: Sequence[Any], low: int, high: int, outputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """What the equations read that they do not make, and what they make that is read later."""
    part = equations[low:high]
    made = dict.fromkeys(v for e in part for v in e.outvars)
    given = dict.fromkeys(v for e in part for v in e.invars if not isinstance(v, Literal) and v not in made)
    later = {v for v in (*(v for e in equations[high:] for v in e.invars), *outputs) if not isinstance(v, Literal)}
    return list(given), [v for v in made if v in later]


def _straight(jaxpr: Any, equations: Sequence[Any], low: int, high: int, env: dict[Any, Any]) -> None:
    given, made = _needed(equations, low, high, jaxpr.outvars)
    if made:
        env.update(zip(made, part_of(jaxpr, equations[low:high], given, made)(*(_read(env, v) for v in given)), strict=True))


def _loop(jaxpr: Any, equations: Sequence[Any], repeat: Repeat, env: dict[Any, Any]) -> None:
    """All periods as one scan. Its body is the second one: what that reads of the first is carried."""
    start, period, count = repeat
    periods = [equations[start + k * period:start + (k + 1) * period] for k in range(count)]
    made = [[v for e in part for v in e.outvars] for part in periods]
    place, own = {v: i for i, v in enumerate(made[0])}, set(made[1])
    operands = {f[1]: f for f in zip(*([v for e in part for v in e.invars] for part in periods), strict=True)  # each in all periods
                if not isinstance(f[1], Literal) and f[1] not in own}
    carried = [v for v in operands if v in place]
    fixed = [v for v in operands if v not in place and len(set(operands[v])) == 1]
    moving = [v for v in operands if v not in place and len(set(operands[v])) > 1]
    _, read = _needed(equations, start, repeat.stop, jaxpr.outvars)
    final = {made[-1][place[v]]: k for k, v in enumerate(carried)}
    where = {v: (k, i) for k, part in enumerate(made) for i, v in enumerate(part)}
    stacked = list(dict.fromkeys(where[v][1] for v in read if v not in final))
    body = part_of(jaxpr, periods[1], [*carried, *moving, *fixed],
                   [*(made[1][place[v]] for v in carried), *(made[1][i] for i in stacked)])
    known = [_read(env, v) for v in fixed]

    def step(carry: list[Any], given: list[Any]) -> tuple[list[Any], list[Any]]:
        found = list(body(*carry, *given, *known))
        return found[:len(carried)], found[len(carried):]

    begin = [_read(env, operands[v][0]) for v in carried]
    ends, rows = jax.lax.scan(step, begin, [_rows(env, operands[v]) for v in moving], count)
    for v in read:
        k, i = where[v]
        env[v] = ends[final[v]] if v in final else Row(rows[stacked.index(i)], k)


def _rows(env: dict[Any, Any], variables: Sequence[Any]) -> Any:
    """The variables side by side. What a loop made one after the other, or the other way round, is a slice of its rows."""
    runs: list[list[Any]] = []
    for found in (env[v] for v in variables):
        if runs and _follows(runs[-1], found):
            runs[-1].append(found)
        else:
            runs.append([found])
    return jnp.concatenate([_slice(run) for run in runs])


def _follows(run: Sequence[Any], found: Any) -> bool:
    if not (isinstance(found, Row) and isinstance(run[-1], Row) and found.rows is run[-1].rows):
        return False
    return found.number - run[-1].number in ({run[1].number - run[0].number} if len(run) > 1 else {1, -1})


def _slice(run: Sequence[Any]) -> Any:
    if not isinstance(run[0], Row):
        return jnp.asarray(run[0])[None]
    low, high = sorted((run[0].number, run[-1].number))
    rows = run[0].rows[low:high + 1]
    return rows if run[0].number == low else rows[::-1]
