"""Read and write the settings of a run as `config.toml`, which repeats the run."""

import json
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import gdjax
from gdjax.cli.arguments import MAX_COUNT, shorten
from gdjax.cli.errors import InputError, print_message
from gdjax.cli.metric_target import MetricTarget
from gdjax.hints import nearest


class Settings(TypedDict, total=False):
    """Settings of a run, as the command line or a `config.toml` gives them."""

    problem: str
    optimizer: str
    batch_size: int | str
    epochs: int
    steps: int
    until: str
    seed: int
    mesh: str
    data: str


class ResolvedSettings(TypedDict):
    """Settings of a run with every default filled in."""

    problem: str
    optimizer: str
    batch_size: int | str
    epochs: NotRequired[int]
    steps: NotRequired[int]
    until: NotRequired[str]
    seed: int
    mesh: str
    data: NotRequired[str]


TYPES: Mapping[str, tuple[type, ...]] = {
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
"""Smallest and largest integer of each setting."""
VERSIONS_TABLE = "made_with"


def read(path: Path) -> Settings:
    """Read and check the settings in a `config.toml`."""
    settings, _ = _read_toml(path)
    for name, value in settings.items():
        _require_valid(path, name, value)
    return cast("Settings", settings)


def write(path: Path, settings: ResolvedSettings) -> None:
    """Write `config.toml` atomically."""
    from gdjax.descent import write_atomically

    values = cast("Mapping[str, int | str]", settings)
    lines = [f"# gdjax train --config {path} repeats this run."]
    lines += [f"{name} = {_to_toml(values[name])}" for name in TYPES if name in values]
    lines += ["", f"[{VERSIONS_TABLE}]", *(f"{name} = {_to_toml(value)}" for name, value in versions().items())]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def versions() -> dict[str, str]:
    """Return the versions on which the numbers of a run depend."""
    import jax

    packages = {"gdjax": gdjax.__version__, "jax": jax.__version__}
    return packages | {"python": platform.python_version(), "backend": jax.default_backend()}


def warn_if_versions_differ(path: Path) -> None:
    """Print a message if a run was made with another version of gdjax or JAX."""
    import jax

    _, then = _read_toml(path)
    now = {"gdjax": gdjax.__version__, "jax": jax.__version__}  # the backend would have to be started
    if other := [f"{name} {then[name]}" for name, version in now.items() if then.get(name, version) != version]:
        here = ", ".join(f"{name} {version}" for name, version in now.items())
        print_message(f"{path} was made with {', '.join(other)}; this is {here}: the last bits of numbers may differ.")


def require_storable(out: Path | None, settings: Settings) -> None:
    """Refuse a folder, or text in the settings, that `config.toml` cannot hold.

    Args:
      out: the folder of the run.
      settings: those that the command line gives.
    """
    for name, value in {**settings, **({} if out is None else {"out": str(out)})}.items():
        if isinstance(value, str) and re.search(r"[\ud800-\udfff]", value):
            raise InputError(f"--{name.replace('_', '-')} must be text in UTF-8, got {shorten(value)}.")
    if out is None:
        return
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", str(out)):
        raise InputError(f"--out must have no control characters, got {shorten(str(out))}: give another.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):
        raise InputError(
            f"--out must be a path of the file system, got {shorten(str(out))}: mount it and give its path."
        )


def override(settings: Settings, given: Settings) -> Settings:
    """Replace settings of a file by those of the command line. `epochs` and `steps` exclude each other."""
    lengths = {"epochs", "steps"}
    dropped = lengths if lengths & given.keys() else set()
    kept = {name: value for name, value in settings.items() if name not in dropped}
    return cast("Settings", {**kept, **given})


def differences(then: ResolvedSettings, now: ResolvedSettings) -> dict[str, str]:
    """Return the settings in which two runs differ, by name, as text with both values."""

    def shown(value: object) -> str:
        return "none" if value is None else str(value)

    names = [name for name in TYPES if then.get(name) != now.get(name)]
    return {name: f"{name} was {shown(then.get(name))}, now {shown(now.get(name))}" for name in names}


def can_change_on_resume(name: str, then: Settings, now: ResolvedSettings) -> bool:
    """Return True if a resumed run may change this setting, because it does not alter the steps already taken.

    Another mesh changes them only by the order of sums.
    """
    if name != "until":
        return name in ("epochs", "steps", "mesh")
    if "until" not in then or "until" not in now:
        return False
    before, after = MetricTarget.parse(then["until"]), MetricTarget.parse(now["until"])
    return (before.metric, before.sign) == (after.metric, after.sign) and before.is_met_by(after.bound)


def _require_valid(path: Path, name: str, value: object) -> None:
    """Refuse a setting with an unknown name, a wrong type or a number out of range."""
    who = f"{str(path)!r}: {name}"
    if name not in TYPES:
        raise InputError(f"{str(path)!r}: unknown name {name!r}{nearest(name, TYPES)}; there are {', '.join(TYPES)}.")
    if not isinstance(value, TYPES[name]) or isinstance(value, bool):
        must = " or ".join({int: "an integer", str: "a string"}[kind] for kind in TYPES[name])
        raise InputError(f"{who} must be {must}, got {shorten(value)}.")
    if name == "batch_size" and isinstance(value, str) and value != "full":
        raise InputError(f"{who} must be 'full' or an integer, got {shorten(value)}.")
    if isinstance(value, int) and not RANGES[name][0] <= value <= RANGES[name][1]:
        low, high = RANGES[name]
        raise InputError(f"{who} must be from {low} to {high:,}, got {shorten(value)}.")


def _read_toml(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings in a file, unchecked, and its table of versions."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise InputError(f"{str(path)!r} cannot be read: {reason}; give the config.toml of a run.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).split(";")[0][:200]
        if not isinstance(error, tomllib.TOMLDecodeError):  # Python's limits on integers and recursion
            reason = "it has an integer of too many digits, or is nested too deeply"
        raise InputError(f"{str(path)!r} is not valid TOML: {reason}; give the config.toml of a run.") from error
    made_with = settings.pop(VERSIONS_TABLE, {})
    if not isinstance(made_with, dict):
        raise InputError(f"{str(path)!r}: {VERSIONS_TABLE} must be a table, got {made_with!r}.")
    return settings, made_with


def _to_toml(value: int | str) -> str:
    """Write an integer or a string in TOML, which unlike JSON does not allow DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
