"""Unusual file names, numbers and texts."""

import collections
import contextlib
import json
import logging
import math
import os
import pathlib
import re
import sys
import tempfile
import threading
import tracemalloc
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdjax as gd
from gdjax.cli import config, main
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.paths import checkpoint_steps
from gdjax.descent.checkpoints.store import Store
from gdjax.descent.errors import CheckpointError
from gdjax.value.printing import DTYPES
from tests.samples import REQUIRED

# Texts: every printed expression is parsed back.


@gd.transform
def probe(static: Any = None, leaf: gd.Scalar = 1.0):
    """Accept anything as a static argument, and any number as a leaf."""
    return gd.identity().pair()


def read_back(value, *own):
    """Parse the repr of a value; return `None` if it has no expression, which it marks with angle brackets."""
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
    """Return every number of an 8-bit dtype, many of a 16-bit one, and random bits of a wider one."""
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
def test_every_number_of_every_dtype_is_parsed_back(name):
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
def test_static_arguments_are_parsed_back(name):
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
def test_values_without_an_expression_are_marked_and_refused(name):
    value = probe(static=UNREADABLE[name])
    printed = repr(value)
    assert "<" in printed
    assert len(printed) < 200
    assert repr(probe(static=UNREADABLE[name])) == printed
    with pytest.raises(gd.ParseError, match=r"what prints as <\.\.\.> has no text"):
        gd.parse(printed, probe)


