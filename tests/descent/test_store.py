"""The checkpoint store: saves are atomic and verified when read, despite kills and faulty disks."""

import functools
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gdjax.descent.checkpoints import orbax
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.store import Store
from gdjax.descent.errors import CheckpointError

ROOT = pathlib.Path(__file__).parents[2]


def state(step, size=700):
    """Return arrays that are equal in every process."""
    normal = np.random.default_rng(step).normal(size=size).astype("float32")
    return {"params/w": normal.reshape(7, -1), "params/b": normal[:3], "count": np.array(step, np.int32)}


def checkpoint_of(step, size=700):
    return Saved(state(step, size), {"step": step})


@pytest.fixture
def store(tmp_path):
    with Store(Checkpoints(tmp_path / "run")) as store:
        yield store


def save_steps(folder, steps, **options):
    """Save checkpoints of these steps and return the folder."""
    with Store(Checkpoints(folder, **options)) as store:
        for step in steps:
            store.save(step, checkpoint_of(step))
    return folder


def newest_in(folder, like=None):
    """Return the newest checkpoint in a folder."""
    with Store(Checkpoints(folder)) as store:
        return store.newest(like)


def assert_saved(newest, step, size=700):
    """Check that this is the checkpoint of a step, bit by bit."""
    assert newest is not None
    assert newest[0] == step
    assert newest[1].about == {"step": step}
    assert_equal(newest[1].arrays, state(step, size))


def assert_equal(arrays, expected):
    """Check keys in order, dtypes, shapes and bytes; chex would take all NaNs for equal."""
    assert list(arrays) == list(expected)
    for key, x in expected.items():
        assert (arrays[key].dtype, arrays[key].shape) == (x.dtype, x.shape)
        assert np.asarray(arrays[key]).tobytes() == np.asarray(x).tobytes()


UNUSUAL_ARRAYS = {
    "opt_state/Partition/inner_states/.*[^/]\\.b'\"/Masked/ü x": np.float32([1.0, np.nan]),
    "params/": np.array(5.0, jnp.bfloat16),
    "a": np.arange(6).reshape(2, 3) > 2,
    "a/0": np.array([[1 + 2j]], "complex64"),
    "empty": np.zeros((0, 3), jnp.bfloat16),
    "history/loss": np.linspace(0.0, 1.0, 3),
    "key": np.uint32([1, 2**32 - 1]),
    "..": np.array(-(2**40)),
    "f8": np.array([0.5], jnp.float8_e4m3fn),
}


def test_arrays_of_any_key_and_dtype_are_restored_bitwise(store):
    store.save(1, Saved(UNUSUAL_ARRAYS, {"optimizer": "adam(...)", "position": [3, None, 0.1]}))
    step, restored = store.newest()
    assert step == 1
    assert restored.about == {"optimizer": "adam(...)", "position": [3, None, 0.1]}
    assert_equal(restored.arrays, UNUSUAL_ARRAYS)


def test_an_empty_store_has_no_checkpoint(store):
    assert store.latest() is None
    assert store.newest() is None


def test_a_reopened_store_finds_the_newest_checkpoint(tmp_path):
    assert_saved(newest_in(save_steps(tmp_path, [1, 2, 10])), 10)


def test_an_existing_step_is_not_overwritten(store):
    store.save(1, checkpoint_of(1))
    store.save(1, Saved({"count": np.int32(7)}, {}))
    assert_saved(store.newest(), 1)


def test_a_checkpoint_of_another_format_is_not_reported_as_broken(store, monkeypatch):
    monkeypatch.setattr(orbax, "FORMAT", 0)
    store.save(1, checkpoint_of(1))
    store.wait()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"step 1 .* another version .* its format is 0, this one reads 1"):
        store.newest()


def test_metadata_that_is_not_json_is_refused_by_save(store):
    with pytest.raises(TypeError, match="JSON"):
        store.save(1, Saved({}, {"tx": object()}))


# Arrays may be donated or changed as soon as save returns


def sharded(*names):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*names))


@pytest.mark.parametrize("placed", [None, (), ("data",)], ids=["one device", "replicated", "sharded"])
def test_buffers_can_be_donated_as_soon_as_save_returns(store, placed):
    sharding = None if placed is None else sharded(*placed)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: 3.0 * x + 1.0, tree), donate_argnums=0)
    arrays = {f"w{i}": jnp.full((64, 1000), i, jnp.float32, device=sharding) for i in range(20)}
    arrays = step(arrays)
    for number in range(1, 4):
        expected = {key: np.array(x) for key, x in arrays.items()}
        arrays = jax.tree.map(lambda x: x + 0.0, arrays)  # new buffers, not yet copied to the host
        store.save(number, Saved(arrays, {}))
        for _ in range(5):
            arrays = step(arrays)
        jax.block_until_ready(arrays)
        assert_equal(store.newest()[1].arrays, expected)


