"""States have the shardings of their parameters, and numbers equal those of one device, for all types of axes."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax as gd
from tests.compiling import compilations, counted, optimized
from tests.samples import VARIANTS, sample
from tests.value import test_lifted

pytestmark = pytest.mark.filterwarnings(f"ignore:({test_lifted.OWN_WARNINGS})")

KINDS = [AxisType.Auto, AxisType.Explicit]
SPECS = {"b": P("model"), "w": P("data", "model")}
OF_EXAMPLES = {"differentially_private_aggregate", "dpsgd"}
"""Transforms that take one gradient per example."""
MEASURES = {"measure_with_ema", "monitor"}
"""Transforms whose updates or states are measurements."""


def grid(kind):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)


def line(kind=AxisType.Auto, name="data"):
    return jax.make_mesh((8,), (name,), axis_types=(kind,))


def numbers(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("b", 6), ("w", (8, 6)))}


def placed(mesh, values, ahead=0):
    at = {name: NamedSharding(mesh, P(*[None] * ahead, *spec)) for name, spec in SPECS.items()}
    return jax.device_put(values, at)


def loss(params):
    return sum(jnp.sum(jnp.square(leaf - 0.3)) for leaf in jax.tree.leaves(params))


def is_lifted(factory):
    """Return whether a factory makes transforms of Optax; the contract tests those written here."""
    return factory.kind is gd.GradientTransform and not factory.function.__module__.startswith("gdjax")


LIFTED = [name for name, factory in sorted(gd.factories().items()) if is_lifted(factory)]
COMPOSITES = [
    "accumulate",
    "apply_if_finite",
    "by_path",
    "chain",
    "lookahead",
    "packed",
    "sam",
    "schedule_free",
    *VARIANTS,
]
"""Transforms that branch, or are made of others."""
ALL = LIFTED + COMPOSITES
CASES = [(name, kind) for name in LIFTED for kind in KINDS] + [(name, AxisType.Explicit) for name in COMPOSITES]


@functools.cache
def transform_of(name):
    factory = gd.factories().get(name)
    if factory is None:
        return gd.parse(name)
    if factory.function.__module__.startswith("gdjax"):
        return sample(name)
    return factory(**test_lifted.arguments(factory, optional=False))


def grads_and_params(name, put, seed):
    """Return gradients, parameters, and the extra arguments: arrays and functions."""
    params = put(numbers(seed))
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    extra = {"value": value, "grad": grads}
    if name in OF_EXAMPLES:
        return put({k: np.stack([g, -0.5 * g]) for k, g in numbers(seed + 10).items()}, ahead=1), params, extra
    return grads, params, extra


def extra_functions(name):
    functions = {"value_fn": loss}
    return functions | ({"obj_fn": loss} if name in ("hutchinson_estimator_diag_hessian", "sophia") else {})


def descend(name, tx, put, eagerly):
    """Return the updates and the state of two steps, and the compiled update."""

    def update(grads, state, params, extra):
        return tx.update(grads, state, params, **extra, **extra_functions(name))

    step = update if eagerly else counted(update)
    state = tx.init(put(numbers()))
    types = leaf_types(state)
    seen = []
    for seed in range(1 if eagerly else 2):
        grads, params, extra = grads_and_params(name, put, seed)
        updates, state = step(grads, state, params, extra)
        seen.append((updates, state))
    return seen, types, params, step


def leaf_types(values):
    """Return shapes, dtypes and shardings; weak types are ignored, since Optax's may change after the first step."""
    return [jax.typeof(leaf).strip_weak_type() for leaf in jax.tree.leaves(values)]


def unsharded(values, ahead=0):
    return jax.tree.map(jnp.asarray, values)


@functools.cache
def on_one_device(name):
    """Return the result on one device, and the number of compilations."""
    seen, _, _, step = descend(name, transform_of(name), unsharded, eagerly=False)
    return seen, compilations(step)


