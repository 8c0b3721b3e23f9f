"""The container files, read only: no engine runs here."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from weav3r.cli import app

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Read a Dockerfile: (keyword, rest), comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(keyword.upper(), rest.strip()) for keyword, _, rest in found]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def all_of(keyword: str) -> list[str]:
    return [rest for found, rest in DOCKERFILE if found == keyword]


def last_stage() -> list[Instruction]:
    start = max(i for i, (keyword, _) in enumerate(DOCKERFILE) if keyword == "FROM")
    return DOCKERFILE[start:]


def copied() -> set[str]:
    """Files and folders of the checkout that are copied into the image."""
    return {
        source.removeprefix("./")
        for rest in all_of("COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }


def test_the_parser_joins_lines_and_drops_comments() -> None:
    text = "# a\nRUN one \\\n# b\n    two\n\nuser x\n"
    assert instructions(text) == [("RUN", "one two"), ("USER", "x")]


def test_every_instruction_is_one() -> None:
    known = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK RUN USER WORKDIR".split()
    assert {keyword for keyword, _ in DOCKERFILE} <= set(known)


def test_bases_are_pinned_to_a_release() -> None:
    defaults = dict(rest.split("=", 1) for rest in all_of("ARG") if "=" in rest)
    for rest in all_of("FROM"):
        image = rest.split()[0]
        image = re.sub(r"\$\{(\w+)\}", lambda name: defaults[name[1]], image)
        name, _, tag = image.partition(":")
        assert name and re.match(r"\d+\.\d+\.\d+-", tag), f"{image} is not pinned"


def test_python_of_the_image_is_one_that_the_package_supports() -> None:
    (version,) = re.findall(r"python:(\d+\.\d+)\.", " ".join(all_of("ARG")))
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]


def test_it_does_not_run_as_root_and_nothing_is_installed_after_that() -> None:
    stage = [keyword for keyword, _ in last_stage()]
    users = [rest for keyword, rest in last_stage() if keyword == "USER"]
    assert users and users[-1].split(":")[0] not in ("", "0", "root")
    assert not {"RUN", "COPY"} & set(stage[stage.index("USER") :])


def test_nothing_is_fetched_from_an_address_but_by_pip() -> None:
    assert not all_of("ADD")
    for rest in all_of("RUN"):
        assert not re.search(r"\b(curl|wget|sudo|apt-get|git)\b", rest)
        assert "pip install" not in rest or "--no-cache-dir" in rest and "-c constraints" in rest


def test_all_that_the_wheel_needs_is_copied_and_exists() -> None:
    folders = {path.split("/")[0] for path in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    files = {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]}
    files |= set(PROJECT["project"]["license-files"])
    assert copied() == folders | files
    assert all((ROOT / name).exists() for name in copied())
    (install,) = (rest for rest in all_of("RUN") if "[" in rest and "pip install" in rest)
    extras = re.findall(r"\.\[([\w,]+)\]", install)[0].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])


def ignored(name: str, lines: list[str]) -> bool:
    """Whether .dockerignore leaves a path out; the last rule that fits decides."""
    answer = False
    for line in lines:
        rule = line.removeprefix("!").removeprefix("**/")
        fits = fnmatch.fnmatch(name, rule) or any(
            fnmatch.fnmatch(part, rule)
            for part in name.split("/")
            if line.startswith("**/") or "/" not in name
        )
        if fits or name.startswith(f"{rule}/"):
            answer = not line.startswith("!")
    return answer


def test_what_is_copied_is_sent_to_the_engine_and_nothing_else() -> None:
    text = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not [name for name in copied() if ignored(name, lines)]
    for name in (".git", "tests", ".venv", "runs", "geometry/__pycache__", "weav3r.egg-info"):
        assert ignored(name, lines), name
    assert not ignored("src/weav3r/cli.py", lines)


def test_the_command_of_the_image_exists_and_listens_inside_on_the_checked_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # what --offline changes comes back
    (entry,), (rest,), (health,) = all_of("ENTRYPOINT"), all_of("CMD"), all_of("HEALTHCHECK")
    assert json.loads(entry) == [next(iter(PROJECT["project"]["scripts"]))]
    name, *arguments = json.loads(rest)
    command: Any = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    parameters = command.make_context(name, list(arguments)).params
    assert (parameters["host"], str(parameters["port"])) == ("0.0.0.0", all_of("EXPOSE")[0])
    assert parameters["offline"] is True
    check = json.loads(health.partition("CMD")[2])
    assert f"http://127.0.0.1:{parameters['port']}/" in check[-1]
    compile(check[-1], "healthcheck", "exec")


def test_compose_closes_the_demo_up() -> None:
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {"demo", "demo-cuda"}
    user = all_of("USER")[-1]
    stages = {rest.partition("=")[0] for rest in all_of("ARG")}
    for name, service in services.items():
        assert service["user"] == user and service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["ports"][0].endswith(f":{all_of('EXPOSE')[0]}")
        tag = service["image"].partition(":")[2]
        assert tag.startswith(PROJECT["project"]["version"]) and "latest" not in tag
        assert set(service["build"]["args"]) <= stages
        assert (ROOT / service["build"]["context"] / "Dockerfile").is_file()
        assert set(service["networks"]) <= set(compose["networks"])
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    assert compose["networks"]["inward"]["driver_opts"][masquerade] == "false"
    # A plain `up` starts one of the two, since both want the port.
    assert "profiles" not in services["demo"] and services["demo-cuda"]["profiles"] == ["cuda"]
