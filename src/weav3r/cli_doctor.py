"""The command `weav3r doctor`: is this installation whole, and does it work?

Nothing here uses the network. Each check answers for itself: one that breaks is a line of the
report, not the end of it.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from .cli_options import output

State = Literal["ok", "note", "problem"]

_MIN_FREE_DISK, _MIN_MEMORY = 2 * 2**30, 4 * 2**30
_VARIABLES = ("WEAV3R_", "HF_", "HUGGINGFACE_", "OMP_", "MKL_NUM", "CUDA_VISIBLE", "XDG_CACHE")
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[bold red]PROBLEM[/]"}

# Of the self-test: a stereo pair whose rows correspond, so that a match is right or wrong.
_PAIR, _TEST_SIZE = "toy", 256
_MIN_MATCHES, _MAX_ROW_ERROR_PX = 50, 4.0


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: heading that it stands under.
        name: what was looked at.
        state: "ok", "note" (works, but worth knowing) or "problem" (something will not work).
        text: what was found.
        advice: what to do; "" for nothing.
    """

    group: str
    name: str
    state: State
    text: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    self_test: Annotated[
        bool,
        typer.Option("--self-test/--no-self-test", help="Match a bundled pair of photos, too."),
    ] = True,
) -> None:
    """Check this installation; exit status 0 when it works, 1 when something does not.

    The network is not used. What is printed holds no tokens and can be put into a bug report.
    """
    findings = examine(self_test)
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        report = {"works": problems == 0, "findings": [asdict(finding) for finding in findings]}
        output.file.write(json.dumps(report, indent=2) + "\n")
    else:
        _show(findings, problems)
    if problems:
        raise typer.Exit(1)


def examine(self_test: bool = True) -> list[Finding]:
    """Look at everything; never raises."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("extras", _extras),
        ("computer", _computer),
        ("folders", _folders),
        ("weights", _weights),
    ]
    if self_test:
        checks.append(("self-test", _self_test))
    findings: list[Finding] = []
    for group, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken check is a finding, whatever broke it
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            findings.append(Finding(group, group, "problem", text, _REINSTALL))
    return findings


_REINSTALL = "reinstall: pip install --force-reinstall weav3r"


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "weav3r", "ok", metadata.version("weav3r"))
    yield Finding("versions", "python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("versions", "system", "ok", platform.platform())
    for requirement, extra in _requirements():
        if extra is None:
            yield _package(requirement)
    for name in ("torch", "pycolmap"):  # the compiled ones: there is not the same as usable
        try:
            importlib.import_module(name)
        except Exception as error:
            text = f"cannot be imported: {error}".splitlines()[0]
            yield Finding(
                "versions", name, "problem", text, f"pip install --force-reinstall {name}"
            )


def _requirements() -> Iterator[tuple[str, str | None]]:
    """What weav3r asks for: (requirement, extra); extras of extras are left out."""
    from packaging.requirements import Requirement

    for line in metadata.requires("weav3r") or []:
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        extra = marker.rpartition("extra == ")[2].strip("\"' ") if "extra ==" in marker else None
        if requirement.name != "weav3r":
            yield f"{requirement.name}{requirement.specifier}", extra


def _package(text: str) -> Finding:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    advice = f"pip install '{text}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding("versions", requirement.name, "problem", "not installed", advice)
    if not requirement.specifier.contains(version, prereleases=True):
        wanted = f"{version}, but {requirement.specifier} is needed"
        return Finding("versions", requirement.name, "problem", wanted, advice)
    return Finding("versions", requirement.name, "ok", version)


def _extras() -> Iterator[Finding]:
    extras: dict[str, list[Finding]] = {}
    for requirement, extra in _requirements():
        if extra not in (None, "dev"):
            extras.setdefault(str(extra), []).append(_package(requirement))
    for extra, packages in sorted(extras.items()):
        missing = [package for package in packages if package.state == "problem"]
        if missing:
            text = "; ".join(f"{package.name}: {package.text}" for package in missing)
            yield Finding("extras", extra, "note", text, f"pip install 'weav3r[{extra}]'")
        else:
            text = ", ".join(f"{package.name} {package.text}" for package in packages)
            yield Finding("extras", extra, "ok", text)


def _computer() -> Iterator[Finding]:
    import torch

    from .models.loading import resolve_device

    device = resolve_device("auto")
    yield Finding("computer", "device", "ok", f"{device} is what --device auto takes")
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(k)
        text = f"{found.name}, {_size(found.total_memory)}"
        yield Finding("computer", f"cuda:{k}", "ok", text)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{torch.get_num_threads()} used by torch, {usable} processors at hand"
    yield Finding("computer", "threads", "ok", text)
    memory = _memory()
    if memory is not None:
        small = memory < _MIN_MEMORY
        advice = "use fewer photos at a time, or --size 256 and --max-memory" if small else ""
        state = "note" if small else "ok"
        yield Finding("computer", "memory", state, f"{_size(memory)} in all", advice)
    for name, value in sorted(os.environ.items()):
        if name.startswith(_VARIABLES):
            shown = "set (not shown)" if any(word in name for word in _SECRET) else value
            yield Finding("computer", name, "ok", shown)


def _memory() -> int | None:
    """Bytes of memory that this process may use, None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):
            continue
    return total


