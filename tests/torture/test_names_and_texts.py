"""Names of files, numbers and texts that nobody thought of."""

import collections
import contextlib
import math
import threading
import tracemalloc
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdjax as gd
from gdjax.value.printing import DTYPES
from tests.samples import REQUIRED

# Texts: whatever prints an expression is read back.


@gd.transform
def probe(static: Any = None, leaf: gd.Scalar = 1.0):
    """Take anything as a static argument, and any number as a leaf."""
    return gd.identity().pair()


def read_back(value, *own):
    """Read what a value prints; `None` where the print has no expression, and says so by angle brackets."""
    printed = repr(value)
    try:
        again = gd.problems.parse(printed) if isinstance(value, gd.problems.Problem) else gd.parse(printed, *own)
    except gd.ParseError:
        if "<" not in printed:
            raise
        return None
    assert repr(again) == printed
    assert again == value
    return again


def numbers_of(dtype):
    """Every number of an 8-bit dtype, many of a 16-bit one, and random bits of a wider one."""
    rng = np.random.default_rng(0)
    if dtype.name == "bool":
        return np.array([True, False])
    if dtype.name in ("int2", "int4", "uint2", "uint4", "float4_e2m1fn"):
        return np.arange(-2 if dtype.name.startswith("int") else 0, 2).astype(dtype)
    if dtype.itemsize == 1:
        return np.arange(256, dtype=np.uint8).view(dtype)
    if dtype.itemsize == 2:
        return np.arange(0, 2**16, 31, dtype=np.uint16).view(dtype)
    found = np.frombuffer(rng.bytes(200 * dtype.itemsize), dtype).copy()
    edges = [0, 1] if dtype.kind in "iu" else [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 5e-324]
    with np.errstate(over="ignore", under="ignore"):
        found[: len(edges)] = np.array(edges).astype(dtype)
    return found


@pytest.mark.parametrize("name", DTYPES)
def test_every_number_of_every_dtype_is_read_back(name):
    numbers = numbers_of(DTYPES[name])
    for array in (numbers, numbers[:6].reshape(2, -1), numbers[0], numbers[:0].reshape(0, 3)):
        kept = np.asarray(array)
        assert read_back(probe(static=kept), probe) is not None
        assert read_back(probe(leaf=kept), probe) is not None
    if numbers.itemsize < 8:  # JAX has no wider ones here
        assert read_back(probe(leaf=jnp.asarray(numbers)), probe) is not None


parts = [0.0, -0.0, 1.5, -2.0, math.nan, math.inf, -math.inf]
READ = {
    "complex": [complex(real, imag) for real in parts for imag in parts],
    "arrays of complex": np.array([complex(real, imag) for real in parts for imag in parts]),
    "numbers": [5e-324, -0.0, math.inf, -math.inf, math.nan, 2**64 - 1, -(2**63), True, None],
    "no elements": (np.zeros((2, 0, 3)), np.zeros((3, 0), np.int8), jnp.zeros((0, 2), jnp.bfloat16)),
    "strings": ("a\"b'c\n\r\t\0<x>\x7f\x85\u2028\udc80\\", "<lambda>", "\\d", "#", "", "x" * 1_000),
    "containers": {"a": {1: (2,), False: ()}, "b": [[], {}, ({},)]},
    "dtypes": [jnp.float32, np.dtype("bool"), jnp.int4, jnp.float8_e4m3fn],
    "keys": (jax.random.key(1), jax.random.split(jax.random.key(2)), jax.random.key(3, impl="rbg")),
    "scalars of NumPy": (np.float16(0.1), np.int8(-3), np.bool_(True), np.complex64(1 - 2j), jnp.bfloat16(-0.0)),
}


@pytest.mark.parametrize("name", READ)
def test_static_arguments_are_read_back(name):
    assert read_back(probe(static=READ[name]), probe) is not None


UNREADABLE = {
    "wide integer": 2**64,
    "bytes": b"a\n'",
    "long string": "x" * 1_001,
    "frozen set": frozenset({"b", "a"}),
    "None as a key": {None: 1},
    "float as a key": {1.5: {(1, 2): 3}},
    "ordered dict": collections.OrderedDict(a=1),
    "big-endian dtype": np.dtype(">f4"),
    "big-endian array": np.array([1.0], ">f4"),
    "objects": np.array([None, "a"]),
    "dates": np.array([], "datetime64[s]"),
    "large array": np.zeros(100_001, np.float32),
    "spec": jax.sharding.PartitionSpec("a"),
    "ellipsis": ...,
    "range": range(3),
    "function": len,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_has_no_expression_says_so_and_is_refused(name):
    value = probe(static=UNREADABLE[name])
    printed = repr(value)
    assert "<" in printed
    assert len(printed) < 200
    assert repr(probe(static=UNREADABLE[name])) == printed
    with pytest.raises(gd.ParseError, match=r"what prints as <\.\.\.> has no text"):
        gd.parse(printed, probe)


def test_every_nan_equals_every_other_in_its_place_alone():
    one, other = np.array([math.nan, 1.0]), np.array([-math.nan, 1.0])
    assert probe(static=one) == probe(static=other) == probe(static=one.copy())
    assert probe(static=one) != probe(static=one[::-1])
    assert probe(static=complex(math.nan, 1.0)) == probe(static=complex(-math.nan, 1.0))
    assert probe(static=complex(math.nan, 1.0)) != probe(static=complex(1.0, math.nan))


def test_a_deleted_array_prints():
    array = jnp.ones(3)
    value = probe(leaf=array)
    array.delete()
    assert repr(value) == "probe(static=None, leaf=<deleted float32[3]>)"


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**60, 2**80),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.sampled_from([*DTYPES.values(), jnp.float32, np.float16(0.1), np.uint8(200), jax.random.key(1)]),
)
arrays = st.builds(
    lambda dtype, shape, seed: np.resize(np.random.default_rng(seed).permutation(numbers_of(dtype)), shape),
    st.sampled_from([dtype for dtype in DTYPES.values() if dtype.itemsize != 2]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 9),
)
literals = st.recursive(
    st.one_of(scalars, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.floats(), st.none()), inner, max_size=2),
    ),
    max_leaves=4,
)
FACTORIES = {**gd.factories(), **gd.problems.factories()}


