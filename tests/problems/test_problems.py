"""Problems are values; what is known of them holds, and their default runs reach their targets."""

import math
import operator
import pathlib
import pickle
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from gdjax import problems
from gdjax.problems import transformer
from gdjax.problems.bundled import load_sklearn
from tests.loops import by_default

SMALL_TEXT = "text(width=16, layers=1, heads=2, length=32, limit=40_000)"
NAMES = [SMALL_TEXT if name == "text" else name for name in problems.factories()]
KEY = jax.random.key(0)


def rows(tree, n=None):
    return jax.tree.map(lambda x: x[:n], tree)


def gradient_norm(tree):
    return float(gd.global_norm(tree))


@pytest.fixture(params=NAMES)
def p(request):
    return problems.parse(request.param)


# The contract.


def test_every_factory_of_the_package_has_a_name_and_is_public():
    exported = {name for name, x in vars(problems).items() if isinstance(x, gd.Factory)}
    assert problems.factories().keys() == exported
    assert all(getattr(problems, name) is factory for name, factory in problems.factories().items())


@pytest.mark.parametrize("name", problems.factories())
def test_every_docstring_has_a_source_an_example_and_its_arguments(name):
    factory = problems.factories()[name]
    doc = factory.__doc__
    assert "Source: " in doc
    assert ">>>" in doc
    assert all(f" {parameter}: " in doc for parameter in factory.slots)
    assert "$" not in factory().summary
    assert factory().summary.endswith(".")


def test_the_start_is_of_the_key_alone(p):
    one, same = p.init(KEY), p.init(jnp.array(KEY))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert all(leaf.dtype == jnp.float32 and not leaf.weak_type for leaf in jax.tree.leaves(one))


def test_the_loss_is_a_finite_scalar_with_a_finite_gradient_alone_and_jitted(p):
    params, batch = p.init(KEY), rows(p.train, 8)
    loss = p.loss(params, batch)
    jitted, gradient = jax.jit(jax.value_and_grad(p.loss))(params, batch)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert math.isfinite(gradient_norm((loss, gradient)))
    assert gradient_norm(gradient) > 0
    np.testing.assert_allclose(loss, jitted, rtol=1e-5)


def test_metrics_are_finite_scalars(p):
    params = p.init(KEY)
    for metric in p.metrics.values():
        assert math.isfinite(jax.jit(metric)(params, rows(p.held_out, 8)))
    if p.target is not None:
        name, _, number = target(p)
        assert name in p.metrics
        assert math.isfinite(number)


def test_bfloat16_parameters_have_a_gradient_of_their_dtype(p):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), p.init(KEY))
    gradient = jax.jit(jax.grad(p.loss))(params, rows(p.train, 8))
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


def test_a_problem_is_a_value(p):
    assert problems.parse(repr(p)) == p
    assert pickle.loads(pickle.dumps(p)) == p
    assert hash(p) == hash(problems.parse(repr(p)))
    leaves, treedef = jax.tree.flatten(p)
    assert treedef.unflatten(leaves) == p
    assert p.replace() == p
    assert isinstance(p, problems.Problem)
    for leaf in range(len(leaves)):
        other = treedef.unflatten([0.99 * x if i == leaf else x for i, x in enumerate(leaves)])
        assert other != p
        assert problems.parse(repr(other)) == other


def test_functions_of_a_problem_that_holds_arrays_are_compiled():
    p, again = (problems.quadratic(condition=jnp.float32(3.0)) for _ in range(2))
    params = jax.jit(p.init)(jax.random.key(0))
    for name in ("init", "loss"):
        assert getattr(p, name) == getattr(again, name)
        assert hash(getattr(p, name)) == hash(getattr(again, name))
    np.testing.assert_allclose(jax.jit(p.metrics["gap"])(params, None), jax.jit(p.loss)(params, None) - p.optimum)
    assert p.loss != problems.quadratic(condition=jnp.float32(4.0)).loss