def test_nan_hyperparameters_are_equal_only_in_the_same_place():
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
    """Draw a factory with its required arguments, one argument replaced by a literal of any kind."""
    factory = FACTORIES[draw(st.sampled_from(sorted(FACTORIES)))]
    parameters = [p for p in factory.signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    given = {p.name: REQUIRED[p.name] for p in parameters if p.default is p.empty and p.name in REQUIRED}
    changed = {draw(st.sampled_from([p.name for p in parameters])): draw(literals)} if parameters else {}
    return factory, {**given, **changed}


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(calls())
def test_every_accepted_argument_is_printed_and_parsed_back(call):
    factory, arguments = call
    with warnings.catch_warnings(action="ignore"):  # of Optax's factories
        try:
            value = factory(**arguments)
        except (TypeError, ValueError, AttributeError, AssertionError, KeyError, OverflowError):
            return  # the factory refuses this literal
        read_back(value)


# Texts: parsing costs nothing, and errors are short.

HUGE = ["1000000000", "9223372036854775807", "(1000000000, 1000000000)"]


@pytest.mark.parametrize("name", FACTORIES)
def test_parsing_huge_sizes_allocates_nothing(name):
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
def test_sizes_larger_than_an_axis_are_refused_by_name(name):
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
        message = str(error)
        repeated = (
            sum(message.count(kind * 5) * 5 for kind in "xy9[]")
            + 4 * message.count("1.0,")
            + 10 * message.count("clip(")
        )
        assert repeated <= 200
        assert len(message) < 900


def test_parsing_in_threads_does_not_change_warning_filters():
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


def test_backslashes_without_an_escape_are_literal():
    assert gd.parse(r"masked(sgd(0.1), '\d\.\'\w')") == gd.masked(gd.sgd(0.1), "\\d\\.'\\w")
    assert gd.parse(r"masked(sgd(0.1), r'\d\.\w')") == gd.masked(gd.sgd(0.1), r"\d\.\w")
    assert gd.parse(r"masked(sgd(0.1), '\n\\d\x41\u0041')") == gd.masked(gd.sgd(0.1), "\n\\dAA")
    for text in ("masked(sgd(0.1), '\\d", "'''\\d\"", "\\'" * 100_000, "a" * 400_000 + "\\"):
        with pytest.raises(gd.ParseError):
            gd.parse(text)


# Folder names: checkpoints saved there are found again.

FOLDERS = [
    "lr[0.1]",
    "a[!b]*?",
    "{a,b}%s%2F#~",
    "back\\slash\\",
    "gs:",
    "-a",
    " spaces and dots. ..",
    "line\nbreak\r\t\x01\x7f\x85",
    "nfc \u00e9 nfd e\u0301 ² ٣ \u202e 😀",
    os.fsdecode(b"bytes \xff\xfe"),
    "n" * 255,
    "600.corrupt",
    "x.orbax-checkpoint-tmp-1",
]


def arrays_of(step):
    return {"params/w": np.arange(6.0).reshape(2, 3) + step, "count": np.array(step, np.int32)}


def saved_in(folder, steps, **options):
    with Store(Checkpoints(folder, **options)) as store:
        for step in steps:
            store.save(step, Saved(arrays_of(step), {"step": step}))


def newest_in(folder):
    """Return the newest step in a folder; check that its arrays are bitwise equal to those saved."""
    with Store(Checkpoints(folder)) as store:
        step, saved = store.newest()
    assert {key: x.tobytes() for key, x in saved.arrays.items()} == {k: x.tobytes() for k, x in arrays_of(step).items()}
    return step


@pytest.mark.parametrize("name", FOLDERS, ids=range(len(FOLDERS)))
def test_checkpoints_are_restored_from_a_folder_of_any_name(name, tmp_path):
    folder = tmp_path / name / "checkpoints"
    saved_in(folder, [1, 2])
    assert newest_in(folder) == 2
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert newest_in(moved) == 2
    assert not list(pathlib.Path(tempfile.gettempdir()).glob(f"gdjax-*/{name}"))


def test_checkpoints_are_restored_through_links_relative_and_very_long_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real [1]").mkdir()
    (tmp_path / "link").symlink_to("real [1]")
    saved_in("link/../link/[x]/../y", [1])
    assert newest_in(tmp_path / "real [1]" / "y") == newest_in("link/y") == 1
    long = tmp_path / "/".join(["n" * 250] * 14)
    saved_in(long, [3])
    assert newest_in(long) == 3


URLS = ["gs://bucket/run", pathlib.Path("gs://bucket/run"), "s3://a", "file:///tmp/a", "a\0b"]


@pytest.mark.parametrize("folder", URLS, ids=range(len(URLS)))
def test_folders_that_are_not_local_are_refused_at_once(folder):
    with pytest.raises(CheckpointError, match="Checkpoints: folder must"):
        Checkpoints(folder)


def test_a_save_that_cannot_be_read_back_raises_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("gdjax.descent.checkpoints.paths._MISREAD", re.compile("never"))
    with pytest.raises(CheckpointError, match=r"step 1 could not be saved .*lr\[0\.1\].* there is none before it"):
        saved_in(tmp_path / "lr[0.1]", [1])


def test_runs_in_threads_do_not_change_hooks_of_the_process(tmp_path):
    before = sys.unraisablehook, [list(logging.getLogger(name).filters) for name in ("absl", "asyncio")]
    threads = [threading.Thread(target=saved_in, args=(tmp_path / str(i), range(1, 6))) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [newest_in(tmp_path / str(i)) for i in range(3)] == [5, 5, 5]
    after = sys.unraisablehook, [list(logging.getLogger(name).filters) for name in ("absl", "asyncio")]
    assert after == before


FOREIGN_NAMES = ["²", "٣", "x_4", "007", "1_000", "5\n", "99999999999999999999", "3.corrupt", "notes"]


def test_foreign_files_in_the_folder_are_kept(tmp_path):
    for name in FOREIGN_NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("theirs")
    (tmp_path / "dangling").symlink_to("nowhere")
    saved_in(tmp_path, [1, 2, 3], keep_best=0)
    assert checkpoint_steps(tmp_path) == [2, 3]
    assert newest_in(tmp_path) == 3
    assert all((tmp_path / name / "file").read_text() == "theirs" for name in FOREIGN_NAMES)
    assert (tmp_path / "dangling").is_symlink()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_in_place_of_a_checkpoint_is_reported_and_one_in_place_of_a_corrupt_one_skipped(kind, tmp_path):
    def take(name):
        path = tmp_path / name
        path.write_text("theirs") if kind == "file" else path.symlink_to("nowhere")
        return path

    saved_in(tmp_path, [1, 2])
    aside = take("2.corrupt")
    for file in (tmp_path / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step 2 .* is broken .* is now 2\.corrupt-2\."):
        assert newest_in(tmp_path) == 1
    assert aside.is_symlink() or aside.read_text() == "theirs"
    take("7")
    with pytest.raises(CheckpointError, match=r"step 7 could not be saved .*: 7 is there and no folder"):
        saved_in(tmp_path, [7])


# Numbers: counts, seeds and sizes.


def squared_distance(w, batch):
    return ((w - batch) ** 2).mean()


WRONG = [0, -1, 10**30, 10**5_000, -(10**5_000), 2.0, math.nan, math.inf, True, "8", np.int64(3), [1]]
COUNTS = {
    "fit: steps": lambda n: gd.fit(squared_distance, 1.0, gd.sgd(0.1), np.ones(4), steps=n),
    "fit: epochs": lambda n: gd.fit(squared_distance, 1.0, gd.sgd(0.1), np.ones(4), epochs=n),
    "fit: batch_size": lambda n: gd.fit(squared_distance, 1.0, gd.sgd(0.1), np.ones(4), batch_size=n, epochs=1),
    "make_step: accumulate": lambda n: gd.make_step(squared_distance, gd.sgd(0.1), accumulate=n),
    "Evaluate: every": lambda n: gd.Evaluate(float, every=n),
    "stop.steps: number": gd.stop.steps,
    "stop.plateau: patience": gd.stop.plateau,
    "stop.nonfinite: patience": gd.stop.nonfinite,
    "local_steps: every": lambda n: gd.local_steps(gd.sgd(0.1), gd.sgd(0.1), every=n, axis_name="data"),
    "scale_by_soap: every": lambda n: gd.scale_by_soap(every=n),
}


@pytest.mark.parametrize("name", COUNTS)
def test_invalid_counts_are_refused_by_name(name):
    of_factory = "local_steps" in name or "soap" in name  # which accept NumPy integers
    for number in (number for number in WRONG if not (of_factory and isinstance(number, np.integer))):
        with pytest.raises((TypeError, ValueError), match=name) as refused:
            COUNTS[name](number)
        assert len(str(refused.value)) < 250


def test_counts_below_2_to_the_31_are_accepted_and_larger_ones_refused():
    with pytest.raises(ValueError, match="fit: steps must be at most 2,147,483,647, for counts are int32"):
        gd.fit(squared_distance, 1.0, gd.sgd(0.1), np.ones(4), steps=2**31)
    with pytest.raises(ValueError, match="fit: epochs must be at most 536,870,911 where each is 4 steps"):
        gd.fit(squared_distance, 1.0, gd.sgd(0.1), np.ones(4), batch_size=1, epochs=2**29)
    state = gd.State.create(1.0, gd.sgd(0.1))
    with pytest.raises(ValueError, match="count of a State must be at least 0, got -5"):
        gd.fit(squared_distance, state._replace(count=jnp.int32(-5)), gd.sgd(0.1), np.ones(4), steps=5)
    late, never = state._replace(count=jnp.int32(2**31 - 6)), gd.stop.target("loss", below=-1.0)
    for data in (np.ones(4), iter([np.ones(4)] * 9)):
        fit = gd.fit(squared_distance, late, gd.sgd(0.1), data, stop=never, progress=False)
        assert (int(fit.state.count), fit.stopped) == (2**31 - 1, gd.Stopped.STEPS)
        assert fit.history["step"].tolist() == list(range(2**31 - 6, 2**31 - 1))
    full = state._replace(count=jnp.int32(2**31 - 1))
    assert int(gd.make_step(squared_distance, gd.sgd(0.1))(full, np.ones(4))[0].count) == 2**31 - 1


def test_counters_saturate_at_the_largest_integer():
    largest = jnp.int32(2**31 - 1)
    tx = gd.accumulate(gd.sgd(0.1), every=1e12)
    state = tx.init(1.0)._replace(mini_step=largest)
    assert int(tx.update(1.0, state)[1].mini_step) == largest
    tx = gd.reduce_on_plateau(accumulation_size=2**40)
    state = tx.init(1.0)._replace(count=largest)
    assert int(tx.update(1.0, state, value=1.0)[1].count) == largest
    for criterion in (gd.stop.plateau(5), gd.stop.nonfinite(5)):
        kept = jax.tree.map(lambda x: largest if x.dtype == jnp.int32 else x, criterion.init())
        seen = criterion.update(kept, {"loss": math.nan, "grad_norm": math.nan})
        assert largest in [x for x in jax.tree.leaves(seen) if x.dtype == jnp.int32]


KEYS = [2**70, 2**32, -(2**31) - 1, 10**5_000, 1.5, math.nan, None, True, "a", [1], np.ones(2)]


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_invalid_keys_and_seeds_are_refused_by_name(key):
    for who, of in (
        ("State.create", lambda: gd.State.create(1.0, gd.sgd(0.1), key=key)),
        ("fit", lambda: gd.fit(squared_distance, 1.0, gd.sgd(0.1), np.ones(4), steps=1, key=key)),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{who}: key must be a PRNG key"):
            of()


def test_valid_seeds_and_keys_are_accepted():
    seeds = [5, np.int64(5), np.uint32(5), jax.random.key(5)]
    keys = {jax.random.key_data(gd.State.create(1.0, gd.sgd(0.1), key=seed).key).tobytes() for seed in seeds}
    assert len(keys) == 1
    for seed in (-(2**31), -1, 2**32 - 1):
        gd.State.create(1.0, gd.sgd(0.1), key=seed)


# Histories: a few rows at a time.


def test_histories_are_written_and_read_with_little_memory(tmp_path):
    rows = 20_000
    steps = {"step": np.arange(rows), "loss": np.linspace(1, 0, rows, dtype=np.float32), "norm": np.ones(rows)}
    steps["loss"][7] = np.nan
    history = gd.History(steps, {"step": np.arange(0, rows + 1, 1_000), "accuracy": np.ones(rows // 1_000 + 1)})
    path, progress = tmp_path / "metrics.jsonl", types.SimpleNamespace(history=history)
    write = gd.JsonLines(path)
    tracemalloc.start()
    try:
        write(progress)
        assert tracemalloc.get_traced_memory()[1] < 3e6  # as lists of all rows: 13e6
        tracemalloc.reset_peak()
        again = gd.History.read(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert list(again.lines()) == list(history.lines()) == path.read_text().splitlines()
    assert {name: x.dtype for name, x in again.items()} == {"step": int, "loss": float, "norm": float}
    history.add({"step": [rows], "loss": [2.0], "norm": [1.0], "new": [3.0]})
    write(progress)
    assert path.read_text().splitlines()[-1] == '{"step": 20000, "loss": 2.0, "norm": 1.0, "new": 3.0}'


def test_torn_long_and_invalid_lines_of_a_history_are_handled(tmp_path):
    path = tmp_path / "metrics.jsonl"
    long = "x" * 1_000_000
    path.write_text(f'{{"step": 0, "loss": null}}\n{{"step": 1, "loss": 2, "{long}": 1}}\n{{"step": 2, "lo')
    history = gd.History.read(path)
    assert history["step"].tolist() == [0, 1]
    np.testing.assert_array_equal(history["loss"], [math.nan, 2.0])
    np.testing.assert_array_equal(history[long], [math.nan, 1.0])
    path.write_text("no json\n")
    with pytest.raises(json.JSONDecodeError):
        gd.History.read(path)
    path.write_text("")
    assert gd.History.read(path).rows == 0


# The command line: a sentence and status 2, or a file that is parsed back.


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Run `gdjax train` with wrong arguments in a new folder; return its message."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gdjax", "train", *arguments, "--no-cache"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        message = capfd.readouterr().err
        assert message.startswith("gdjax: ")
        assert "Traceback" not in message
        return message

    return run


CONFIGS = {
    f"seed = {2**70}": "seed must be from 0 to 4,294,967,295, got 1180591620717411303424",
    "seed = -1": "seed must be from 0 to 4,294,967,295, got -1",
    "seed = 1.5": "seed must be an integer, got 1.5",
    "seed = true": "seed must be an integer, got True",
    f"seed = {'9' * 5_000}": "is not valid TOML: it has an integer of too many digits",
    f"seed = 0x{'f' * 5_000}": "seed must be from 0 to 4,294,967,295, got an integer of 20,000 bits",
    f"seed = {'[' * 3_000}{']' * 3_000}": "is not valid TOML",
    'batch_size = "8"': "batch_size must be 'full' or an integer, got '8'",
    "batch_size = 0": "batch_size must be from 1 to 2,147,483,647, got 0",
    "batch_size = nan": "batch_size must be an integer or a string, got nan",
    f"steps = {10**30}": "steps must be from 1 to 2,147,483,647, got 1000000000000000000000000000000",
    "steps = 2147483648": "steps must be from 1 to 2,147,483,647, got 2147483648",
    "steps = 0": "steps must be from 1 to 2,147,483,647, got 0",
    "epochs = -3": "epochs must be from 1 to 2,147,483,647, got -3",
    "epochs = [1]": "epochs must be an integer, got [1]",
    'problem = "digits"\nbatch_size = 1\nepochs = 2147483647': "--epochs must be at most 1,494,",
    'problem = "rosenbrock(size=1000000000000)"': "size must be at most 2,147,483,647",
    'problem = "\\u0000"': "the text must be UTF-8 without null characters",
}


@pytest.mark.parametrize("line", CONFIGS, ids=range(len(CONFIGS)))
def test_an_invalid_config_file_is_refused_with_one_sentence(line, tmp_path, refused):
    file = tmp_path / "run" / "config.toml"
    file.parent.mkdir()
    file.write_text(line + "\n")
    for arguments in (["--config", str(file), "--out", "new"], ["--resume", "--out", str(file.parent)]):
        message = refused(*arguments)
        assert CONFIGS[line] in message
        assert len(message) < 1_000
    assert not (tmp_path / "new").exists()


NAMES = {
    "--config": [""],
    "--coordinator": [""],
    "--out": ["", "a\nb", "a\x7f", "a\x1b[31m", "\x85", os.fsdecode(b"\xff"), "gs://bucket/run", "n" * 256],
    "--data": ["", os.fsdecode(b"\xff"), "no\nsuch", "n" * 300],
    "--optimizer": ["", os.fsdecode(b"adam\xff"), "adam(\n", "\x7f"],
    "--problem": ["", os.fsdecode(b"digits\xff"), "digits\n(", "\x7f", "json:dumps", "json:nothing", "json:decoder"],
    "--until": ["", os.fsdecode(b"loss<\xff"), "loss<1\n2"],
    "--mesh": ["", os.fsdecode(b"data=\xff"), "data=1\n2"],
    "--batch-size": ["", "9" * 5_000, "0", "-1", "1.5", "²"],
}


@pytest.mark.parametrize("flag", NAMES)
def test_a_flag_value_that_no_file_can_hold_is_refused_with_one_sentence(flag, refused):
    for value in NAMES[flag]:
        others = ["--problem", "text"] if flag == "--data" else []
        message = refused(flag, value, *others)
        assert len(message) < 1_500
        assert value or f"{flag} must not be empty: leave it out" in message
        assert not value.startswith("json:") or "must be a problem: a function under @gd.problem" in message


@pytest.mark.parametrize("value", ["9" * 5_000, str(10**30), "2147483648", "0", "-1", "1.5", "nan", "²", ""])
@pytest.mark.parametrize("flag", ["--steps", "--epochs", "--seed", "--save-every"])
def test_an_invalid_number_is_refused_by_its_flag(flag, value, refused):
    if flag != "--seed" or value not in ("2147483648", "0"):  # these are valid seeds
        assert f"Invalid value for '{flag}'" in refused(flag, value)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_options_are_parsed_back_from_the_config_file(words):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "config.toml"
        asked = {"problem": words, "optimizer": words, "data": words, "seed": 3}
        config.write(file, asked)
        assert config.read(file) == asked
