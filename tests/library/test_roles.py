"""Which leaf of a pre-LayerNorm network gets which role, and what is said of rules that fail."""

import re

import pytest

from wcgc._roles import Norm, assign

EMBED, FINAL, HEAD = ("embed",), ("final", "scale"), ("head", "kernel")


def block(name):
    """The leaves of a block: a norm, a kernel with a bias that reads it, and one that writes."""
    leaves = ("norm/scale", "norm/bias", "up/kernel", "up/bias", "down/kernel")
    return [(name, *leaf.split("/")) for leaf in leaves]


def norm(name):
    scale, bias, kernel, shift, _ = block(name)
    return Norm((name, "norm"), (scale, bias), (kernel, shift))


KEYS = [EMBED, *block("a"), *block("b")]
WRITERS = ("down", "embed")
NORMS = {"(.*)/norm/": r"\1/up/"}


@pytest.mark.parametrize(
    "norms",
    [
        NORMS,
        {"a/norm": "a/up", "norm": "b/up"},
        {"b/norm": "b/up", "norm": "a/up"},
        {"a/norm/scale": "a/up", "a/norm": "a/up", "b/norm": "b/up"},
    ],
    ids=["one rule", "the first block ahead", "the second ahead", "a rule for what has one"],
)
def test_norms_and_what_reads_them(norms):
    writing, found = assign(KEYS, WRITERS, norms, ())
    assert writing == [EMBED, ("a", "down", "kernel"), ("b", "down", "kernel")]
    assert sorted(found, key=lambda norm: norm.key) == [norm("a"), norm("b")]


def test_others_have_no_part():
    writing, found = assign([*KEYS, HEAD], WRITERS, NORMS, "head")
    assert EMBED in writing
    assert len(found) == 2


@pytest.mark.parametrize("rules", ["embed|down", ["embed|down"], ("embed", "down")])
def test_one_rule_or_several(rules):
    writing, _ = assign(iter(KEYS), rules, NORMS, ())
    assert len(writing) == 3


MANY = [(f"leaf_{i}",) for i in range(45)]
FORTY = ", ".join(f"'leaf_{i}'" for i in range(40))

REFUSED = {
    # name: (leaves, writers, norms, others, error, the whole message)
    "no leaves": (
        [],
        WRITERS,
        NORMS,
        (),
        ValueError,
        "params hold no floating array; give the parameters of the network.",
    ),
    "a rule for writers that is no string": (
        KEYS,
        ["embed", 3],
        NORMS,
        (),
        TypeError,
        "writers must hold regular expressions as strings, got 3.",
    ),
    "a rule for others that is no string": (
        KEYS,
        WRITERS,
        NORMS,
        [None],
        TypeError,
        "others must hold regular expressions as strings, got None.",
    ),
    "a rule for norms that is no string": (
        KEYS,
        WRITERS,
        {3: "up"},
        (),
        TypeError,
        "norms must hold regular expressions as strings, got 3.",
    ),
    "a rule for readers that is no string": (
        KEYS,
        WRITERS,
        {"norm": 3},
        (),
        TypeError,
        "norms must hold regular expressions as strings, got 3.",
    ),
    "a rule for norms that is no expression": (
        KEYS,
        WRITERS,
        {"norm(": "up"},
        (),
        ValueError,
        "'norm(' in norms is not a regular expression: missing ), unterminated subpattern at "
        "position 4.",
    ),
    "no rules": (
        KEYS,
        3,
        NORMS,
        (),
        TypeError,
        "writers must be a regular expression or a sequence of them, got 3.",
    ),
    "no rules for others": (
        KEYS,
        WRITERS,
        NORMS,
        3,
        TypeError,
        "others must be a regular expression or a sequence of them, got 3.",
    ),
    "norms without readers": (
        KEYS,
        WRITERS,
        ["norm"],
        (),
        TypeError,
        "norms must be a dictionary from a rule for norms to one for what reads them, got "
        "['norm'].",
    ),
    "a rule that matches nothing": (
        [EMBED, FINAL],
        "embedding",
        {},
        (),
        ValueError,
        "'embedding' in writers matches none of 'embed', 'final/scale'.",
    ),
    "a rule that matches none of many": (
        MANY,
        "embed",
        {},
        (),
        ValueError,
        f"'embed' in writers matches none of {FORTY} and 5 more.",
    ),
    "a norm that nothing reads": (
        [EMBED, FINAL],
        "embed",
        {"(final)": r"\1/head"},
        (),
        ValueError,
        "Nothing reads the norm 'final': 'final/head' matches the beginning of none of 'embed', "
        "'final/scale'.",
    ),
    "a group that the rule lacks": (
        [EMBED, FINAL],
        "embed",
        {"(final)": r"\2"},
        (),
        ValueError,
        r"'\\2' in norms refers to group 2, which '(final)' lacks.",
    ),
    "a tied embedding": (
        [EMBED, FINAL],
        "embed",
        {"final": "embed"},
        (),
        ValueError,
        "'embed' writes to the stream and is among the readers of 'final', as a tied output "
        "embedding: centring it would change what it reads. Untie it first: give the head a kernel "
        "of its own, the transposed embedding.",
    ),
    "two roles": (
        [EMBED, FINAL, HEAD],
        ("embed", "final"),
        {"final": "head"},
        (),
        ValueError,
        "'final/scale' is among writers and norms; make it one of them.",
    ),
    "three roles": (
        [EMBED, FINAL, HEAD],
        ("embed", "final"),
        {"final": "head"},
        "final",
        ValueError,
        "'final/scale' is among writers and norms and others; make it one of them.",
    ),
    "another one and a reader": (
        [EMBED, FINAL, HEAD],
        "embed",
        {"final": "head"},
        "head",
        ValueError,
        "'head/kernel' is among others and readers of 'final'; make it one of them.",
    ),
    "no role": (
        [EMBED, FINAL, HEAD, ("position",), ("scale",)],
        "embed",
        {"final": "head"},
        (),
        ValueError,
        "No rule says what 'position', 'scale' does. Name it in writers if it adds to the residual "
        "stream, as embeddings of positions do; in norms if it is a LayerNorm or reads one; or in "
        "others.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rules_that_fail(name):
    keys, writers, norms, others, error, message = REFUSED[name]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        assign(keys, writers, norms, others)