def _folders() -> Iterator[Finding]:
    import weav3r

    from .datasets.textures import ENVIRONMENT_VARIABLE, default_bank_folder
    from .models.hub_cache import cache_folder

    yield Finding("folders", "package", "ok", weav3r.__path__[0])
    yield _place("downloaded weights", cache_folder())
    yield _place("temporary files", Path(tempfile.gettempdir()))
    yield _place("here", Path.cwd())
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    textures = Path(named) if named else default_bank_folder()
    if textures.exists():
        yield Finding("folders", "textures", "ok", str(textures))
    else:
        advice = "only training uses them: weav3r data textures"
        state = "problem" if named else "note"
        yield Finding("folders", "textures", state, f"{textures}: not there", advice)


def _place(name: str, folder: Path) -> Finding:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    text = str(folder) if existing == folder else f"{folder} (not made yet)"
    if not os.access(existing, os.W_OK):
        return Finding("folders", name, "note", f"{text}: no permission to write", "name another")
    free = shutil.disk_usage(existing).free
    state, advice = ("note", "make room") if free < _MIN_FREE_DISK else ("ok", "")
    return Finding("folders", name, state, f"{text}: {_size(free)} free", advice)


def _weights() -> Iterator[Finding]:
    from .models.checkpoint import bundled_weights
    from .models.config import PRESETS
    from .models.registry import cached_models
    from .models.storage import file_sha256

    bundled = {name: file for name in PRESETS if (file := bundled_weights(name)) is not None}
    if not bundled:
        yield Finding("weights", "bundled", "problem", "not there", _REINSTALL)
    for name, file in bundled.items():
        stated = json.loads(file.with_suffix(".calibration.json").read_text(encoding="utf-8"))
        if file_sha256(file) == stated["weights_sha256"]:
            yield Finding("weights", name, "ok", f"{file}, checksum right")
        else:
            text = f"{file}: the checksum is wrong, the file is damaged"
            yield Finding("weights", name, "problem", text, _REINSTALL)
    for model in cached_models():
        yield Finding("weights", model.hub_id, "ok", f"{model.file}, {_size(model.bytes)}")


def _self_test() -> Iterator[Finding]:
    """Match the photos of a rectified stereo pair: right matches lie in one row."""
    import numpy as np

    import weav3r

    photos = sorted(weav3r.example_photos()[_PAIR].glob("*.jpg"))
    start = time.perf_counter()
    found = weav3r.match(*photos, size=_TEST_SIZE)
    seconds = time.perf_counter() - start
    error = float(np.median(np.abs(found.xy1[:, 1] - found.xy2[:, 1]))) if len(found.xy1) else 0.0
    text = (
        f"{len(found.xy1)} matches of the bundled pair {_PAIR!r} in {seconds:.1f} s, half of them "
        f"within {error:.1f} pixels of the truth"
    )
    if len(found.xy1) < _MIN_MATCHES or error > _MAX_ROW_ERROR_PX:
        advice = "try --device cpu; if it persists, reinstall torch and weav3r"
        yield Finding("self-test", "matching", "problem", text, advice)
    else:
        yield Finding("self-test", "matching", "ok", text)


def _show(findings: list[Finding], problems: int) -> None:
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            output.print(f"\n[bold]{group}[/]")
        output.print(f"  {_MARKS[finding.state]:<4} ", end="")
        line = f"{finding.name}: {finding.text}"
        advice = f"\n       -> {finding.advice}" if finding.advice else ""
        output.print(f"{line}{advice}", highlight=False, markup=False, soft_wrap=True)
    notes = sum(finding.state == "note" for finding in findings)
    aside = "" if not notes else f" ({notes} {'note' if notes == 1 else 'notes'} above)"
    if problems:
        count = "1 problem" if problems == 1 else f"{problems} problems"
        output.print(f"\n[bold red]{count}[/]: see PROBLEM above, and what helps{aside}.")
    else:
        output.print(f"\n[bold green]Weav3R works on this computer[/]{aside}.")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
