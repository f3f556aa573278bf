"""What to give in place of a tree of entries that does not fit: one of another level, mostly."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from wcgc._paths import Key

MOST_LEVELS = 4
"""How many keys of a level are written out."""


class Given(NamedTuple):
    """A tree of entries that does not fit.

    Attributes:
      spec: the tree.
      name: what it is called where it is given.
      entries: the keys of its entries.
      asking: those of them that need a leaf.
      alone: the entry that leaves a leaf alone.
      is_made: whether a callable made it.
    """

    spec: Any
    name: str
    entries: Collection[Key]
    asking: Collection[Key]
    alone: str
    is_made: bool

    @property
    def give(self) -> str:
        """How the sentence begins that says what to give."""
        return "let the callable give" if self.is_made else "give"

    @property
    def word(self) -> str:
        """The tree, in the code that is to be given."""
        return "result" if self.is_made else self.name


def remedy(given: Given, keys: Collection[Key]) -> str:
    """What to give where leaves of these keys lack an entry."""
    return (
        _where_the_entries_lie_deeper(given, keys)
        or _where_the_leaves_lie_deeper(given, keys)
        or f"{given.give.capitalize()} one for it: {given.alone} leaves it alone."
    )


def prefixes(key: Key) -> Iterator[Key]:
    """The key itself and all above it, the root last."""
    return (key[:n] for n in range(len(key), -1, -1))


def prefix(key: Key, keys: Collection[Key]) -> Key | None:
    """The longest prefix that is one of the keys."""
    return next((above for above in prefixes(key) if above in keys), None)


def _where_the_entries_lie_deeper(given: Given, keys: Collection[Key]) -> str:
    def serves(below: Collection[Key]) -> bool:
        # One entry for all below says nothing of which leaves it is for.
        is_told = () not in below or list(keys) == [()]
        return is_told and all(prefix(key, below) is not None for key in keys)

    tops = [top for top, below in _by_top(given.entries).items() if serves(below)]
    if not tops:
        return ""
    part = _part(given, tops[0])
    if len(tops) == 1:
        return f"The entries lie under {tops[0]!r}: {given.give} {part}."
    return f"Entries lie under {_and(tops)}: {given.give} one of these, such as {part}."


def _where_the_leaves_lie_deeper(given: Given, keys: Collection[Key]) -> str:
    if any(prefix(key, given.entries) is not None for key in keys):
        return ""
    fitting, others = [], []
    for top, below in _by_top(keys).items():
        found = [prefix(key, given.entries) is not None for key in below]
        places = {above for key in below for above in prefixes(key)}
        if all(found) and all(key in places for key in given.asking):
            fitting.append(top)
        elif any(found):
            return ""
        else:
            others.append(top)
    if not fitting:
        return ""
    levels = [f"{top!r}: {given.word}" for top in fitting]
    levels += [f"{top!r}: {given.alone}" for top in others]
    if len(levels) > MOST_LEVELS:
        levels[MOST_LEVELS:] = ["..."]
    argument = "" if given.is_made else f"{given.name}="
    whole = f"{argument}{{{', '.join(levels)}}}"
    part = f", or the tree under {fitting[0]!r} alone" if len(fitting) == 1 else ""
    return f"The leaves that they fit lie under {_and(fitting)}: {given.give} {whole}{part}."


def _by_top(keys: Iterable[Key]) -> dict[str, dict[Key, None]]:
    """The keys by their first level, less that level, in their order."""
    tops: dict[str, dict[Key, None]] = {}
    for key in keys:
        if key:
            tops.setdefault(key[0], {})[key[1:]] = None
    return tops


def _part(given: Given, top: str) -> str:
    """The code for what the tree holds at the level `top`."""
    spec = given.spec
    if isinstance(spec, Mapping):
        for key in spec:
            if str(key) == top:
                return f"{given.word}[{key!r}]"
    if hasattr(spec, top):
        return f"{given.word}.{top}"
    if isinstance(spec, Sequence) and top.isdecimal():
        return f"{given.word}[{top}]"
    return f"what is under {top!r}"


def _and(tops: Sequence[str]) -> str:
    named = list(map(repr, tops[:MOST_LEVELS]))
    if len(tops) > MOST_LEVELS:
        return f"{', '.join(named)} and {len(tops) - MOST_LEVELS} more"
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
