"""What each parameter of a pre-LayerNorm network does to the residual stream, chosen by rules."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from wcgc._messages import TO_MATCH, listed, quoted, written
from wcgc._paths import Key, path_of

Rules = str | Sequence[str]
"""One regular expression or several, each searched for in the paths of leaves."""


@dataclasses.dataclass(frozen=True)
class Norm:
    """One LayerNorm.

    Attributes:
      key: the path of its module.
      leaves: the paths of its parameters.
      readers: the paths of the kernels and biases that read its output.
    """

    key: Key
    leaves: tuple[Key, ...]
    readers: tuple[Key, ...]


def assign(
    keys: Iterable[Key], writers: Rules, norms: Mapping[str, str], others: Rules
) -> tuple[list[Key], list[Norm]]:
    """Gives each leaf its one role.

    Returns:
      The leaves that write to the stream, and the norms with what reads them.

    Raises:
      TypeError: a rule is not a string.
      ValueError: a rule matches nothing or is no regular expression, or a leaf has not one role.
    """
    keys = list(keys)
    if not keys:
        raise ValueError("params hold no floating array; give the parameters of the network.")
    writing = _matching("writers", writers, keys)
    found = _norms(norms, keys)
    roles = {
        "writers": set(writing),
        "norms": {key for norm in found for key in norm.leaves},
        "others": set(_matching("others", others, keys)),
    }
    roles |= {f"readers of {quoted(norm.key)}": set(norm.readers) for norm in found}
    _check(keys, roles)
    return writing, found


def _choice(keys: Iterable[Key]) -> str:
    return listed(map(quoted, keys), most=TO_MATCH)


def _pattern(argument: str, rule: object) -> re.Pattern[str]:
    if not isinstance(rule, str):
        raise TypeError(
            f"{argument} must hold regular expressions as strings, got {written(rule)}."
        )
    try:
        return re.compile(rule)
    except re.error as error:
        raise ValueError(f"{rule!r} in {argument} is not a regular expression: {error}.") from error


def _matching(argument: str, rules: Rules, keys: list[Key]) -> list[Key]:
    if not isinstance(rules, Iterable):
        raise TypeError(
            f"{argument} must be a regular expression or a sequence of them, got {written(rules)}."
        )
    found: set[Key] = set()
    for rule in (rules,) if isinstance(rules, str) else rules:
        pattern = _pattern(argument, rule)
        matched = {key for key in keys if pattern.search(path_of(key))}
        if not matched:
            raise ValueError(f"{rule!r} in {argument} matches none of {_choice(keys)}.")
        found |= matched
    return [key for key in keys if key in found]


def _norms(rules: Mapping[str, str], keys: list[Key]) -> list[Norm]:
    if not isinstance(rules, Mapping):
        raise TypeError(
            "norms must be a dictionary from a rule for norms to one for what reads them, got "
            f"{written(rules)}."
        )
    modules: dict[Key, list[Key]] = {}
    readers: dict[Key, re.Pattern[str]] = {}
    for rule, reading in rules.items():
        pattern = _pattern("norms", rule)
        for key in _matching("norms", rule, keys):
            if any(key in held for held in modules.values()):
                continue
            match = pattern.search(path_of(key))
            modules.setdefault(key[:-1], []).append(key)
            readers[key[:-1]] = _pattern("norms", _filled(reading, match))
    return [_norm(key, held, readers[key], keys) for key, held in modules.items()]


def _norm(key: Key, held: list[Key], readers: re.Pattern[str], keys: list[Key]) -> Norm:
    reading = tuple(leaf for leaf in keys if readers.match(path_of(leaf)))
    if not reading:
        raise ValueError(
            f"Nothing reads the norm {quoted(key)}: {readers.pattern!r} matches the beginning "
            f"of none of {_choice(keys)}."
        )
    return Norm(key, tuple(held), reading)


def _filled(readers: object, match: re.Match[str] | None) -> object:
    r"""The rule `readers` with the groups of `match` in place of \1 to \9."""
    if match is None or not isinstance(readers, str):
        return readers

    def group(reference: re.Match[str]) -> str:
        number = int(reference[1])
        if number > match.re.groups:
            raise ValueError(
                f"{readers!r} in norms refers to group {number}, which {match.re.pattern!r} lacks."
            )
        return re.escape(match[number] or "")

    return re.sub(r"\\([1-9])", group, readers)


def _check(keys: list[Key], roles: Mapping[str, set[Key]]) -> None:
    for key in keys:
        held = [role for role, members in roles.items() if key in members]
        if len(held) < 2:
            continue
        if held[0] == "writers" and held[1].startswith("readers"):
            raise ValueError(
                f"{quoted(key)} writes to the stream and is among the {held[1]}, as a tied "
                "output embedding: centring it would change what it reads. Untie it first: give "
                "the head a kernel of its own, the transposed embedding."
            )
        raise ValueError(f"{quoted(key)} is among {' and '.join(held)}; make it one of them.")
    missing = [key for key in keys if not any(key in members for members in roles.values())]
    if missing:
        raise ValueError(
            f"No rule says what {listed(map(quoted, missing))} does. Name it in writers if it "
            "adds to the residual stream, as embeddings of positions do; in norms if it is a "
            "LayerNorm or reads one; or in others."
        )
