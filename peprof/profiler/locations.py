"""Which module is running, and which module a node of the autograd graph belongs to."""

from __future__ import annotations

import threading
from bisect import bisect_right

import torch
from torch import nn

current_node = torch._C._current_autograd_node
current_task = torch._C._current_graph_task_id
sequence_number = torch._C._autograd._get_sequence_nr

LEAF_NUMBER = 2**62
"""Nodes that accumulate gradients carry the highest sequence number there is instead of one of their own."""


class Marks:
    """Which module ran when nodes with a sequence number were made, on one thread.

    Autograd numbers the nodes of a thread in the order in which forward makes them, and keeps the number, so
    that in backward it tells where in forward a node came from. Hooks on modules' backward would not: they
    don't fire for inputs without gradient.
    """

    __slots__ = ("_modules", "_numbers")

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._modules: list[nn.Module | None] = []

    def add(self, module: nn.Module | None) -> None:
        """From the next node on, ``module`` runs."""
        self._numbers.append(sequence_number())
        self._modules.append(module)

    def module_of(self, number: int) -> nn.Module | None:
        """The innermost module that ran when a node was made; ``None`` outside of all."""
        position = bisect_right(self._numbers, number) - 1
        return self._modules[position] if position >= 0 else None


class Locations:
    """Follows modules by global hooks: in forward, and where a checkpoint runs forward again in backward."""

    def __init__(self) -> None:
        self.module: nn.Module | None = None
        self.recomputing = 0
        self._stack: list[nn.Module] = []
        self._thread = threading.get_ident()
        self.marks = Marks()
        self._other_threads: dict[int, Marks] = {}
        self._task = -1

    def begin_backward(self) -> None:
        """Autograd has begun to run."""
        self._task = current_task()

    def enter(self, module: nn.Module) -> int | None:
        """A module's forward begins.

        Returns:
            If it is the outermost one of a recomputation, the number of the node that asked for that.
        """
        self._stack.append(module)
        self.module = module
        node = current_node()
        if node is None:
            self.marks.add(module)
            return None
        self.recomputing += 1
        self._marks_here().add(module)
        return node._sequence_nr() if self.recomputing == 1 else None

    def leave(self) -> None:
        """The innermost module's forward ended, well or by an exception."""
        self._stack.pop()
        self.module = self._stack[-1] if self._stack else None
        if current_node() is None:
            self.marks.add(self.module)
        else:
            self.recomputing -= 1
            self._marks_here().add(self.module)

    def _marks_here(self) -> Marks:
        """A device's backward runs on a thread of its own, whose nodes are numbered apart."""
        thread = threading.get_ident()
        return self.marks if thread == self._thread else self._other_threads.setdefault(thread, Marks())

    def marks_of_running_node(self) -> Marks:
        """Where to look up the running node: one made in a recomputation runs in a task of its own."""
        if self._other_threads and current_task() != self._task:
            return self._other_threads.get(threading.get_ident(), self.marks)
        return self.marks