@st.composite
def calls(draw):
    """A factory and arguments: those required, and one of them or of the others a literal of any kind."""
    factory = FACTORIES[draw(st.sampled_from(sorted(FACTORIES)))]
    parameters = [p for p in factory.signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    given = {p.name: REQUIRED[p.name] for p in parameters if p.default is p.empty and p.name in REQUIRED}
    changed = {draw(st.sampled_from([p.name for p in parameters])): draw(literals)} if parameters else {}
    return factory, {**given, **changed}


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(calls())
def test_whatever_a_factory_takes_prints_and_is_read_back(call):
    factory, arguments = call
    with warnings.catch_warnings(action="ignore"):  # of Optax's factories
        try:
            value = factory(**arguments)
        except (TypeError, ValueError, AttributeError, AssertionError, KeyError, OverflowError):
            return  # it refuses this literal
        read_back(value)


# Texts: parsing costs nothing, and errors are short.

HUGE = ["1000000000", "9223372036854775807", "(1000000000, 1000000000)"]


@pytest.mark.parametrize("name", FACTORIES)
def test_parsing_allocates_nothing_whatever_the_sizes(name):
    factory = FACTORIES[name]
    parse = gd.parse if name in gd.factories() else gd.problems.parse
    parameters = [p for p in factory.signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    given = {p.name: REQUIRED.get(p.name) for p in parameters if p.default is p.empty}
    tracemalloc.start()
    try:
        for parameter in parameters:
            for huge in HUGE:
                others = [f"{key}={value!r}" for key, value in given.items() if key != parameter.name]
                text = f"{name}({', '.join([*others, f'{parameter.name}={huge}'])})"
                with warnings.catch_warnings(action="ignore"), contextlib.suppress(gd.ParseError):
                    parse(text)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(gd.problems.factories()))
def test_sizes_beyond_what_an_axis_holds_are_refused_by_name(name):
    sizes = {n: p for n, p in FACTORIES[name].signature.parameters.items() if p.annotation is int and n != "seed"}
    for size in sizes:
        with pytest.raises(gd.ParseError, match=rf"{name}: {size} must be at most 2,147,483,647, got 2147483648"):
            gd.problems.parse(f"{name}({size}=2147483648)")


LONG = {
    "a name": "x" * 10_000,
    "a call": "adam(" + "x" * 10_000 + ")",
    "a keyword": "adam(" + "x" * 10_000 + "=1)",
    "a string": "adam('" + "x" * 900 + "')",
    "bytes": "adam(b'" + "x" * 10_000 + "')",
    "a list": "adam(" + repr([1.0] * 10_000) + ")",
    "a list alone": repr([1.0] * 10_000),
    "a dict": "problem(" + repr({"x" * 900: 1}) + ")",
    "digits": "adam(" + "9" * 10_000 + ")",
    "a number": "9" * 4_000,
    "syntax": "adam(" * 50 + "'" + "x" * 10_000,
    "brackets": "[" * 3_000 + "]" * 3_000,
    "an argument": "add_noise(0.1, 0.5, '" + "y" * 900 + "')",
    "a transform for a problem": "chain(" + "clip(1.0), " * 1_000 + ")",
}


@pytest.mark.parametrize("parse", [gd.parse, gd.problems.parse, gd.problems.find])
@pytest.mark.parametrize("name", LONG)
def test_an_error_repeats_at_most_200_characters(parse, name):
    text = LONG[name]
    try:
        parse(text)
    except gd.ParseError as error:
        said = str(error)
        repeated = sum(said.count(kind * 5) * 5 for kind in "xy9[]") + 4 * said.count("1.0,") + 10 * said.count("clip(")
        assert repeated <= 200
        assert len(said) < 900


def test_parsing_in_threads_leaves_warnings_as_they_are():
    before, shown = list(warnings.filters), warnings.showwarning
    texts = [f"by_path({{'{i}\\d\\w+': sgd(0.1), '.*': chain(clip(1.0), adam(0.1))}})" for i in range(40)]
    together = threading.Barrier(4)

    def parse_all():
        together.wait(60)
        for text in texts:
            gd.parse(text)

    threads = [threading.Thread(target=parse_all) for _ in range(4)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert list(warnings.filters) == filters
        warnings.warn("heard", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["heard"]
    assert (list(warnings.filters), warnings.showwarning) == (before, shown)


def test_backslashes_that_escape_nothing_stand_for_themselves():
    assert gd.parse(r"masked(sgd(0.1), '\d\.\'\w')") == gd.masked(gd.sgd(0.1), "\\d\\.'\\w")
    assert gd.parse(r"masked(sgd(0.1), r'\d\.\w')") == gd.masked(gd.sgd(0.1), r"\d\.\w")
    assert gd.parse(r"masked(sgd(0.1), '\n\\d\x41\u0041')") == gd.masked(gd.sgd(0.1), "\n\\dAA")
    for text in ("masked(sgd(0.1), '\\d", "'''\\d\"", "\\'" * 100_000, "a" * 400_000 + "\\"):
        with pytest.raises(gd.ParseError):
            gd.parse(text)