def test_numpy_arrays_and_metadata_can_be_changed_as_soon_as_save_returns(store):
    checkpoint = checkpoint_of(1)
    store.save(1, checkpoint)
    checkpoint.arrays["params/w"][:] = 0.0
    checkpoint.about["step"] = 9
    assert_saved(store.newest(), 1)


# Shardings


@pytest.mark.parametrize("over_all", [False, True])
@pytest.mark.parametrize("struct", [False, True])
def test_a_checkpoint_is_restored_with_the_given_shardings(store, over_all, struct):
    w = jnp.arange(64.0).reshape(16, 4)
    store.save(1, Saved({"w": jax.device_put(w, sharded("data")) if over_all else w, "b": w[0]}, {}))
    like = {"w": jax.device_put(w, sharded("data", None))}
    if struct:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    arrays = store.newest(like)[1].arrays
    assert arrays["w"].sharding == sharded("data", None)
    assert len(arrays["w"].addressable_shards) == 8
    assert not arrays["w"].weak_type
    assert type(arrays["b"]) is np.ndarray
    assert_equal(arrays, {"w": w, "b": w[0]})


def test_arrays_of_another_shape_or_dtype_than_given_stay_in_numpy(store):
    store.save(1, checkpoint_of(1))
    like = {"params/b": jnp.zeros(4), "count": jnp.zeros((), float)}
    assert {type(x) for x in store.newest(like)[1].arrays.values()} == {np.ndarray}


# Retention


def saved_steps(folder):
    return sorted(int(path.name) for path in folder.iterdir())


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "losses", "expected"),
    [
        ({}, [3.0, 1.0, 2.0, 4.0, 5.0], [2, 4, 5]),
        ({"keep_best": 0}, [3.0, 1.0, 2.0, 4.0], [3, 4]),
        ({"keep_last": 1, "keep_best": 2}, [3.0, 1.0, 2.0, 4.0, 5.0], [2, 3, 5]),
        ({"best": ("loss", "max")}, [3.0, 1.0, 2.0, 2.5], [1, 3, 4]),
        ({}, [NAN, 3.0, NAN, 4.0, NAN], [2, 4, 5]),
        ({}, [float("-inf"), 3.0, 4.0, 5.0], [2, 3, 4]),
        ({}, [None, 3.0, None, None, None], [2, 4, 5]),
        ({}, [None, None, None], [2, 3]),
        ({}, [1.0, 1.0, 1.0, 2.0, 3.0], [3, 4, 5]),
        ({"best": "accuracy"}, [1.0, 2.0, 3.0], [2, 3]),
    ],
)
@pytest.mark.parametrize("reopened", [False, True])
def test_the_newest_and_the_best_are_kept(tmp_path, options, losses, expected, reopened):
    store = Store(Checkpoints(tmp_path, **options))
    for step, loss in enumerate(losses, start=1):
        if reopened:
            store.close()
            store = Store(Checkpoints(tmp_path, **options))
        store.save(step, checkpoint_of(step), {} if loss is None else {"loss": loss})
    store.close()
    assert saved_steps(tmp_path) == expected


