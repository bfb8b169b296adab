"""Where lines, batches and chunks end in a stream of decompressed blocks. Pure: no IO, no clock.

The rule of lines (DESIGN 2): a line ends at LF or at the end of the source. A pipeline gets it without the LF and one CR
before it, and line 1 without a byte order mark. It is blank if only spaces, tabs and CRs are left. Nothing here makes an
object per line except ``LineBatch.lines``, which makes all of a batch in one call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

LF = b"\n"
CR = b"\r"
BOM = b"\xef\xbb\xbf"

BATCH_LINES = 2_000  # DESIGN 5: lines a batch
BATCH_BYTES = 16 << 20  # DESIGN 5: raw bytes a batch, unless one line is longer
_PROBE_LINES = 32  # lines found before choosing how to count the others
_LONG_BYTES = 256  # average line from which find is quicker: 60 ns a call against 0.3 ns a byte
_NARROW_BYTES = 4_096  # below this a search by find is cheaper than another halving by count


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines that belong to the open chunk, after those given before. Never empty."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Overlong:
    """Some bytes of a line beyond max_line_bytes, which is a chunk by itself."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Cut:
    """The open chunk ends here: everything given since the last cut is its raw bytes."""

    first_line: int  # from 1
    n_lines: int
    byte_offset: int  # from 0, in the decompressed source
    raw_bytes: int
    oversized: bool  # one line, given as Overlong


Step = Lines | Overlong | Cut


class Cutter:
    """Cut blocks into chunks of whole lines: max_lines or max_raw_bytes, whichever comes first. Single use.

    Shapes:     feed() takes blocks of any size and returns steps, in order; finish() the rest.
    Units:      max_line_bytes counts a line without its LF. A chunk is longer than max_raw_bytes only if it is one line.
    Guarantee:  the cuts depend on the bytes, the limits and the start alone, never on how blocks are divided. A line is
                given only when its end is seen, so an unfinished one is held: memory is at most max_line_bytes and two blocks.
    Source:     DESIGN 2.
    """

    def __init__(self, max_lines: int, max_raw_bytes: int, max_line_bytes: int, *, first_line: int = 1, byte_offset: int = 0) -> None:
        self._max_lines, self._max_raw_bytes, self._max_line_bytes = max_lines, max_raw_bytes, max_line_bytes
        self._first_line, self._byte_offset = first_line, byte_offset
        self._n_lines = self._raw_bytes = 0  # of the open chunk, as far as given
        self._held: list[memoryview] = []  # the beginning of a line whose end has not been seen
        self._held_bytes = 0
        self._in_overlong = False

    @property
    def line_no(self) -> int:
        """The number of the line in which the next byte fed lies."""
        return self._first_line + self._n_lines

    def feed(self, block: bytes) -> list[Step]:
        """Take the next block; return what is certain by now."""
        steps: list[Step] = []
        view, pos, size = memoryview(block), 0, len(block)
        while pos < size:
            if self._in_overlong:
                end = block.find(LF, pos) + 1
                self._take_overlong(steps, view[pos : end or size])
                if end:
                    self._cut(steps, n_lines=1)
                pos = end or size
            elif self._held:
                end = block.find(LF, pos, pos + self._max_line_bytes - self._held_bytes + 1) + 1
                if end:
                    self._take_held(steps, view[pos:end])
                    pos = end
                elif self._held_bytes + size - pos > self._max_line_bytes:
                    self._begin_overlong(steps)  # its end is looked for next
                else:
                    self._hold(view[pos:])
                    pos = size
            else:
                end = max(pos, block.rfind(LF, pos) + 1)
                fits = self._overlong_from(block, pos, end)
                self._take(steps, block, view, pos, fits)
                pos = fits
                if fits < end or size - end > self._max_line_bytes:
                    self._begin_overlong(steps)
                elif end < size:
                    self._hold(view[end:])
                    pos = size
        return steps

    def finish(self, *, whole_only: bool = False) -> list[Step]:
        """End the source: a last line without LF counts, unless whole_only (the source is damaged after this)."""
        steps: list[Step] = []
        if self._in_overlong:
            if not whole_only:
                self._cut(steps, n_lines=1)
            return steps
        if self._held and not whole_only:
            self._take_held(steps, memoryview(b""))
        if self._n_lines:
            self._cut(steps)
        return steps

    def _overlong_from(self, block: bytes, pos: int, end: int) -> int:
        """Return the start of the first line beyond max_line_bytes in block[pos:end], which are whole lines; else end."""
        room = self._max_line_bytes + 1  # the longest line and its LF: a window of this size without LF proves an overlong line
        while end - pos > room:
            last = block.rfind(LF, pos, pos + room)
            if last < 0:
                return pos
            pos = last + 1
        return end

    def _take(self, steps: list[Step], block: bytes, view: memoryview, pos: int, end: int) -> None:
        """Give block[pos:end], whole lines of which none is overlong, with the cuts between them."""
        while pos < end:
            room = self._max_raw_bytes - self._raw_bytes
            upto = end
            if end - pos > room:
                upto = block.rfind(LF, pos, pos + max(room, 0)) + 1
                if not upto:
                    if self._n_lines:
                        self._cut(steps)
                        continue
                    upto = block.find(LF, pos) + 1  # one line beyond max_raw_bytes
            n_lines, left = count_lf(block, pos, upto), self._max_lines - self._n_lines
            if n_lines > left:
                n_lines, upto = left, nth_line_end(block, pos, upto, left)
            steps.append(Lines(view[pos:upto]))
            self._n_lines += n_lines
            self._raw_bytes += upto - pos
            if self._n_lines == self._max_lines:
                self._cut(steps)
            pos = upto

    def _hold(self, data: memoryview) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _take_held(self, steps: list[Step], rest: memoryview) -> None:
        """Give the held line, of which rest is the end."""
        line_bytes = self._held_bytes + len(rest)
        if self._n_lines and self._raw_bytes + line_bytes > self._max_raw_bytes:
            self._cut(steps)
        steps += [Lines(part) for part in (*self._held, rest) if part]
        self._held, self._held_bytes = [], 0
        self._n_lines += 1
        self._raw_bytes += line_bytes
        if self._n_lines == self._max_lines:
            self._cut(steps)

    def _begin_overlong(self, steps: list[Step]) -> None:
        if self._n_lines:
            self._cut(steps)
        self._in_overlong = True
        for part in self._held:
            self._take_overlong(steps, part)
        self._held, self._held_bytes = [], 0

    def _take_overlong(self, steps: list[Step], data: memoryview) -> None:
        steps.append(Overlong(data))
        self._raw_bytes += len(data)

    def _cut(self, steps: list[Step], n_lines: int | None = None) -> None:
        n_lines = self._n_lines if n_lines is None else n_lines
        steps.append(Cut(self._first_line, n_lines, self._byte_offset, self._raw_bytes, self._in_overlong))
        self._first_line += n_lines
        self._byte_offset += self._raw_bytes
        self._n_lines = self._raw_bytes = 0
        self._in_overlong = False


