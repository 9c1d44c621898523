"""`parse` reads the repr of every value, refuses all other text, and executes nothing."""

import contextlib
import string
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdjax as gd
from tests.samples import names, sample


@pytest.mark.parametrize("name", names(gd.GradientTransform) + names(gd.Schedule))
def test_every_factory_round_trips_through_parse(name):
    value = sample(name)
    assert gd.parse(repr(value)) == value
    arrays = jax.tree.map(jnp.float32, value)
    assert gd.parse(repr(arrays)) == arrays
    assert gd.parse(repr(gd.stack([value, value]))) == gd.stack([value, value])


numbers = st.floats(0, 0.99)
schedules = st.one_of(
    st.builds(gd.constant, numbers),
    st.builds(lambda peak, warmup, rest: gd.warmup_cosine(peak, warmup, warmup + rest), numbers, numbers, numbers),
    st.builds(gd.warmup_stable_decay, numbers, numbers, numbers, numbers),
    st.builds(gd.cosine_decay_schedule, numbers, st.integers(1, 2**40)),
)
dtypes = st.sampled_from([None, jnp.bfloat16, np.dtype("float32"), "float32"])
arrays = st.builds(
    lambda items, dtype: jnp.asarray(items, dtype),
    st.lists(numbers, min_size=1, max_size=3),
    st.sampled_from(["float32", "bfloat16", "float16"]),
)
leaves = st.one_of(
    st.builds(gd.sgd, st.one_of(numbers, schedules, arrays), momentum=st.none() | numbers, accumulator_dtype=dtypes),
    st.builds(gd.adamw, numbers, b1=numbers, mask=st.dictionaries(st.text(), st.booleans()), nesterov=st.booleans()),
    st.builds(gd.clip, st.floats(1e-9) | arrays),
    st.builds(gd.prodigy, numbers, betas=st.tuples(numbers, numbers)),
)
patterns = st.text("ab/.*", min_size=1).filter(lambda pattern: "**" not in pattern and pattern[0] != "*")
transforms = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: gd.chain(*parts)),
        st.dictionaries(patterns, inner, min_size=1).map(gd.by_path),
        st.dictionaries(st.text(), inner, max_size=3).map(lambda parts: gd.named_chain(*parts.items())),
        st.builds(gd.masked, inner, st.lists(st.booleans(), max_size=2)),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(transforms)
def test_compositions_round_trip_through_parse(tx):
    again = gd.parse(repr(tx))
    assert again == tx
    assert repr(again) == repr(tx)
    assert jax.tree.structure(again) == jax.tree.structure(tx)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid syntax"),
        ("chain(clip(1.0), adamv(1e-3))", r"unknown name 'adamv', did you mean 'adam', at column 18"),
        ("adam(0.1).init", "attribute access"),
        ("gd.adam(0.1)", r"attribute access; names stand alone, adam\(...\)"),
        (repr(gd.sgd(lambda count: 0.1)), "what prints as <...> has no text"),
        ("adam(0.1).__class__", "attribute access"),
        ("__import__('os')", "unknown name '__import__', at column 1"),
        ("adam(lambda: 0.1)", "a lambda"),
        ("chain(*[clip(1.0)])", r"\* is not read"),
        ("adam(**{'learning_rate': 0.1})", r"\*\* is not read"),
        ("[clip(x) for x in (1, 2)]", "a comprehension"),
        ("adam(f'{1}')", "an f-string"),
        ("adam(rate := 0.1)", "an assignment"),
        ("adam(0.1 if True else 0.2)", "IfExp"),
        ("adam(1e-3 * 2)", "arithmetic"),
        ("adam(10 ** 10)", "arithmetic"),
        ("adam(not 1)", "arithmetic"),
        ("adam(1 < 2)", "a comparison"),
        ("adam(b1[0])", "an index"),
        ("adam(0.1)(0.2)", "a call of a call"),
        ("adam", r"adam must be called: adam\(...\)"),
        ("adam()", "missing a required argument: 'learning_rate'"),
        ("adam(0.1, lr=2)", "adam: no parameter 'lr'"),
        ("adam(0.1, b1=0.9, b1=0.8)", "b1 is given twice, at column 19"),
        ("adam(0.1, b2=1.5)", r"b2 must lie in \[0, 1\), got 1.5"),
        ("adam(b'0.1')", "no value of a hyperparameter"),
        ("adam(...)", "no value of a hyperparameter"),
        ("adam(1e999)", "too large for a float"),
        (f"adam({'9' * 30})", "more than 64 bits"),
        (f"adam({'9' * 9000})", "an integer of more than 64 bits"),
        (f"adam({'-' * 5000}1)", "nested deeper than 50 levels"),
        ("'a'" + ".b" * 5000, "nested deeper than 50 levels"),
        ("sgd(1 is 1)", "a comparison is neither a call by name nor a literal, at column 7"),
        ("sgd(1if 2else 3)", "invalid number 1if, at column 5"),
        ("sgd(b'\\777')", "no value of a hyperparameter"),
        ("sgd('\\777')", "learning_rate must be a number"),
        ("sgd(\0)", "the text must be UTF-8 without null characters"),
        (f"clip('{'a' * 2000}')", "a string of 2,000 characters"),
        ("clip({1.5: 2})", "keys of a dict"),
        ("by_path({'a': sgd(1), 'a': sgd(2)})", "a key is given twice"),
        ("clip({None: 2})", "keys of a dict"),
        ("clip({**{}})", "keys of a dict"),
        ("clip(array([1, [2]], float32))", "inhomogeneous|sequence"),
        ("clip(array('a', 'S2000000000'))", "the dtype must be one of"),
        ("scale(array(adam(0.1), bool))", "at column 7"),
        ("scale(array('1e5', float32))", "at column 7"),
        ("clip(-'a')", "only a number has a sign"),
        ("clip('a' + 1j)", "only a number has a sign"),
        ("1.0", "a transform or a schedule is needed, not 1.0"),
        ("clip(1.0); clip(2.0)", "invalid syntax"),
        ("import os", "invalid syntax"),
        ("clip(\n  adamv(1))", "line 2, column 3"),
        ("clip(1\0)", "null"),
        ("clip('\ud800')", "surrogates|."),
        ("opaque_transform(1)", "unknown name"),
    ],
)
def test_any_other_text_is_refused_with_its_place(text, message):
    with pytest.raises(gd.ParseError, match=message):
        gd.parse(text)