def test_the_defaults_are_an_optimizer_and_one_length(p):
    assert isinstance(gd.parse(p.optimizer), gd.GradientTransform)
    assert (p.epochs is None) != (p.steps is None)
    assert isinstance(p.epochs or p.steps, int)
    assert p.batch_size == "full" or len(jax.tree.leaves(p.train)[0]) >= p.batch_size > 0


def test_data_are_the_same_each_time_read_only_and_of_one_length(p):
    for part, again in ((p.train, problems.parse(repr(p)).train), (p.held_out, p.held_out)):
        jax.tree.map(np.testing.assert_array_equal, part, again)
        assert len({len(x) for x in jax.tree.leaves(part)}) <= 1
    for x in jax.tree.leaves(rows((p.train, p.held_out))):
        assert isinstance(x, np.ndarray)
        if p.factory is not problems.recommendation:  # noise is added anew
            assert not x.flags.writeable


@pytest.mark.parametrize("name", ["digits", "digits_conv", "regression", "classification", "recommendation"])
def test_nothing_held_out_is_trained_on(name):
    p = problems.parse(name)
    keys = [
        {tuple(row) for row in np.column_stack([x.reshape(len(x), -1) for x in part])} for part in (p.train, p.held_out)
    ]
    assert not keys[0] & keys[1]
    assert [len(x) for x in keys] == [len(p.train[0]), len(p.held_out[0])]


@pytest.mark.parametrize("name", [name for name in NAMES if problems.parse(name).minimizer is not None])
def test_the_minimizer_has_no_gradient_and_the_optimum_for_its_loss(name):
    p = problems.parse(name)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, p.minimizer)
        assert jax.tree.structure(params) == jax.tree.structure(p.init(KEY))
        loss, gradient = jax.jit(jax.value_and_grad(p.loss))(params, p.train)
        assert loss.dtype == jnp.float64
        assert gradient_norm(gradient) <= 1e-12
        assert abs(float(loss) - p.optimum) <= 1e-14
        assert p.loss(p.init(KEY), p.train) > p.optimum


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name != SMALL_TEXT])
def test_the_default_run_reaches_the_target(name):
    p = problems.parse(name)
    if p.target is None:
        assert name == "rastrigin"
        return
    metric, compare, number = target(p)
    for seed in range(SEEDS.get(name, 5)):
        reached = by_default(p, seed)[metric]
        assert compare(reached, number), f"seed {seed}: {metric} is {reached}"


SEEDS = {"digits_conv": 1}


def target(p):
    """A target as its name, its comparison and its number."""
    sign = "<" if "<" in p.target else ">"
    name, number = p.target.split(sign)
    return name, operator.lt if sign == "<" else operator.gt, float(number)


@pytest.mark.parametrize("condition", [1, 10, 1e4])
def test_the_default_heavy_ball_is_as_fast_as_any_condition_needs(condition):
    assert by_default(problems.quadratic(condition))["gap"] < 1e-9


# What is known of each.


def test_the_parabola_has_gradient_6_and_next_weight_4_point_4():
    p = problems.parabola()
    w = p.init(KEY)
    gradient = jax.grad(p.loss)(w, None)
    tx = gd.parse(p.optimizer)
    updates, _ = tx.update(gradient, tx.init(w), w)
    assert (w, p.loss(w, None), gradient) == (5.0, 9.0, 6.0)
    np.testing.assert_allclose(gd.apply_updates(w, updates), 4.4, rtol=1e-7)


@pytest.mark.parametrize(("condition", "size"), [(1, 2), (100, 10), (1e6, 7)])
def test_the_hessian_of_the_quadratic_has_the_stated_condition_and_no_axis(condition, size):
    p = problems.quadratic(condition, size)
    with jax.enable_x64(True):
        hessian = np.asarray(jax.hessian(p.loss)(p.init(KEY), None))
    expected = np.geomspace(1 / condition, 1, size)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), expected, rtol=1e-9)
    assert condition == 1 or np.abs(hessian - np.diag(np.diag(hessian))).max() > 1e-2