# Broken checkpoints


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def flip_first(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 0x01
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.long
@pytest.mark.parametrize("fault", [flip, flip_first, truncate, empty, os.unlink])
def test_damage_to_any_one_file_is_harmless_or_the_previous_checkpoint_is_used(tmp_path, fault):
    intact = save_steps(tmp_path / "intact", [1, 2])
    noticed = []
    for name in [path.relative_to(intact) for path in files(intact / "2")]:
        folder = tmp_path / "broken"
        shutil.copytree(intact, folder)
        fault(folder / name)
        with warnings.catch_warnings(record=True) as caught_warnings:
            warnings.simplefilter("always")
            newest = newest_in(folder)
        assert newest is not None
        assert_saved(newest, newest[0])
        if newest[0] == 1:
            [warning] = caught_warnings
            assert "step 2" in str(warning.message)
            assert "that of step 1 is used" in str(warning.message)
            assert (folder / "2.corrupt").is_dir()
            assert not (folder / "2").exists()
            noticed.append(name)
        else:
            assert not caught_warnings
        shutil.rmtree(folder)
    assert [name for name in noticed if "record" in name.parts]
    assert [name for name in noticed if "d" in name.parts], "no fault in a file of the data was found"


def test_one_flipped_bit_in_a_readable_array_is_detected(tmp_path):
    one = save_steps(tmp_path / "one", [1, 2])
    other = state(2)
    other["params/w"].view(np.uint8)[3, 5] ^= 1
    with Store(Checkpoints(tmp_path / "other")) as store:
        store.save(2, Saved(other, {"step": 2}))
    shutil.rmtree(one / "2" / "arrays")
    shutil.copytree(tmp_path / "other" / "2" / "arrays", one / "2" / "arrays")
    with pytest.warns(UserWarning, match="its array 'params/w' differs from the saved one") as caught_warnings:
        assert_saved(newest_in(one), 1)
    assert caught_warnings[0].filename == __file__


def test_a_changed_but_readable_record_is_detected(tmp_path):
    folder = save_steps(tmp_path, [1, 2])
    record = next(path for path in files(folder / "2" / "record") if "text" in path.read_text())
    record.write_text(record.read_text().replace('\\"step\\": 2', '\\"step\\": 3'))
    with pytest.warns(UserWarning, match="its record differs from the saved one"):
        assert_saved(newest_in(folder), 1)


@pytest.mark.long
def test_a_corrupt_step_can_be_saved_again_repeatedly(tmp_path):
    folder = save_steps(tmp_path, [1, 2])
    for _ in range(2):
        flip(next(path for path in files(folder / "2") if "record" in path.parts and "text" in path.read_text()))
        with Store(Checkpoints(folder)) as store:
            with pytest.warns(UserWarning, match="step 2"):
                assert store.newest()[0] == 1
            store.save(2, checkpoint_of(2))
            assert_saved(store.newest(), 2)
    assert {path.name for path in folder.iterdir()} == {"1", "2", "2.corrupt"}


def test_when_all_checkpoints_are_broken_an_error_is_raised_and_nothing_deleted(tmp_path):
    folder = save_steps(tmp_path, [1, 2])
    for path in files(folder):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"step 2 \(.*step 1 \(.*left as they are"):
        newest_in(folder)
    assert saved_steps(folder) == [1, 2]


def test_remains_of_a_killed_save_are_removed_and_other_files_kept(tmp_path):
    folder = save_steps(tmp_path, [1])
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    (folder / "notes").mkdir()
    (folder / "7.corrupt").mkdir()
    (folder / "config.toml").write_text("")
    (folder / "8").write_text("")
    assert_saved(newest_in(folder), 1)
    assert {path.name for path in folder.iterdir()} == {"1", "notes", "7.corrupt", "config.toml", "8"}


# Other processes


def start_process(function, *arguments, before=()):
    """Start a process that calls a function of this file."""
    code = f"import sys; from tests.descent.test_store import {function.__name__} as f; f(*sys.argv[1:])"
    command = [*before, sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_in_process(function, *arguments, before=()):
    """Return the output of a process; check that it ends in time, successfully and without stderr."""
    with start_process(function, *arguments, before=before) as process:
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"the process hangs: {process.communicate()}")
    assert err == ""
    assert process.returncode == 0
    return out


def save_and_restore(folder):
    assert not any(name.startswith(("orbax", "tensorstore")) for name in sys.modules)
    with Store(Checkpoints(folder)) as store:
        for step in range(1, 5):
            store.save(step, checkpoint_of(step))
        assert_saved(store.newest(), 4)


def test_a_run_prints_nothing_and_imports_orbax_only_with_a_store(tmp_path):
    assert run_in_process(save_and_restore, tmp_path) == ""


def without_orbax(folder):
    sys.modules["orbax.checkpoint"] = None
    with pytest.raises(ImportError, match=r"pip install 'gdjax\[train\]'"):
        Store(Checkpoints(folder))


def test_without_orbax_the_error_says_how_to_install_it(tmp_path):
    run_in_process(without_orbax, tmp_path)


def leave_open(folder):
    Store(Checkpoints(folder)).save(2, checkpoint_of(2, 7_000_000))


def test_a_process_that_ends_without_closing_the_store_does_not_hang(tmp_path):
    run_in_process(leave_open, save_steps(tmp_path, [1]))
    assert newest_in(tmp_path)[0] in (1, 2)


def save_forever(folder):
    store = Store(Checkpoints(folder))
    step = store.latest() or 0
    while True:
        step += 1
        store.save(step, checkpoint_of(step, 70_000))
        print(store.latest(), flush=True)