DEEP = {
    "brackets": "chain(" * 5_000 + ")" * 5_000,
    "lists": "clip(" + "[" * 150 + "]" * 150 + ")",
    "values": "chain(" * 60 + "clip(1)" + ")" * 60,
    "minus": "clip(" + "-" * 100_000 + "1)",
    "few minus": "clip(" + "-" * 300 + "1)",
    "not": "not " * 50_000 + "1",
    "attributes": "a" + ".b" * 100_000,
    "calls": "clip" + "()" * 50_000,
    "sums": "1" + "+1" * 100_000,
    "powers": "clip(9**9**9**9**9)",
    "lambdas": "lambda: " * 5_000 + "1",
    "conditions": "1 if 1 else " * 20_000 + "1",
    "strings": "'a' " * 100_000,
    "hexadecimal": "clip(0x" + "f" * 100_000 + ")",
    "f-strings": "f'{" * 100,
    "long": "clip(1.0)" + " " * 2_000_000 + "x",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_long_texts_are_refused_quickly(name):
    start = time.perf_counter()
    with pytest.raises(gd.ParseError):
        gd.parse(DEEP[name])
    assert time.perf_counter() - start < 20


def test_a_deep_value_is_printed_compared_and_hashed_quickly():
    deep = gd.parse("masked(" * 40 + "clip(1.0)" + ", True)" * 40)
    start = time.perf_counter()
    assert gd.parse(repr(deep)) == deep
    assert hash(deep) == hash(gd.parse(repr(deep)))
    assert time.perf_counter() - start < 20


def test_bytes_are_refused():
    with pytest.raises(gd.ParseError, match="reads a string, got bytes"):
        gd.parse(b"clip(1.0)")


PIECES = [
    "clip",
    "adam",
    "chain",
    "by_path",
    "array",
    "float32",
    "inf",
    "nan",
    "None",
    "True",
    "x",
    "__import__",
    "key",
]
PIECES += ["lambda", "for", "in", "if", "else", "await", "yield", "print", "eval", "exec", "open", "0.1", "1e9", "1j"]
PIECES += [*"()[]{},:=.*+-/%@<>~^|&!'\"\\;#\n\t ", "**", ":=", "==", "f'", "b'", "r'", "'a'", "1", "-1", "sgd(0.1)"]
texts = st.one_of(
    st.text(max_size=80),
    st.text(string.printable, max_size=80),
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=20).map(lambda parts: f"chain({''.join(parts)})"),
)


@settings(max_examples=1_500, deadline=5_000, derandomize=True)
@given(texts)
def test_any_text_gives_a_value_or_a_parse_error(text):
    with contextlib.suppress(gd.ParseError):
        assert isinstance(gd.parse(text), (gd.GradientTransform, gd.Schedule))


def test_custom_factories_are_parsed_when_given():
    @gd.transform
    def scale_by_two(power: gd.Scalar = 1.0):
        return gd.scale(2.0**power)

    tx = gd.chain(scale_by_two(3.0), gd.clip(1.0))
    with pytest.raises(gd.ParseError, match="unknown name 'scale_by_two'"):
        gd.parse(repr(tx))
    assert gd.parse(repr(tx), scale_by_two) == tx


def test_keys_and_negative_and_complex_numbers_are_parsed():
    tx = gd.add_noise(0.1, 0.5, jax.random.key(3))
    assert gd.parse(repr(tx)) == tx
    tx = gd.add_noise(0.1, 0.5, jax.random.PRNGKey(3))
    assert gd.parse(repr(tx)) == tx
    assert gd.parse("scale(-2)") == gd.scale(-2.0)
    assert gd.parse("scale(array(1-2j, complex64))").step_size == np.complex64(1 - 2j)