def test_a_descent_is_mapped_over_conditions():
    conditions = jnp.array([1.0, 10.0, 100.0])
    many = gd.stack([problems.quadratic(condition) for condition in (1.0, 10.0, 100.0)])
    assert jax.tree.leaves(many)[0].shape == (3,)

    def after(p):
        x = p.init(KEY)
        return jax.lax.fori_loop(0, 20, lambda _, x: x - 0.5 * jax.grad(p.loss)(x, None), x)

    together = jax.vmap(after)(many)
    alone = jnp.stack([after(problems.quadratic(condition)) for condition in conditions])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    sensitivity = jax.grad(lambda p: p.loss(jnp.ones(10), None))(problems.quadratic(7.0))
    assert sensitivity.condition < 0


@pytest.mark.parametrize("size", [2, 3, 6])
def test_rosenbrock_at_its_start_is_what_the_paper_has(size):
    x = np.resize([-1.2, 1.0], size)
    expected = sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(size - 1))
    p = problems.rosenbrock(size)
    np.testing.assert_allclose(p.loss(p.init(KEY), None), expected, rtol=1e-6)


def test_rastrigin_has_a_hollow_near_every_integer_and_starts_in_the_cube():
    p = problems.rastrigin(3)
    x = np.array([1.0, -2.0, 0.3])
    expected = sum(t**2 + 10 * (1 - np.cos(2 * np.pi * t)) for t in x)
    with jax.enable_x64(True):
        np.testing.assert_allclose(p.loss(jnp.asarray(x), None), expected, rtol=1e-12)
        near = jax.hessian(p.loss)(jnp.array([1.0, -2.0, 3.0]), None)
        assert np.linalg.eigvalsh(near).min() > 0
    starts = jax.vmap(p.init)(jax.random.split(KEY, 1000))
    assert 5 < jnp.abs(starts).max() <= 5.12


def test_the_saddle_has_curvature_of_both_signs_and_no_gradient():
    p = problems.saddle()
    assert gradient_norm(jax.grad(p.loss)(jnp.zeros(2), None)) == 0
    np.testing.assert_array_equal(np.linalg.eigvalsh(jax.hessian(p.loss)(jnp.zeros(2), None)), [-1, 1])
    assert by_default(problems.saddle(0.0))["gap"] == 0.25  # from the ridge it goes to the saddle and stays


