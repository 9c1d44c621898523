"""The house stands: floors in order, a light entrance, one table of names."""

import ast
import importlib
import inspect
import json
import pathlib
import re
import subprocess
import sys

import jax
import optax
import pytest

import gdjax as gd
from gdjax import exports
from tests import stubs

PACKAGE = pathlib.Path(gd.__file__).parent
FLOORS = [
    ["calls", "exports", "hints", "prng", "raveling", "xla"],
    ["concrete"],
    ["axes", "fallback"],
    ["tree"],
    ["specs", "squares", "explaining", "weighted_means"],
    ["norms", "linalg", "upcasting"],
    ["assignment", "numerics", "perturbations", "projections", "second_order", "tree_utils"],
    ["losses", "in_range"],
    ["value"],
    ["lifted", "matrices"],
    ["compose", "schedules", "transforms"],
    ["collectives"],
    ["algorithms"],
    ["wrappers"],
    ["describing", "sharding"],
    ["names"],
    ["problems"],
    ["descent"],
    ["cli"],
]
FLOORS[3] += stubs.STAND_INS
ROOF = {"__init__", "__main__"}


def floor_of(module):
    return next((i for i, floor in enumerate(FLOORS) if module in floor), None)


def imported(file):
    """The gdjax modules that a file imports, by their first name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "gdjax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name.split(".")[1] for name in names if name.startswith("gdjax."))


def test_the_guide_lists_the_floors():
    guide = (PACKAGE.parent / "CONTRIBUTING.md").read_text().split("## The floors")[1]
    rows = re.findall(r"^\d+\. (.*)$", guide, re.M)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in rows] == [sorted(floor) for floor in FLOORS]


def test_every_floor_imports_from_those_below_it_alone():
    for file in PACKAGE.rglob("*.py"):
        module = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module in ROOF:
            continue
        own = floor_of(module)
        assert own is not None, f"{file} is on no floor"
        for other in imported(file):
            assert other == module or (floor_of(other) is not None and floor_of(other) < own), f"{file}: {other}"


def loaded(statement):
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    return set(
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120).stdout)
    )


def test_importing_it_loads_neither_jax_nor_optax():
    extra = {name.split(".")[0] for name in loaded("import gdjax") - loaded("pass")}
    assert extra <= {"gdjax", *sys.stdlib_module_names}


def test_an_optimizer_loads_optax_and_gdjax_alone():
    extra = {name.split(".")[0] for name in loaded("import gdjax; gdjax.adamw") - loaded("import optax")}
    assert extra <= {"gdjax", *sys.stdlib_module_names}


def test_descent_and_problems_are_loaded_when_they_are_asked_for():
    late = {"gdjax.descent", "gdjax.problems"}
    assert not late & loaded("import gdjax; gdjax.adamw, gdjax.losses.l2_loss")
    assert late < loaded("import gdjax as gd; gd.fit, gd.problems.digits")
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        gd.fitt  # noqa: B018


def test_the_stubs_the_table_and_the_package_have_the_same_names():
    for path, text in stubs.texts().items():
        assert path.read_text() == text, "run python -m tests.stubs"
    declared = re.findall(r" as (\w+)$", stubs.STUB.read_text(), re.M)
    assert sorted(declared) == dir(gd) == gd.__all__
    for name in declared:
        assert getattr(gd, name) is not None
    for name, home in exports.HOME.items():
        assert getattr(gd, name) is getattr(importlib.import_module(f"gdjax.{home}"), name)


def test_the_types_that_signatures_name_are_public():
    from gdjax.value import slots

    aliases = {name for name, x in vars(slots).items() if hasattr(x, "__metadata__")}
    assert {"LearningRate", "Momentum", "WeightDecay"} <= aliases <= {*dir(gd)}
    for name in ("AxisName", "Callback", "Criterion", "Problem", "ScalarOrSchedule"):
        assert getattr(gd, name)


@pytest.mark.parametrize("name", [name for name, x in vars(optax).items() if inspect.ismodule(x) and name[0] != "_"])
def test_every_submodule_of_optax_is_one_of_gdjax(name):
    ours, theirs = importlib.import_module(f"gdjax.{name}"), importlib.import_module(f"optax.{name}")
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert getattr(gd, name) is ours
    assert public <= set(dir(ours))
    assert all(hasattr(ours, name) for name in public)


def test_star_imports_and_other_names_for_the_package_work():
    code = (
        "from gdjax import *; from gdjax.losses import *; import gdjax as optax; adamw, fit, l2_loss, optax.MaskedNode"
    )
    assert "gdjax.descent" in loaded(code)


def test_no_package_exports_a_name_that_hides_its_own_module():
    for face in PACKAGE.rglob("__init__.py"):
        modules = {path.stem for path in face.parent.iterdir()} - {"__init__"}
        names = {
            a.asname or a.name
            for x in ast.parse(face.read_text()).body
            if isinstance(x, ast.ImportFrom)
            for a in x.names
        }
        assert not names & modules, f"{face}: {names & modules}"


def private_uses(file):
    """The underscored names of other modules of gdjax that a file imports or reads."""
    nodes, modules = [*ast.walk(ast.parse(file.read_text()))], set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "gdjax":
            modules |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if alias.name.startswith("_") and not alias.asname)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield from re.findall(r"^_(?!_).*", node.attr)


def test_no_module_uses_an_underscored_name_of_another():
    used = {file.relative_to(PACKAGE): [*private_uses(file)] for file in PACKAGE.rglob("*.py")}
    assert not {file: names for file, names in used.items() if names}


def test_optax_and_jax_are_used_by_their_public_names():
    private = {file.name for file in PACKAGE.rglob("*.py") if re.search(r"(optax|jax)\._src", file.read_text())}
    assert private == {"distributed.py"}  # the clusters that JAX detects have no public name


def test_importing_it_touches_no_device_and_no_configuration():
    code = (
        "import jax; before = dict(jax.config.values); import gdjax; assert dict(jax.config.values) == before;"
        "from jax._src import xla_bridge; assert not xla_bridge._backends, 'a backend was started'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_module_holds_an_array():
    for name, module in sys.modules.items():
        if name.split(".")[0] == "gdjax":
            assert not [key for key, x in vars(module).items() if isinstance(x, jax.Array)], name


def test_no_helper_hides_a_name_of_optax_tree():
    own = {name for name, x in vars(gd.tree).items() if inspect.isfunction(x) and x.__module__ == "gdjax.tree"}
    assert own & set(dir(optax.tree)) == {"cast_like"}  # the same, and it checks shapes


def test_nothing_is_evaluated_or_unpickled():
    for file in PACKAGE.rglob("*.py"):
        calls = {node.func.id for node in ast.walk(ast.parse(file.read_text())) if _is_call_by_name(node)}
        assert not calls & {"eval", "exec", "compile", "__import__"}, file
        network = () if file.name == "coordinator.py" else ("socket",)  # it probes the port
        modules = "|".join(("pickle", "marshal", "shelve", "urllib", "requests", *network))
        assert not re.search(rf"\b({modules})\b\.", file.read_text()), file


def _is_call_by_name(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_few_public_signatures_say_any():
    found = [f"{file.relative_to(PACKAGE)}: {at}" for file in PACKAGE.rglob("*.py") for at in _bare_anys(file)]
    assert len(found) < 50, "annotate what these take or return:\n" + "\n".join(sorted(found))


def _bare_anys(file):
    """The parameters and results of public functions and methods that are annotated `Any` and nothing more."""
    for name, function in _public_functions(ast.parse(file.read_text())):
        given = [x for x in ast.walk(function.args) if isinstance(x, ast.arg)]
        annotations = [*((x.arg, x.annotation) for x in given), ("return", function.returns)]
        yield from (f"{name}, {at}" for at, x in annotations if isinstance(x, ast.Name) and x.id == "Any")


def _public_functions(node, within=""):
    for part in node.body:
        if isinstance(part, (ast.ClassDef, ast.FunctionDef)) and not part.name.startswith("_"):
            if isinstance(part, ast.FunctionDef):
                yield within + part.name, part
            else:
                yield from _public_functions(part, f"{part.name}.")


def test_every_public_factory_has_a_docstring_with_an_example_and_its_state():
    for name, factory in gd.factories().items():
        if not factory.function.__module__.startswith("gdjax"):
            continue
        doc = inspect.getdoc(factory)
        assert ">>>" in doc, name
        if factory.kind is gd.GradientTransform:
            assert re.search(r"State(less)?:", doc), name
        for parameter in factory.signature.parameters:
            assert re.search(rf"^\s+(\w+, )*\*?{parameter}(, \w+)*: ", doc, re.M), f"{name}: {parameter}"


def test_every_name_of_the_registry_is_public():
    for name, factory in gd.factories().items():
        assert getattr(gd, name) is factory
        assert factory.__name__ == name or name == "multi_transform"
    assert "opaque_transform" not in gd.factories()