@pytest.mark.long
def test_a_kill_at_any_moment_leaves_the_last_complete_save(tmp_path):
    last = 0
    for delay in (0.0, 0.005, 0.013, 0.021, 0.034, 0.055):
        with start_process(save_forever, tmp_path) as process:
            printed = [process.stdout.readline() for _ in range(3)]
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            rest, err = process.communicate(timeout=60)
        assert err == ""
        reported = int([*printed, *rest.splitlines()][-1])
        newest = newest_in(tmp_path)
        assert newest[0] >= reported > last
        assert_saved(newest, newest[0], 70_000)
        last = newest[0]


# Disks


def error_message(what, *arguments):
    """Return the message of the error that a call raises within seconds."""
    began = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        what(*arguments)
    assert time.monotonic() - began < 20
    return str(error.value)


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def limit(size, folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def do_nothing(folder):
    pass


FAULTS = {
    "full": ("size=2m", 700_000, do_nothing, do_nothing, "no space left on device"),
    "no inodes": (
        "size=64m,nr_inodes=30",
        700,
        do_nothing,
        functools.partial(remount, how="nr_inodes=300"),
        "no space left on device",
    ),
    "read-only": (
        "size=64m",
        700_000,
        functools.partial(remount, how="ro"),
        functools.partial(remount, how="rw"),
        "read-only file system",
    ),
    "a limit": (
        None,
        700_000,
        functools.partial(limit, 100_000),
        functools.partial(limit, resource.RLIM_INFINITY),
        "file too large",
    ),
}
"""Faults: mount options, size of the failing save, how to break and repair the disk, and the message."""


def save_despite_fault(folder, fault):
    _, size, break_disk, repair_disk, why = FAULTS[fault]
    with Store(Checkpoints(folder)) as store:
        store.save(1, checkpoint_of(1))
        store.wait()
        break_disk(folder)
        store.save(2, checkpoint_of(2, size))
        messages = [error_message(store.wait)]
        store.save(2, checkpoint_of(2, size))
        messages += [error_message(store.save, 3, checkpoint_of(3))]
        for sentence in messages:
            assert sentence == (
                f"The checkpoint of step 2 could not be saved in '{folder}': {why}; that of step 1 is intact. "
                "Make room there or take another folder, then resume."
            )
        assert_saved(store.newest(), 1)
        repair_disk(folder)
        store.save(4, checkpoint_of(4))
        store.wait()
        assert saved_steps(pathlib.Path(folder)) == [1, 4]
    assert_saved(newest_in(folder), 4)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_disk_is_reported_at_once_and_loses_no_checkpoint(tmp_path, fault):
    how, command = FAULTS[fault][0], ()
    if how is not None:
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
            pytest.skip("unshare -rm is not permitted here")
        command = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {how} none "{tmp_path}" && exec "$@"', "sh")
    run_in_process(save_despite_fault, tmp_path, fault, before=command)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "within"):
        with pytest.raises(CheckpointError, match=r"folder must be writable, got .*file"):
            Store(Checkpoints(folder))


def not_writable(folder):
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    assert "permission denied" in error_message(Store, Checkpoints(folder))


def test_a_folder_without_write_permission_is_refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owned")
    folder.chmod(0o555)
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    run_in_process(not_writable, folder)


# Options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"folder": 3}, "folder must be a path, got 3"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"every": 1.5}, "every must be an integer, got 1.5"),
        ({"seconds": 0}, r"seconds must lie in \(0, inf\], got 0"),
        ({"seconds": NAN}, "seconds must lie in"),
        ({"seconds": None}, "seconds must lie in"),
        ({"keep_last": 0}, "keep_last must be at least 1, got 0"),
        ({"keep_last": None}, "keep_last must be an integer, got None"),
        ({"keep_best": -1}, "keep_best must be at least 0, got -1"),
        ({"keep_best": True}, "keep_best must be an integer, got True"),
        ({"best": ("loss", "least")}, "best must be the name of a metric"),
        ({"best": None}, "best must be the name of a metric"),
    ],
)
def test_invalid_options_are_refused_by_name(option, message):
    with pytest.raises((TypeError, ValueError), match=f"Checkpoints: {message}"):
        Checkpoints(**{"folder": "run", **option})


def test_options_are_comparable_and_hashable():
    options = Checkpoints("run", every=3)
    assert options == Checkpoints(pathlib.Path("run"), every=3, best=("loss", "min"))
    assert hash(options) == hash(Checkpoints("run", every=3))
    assert eval(repr(options), {"Checkpoints": Checkpoints, "PosixPath": pathlib.PosixPath}) == options
