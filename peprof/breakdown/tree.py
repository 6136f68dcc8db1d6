"""The tree of modules as it is shown: chains drawn together, what is small summed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peprof.breakdown.values import ModuleBytes, sum_by

WHOLE = "(all)"
"""Stands for the root, which has no name."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A line of the tree.

    Args:
        name: the module's qualified name; that of the parent for the rest of its children.
        label: what the name adds to the parent's, or how many modules it stands for.
        guides: for each level above it and for its own, whether it is the last of its parent; empty for the
            root.
        total_bytes: with all that lies below.
        own_bytes: without.
        categories: ``total_bytes`` by category, largest first.
    """

    name: str
    label: str
    guides: tuple[bool, ...]
    total_bytes: int
    own_bytes: int
    categories: Mapping[str, int]

    @property
    def level(self) -> int:
        """0 for the root."""
        return len(self.guides)


def branches(root: ModuleBytes, *, depth: int, top: int) -> Iterator[Branch]:
    """The lines of a tree from the top.

    A module whose bytes are all one child's is shown together with it, as ``encoder.layer``.

    Args:
        root: of the whole tree.
        depth: levels below the root.
        top: children shown of each module; the smaller ones are one line.
    """
    yield _branch(root, WHOLE, ())
    if depth > 0:
        yield from _below(root, (), depth, top)


def categories_below(module: ModuleBytes) -> dict[str, int]:
    """Bytes of a module and of all that lies below it, by category, largest first."""
    return sum_by((category, count) for part in module.walk() for category, count in part.categories.items())


def drawn_together(module: ModuleBytes) -> ModuleBytes:
    """The module, or the one below it that all its bytes belong to."""
    while not module.own_bytes and len(module.children) == 1:
        (module,) = module.children
    return module


def relative_name(name: str, parent: str) -> str:
    """What a qualified name adds to that of a module above it."""
    return name.removeprefix(f"{parent}.") if parent else name


def _below(parent: ModuleBytes, guides: tuple[bool, ...], depth: int, top: int) -> Iterator[Branch]:
    shown, rest = parent.children[:top], parent.children[top:]
    for place, child in enumerate(shown, start=1):
        module = drawn_together(child)
        lines = (*guides, place == len(shown) and not rest)
        yield _branch(module, relative_name(module.name, parent.name), lines)
        if len(lines) < depth:
            yield from _below(module, lines, depth, top)
    if rest:
        yield Branch(
            name=parent.name,
            label=f"({len(rest)} more)",
            guides=(*guides, True),
            total_bytes=sum(child.total_bytes for child in rest),
            own_bytes=0,
            categories=sum_by(pair for child in rest for pair in categories_below(child).items()),
        )


def _branch(module: ModuleBytes, label: str, guides: tuple[bool, ...]) -> Branch:
    return Branch(
        name=module.name,
        label=label,
        guides=guides,
        total_bytes=module.total_bytes,
        own_bytes=module.own_bytes,
        categories=categories_below(module),
    )