def assert_close(ours, theirs):
    """Check that numbers are close, relative to the largest of each array; unlike chex, compare typed keys too."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        b = np.asarray(b)
        np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=1e-5 * np.abs(b).max(initial=0.3))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_numbers_over_a_mesh_equal_those_of_one_device_and_types_stay(name, kind):
    mesh, tx = grid(kind), transform_of(name)
    packs = name.startswith("packed")  # only explicit types say which leaves are sharded and stay unpacked
    with jax.set_mesh(mesh):
        for eagerly in (False, True) if kind is AxisType.Explicit else (False,):
            seen, types, params, step = descend(name, tx, functools.partial(placed, mesh), eagerly)
            there, compiled = on_one_device(name)
            for (updates, state), (expected_updates, expected_state) in zip(seen, there, strict=False):
                assert_close(updates, expected_updates)
                if not packs:
                    assert_close(state, expected_state)
            if kind is AxisType.Explicit and name not in MEASURES:
                assert leaf_types(state) == types
                assert leaf_types(updates) == leaf_types(params)
                assert eagerly or compilations(step) <= compiled


@pytest.mark.parametrize("name", ALL)
def test_of_state_gives_the_sharding_with_which_init_creates_every_leaf(name):
    mesh = grid(AxisType.Explicit)
    params = placed(mesh, numbers())
    shardings = gd.sharding.of_state(transform_of(name), params)
    state = gd.sharding.init(transform_of(name), params)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    with jax.set_mesh(mesh):
        typed = transform_of(name).init(params)
    for leaf, of, typed_leaf in zip(*map(jax.tree.leaves, (state, shardings, typed)), strict=True):
        assert leaf.sharding == of
        assert of.mesh is mesh
        spec = jax.typeof(typed_leaf).sharding.spec
        assert not any(spec) or of.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)
    assert_close(state, typed)


def specs(tx, mesh, params, of=gd.sharding.of_state, **options):
    return {path: x.spec for path, x in gd.tree.leaves_with_paths(of(tx, params, mesh, **options))}


def trimmed(spec):
    """Return a spec without trailing dimensions that are replicated."""
    names = list(spec)
    while names and names[-1] is None:
        names.pop()
    return tuple(names)


SHAPES = {"b": jax.ShapeDtypeStruct((6,), jnp.float32), "w": jax.ShapeDtypeStruct((8, 6), jnp.float32)}


def shapes(mesh):
    return {
        k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, SPECS[k])) for k, x in SHAPES.items()
    }


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (gd.adam(0.1), {"0/count": (), "0/mu/w": ("data", "model"), "0/nu/b": ("model",)}),
        (
            gd.adafactor(0.1, min_dim_size_to_factor=2),
            {"0/count": (), "0/v_row/w": ("model",), "0/v_col/w": ("data",), "0/v/w": (), "0/v/b": ("model",)},
        ),
        (gd.muon(0.1), {"inner_states/inner/inner_state/0/mu/w": ("data", "model")}),
        (gd.prodigy(), {"exp_avg/w": ("data", "model"), "params0/b": ("model",), "numerator_weighted": ()}),
        (
            gd.by_path({"w": gd.adam(0.1), ".*": gd.sgd(0.1, momentum=0.9)}),
            {
                "inner_states/w/inner_state/0/mu/w": ("data", "model"),
                "inner_states/.*/inner_state/0/trace/b": ("model",),
            },
        ),
        (
            gd.partition({"a": gd.adam(0.1), "z": gd.set_to_zero()}, {"b": "z", "w": "a"}),
            {"inner_states/a/inner_state/0/nu/w": ("data", "model")},
        ),
        (
            gd.lbfgs(memory_size=3),
            {
                "0/diff_params_memory/w": (None, "data", "model"),
                "0/diff_params_memory/b": (None, "model"),
                "0/count": (),
            },
        ),
        (
            optax.lbfgs(memory_size=3),
            {"0/diff_updates_memory/w": (None, "data", "model"), "0/params/w": ("data", "model")},
        ),
        (gd.sm3(0.1), {"0/mu/w/0": ("data",), "0/mu/w/1": ("model",), "0/nu/w": ("data", "model")}),
    ],
    ids=lambda x: str(x)[:12],
)
def test_states_follow_the_parameters(tx, expected, kind):
    mesh = grid(kind)
    found = specs(tx, None, shapes(mesh))
    paths = {path: next((p for p in found if p == path or p.endswith("/" + path)), None) for path in expected}
    assert None not in paths.values(), found
    assert {path: trimmed(found[paths[path]]) for path in expected} == expected


def test_leaves_that_are_sharded_by_type_stay_unpacked():
    tx = gd.packed(gd.adam(0.1))
    typed = specs(tx, None, shapes(grid(AxisType.Explicit)))
    assert trimmed(typed["0/mu/apart/1"]) == ("data", "model")
    assert specs(tx, None, shapes(grid(AxisType.Auto))) == {
        f"0/{x}": P() for x in ("count", "mu/packed/float32", "nu/packed/float32")
    }


def test_of_state_falls_back_to_shapes_and_paths_where_init_fails_with_explicit_axes():
    def init(params):
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])  # leaves with different shardings
        return {"flat": flat, "kept": jax.tree.map(jnp.zeros_like, params), "twice": [jnp.zeros((2, 8, 6))]}

    tx = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    for kind in KINDS:
        found = specs(tx, None, shapes(grid(kind)))
        assert found == {"flat": P(), "kept/b": P("model"), "kept/w": P("data", "model"), "twice/0": P()}


def test_of_state_leaves_the_current_mesh_unchanged():
    other = line(AxisType.Explicit)
    with jax.set_mesh(other):
        gd.sharding.of_state(gd.adam(0.1), shapes(grid(AxisType.Auto)))
        gd.sharding.of_state(gd.adam(0.1), shapes(grid(AxisType.Explicit)))
        assert jax.sharding.get_mesh() == other
        assert jax.sharding.get_abstract_mesh() == other.abstract_mesh


def test_parameters_on_no_mesh_give_replicated_states_on_the_given_mesh():
    mesh = grid(AxisType.Auto)
    assert {*specs(gd.adam(0.1), mesh, numbers()).values()} == {P()}
    state = gd.sharding.init(gd.adam(0.1), numbers(), gd.sharding.of_state(gd.adam(0.1), numbers(), mesh))
    assert all(leaf.sharding == NamedSharding(mesh, P()) for leaf in jax.tree.leaves(state))


def test_of_state_works_inside_jit_and_with_hyperparameters_that_are_arrays():
    mesh = grid(AxisType.Explicit)
    tx = jax.device_put(jax.tree.map(jnp.asarray, gd.adam(0.1)), NamedSharding(mesh, P()))
    params, seen = placed(mesh, numbers()), []
    jax.jit(lambda params: seen.append(specs(tx, mesh, params)))(params)
    assert seen == [specs(gd.adam(0.1), None, params)]
    assert trimmed(seen[0]["0/mu/w"]) == ("data", "model")


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda: gd.sharding.of_state(gd.adam(0.1), numbers()),
            r"of_state: the parameters must lie on one mesh, got no meshes",
        ),
        (
            lambda: gd.sharding.init(gd.adam(0.1), numbers()),
            r"init: the parameters must lie on one mesh, got no meshes",
        ),
        (
            lambda: gd.sharding.of_state(gd.adam(0.1), {**shapes(grid(AxisType.Auto)), "other": _on_a_line()}),
            r"got 2 meshes. Pass mesh=",
        ),
        (
            lambda: gd.sharding.of_state(gd.adam(0.1), shapes(grid(AxisType.Auto)), line()),
            r"of_state: params at 'b' must be sharded over axes of the mesh, 'data', got 'model'",
        ),
        (
            lambda: gd.sharding.zero(gd.adam(0.1), shapes(grid(AxisType.Auto)), axis="expert"),
            r"zero: axis must be one of the mesh, 'data', 'model', got 'expert'",
        ),
    ],
)
def test_wrong_meshes_are_named(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


def _on_a_line():
    return jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(line(), P("data")))


def test_zero_shards_the_first_free_dimension_or_else_a_sharded_one():
    mesh = grid(AxisType.Auto)

    def leaf(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    params = {
        "free": leaf((8, 8)),
        "second": leaf((6, 8)),
        "beside": leaf((8, 4), "model"),
        "further": leaf((16, 3), "model"),
        "there": leaf((8, 8), None, "data"),
        "never": leaf((6, 6)),
        "scalar": leaf(()),
    }
    found = specs(gd.trace(0.9), mesh, params, of=gd.sharding.zero)
    assert {path.removeprefix("trace/"): trimmed(spec) for path, spec in found.items()} == {
        "free": ("data",),
        "second": (None, "data"),
        "beside": ("model", "data"),
        "further": (("model", "data"),),
        "there": (None, "data"),
        "never": (),
        "scalar": (),
    }


def collectives(text):
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    return collections.Counter(re.findall(rf" ({names})(?:-start)?\(", text))


def bytes_per_device(values):
    """Return the bytes that one device holds."""
    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(values))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    ("method", "expected"),
    [("replicated", {"all-reduce"}), ("zero", {"all-reduce", "all-gather"}), ("fsdp", {"all-reduce", "all-gather"})],
)
def test_each_device_holds_its_share_and_only_expected_collectives_run(method, expected, kind):
    mesh, tx = line(kind), gd.adamw(0.1)
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    params = {"in": np.ones((64, 48), np.float32), "out": np.ones((48, 16), np.float32)}
    params = jax.device_put(params, rows if method == "fsdp" else everywhere)
    of = gd.sharding.zero if method == "zero" else gd.sharding.of_state

    def mse(params, batch):
        if method == "fsdp":
            gather = jax.reshard if kind is AxisType.Explicit else jax.lax.with_sharding_constraint
            params = jax.tree.map(lambda x: gather(x, everywhere), params)
        return jnp.mean(jnp.square(jnp.tanh(batch @ params["in"]) @ params["out"]))

    def step(params, state, batch):
        updates, state = tx.update(jax.grad(mse)(params, batch), state, params)
        return gd.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        shardings = of(tx, params)
        state = gd.sharding.init(tx, params, shardings)
        batch = jax.device_put(jnp.ones((16, 64)), rows)
        where = jax.tree.map(lambda x: x.sharding, params), shardings
        step = counted(step, donate_argnums=(0, 1), out_shardings=where)
        compiled = optimized(step.lower(params, state, batch))
        bytes_of_params = 4 * (64 * 48 + 48 * 16)
        share = 1 if method == "replicated" else 8
        assert bytes_per_device(state) == 2 * bytes_of_params / share + 4
        assert bytes_per_device(params) == bytes_of_params / (8 if method == "fsdp" else 1)
        in_and_out = compiled.memory_analysis()
        assert in_and_out.argument_size_in_bytes == bytes_per_device(params) + bytes_per_device(
            state
        ) + bytes_per_device(batch)
        assert set(collectives(compiled.as_text())) == expected
        before = compilations(step)
        for _ in range(3):
            params, state = step(params, state, batch)
    assert compilations(step) == before + 1
    assert all(x.sharding == of for x, of in zip(*map(jax.tree.leaves, (state, shardings)), strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_state_is_created_sharded_without_a_replicated_copy(kind):
    mesh, tx = line(kind), gd.adam(0.1)
    params = jax.device_put({"w": jnp.ones((800, 16))}, NamedSharding(mesh, P("data")))
    shardings = gd.sharding.of_state(tx, params)
    memory = optimized(jax.jit(tx.init, out_shardings=shardings).lower(params)).memory_analysis()
    assert memory.output_size_in_bytes < 2 * 4 * 800 * 16 / 8 + 200
    assert memory.temp_size_in_bytes < 4 * 800 * 16 / 8
    state = gd.sharding.init(tx, params)
    assert {shard.data.shape for shard in state[0].mu["w"].addressable_shards} == {(100, 16)}
    assert len(state[0].count.sharding.device_set) == 8


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_step_from_a_sharded_state_compiles_once(kind):
    mesh, tx = grid(kind), gd.chain(gd.clip_by_global_norm(1.0), gd.adamw(gd.warmup_cosine(0.1, 2, 10)))
    with jax.set_mesh(mesh):
        params = placed(mesh, numbers())
        state = gd.sharding.init(tx, params)
        where = jax.tree.map(lambda x: x.sharding, (params, state))

        @functools.partial(counted, donate_argnums=(0, 1), out_shardings=where)
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return gd.apply_updates(params, updates), state

        for _ in range(3):
            params, state = step(params, state)
    assert compilations(step) == 1


def test_hyperparameters_are_jit_arguments_and_value_fn_keeps_explicit_axes():
    mesh = grid(AxisType.Explicit)
    with jax.set_mesh(mesh):
        params = placed(mesh, numbers())
        batch = jax.device_put(np.ones((8, 8), np.float32), NamedSharding(mesh, P("data")))

        def mse(params):  # it closes over a sharded array and gives an out_sharding itself
            seen = jnp.matmul(batch, params["w"], out_sharding=P("data", None))
            return jnp.mean(jnp.square(seen)) + jnp.mean(jnp.square(params["b"]))

        def step(tx, params):
            value, grads = jax.value_and_grad(mse)(params)
            return tx.update(grads, tx.init(params), params, value=value, grad=grads, value_fn=mse)[0]

        step = counted(step)
        for rate in (0.5, 0.1):
            updates = step(gd.momo(rate), params)
        assert compilations(step) == 1
        searched = step(gd.lbfgs(), params)
        types = jax.tree.map(jax.typeof, (params, params))
        assert jax.tree.map(jax.typeof, (updates, searched)) == types


def test_functions_of_users_keep_explicit_axes():
    mesh = grid(AxisType.Explicit)
    with jax.set_mesh(mesh):
        params = placed(mesh, numbers())
        factors = placed(mesh, numbers(1))
        tx = gd.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))
        assert_close(tx.update(params, tx.init(params))[0], jax.tree.map(np.multiply, numbers(), numbers(1)))


def computations(text):
    """Return the lines of each computation of a compiled program, by name."""
    found, lines = {}, []
    for line in text.splitlines():
        if begins := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            lines = found.setdefault(begins[1], [])
        else:
            lines.append(line)
    return found


def reached(found, names):
    """Return the names of computations, and of all that they call."""
    seen, left = set(), [*names]
    while left:
        if (name := left.pop()) not in seen:
            seen.add(name)
            left += [other for line in found[name] for other in called(line) if other in found]
    return seen


def called(line):
    single = re.findall(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)", line)
    branches = re.findall(r"branch_computations=\{([^}]*)\}", line)
    return single + [name.strip(" %") for branch in branches for name in branch.split(",")]


def reductions(text, within):
    """Return the number of collectives in computations that lines call by a keyword, and elsewhere."""
    found = computations(text)
    entered = [name for lines in found.values() for line in lines for name in called(line) if f" {within}(" in line]
    assert entered, f"no {within} is in the program"
    inside = reached(found, entered)
    counts = {name: sum(collectives("\n".join(lines)).values()) for name, lines in found.items()}
    return sum(counts[name] for name in inside), sum(n for name, n in counts.items() if name not in inside)


def mse(params, batch):
    return jnp.mean(jnp.square(jnp.tanh(batch @ params["in"]) @ params["out"]))


def network():
    rng = np.random.default_rng(0)
    shapes = {"in": (8, 16), "out": (16, 4)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


BATCH = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)


def stepped(tx, put=jnp.asarray, batch=BATCH, loss=mse, **options):
    """Return the text of a compiled step of micro-batches, and the parameters after it."""
    step = jax.jit(gd.make_step(loss, tx, accumulate=4, **options))
    state = gd.State.create(jax.tree.map(jnp.asarray, network()), tx)
    state = jax.tree.map(put, state)
    return optimized(step.lower(state, batch)).as_text(), step(state, batch)


@pytest.mark.parametrize("tx", [gd.adam(0.1), gd.sam(gd.sgd(0.1)), gd.lbfgs()], ids=lambda tx: tx.factory.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_of_micro_batches_are_reduced_once_after_the_loop(tx, kind):
    mesh = grid(kind)
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    options = {"batch_sharding": batch.sharding} if kind is AxisType.Auto else {}
    with jax.set_mesh(mesh):
        text, (state, metrics) = stepped(tx, lambda x: jax.device_put(x, NamedSharding(mesh, P())), batch, **options)
    _, (expected, expected_metrics) = stepped(tx)
    assert_close((state.params, metrics), (expected.params, expected_metrics))
    if tx.factory is gd.adam:
        assert reductions(text, "while") == (0, 1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_parameters_sharded_over_another_axis_match_one_device_and_stay_sharded(kind):
    mesh, tx = grid(kind), gd.adam(0.1)
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    options = {"batch_sharding": batch.sharding} if kind is AxisType.Auto else {}

    def put(x):
        return jax.device_put(x, NamedSharding(mesh, P(None, "model") if x.shape == (8, 16) else P()))

    def tp(params, batch):
        if kind is AxisType.Auto:
            return mse(params, batch)
        hidden = jnp.tanh(batch @ params["in"])
        return jnp.mean(jnp.square(jnp.matmul(jax.reshard(hidden, P()), params["out"])))

    with jax.set_mesh(mesh):
        _, (state, _) = stepped(tx, put, batch, tp, **options)
    assert_close(state.params, stepped(tx)[1][0].params)
    assert trimmed(state.params["in"].sharding.spec) == (None, "model")


def test_parameters_sharded_over_the_batch_axis_are_reduced_at_every_micro_batch():
    mesh, tx = grid(AxisType.Explicit), gd.adam(0.1)

    def put(x):
        return jax.device_put(x, NamedSharding(mesh, P("data") if x.ndim == 2 else P()))

    def gathered(params, batch):
        return mse(jax.tree.map(lambda x: jax.reshard(x, P()), params), batch)

    with jax.set_mesh(mesh):
        batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
        text, (state, _) = stepped(tx, put, batch, gathered)
    assert_close(state.params, stepped(tx)[1][0].params)
    assert trimmed(state.params["in"].sharding.spec) == ("data",)
    assert reductions(text, "while")[0] > 0


def test_without_batch_sharding_each_device_still_uses_its_own_examples():
    mesh, tx = grid(AxisType.Auto), gd.adam(0.1)
    batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
    text, (state, _) = stepped(tx, lambda x: jax.device_put(x, NamedSharding(mesh, P())), batch)
    assert_close(state.params, stepped(tx)[1][0].params)
    assert set(collectives(text)) == {"all-reduce"}  # no example moves


@pytest.mark.parametrize("checked", [False, True])
def test_micro_batches_over_a_named_axis_are_reduced_once(checked):
    mesh, tx = line(), gd.adam(0.1)
    step = gd.make_step(mse, tx, axis_name="data", accumulate=4)
    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    step = jax.jit(jax.shard_map(step, mesh=mesh, **specs, check_vma=checked))
    state = gd.State.create(jax.tree.map(jnp.asarray, network()), tx)
    assert reductions(optimized(step.lower(state, BATCH)).as_text(), "while") == (0, 1)
    assert_close(step(state, BATCH)[0].params, stepped(tx)[1][0].params)


def test_accumulated_gradients_are_reduced_only_when_a_step_is_taken():
    mesh = line()
    tx = gd.accumulate(gd.chain(gd.mean_over("data"), gd.sgd(0.1)), 4)

    def update(grads):
        state = gd.accumulate(gd.sgd(0.1), 4).init(grads)
        state = state._replace(inner_state=((), state.inner_state))
        return jax.lax.scan(lambda state, _: tx.update(grads, state)[::-1], state, length=4)[1]

    each = jax.jit(jax.shard_map(update, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False))
    gradient = np.arange(8.0, dtype=np.float32)
    text = optimized(each.lower(gradient)).as_text()
    assert reductions(text, "conditional") == (1, 0)
    np.testing.assert_allclose(each(gradient)[:, 0], [0.0, 0.0, 0.0, -0.1 * gradient.mean()])


def test_devices_have_separate_keys_and_share_extra():
    def noisy(params, batch, key, extra):
        drawn = jax.random.uniform(key)
        return params * drawn + 0.0 * batch.sum(), ({"mean": batch.mean(), "most": jnp.int32(batch.max())}, drawn)

    mesh, tx = line(AxisType.Explicit), gd.sgd(0.1)
    extra = {"mean": jnp.zeros(()), "most": jnp.zeros((), jnp.int32)}
    with jax.set_mesh(mesh):
        step = jax.jit(gd.make_step(noisy, tx, accumulate=2, has_aux=True))
        batch = jax.device_put(jnp.arange(32.0), NamedSharding(mesh, P("data")))
        state, metrics = step(gd.State.create(1.0, tx, extra=extra), batch)
    np.testing.assert_allclose(
        state.extra["mean"], np.mean([4 * i + 2 for i in range(8)])
    )  # of each device's last micro-batch
    assert state.extra["most"] == 31
    np.testing.assert_allclose(metrics["aux"], metrics["loss"], rtol=1e-6)
    key = jax.random.fold_in(jax.random.key(0), 0)
    keys = [jax.random.fold_in(jax.random.fold_in(key, device), part) for device in range(8) for part in range(2)]
    np.testing.assert_allclose(metrics["loss"], np.mean([jax.random.uniform(key) for key in keys]), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sharding": P("data")}, r"batch_sharding must be a NamedSharding that shards the first axis, got P"),
        (lambda mesh: NamedSharding(mesh, P()), r"must be a NamedSharding that shards the first axis"),
        (
            {"batch_sharding": 1, "axis_name": "data"},
            r"batch_sharding is for jit and has no effect over the axis 'data'",
        ),
        (
            lambda mesh: NamedSharding(mesh, P("data")),
            r"accumulate=3 equal parts on each of 8 devices .* shape \(64, 8\)",
        ),
    ],
)
def test_wrong_batch_shardings_are_refused(options, message):
    options = {"batch_sharding": options(line())} if callable(options) else options
    with pytest.raises(ValueError, match=message):
        gd.make_step(mse, gd.sgd(0.1), accumulate=3, **options)(gd.State.create(network(), gd.sgd(0.1)), BATCH)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_steps_from_a_zero_sharded_state_equal_those_of_one_device(kind):
    def squares(params, batch):
        return jnp.mean(jnp.square(batch @ params["w"] + params["b"]))

    mesh, tx = line(kind), gd.adamw(0.1)
    params = {"b": np.ones(4, np.float32), "w": np.full((8, 4), 0.5, np.float32)}
    batch = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    with jax.set_mesh(mesh):
        there = jax.device_put(params, NamedSharding(mesh, P()))
        state = gd.State.create(there, tx, shardings=gd.sharding.zero(tx, there, mesh))
        assert state.opt_state[0].mu["w"].addressable_shards[0].data.shape == (1, 4)
        assert {x.sharding.mesh for x in jax.tree.leaves(state)} == {mesh}
        stay = jax.tree.map(lambda x: x.sharding, state)
        step = jax.jit(gd.make_step(squares, tx), donate_argnums=0, out_shardings=(stay, None))
        for _ in range(3):
            state, _ = step(state, jax.device_put(batch, NamedSharding(mesh, P("data"))))
        assert state.params["w"].sharding.is_fully_replicated
    expected = gd.State.create(jax.tree.map(jnp.asarray, params), tx)
    for _ in range(3):
        expected, _ = jax.jit(gd.make_step(squares, tx))(expected, batch)
    assert_close(state.params, expected.params)


def test_apply_updates_keeps_the_explicit_sharding_of_parameters():
    mesh = line(AxisType.Explicit)
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P()))
        updates = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("data")))
        assert not any(jax.typeof(gd.apply_updates(params, updates)).sharding.spec)
        assert jax.typeof(gd.apply_updates(updates, params)).sharding.spec[0] == "data"
