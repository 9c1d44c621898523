"""What a run was asked for, as a file that repeats it."""

import json
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gdjax
from gdjax.cli.arguments import MAX_COUNT, brief
from gdjax.cli.errors import InputError, say
from gdjax.cli.metric_target import Goal
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
RANGES: Mapping[str, tuple[int, int]] = {
    "batch_size": (1, MAX_COUNT),
    "epochs": (1, MAX_COUNT),
    "steps": (1, MAX_COUNT),
    "seed": (0, 2**32 - 1),
}
"""Smallest and largest integer for each name."""
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
            raise InputError(f"{str(path)!r}: {name} must be {must}, got {brief(value)}.")
        if name == "batch_size" and isinstance(value, str) and value != "full":
            raise InputError(f"{str(path)!r}: {name} must be 'full' or an integer, got {brief(value)}.")
        if isinstance(value, int) and not RANGES[name][0] <= value <= RANGES[name][1]:
            low, high = RANGES[name]
            raise InputError(f"{str(path)!r}: {name} must be from {low} to {high:,}, got {brief(value)}.")
    return found


def require_names(out: Path | None, texts: Mapping[str, Any]) -> None:
    """Refuse a folder or a text that config.toml cannot hold.

    Args:
      out: the folder of the run.
      texts: the request, by name; values that are not strings are skipped.
    """
    for name, value in {**texts, **({} if out is None else {"out": str(out)})}.items():
        if isinstance(value, str) and re.search(r"[\ud800-\udfff]", value):
            raise InputError(f"--{name.replace('_', '-')} must be text in UTF-8, got {brief(value)}.")
    if out is None:
        return
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", str(out)):
        raise InputError(f"--out must have no control characters, got {brief(str(out))}: give another.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):
        raise InputError(f"--out must be a path of the file system, got {brief(str(out))}: mount it and give its path.")


def compare_versions(path: Path) -> None:
    """Say so where a run was made with another version than this."""
    import jax

    then = _parsed(path)[MADE_WITH]
    now = {"gdjax": gdjax.__version__, "jax": jax.__version__}  # the backend would have to be started
    if other := [f"{name} {then[name]}" for name, version in now.items() if then.get(name, version) != version]:
        say(f"{path} was made with {', '.join(other)}, this is {now}: the last bits of numbers may differ.")


def write(path: Path, asked: Mapping[str, Any]) -> None:
    """Write it, whole or not at all."""
    from gdjax.descent.checkpoints import disk as files

    lines = [f"# gdjax train --config {path} repeats this run."]
    lines += [f"{name} = {_toml(asked[name])}" for name in KINDS if name in asked]
    lines += ["", f"[{MADE_WITH}]", *(f"{name} = {_toml(value)}" for name, value in made_with().items())]
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
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is no text"
        raise InputError(f"{str(path)!r} cannot be read: {why}; give the config.toml of a run.") from error
    except (ValueError, RecursionError) as error:
        why = str(error).split(";")[0][:200]
        if not isinstance(error, tomllib.TOMLDecodeError):  # Python speaks of limits of its own
            why = "it has an integer of too many digits, or is nested too deeply"
        raise InputError(f"{str(path)!r} is no TOML: {why}; give the config.toml of a run.") from error
    then = found.setdefault(MADE_WITH, {})
    if not isinstance(then, dict):
        raise InputError(f"{str(path)!r}: {MADE_WITH} must be a table, got {then!r}.")
    return found


def _toml(value: Any) -> str:
    """Write an integer or a string in TOML, which does not allow DEL as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