def count_lf(block: bytes, pos: int, end: int) -> int:
    """Count the LFs of block[pos:end].

    In long lines find is quicker than count, which looks at each byte: 11,000 against 3,000 MB/s for lines of 7 KB. So a few
    are found first, and if those lines are short, the rest is counted.
    """
    n, start = 0, pos
    while pos := block.find(LF, pos, end) + 1:
        n += 1
        if n == _PROBE_LINES and pos - start < _PROBE_LINES * _LONG_BYTES:
            return n + block.count(LF, pos, end)
    return n


def nth_line_end(block: bytes, pos: int, end: int, n: int) -> int:
    """Return the offset just after the n-th LF of block[pos:end], which has at least n; n from 1."""
    while end - pos > _NARROW_BYTES:
        middle = (pos + end) // 2
        before = block.count(LF, pos, middle)
        if before >= n:
            end = middle
        else:
            n, pos = n - before, middle
    for _ in range(n):
        pos = block.find(LF, pos, end) + 1
    return pos


class LineBatch:
    """Some whole lines of one chunk, as bytes.

    Units:      first_line_no counts from 1 and byte_offset from 0 in the decompressed source, BOM included.
                n_lines is counted where it is not given.
    Guarantee:  immutable. Offsets and raw lines are worked out only when asked for (rejects are rare).
    """

    __slots__ = ("_lines", "_starts", "byte_offset", "data", "first_line_no", "n_lines")

    def __init__(self, data: bytes, first_line_no: int, byte_offset: int, n_lines: int | None = None) -> None:
        self.data, self.first_line_no, self.byte_offset = data, first_line_no, byte_offset
        self.n_lines = data.count(LF) + (bool(data) and not data.endswith(LF)) if n_lines is None else n_lines
        self._lines: list[bytes] | None = None
        self._starts: list[int] | None = None

    @property
    def raw_bytes(self) -> int:
        return len(self.data)

    @property
    def line_nos(self) -> range:
        """The numbers of the lines in the source."""
        return range(self.first_line_no, self.first_line_no + self.n_lines)

    @property
    def lines(self) -> list[bytes]:
        """The lines as a pipeline gets them: without LF, one CR before it, and line 1 without BOM."""
        if self._lines is None:
            lines = self._split()
            if CR in self.data:
                lines = [line[:-1] if line.endswith(CR) else line for line in lines]
            if lines and self.first_line_no == 1:
                lines[0] = lines[0].removeprefix(BOM)
            self._lines = lines
        return self._lines

    def offset_of(self, i: int) -> int:
        """Offset in the decompressed source of the first byte of line i (from 0), its BOM included."""
        if self._starts is None:
            self._starts = list(accumulate((len(line) + 1 for line in self._split()), initial=0))
        return self.byte_offset + self._starts[i]

    def raw_line(self, i: int) -> bytes:
        """Line i (from 0) as it stands in the source, CR and BOM included, without its LF."""
        start = self.offset_of(i) - self.byte_offset
        end = self.data.find(LF, start)
        return self.data[start:] if end < 0 else self.data[start:end]

    def _split(self) -> list[bytes]:
        lines = self.data.split(LF)
        if not lines[-1]:
            lines.pop()  # after the last LF there is no line
        return lines


def batches(
    blocks: Iterable[bytes], first_line_no: int, byte_offset: int, max_lines: int = BATCH_LINES, max_bytes: int = BATCH_BYTES
) -> Iterator[LineBatch]:
    """Cut a chunk's blocks into batches of at most max_lines and max_bytes, or of one line if that is longer.

    Guarantee:  lazy; at most one batch, one unfinished line and one block are in memory.
    """
    cutter = Cutter(max_lines, max_bytes, sys.maxsize, first_line=first_line_no, byte_offset=byte_offset)
    parts: list[memoryview] = []
    for block in blocks:
        yield from _batches(cutter.feed(block), parts)
    yield from _batches(cutter.finish(), parts)


def _batches(steps: list[Step], parts: list[memoryview]) -> Iterator[LineBatch]:
    for step in steps:
        if isinstance(step, Cut):
            yield LineBatch(b"".join(parts), step.first_line, step.byte_offset, step.n_lines)
            parts.clear()
        else:
            parts.append(step.data)