@pytest.mark.parametrize("distance", [1.0, 5.0, 10.0])
def test_the_gradient_on_the_plateau_is_as_small_as_stated(distance):
    p = problems.plateau(distance, size=5)
    gradient = np.asarray(jax.grad(p.loss)(p.init(jax.random.key(3)), None), float)
    np.testing.assert_allclose(np.linalg.norm(gradient), distance * math.exp(-(distance**2) / 2), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("p", [problems.exploding(1.3), problems.exploding(2.0), problems.vanishing(0.7)], ids=str)
def test_gradients_grow_and_fall_by_the_gain_a_layer(p, size):
    p = p.replace(size=size)
    with jax.enable_x64(True):
        layers = jax.jit(jax.grad(p.loss))(p.init(KEY), None)
        norms = np.array([gradient_norm(layer["bias"]) for layer in layers])
        np.testing.assert_allclose(norms[:-1] / norms[1:], p.gain, rtol=1e-9)
        through = p.gain**p.depth
        of_weights = abs(through - 1) * p.gain ** (p.depth - 1) / math.sqrt(size)
        np.testing.assert_allclose([gradient_norm(layer["weights"]) for layer in layers], of_weights, rtol=1e-9)


def test_the_network_and_the_convolutions_start_with_the_scale_that_keeps_variances():
    of = jax.jit(lambda p: p.init(KEY))
    for kernel, inputs in (
        (of(problems.digits(512))["hidden"]["kernel"], 64),
        (of(problems.digits(512))["output"]["kernel"], 512),
        (of(problems.digits_conv(64))["second"]["kernel"], 9 * 64),
    ):
        np.testing.assert_allclose(kernel.var() * inputs, 2.0, rtol=0.1)


def test_digits_are_1797_images_of_both_networks():
    p = problems.digits()
    assert (p.train[0].min(), p.train[0].max()) == (0, 1)
    assert [x.shape for x in (*p.train, *p.held_out)] == [(1437, 64), (1437,), (360, 64), (360,)]
    jax.tree.map(np.testing.assert_array_equal, problems.digits_conv().train, p.train)


def test_tables_are_scaled_by_what_is_trained_on_alone():
    for p, columns, numbers in ((problems.regression(), 10, [353, 89]), (problems.classification(), 30, [455, 114])):
        inputs, held_out = p.train[0], p.held_out[0]
        assert [len(inputs), len(held_out)] == numbers
        np.testing.assert_allclose(inputs.mean(0), np.zeros(columns), atol=1e-6)
        np.testing.assert_allclose(inputs.std(0), np.ones(columns), rtol=1e-5)
        assert np.abs(held_out.mean(0)).max() > 1e-2


def test_regression_errs_by_as_much_as_least_squares_in_the_units_of_the_table():
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import LinearRegression

    inputs, outputs = load_diabetes(return_X_y=True)
    kept = np.arange(442) % 5 != 0
    fitted = LinearRegression().fit(inputs[kept], outputs[kept])
    rmse = np.sqrt(np.mean((fitted.predict(inputs[~kept]) - outputs[~kept]) ** 2))
    p = problems.regression()
    np.testing.assert_allclose(p.metrics["rmse"](p.minimizer, p.held_out), rmse, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_ratings_have_the_stated_rank_without_noise_and_the_stated_noise_with_it(rank):
    def table(noise):
        p = problems.recommendation(40, 30, rank, noise, seed=5)
        found = np.full((40, 30), np.nan)
        for i, j, r in (p.train, p.held_out):
            found[i, j] = r
        return found

    clean = table(0.0)
    known = ~np.isnan(clean)
    assert known.sum() == 600
    # A table of rank k has no minor of k + 1 rows that is not 0; there are many small blocks of known ones.
    blocks = [clean[np.ix_(i, j)] for i, j in _known_blocks(known, rank + 1)]
    assert len(blocks) >= 20
    scale = np.nanstd(clean) ** (rank + 1)
    assert max(abs(np.linalg.det(block)) for block in blocks) < 1e-4 * scale
    smaller = [np.linalg.det(block[:rank, :rank]) for block in blocks]
    assert np.median(np.abs(smaller)) > 1e-3 * np.nanstd(clean) ** rank
    np.testing.assert_allclose(np.std((table(0.5) - clean)[known]), 0.5, rtol=0.1)
    assert not np.array_equal(clean[known], table(0.5)[known])


def _known_blocks(known, size):
    rng = np.random.default_rng(0)
    for _ in range(5000):
        i = rng.choice(known.shape[0], size, replace=False)
        j = np.flatnonzero(known[i].all(0))
        if len(j) >= size:
            yield i, j[:size]


# Text.


def test_a_later_character_changes_no_earlier_logits():
    p = problems.parse(SMALL_TEXT)
    params, window = p.init(KEY), np.array(p.train[0, :32])
    logits = jax.jit(partial(transformer.logits, heads=2))
    before = logits(params, window)
    for place in (0, 13, 31):
        other = window.copy()
        other[place] ^= 1
        changed = np.asarray(logits(params, other) != before).any(-1)
        assert not changed[:place].any()
        assert changed[place:].all()


def test_attention_is_that_of_jax():
    key = jax.random.split(KEY, 5)
    x = jax.random.normal(key[0], (2, 7, 12))
    layer = {name: jax.random.normal(k, (12, 12)) for name, k in zip(("query", "key", "value"), key[1:], strict=False)}
    q, k, v = ((x @ layer[name]).reshape(2, 7, 3, 4) for name in ("query", "key", "value"))
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(2, 7, 12)
    found = transformer._attention({**layer, "output": jnp.eye(12)}, x, heads=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_paths_of_the_transformer_read_well():
    paths = dict(gd.tree.leaves_with_paths(problems.parse(SMALL_TEXT).init(KEY)))
    assert paths["blocks/0/attention/query"].shape == (16, 16)
    assert paths["blocks/0/mlp/input"].shape == (16, 64)


def test_bits_are_the_mean_over_held_out_windows():
    p = problems.parse(SMALL_TEXT)
    params = p.init(KEY)
    expected = np.mean([p.loss(params, window) for window in p.held_out[:40]]) / np.log(2)
    np.testing.assert_allclose(p.metrics["bits"](params, p.held_out[:40]), expected, rtol=1e-5)


def test_a_transformer_learns_text(tmp_path):
    (tmp_path / "lines.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    p = problems.text(width=32, layers=1, heads=2, length=32, data=str(tmp_path / "lines.txt"))
    assert by_default(p)["bits"] < 0.5


def test_text_is_of_files_in_order_and_their_tails_are_held_out(tmp_path):
    def of(**named):
        return problems.text(width=8, layers=1, heads=1, length=9, **named)

    content = {"b.txt": b"b" * 300, "a/z.bin": bytes(range(256)), "c.txt": b"c" * 400, ".hidden/x": b"x", "a/.y": b"y"}
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    p = of(data=str(tmp_path))
    assert p.train.tobytes() == bytes(range(231)) + b"b" * 270 + b"c" * 359  # of 861
    assert p.held_out.tobytes() == bytes(range(231, 256)) + b"b" * 30 + b"c" * 35  # of 95
    assert of(data=str(tmp_path), limit=456).train.tobytes() == bytes(range(231)) + b"b" * 179  # of 180
    assert of(data=str(tmp_path / "b.txt")).train.tobytes() == b"b" * 270
    assert problems.parse(repr(p)) == p


def test_text_is_by_default_the_modules_of_the_standard_library():
    import abc as first

    p = problems.text()
    assert p.train.shape[1] == p.length + 1
    assert p.train.nbytes + p.held_out.nbytes <= 1_000_000
    assert 99_000 <= p.held_out.nbytes <= 100_000
    assert p.train.tobytes().startswith(pathlib.Path(first.__file__).read_bytes()[:1000])


# Errors.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problems.parse("digit"), "unknown name 'digit', did you mean 'digits'"),
        (lambda: problems.parse("quadratic(0.5)"), r"quadratic: condition must lie in \[1, inf\), got 0.5"),
        (lambda: problems.parse("quadratic(conditon=5)"), "no parameter 'conditon', did you mean 'condition'"),
        (lambda: problems.parse("3"), "a problem is needed, not 3"),
        (lambda: problems.parse(3), "parse reads a string, got int"),
        (lambda: problems.parse("sgd(1)", gd.sgd), "a problem is needed, got sgd"),
        (lambda: problems.find("no_such_module:mine"), "No module named 'no_such_module'"),
        (lambda: problems.find("gdjax.problems.functions:parabol"), "unknown name 'parabol', did you mean 'parabola'"),
        (lambda: problems.quadratic(size=1), "quadratic: size must be an integer of at least 2, got 1"),
        (lambda: problems.quadratic(size=2.5), "quadratic: size must be an integer, got 2.5"),
        (lambda: problems.digits(hidden=True), "digits: hidden must be an integer, got True"),
        (lambda: problems.vanishing(1.0), r"vanishing: gain must lie in \(0, 1\), got 1.0"),
        (lambda: problems.exploding(depth=0), "exploding: depth must be an integer of at least 1, got 0"),
        (lambda: problems.text(width=10, heads=4), "text: width must be a multiple of heads, got 10 and 4"),
        (lambda: problems.text(data="no/such").train, "text: data must be a file or a folder of files, got 'no/such'"),
        (lambda: problems.text(limit=100).train, "text: windows of length 64 need at least 650 bytes, got 100"),
        (lambda: problems.Parts(loss=abs), "Parts: init must be a function, got None"),
        (lambda: problems.Parts(init=abs), "Parts: loss must be a function, got None"),
        (lambda: problems.Parts(init=abs, loss=abs, epochs=1, steps=2), "Parts: give epochs or steps, got 1 and 2"),
        (lambda: gd.problem(lambda: 3)(), r"must return Parts\(init=..., loss=...\), got 3"),
    ],
)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        make()


@pytest.mark.parametrize(
    ("p", "batch", "message"),
    [
        (problems.digits(), None, r"digits: batch must be \(float32\[n,64\], int32\[n\]\), got None"),
        (problems.digits(), (np.ones((3, 5)), np.ones(3, int)), r"got \(float\d+\[3,5\], int\d+\[3\]\)"),
        (problems.digits(), (np.ones((3, 64)), np.ones(4, int)), r"got \(float\d+\[3,64\], int\d+\[4\]\)"),
        (problems.regression(), np.ones((3, 10)), r"regression: batch must be \(float32\[n,10\], float32\[n\]\)"),
        (
            problems.parabola(),
            np.ones(3),
            r"parabola: batch must be None, since there are no data, got float\d+\[3\]",
        ),
    ],
)
def test_a_wrong_batch_is_told_from_a_right_one(p, batch, message):
    with pytest.raises(ValueError, match=message):
        p.loss(p.init(KEY), batch)
    with pytest.raises(ValueError, match=message):
        next(iter(p.metrics.values()))(p.init(KEY), batch)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gdjax\[train\]'"):
        load_sklearn("digits")


# Of users.


@gd.problem
def bowl(depth: gd.Positive = 1.0, size: int = 3):
    """Descend into a bowl."""
    return problems.Parts(
        init=lambda key: jax.random.normal(key, (size,)),
        loss=lambda params, batch, key: depth * (params**2).sum() + 0 * jax.random.normal(key),
        train=np.ones((4, 2)),
    )


made = bowl(3.0)

OF_A_USER = """
import gdjax as gd

@gd.problem
def mine(steepness: gd.Positive = 2.0):
    return gd.problems.Parts(init=lambda key: 1.0, loss=lambda w, batch: steepness * w**2)

@gd.problem
def lacking(x: gd.Scalar):
    return gd.problems.Parts(init=lambda key: x, loss=lambda w, batch: w)

ready = mine(5.0)
"""


def test_a_problem_of_users_is_found_by_its_module(monkeypatch, tmp_path):
    (tmp_path / "of_a_user.py").write_text(OF_A_USER)
    monkeypatch.syspath_prepend(tmp_path)
    assert repr(problems.find("of_a_user:mine")) == "mine(steepness=2.0)"
    assert repr(problems.find("of_a_user:ready")) == "mine(steepness=5.0)"
    assert repr(problems.find("of_a_user:mine(7)")) == "mine(steepness=7.0)"
    assert problems.find("quadratic(3)") == problems.quadratic(3)
    assert problems.find("digits") == problems.digits()
    with pytest.raises(gd.ParseError, match="lacking: missing a required argument: 'x'"):
        problems.find("of_a_user:lacking")
    with pytest.raises(gd.ParseError, match="unknown name 'mien', did you mean 'mine'"):
        problems.find("of_a_user:mien")


def test_a_problem_of_users_has_defaults_and_is_parsed_by_name():
    assert problems.parse("bowl(2, size=4)", bowl) == bowl(2.0, 4)
    assert pickle.loads(pickle.dumps(made)) == made
    assert (made.steps, made.epochs, made.batch_size, made.optimizer) == (1000, None, "full", "adam(1e-3)")
    assert made.summary == "Descend into a bowl."
    assert made.metrics == {}  # nothing is held out
    assert made.loss(jnp.ones(3), made.train, KEY) == 9.0
    assert made.target is made.optimum is made.minimizer is made.held_out is None
