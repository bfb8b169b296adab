"""Find the lines of a batch that the database refuses, in few tries. Pure: no IO, no SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


def find_refused(
    n_lines: int, attempt: Callable[[int, int], R | None], suspect: Callable[[R], int | None] = lambda _: None
) -> dict[int, R]:
    """Try lines in their order and return those that are refused, each with why.

    Shapes:     attempt(start, stop) tries the lines start to stop (excluded), counted from 0, on top of all that it
                accepted before: None accepts and keeps them, anything else refuses, and nothing of them is kept.
                suspect(why) names the line that seems to be the cause, or None; it may be wrong.
    Guarantee:  a line is refused only when tried alone on top of all accepted lines before it, so of two lines with one
                key the later one is refused. One refused line costs at most about 2 log2(n) tries; n of them about
                n + log2(n): after a refused line the next try is as wide as twice the mean run of good lines so far.
                A line that was suspected rightly costs three tries: one that fails, the lines before it, and it alone.
    """
    refused: dict[int, R] = {}
    start, width = 0, n_lines
    refused_stop: int | None = None  # a wider try from start to here was refused: divide it
    guess: int | None = None  # a line of that try which is suspected
    while start < n_lines:
        if refused_stop is None:
            stop = min(start + width, n_lines)
        elif guess is not None and start <= guess < refused_stop:
            stop = max(guess, start + 1)
        else:
            stop = start + max(1, (refused_stop - start) // 2)
        why = attempt(start, stop)
        if why is None:
            start = stop
            if refused_stop == start:  # refused before, accepted in parts: the parts are what counts
                refused_stop = None
            if refused_stop is None:
                width *= 2
        elif stop - start > 1:
            refused_stop, guess = stop, suspect(why)
        else:
            refused[start] = why
            start += 1
            refused_stop = None
            width = max(1, 2 * (start - len(refused)) // len(refused))
    return refused
