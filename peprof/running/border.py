"""Which size to try next, to find the largest one that fits in few tries; pure, told what came of each."""

from __future__ import annotations

from dataclasses import dataclass, field

_FIRST_STEP_DOWN = 32
"""Where nobody knows by how much a size is too large, the first step down is this part of it."""


@dataclass(kw_only=True)
class BorderSearch:
    """Finds the largest size that fits, and sees that one more doesn't.

    Begins where somebody supposes the border and goes on in steps that double, until a size fits and a larger
    one doesn't; then between the two. Where it is known what sizes need, it goes by the line through them.

    Args:
        start: where the border is supposed.
        smallest, cap: first and last size; multiples of ``unit``.
        unit: between sizes.
        limit_bytes: what there is.
        growth_bytes: what one more of a size is supposed to need; ``None`` where nobody knows.

    Example:
        >>> search = BorderSearch(start=90, smallest=1, cap=1000, unit=1, limit_bytes=1000, growth_bytes=7)
        >>> tried = []
        >>> while (size := search.next_size()) is not None:
        ...     tried.append(size)
        ...     search.tell(size, fits=100 + 9 * size <= 1000, need_bytes=100 + 9 * size)
        >>> search.largest, tried
        (100, [90, 102, 100, 101])
    """

    start: int
    smallest: int
    cap: int
    unit: int = 1
    limit_bytes: int
    growth_bytes: float | None = None
    largest: int | None = field(default=None, init=False)
    too_large: int | None = field(default=None, init=False)
    _needs: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)
    _turns: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._step = self.unit

    @property
    def is_found(self) -> bool:
        """Whether the border is known: its two sides, or that nothing or everything fits."""
        if self.largest is None:
            return self.too_large == self.smallest
        return self.largest == self.cap or self.too_large == self.largest + self.unit

    def tell(self, size: int, *, fits: bool, need_bytes: int | None = None) -> None:
        """What came of a size.

        Args:
            size: that was tried, as ``next_size`` gave it.
            fits: whether it does.
            need_bytes: what it needed; ``None`` where that isn't known, as when memory ran out.
        """
        if fits:
            self.largest = size
        else:
            self.too_large = size
        if need_bytes is not None:
            for other, need in reversed(self._needs.items()):
                if (need_bytes - need) * (size - other) > 0:
                    self.growth_bytes = (need_bytes - need) / (size - other)
                    break
            self._needs[size] = need_bytes

    def next_size(self) -> int | None:
        """The size to be tried next; ``None`` when the border is known."""
        if self.is_found:
            return None
        if self.largest is None and self.too_large is None:
            return max(self.smallest, min(self.cap, self._whole(self.start)))
        if self.too_large is None:
            return self._upward()
        return self._downward() if self.largest is None else self._between()

    def _upward(self) -> int:
        assert self.largest is not None
        step = max(self._step, min(self._room(self.largest) or 0, self.largest))
        self._step *= 2
        return min(self.cap, self.largest + step)

    def _downward(self) -> int:
        assert self.too_large is not None
        room = self._room(self.too_large)
        if room is None:
            step = self._step = max(self._step, self._whole(self.too_large // _FIRST_STEP_DOWN))
        else:
            step = max(self._step, -room)
        self._step *= 2
        return max(self.smallest, self.too_large - step)

    def _between(self) -> int:
        assert self.largest is not None and self.too_large is not None
        self._turns += 1
        room = self._room(self.largest)
        turns = 3 if self.too_large in self._needs else 2  # a line through two points misses less
        if room is None or self._turns % turns == 0:
            size = self._whole((self.largest + self.too_large) // 2)
        else:
            size = self.largest + room
        return max(self.largest + self.unit, min(size, self.too_large - self.unit))

    def _room(self, size: int) -> int | None:
        """How many more than ``size`` should fit, below 0 how many fewer; ``None`` where nobody knows."""
        if size not in self._needs or not self.growth_bytes or self.growth_bytes < 0:
            return None
        return self._whole(int((self.limit_bytes - self._needs[size]) // self.growth_bytes))

    def _whole(self, size: int) -> int:
        """Rounded down to a multiple of the unit."""
        return size // self.unit * self.unit
