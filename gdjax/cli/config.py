"""What a run was asked for, as a file that repeats it."""

import json
import platform
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gdjax
from gdjax.cli.goal import Goal
from gdjax.cli.status import InputError, say
from gdjax.hints import nearest

KINDS: Mapping[str, tuple[type, ...]] = {
    "problem": (str,),
    "optimizer": (str,),
    "batch_size": (int, str),
    "epochs": (int,),
    "steps": (int,),
    "until": (str,),
    "seed": (int,),
    "mesh": (str,),
    "data": (str,),
}
MADE_WITH = "made_with"


def read(path: Path) -> dict[str, Any]:
    """Read what a run was asked for."""
    found = _parsed(path)
    del found[MADE_WITH]
    for name, value in found.items():
        if name not in KINDS:
            raise InputError(
                f"{str(path)!r}: unknown name {name!r}{nearest(name, KINDS)}; there are {', '.join(KINDS)}."
            )
        if not isinstance(value, KINDS[name]) or isinstance(value, bool):
            must = " or ".join({int: "an integer", str: "a string"}[kind] for kind in KINDS[name])
            raise InputError(f"{str(path)!r}: {name} must be {must}, got {value!r}.")
    return found


def compare_versions(path: Path) -> None:
    """Say so where a run was made with another version than this."""
    import jax

    then = _parsed(path)[MADE_WITH]
    now = {"gdjax": gdjax.__version__, "jax": jax.__version__}  # the backend would have to be started
    if other := [f"{name} {then[name]}" for name, version in now.items() if then.get(name, version) != version]:
        say(f"{path} was made with {', '.join(other)}, this is {now}: the last bits of numbers may differ.")


def write(path: Path, asked: Mapping[str, Any]) -> None:
    """Write it, whole or not at all."""
    from gdjax.descent import files

    lines = [f"# gdjax train --config {path} repeats this run."]
    lines += [f"{name} = {json.dumps(asked[name], ensure_ascii=False)}" for name in KINDS if name in asked]
    lines += ["", f"[{MADE_WITH}]", *(f"{name} = {json.dumps(value)}" for name, value in made_with().items())]
    files.replace(path, ("\n".join(lines) + "\n").encode())


def made_with() -> dict[str, str]:
    """The versions that the numbers come from."""
    import jax

    versions = {"gdjax": gdjax.__version__, "jax": jax.__version__, "python": platform.python_version()}
    return versions | {"backend": jax.default_backend()}


def over(base: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for on the line in the place of what a file says; epochs and steps exclude each other."""
    lengths = {"epochs", "steps"}
    left = lengths if lengths & asked.keys() else set()
    return {**{name: value for name, value in base.items() if name not in left}, **asked}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What two runs differ in, by name and in words."""

    def word(value: Any) -> str:
        return "none" if value is None else str(value)

    names = [name for name in KINDS if then.get(name) != now.get(name)]
    return {name: f"{name} {word(then.get(name))} there, {word(now.get(name))} here" for name in names}


def prolongs(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a run that is resumed may be asked for this anew: what was done so far is as if it always had been.

    On another mesh it is that but for the order of sums.
    """
    if name != "until":
        return name in ("epochs", "steps", "mesh")
    if "until" not in then or "until" not in now:
        return False
    before, after = Goal.of(then["until"]), Goal.of(now["until"])
    return (before.metric, before.sign) == (after.metric, after.sign) and before.holds(after.bound)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is no text"
        raise InputError(f"{str(path)!r} cannot be read: {why}; give the config.toml of a run.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{str(path)!r} is no TOML: {error}; give the config.toml of a run.") from error
    then = found.setdefault(MADE_WITH, {})
    if not isinstance(then, dict):
        raise InputError(f"{str(path)!r}: {MADE_WITH} must be a table, got {then!r}.")
    return found
