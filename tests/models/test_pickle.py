"""Hostile and damaged checkpoint files: refused by name, with nothing run and nothing allocated."""

from __future__ import annotations

import argparse
import builtins
import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from weav3r.models import _archive
from weav3r.models._archive import TorchArchive
from weav3r.models._pickle import MAX_DEPTH, MAX_OPCODES, interpret
from weav3r.models._stored import Namespace, Opaque
from weav3r.models.published import read_published

PROTO = b"\x80\x02"
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x03tQ"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def tensor(offset: bytes, size: bytes, stride: bytes) -> bytes:
    """Write the program of a tensor on `STORAGE`, which has three elements."""
    hooks = b"ccollections\nOrderedDict\n)R"
    numbers = offset + size + stride
    return (
        PROTO
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + STORAGE
        + numbers
        + b"\x89"
        + hooks
        + b"tR."
    )


def write_archive(
    path: Path, program: bytes, entries: Mapping[str, bytes] | None = None, root: str = "archive"
) -> Path:
    """Write a torch archive with a program of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", program)
        for name, data in (entries or {"data/0": bytes(12)}).items():
            archive.writestr(f"{root}/{name}", data)
    return path


def refusal(path: Path) -> str:
    """Give the message with which a file is refused; it names the file."""
    with pytest.raises(ValueError) as caught:
        read_published(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) < 700
    return message.removeprefix(str(path))


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def calls(marker: Path) -> dict[str, tuple[Call, str]]:
    """Give calls that would leave a mark, and the names they are refused by."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    system = f"{os.system.__module__}.system"
    return {
        "os.system": (Call(os.system, command), system),
        "eval": (Call(builtins.eval, code), "_*builtin.*.eval"),
        "exec": (Call(builtins.exec, code), "_*builtin.*.exec"),
        "open": (Call(builtins.open, str(marker), "w"), "(io|_*builtin.*).open"),
        "import": (Call(builtins.__import__, "antigravity"), "_*builtin.*.__import__"),
        "torch.load": (Call(torch.load, str(marker)), "torch.serialization.load"),
        "torch.hub": (Call(torch.hub.load, str(marker), "x"), "torch.hub.load"),
        "partial": (Call(functools.partial(os.system, command)), "functools.partial"),
        "attrgetter": (Call(operator.attrgetter("load"), 1), "operator.attrgetter"),
        "methodcaller": (Call(operator.methodcaller("mkdir"), marker), "operator.methodcaller"),
        "subprocess": (Call(subprocess.Popen, command), "(subprocess|commands).Popen"),
        "load_from_bytes": (
            Call(torch.storage._load_from_bytes, pickle.dumps(1)),
            "torch.storage._load_from_bytes",
        ),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", calls(Path("x")))
def test_calls_are_refused_by_name(tmp_path: Path, kind: str, protocol: int) -> None:
    marker = tmp_path / "marker"
    call, name = calls(marker)[kind]
    for content in (call, {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(x=call)}):
        path = tmp_path / "evil.pth"
        torch.save(content, path, pickle_protocol=protocol)
        with pytest.raises(ValueError, match=f"asks for {name}, which no checkpoint needs"):
            read_published(path)
        refusal(path)
    assert not marker.exists()


PROGRAMS: dict[str, tuple[bytes, str]] = {
    "getattr": (b"cbuiltins\ngetattr\n", "builtins.getattr"),
    "inst": (b"(S'true'\niposix\nsystem\n.", "instruction MARK|STRING is not allowed"),
    "obj": (b"(cposix\nsystem\n" + text("true") + b"o.", "posix.system"),
    "obj_allowed": (b"(cargparse\nNamespace\no.", "instruction OBJ is not allowed"),
    "inst_allowed": (b"(iargparse\nNamespace\n.", "instruction INST is not allowed"),
    "newobj": (b"cposix\nsystem\n)\x81.", "posix.system"),
    "newobj_ex": (b"cargparse\nNamespace\n)}\x92.", "instruction NEWOBJ_EX is not allowed"),
    "ext1": (b"\x82\x01.", "instruction EXT1 is not allowed"),
    "ext2": (b"\x83\x01\x01.", "instruction EXT2 is not allowed"),
    "ext4": (b"\x84\x01\x01\x01\x01.", "instruction EXT4 is not allowed"),
    "stack_global": (text("posix") + text("system") + b"\x93.", "posix.system"),
    "stack_global_numbers": (b"K\x01K\x02\x93.", "a name that is not text"),
    "name_with_escapes": (text("a\x1b[31m\n") + text("b") + b"\x93.", r"'a\\x1b\[31m\\n.b'"),
    "name_without_end": (text("a" * 5000) + text("b") + b"\x93.", "asks for aaaa"),
    "call_of_a_string": (text("os.system") + b")R.", "calls os.system, which is not allowed"),
    "call_of_a_storage_type": (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage, which"),
    "call_without_tuple": (b"ccollections\nOrderedDict\nK\x01R.", "arguments that are no tuple"),
    "namespace_with_values": (b"cargparse\nNamespace\nK\x01\x85R.", "a Namespace from values"),
    "dict_with_values": (b"ccollections\nOrderedDict\nK\x01\x85R.", "a dict from values"),
    "build_on_a_class": (b"cargparse\nNamespace\n}b.", "fills a Name, which cannot be filled"),
    "build_on_a_number": (b"K\x01}b.", "fills a int, which cannot be filled"),
    "build_with_a_list": (b"cargparse\nNamespace\n)\x81]b.", "a state that is no dict"),
    "build_with_slots": (b"cargparse\nNamespace\n)\x81N}\x86b.", "a state that is no dict"),
    "encode_other": (
        b"c_codecs\nencode\n" + text("x") + text("rot13") + b"\x86R.",
        "_codecs.encode for something other than bytes",
    ),
    "encode_unfit": (
        b"c_codecs\nencode\n" + text("\u20ac") + text("latin1") + b"\x86R.",
        "damaged",
    ),
    "bytes_of_a_length": (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "bytes from values"),
    "set_of_a_number": (b"c__builtin__\nset\nK\x01\x85R.", "a set from something that is no list"),
    "size_of_text": (b"ctorch\nSize\n" + text("x") + b"\x85\x85R.", "a torch.Size from something"),
    "persistent_text": (b"P0\n.", "instruction PERSID is not allowed"),
    "persistent_other": (text("module") + b"\x85Q.", "outside that is no tensor storage"),
    "persistent_list": (b"](" + text("storage") + b"eQ.", "outside that is no tensor storage"),
    "storage_of_no_type": (
        STORAGE.replace(b"ctorch\nFloatStorage\n", b"K\x01") + b".",
        "names a tensor storage of an unknown type",
    ),
    "storage_elsewhere": (
        STORAGE.replace(b"X\x01\0\0\x000", text("../../secret")) + b".",
        r"holds no tensor storage \.\./\.\./secret",
    ),
    "storage_of_another_size": (STORAGE.replace(b"K\x03", b"K\x04") + b".", "said to hold 4"),
    "storage_of_negative_size": (STORAGE.replace(b"K\x03", b"J\xff\xff\xff\xff") + b".", "hold -1"),
    "storage_of_true": (STORAGE.replace(b"K\x03", b"\x88") + b".", "said to hold"),
    "huge_put": (b"Nr\xff\xff\xff\xff.", "absurd number 4294967295"),
    "unknown_get": (b"h\x05.", "recalls value 5, which is not there"),
    "huge_bytes": (b"\x8e" + struct.pack("<Q", 2**62) + b"x.", "damaged: expected .* bytes"),
    "endless_bytes": (b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.", "maxsize"),
    "huge_text": (b"X\xff\xff\xff\x7fx.", "damaged: expected .* bytes"),
    "huge_number": (b"\x8b\xff\xff\xff\x7fx.", "not enough data"),
    "broken_text": (b"X\x02\0\0\0\xff\xfe.", "damaged"),
    "unknown_opcode": (b"\xff.", "unknown"),
    "no_stop": (b"N", "pickle exhausted before seeing STOP"),
    "nothing": (b".", "does not end with one value"),
    "two_values": (b"NN.", "does not end with one value"),
    "open_mark": (b"N(.", "does not end with one value"),
    "no_mark": (b"Nt.", "a mark is missing"),
    "underflow": (b"\x86.", "takes more values than there are"),
    "underflow_below_a_mark": (b"N(\x85.", "takes more values than there are"),
    "odd_items": (b"}(Nu.", "a key without a value"),
    "append_to_a_tuple": (b")Na.", "fills a tuple, which cannot be filled"),
    "list_as_key": (b"}]Ns.", "uses a list as a key"),
    "number_as_key": (b"}G\0\0\0\0\0\0\0\0Ns.", "uses a float as a key"),
    "huge_key": (b"}J\xff\xff\xff\x7fNs.", "uses 2147483647 as a key"),
    "self_in_list": (b"]q\0h\0a.", "puts a container into itself"),
    "cycle": (b"]q\0]q\1h\0ah\0h\1a.", "changes a part that is in use elsewhere"),
    "deep": (b")" + b"\x85" * 400_000 + b".", f"nests deeper than {MAX_DEPTH}"),
    "deep_lists": (b"]" * 100 + b"a" * 99 + b".", f"nests deeper than {MAX_DEPTH}"),
    "bomb": (b"K\1\x85" + b"q\0h\0\x86" * 40 + b".", "unfolds without end"),
    "endless": (b"N" * (MAX_OPCODES + 1), f"more than {MAX_OPCODES} instructions"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs_are_refused(tmp_path: Path, kind: str) -> None:
    program, message = PROGRAMS[kind]
    path = write_archive(tmp_path / "evil.pth", PROTO + program)
    with pytest.raises(ValueError, match=message):
        read_published(path)
    refusal(path)


HUGE = b"\x8a\x05" + (10**12).to_bytes(5, "little")
TENSORS = {
    "huge": (b"K\0", HUGE + b"\x85", b"K\1\x85"),
    "huge_without_steps": (b"K\0", HUGE + b"\x85", b"K\0\x85"),
    "negative_size": (b"K\0", b"J\xff\xff\xff\xff\x85", b"K\1\x85"),
    "negative_stride": (b"K\2", b"K\3\x85", b"J\xff\xff\xff\xff\x85"),
    "negative_offset": (b"J\xff\xff\xff\xff", b"K\1\x85", b"K\1\x85"),
    "offset_outside": (b"K\3", b"K\1\x85", b"K\1\x85"),
    "end_outside": (b"K\1", b"K\3\x85", b"K\1\x85"),
    "stride_outside": (b"K\0", b"K\2\x85", b"K\3\x85"),
    "huge_but_empty": (b"K\0", b"K\0" + HUGE + HUGE + b"\x87", b"K\1K\1K\1\x87"),
    "too_many_axes": (b"K\0", b"(" + b"K\1" * 17 + b"t", b"(" + b"K\1" * 17 + b"t"),
    "another_rank": (b"K\0", b"K\1\x85", b")"),
    "fractions": (b"K\0", b"G\x3f\xf0\0\0\0\0\0\0\x85", b"K\1\x85"),
    "truth": (b"K\0", b"\x88\x85", b"K\1\x85"),
    "no_tuple": (b"K\0", b"K\1", b"K\1"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_outside_their_storage(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / "evil.pth", tensor(*TENSORS[kind]))
    assert "does not lie inside its storage 0 of 12 bytes" in refusal(path)


V2, V3 = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n"
FIRST = STORAGE + b"K\0K\1\x85K\1\x85\x89"  # the first element


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (V2 + b")R.", "described in an unknown way"),
        (V2 + b"(" + FIRST + b"}}" + text("conj") + b"\x88stR.", "unknown way"),
        (V2 + b"(K\1K\0K\1\x85K\1\x85\x89NtR.", "has no typed storage"),
        (V3 + b")R.", "described in an unknown way"),
        (V3 + b"(" + FIRST + b"NK\1tR.", "has no storage or no type"),
        (V3 + b"(" + FIRST + b"Nctorch\ndevice\ntR.", "of type torch.device"),
        (b"ctorch._utils\n_rebuild_parameter\nN\x85R.", "a parameter of the file is no tensor"),
    ],
)
def test_tensors_in_an_unknown_way(tmp_path: Path, program: bytes, message: str) -> None:
    assert message in refusal(write_archive(tmp_path / "evil.pth", PROTO + program))


def test_the_tools_above_write_readable_tensors(tmp_path: Path) -> None:
    program = tensor(b"K\1", b"K\2\x85", b"K\1\x85")
    data = struct.pack("<3f", 1, 2, 3)
    outcomes = []
    for length in range(1, 5):  # some roots put the storage at a multiple of four bytes
        path = write_archive(tmp_path / "a.pth", program, {"data/0": data}, root="r" * length)
        archive = TorchArchive(path)
        try:
            found = archive.tensors({"a": archive.value})["a"]
        except ValueError as error:
            assert f"{path}: {'r' * length}/data/0 is not aligned; load it with torch" in str(error)
            outcomes.append(False)
        else:
            assert found.tolist() == [2, 3]
            outcomes.append(True)
    assert sorted(outcomes) == [False, False, False, True] or sum(outcomes) == 2


def test_many_names_for_one_storage_are_no_way_to_fill_the_memory(tmp_path: Path) -> None:
    layer = torch.zeros(4096)
    torch.save({"model": {"a": layer, "b": layer}, "croco_kwargs": {}}, tmp_path / "ok.pth")
    assert len(read_published(tmp_path / "ok.pth").state) == 2
    names = {f"a{i}": layer for i in range(50)}
    torch.save({"model": names, "croco_kwargs": {}}, tmp_path / "a.pth")
    assert "tensors together are larger than the file" in refusal(tmp_path / "a.pth")


def test_stand_ins_are_inert() -> None:
    state = {"__class__": "os.system", "__setstate__": 1, "__dict__": {}}
    program = pickle.dumps(argparse.Namespace(**{"a": 1}), 2)
    assert interpret(program, {}) == Namespace({"a": 1})
    built = PROTO + b"cargparse\nNamespace\n)\x81" + pickle.dumps(state, 2)[2:-1] + b"b."
    assert interpret(built, {}) == Namespace(state)
    scalar = interpret(pickle.dumps(torch.zeros(1).numpy()[0], 2), {})
    assert isinstance(scalar, Opaque) and scalar.name.endswith("multiarray.scalar")


# -- the archive ------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Give a file that reads well."""
    path = tmp_path / "good.pth"
    torch.save({"model": {"a": torch.arange(40.0)}, "croco_kwargs": {"enc_depth": 1}}, path)
    assert read_published(path).state["a"].sum() == 780
    return path


def test_old_formats(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"model": {"a": torch.ones(1)}}, path, _use_new_zipfile_serialization=False)
    assert "format of torch before 1.6, not read here; load it with torch where" in refusal(path)
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    assert "format of torch before 1.6" in refusal(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.touch()
    assert refusal(path) == " is empty"
    path.write_bytes(b"anything at all")
    assert "is no torch checkpoint" in refusal(path)
    for names in (["a.txt"], ["a/data.pkl", "b/data.pkl"], ["a/b/data.pkl"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"N.")
        assert "expected one folder with one data.pkl" in refusal(path)
    with pytest.raises(FileNotFoundError):
        read_published(tmp_path / "absent.pth")


def test_compressed_archives(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(20_000_000))
    assert path.stat().st_size < 50_000
    assert "is compressed, unlike files of torch.save" in refusal(path)


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "twice.pth", b"N.")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", b"K\1.")
    assert "two entries of the same name" in refusal(path)


def test_entries_that_overlap(tmp_path: Path) -> None:
    """Each checksum would be computed over the same bytes again."""
    path = tmp_path / "overlap.pth"
    entries = {f"data/{i}": bytes(1000) for i in range(20)}
    data = bytearray(write_archive(path, b"N.", entries).read_bytes())
    at = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"][1:]
    for start in at:
        data[start + 42 : start + 46] = data[at[0] + 42 : at[0] + 46]
        data[start + 20 : start + 28] = struct.pack("<II", 4000, 4000)
    path.write_bytes(data)
    assert "its entries are larger than the file" in refusal(path)


def test_byte_order(tmp_path: Path) -> None:
    other = {"little": b"big", "big": b"little"}[sys.byteorder]
    path = write_archive(tmp_path / "big.pth", b"N.", {"byteorder": other})
    assert f"in {other.decode()!r} byte order" in refusal(path)


def test_encrypted_entries(good: Path) -> None:
    data = bytearray(good.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    good.write_bytes(data)
    assert "is encrypted" in refusal(good)


def test_absurd_sizes(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MAX_PROGRAM_BYTES", 100)
    assert "data.pkl is larger than 100 bytes" in refusal(good)
    many = write_archive(good, b"N.", {f"data/{i}": b"" for i in range(50)})
    monkeypatch.setattr(_archive, "MAX_DIRECTORY_BYTES", 2000)
    assert "list of entries is larger than 2000 bytes" in refusal(many)


def test_checksums(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = good.read_bytes()
    at = data.index(torch.arange(40.0).numpy().tobytes()) + 80
    good.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    assert "checksum of good/data/0 is wrong; fetch the file again" in refusal(good)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": {"a": torch.arange(40.0)}, "croco_kwargs": {}}, good)
    finally:
        torch.serialization.set_crc32_options(True)
    assert "checksums switched off, load it with torch where you trust it" in refusal(good)


def test_archives_beyond_four_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes and offsets stand in fields of their own; written here for a small file."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    program = tensor(b"K\0", b"K\3\x85", b"K\1\x85").replace(
        b"ctorch\nFloatStorage\n", b"ctorch\nByteStorage\n"
    )
    path = write_archive(tmp_path / "a.pth", program, {"filler": bytes(50), "data/0": b"abc"})
    archive = TorchArchive(path)
    assert archive.tensors({"a": archive.value})["a"].tolist() == list(b"abc")


LIMITED = """
import resource, sys
from pathlib import Path
from weav3r.models.published import read_published
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
for name in sys.argv[1:]:
    try:
        read_published(Path(name))
    except ValueError as error:
        print("refused", error)
"""


NUMBERS = b"".join(b"J" + struct.pack("<i", i) for i in range(20_000))
FIELDS = b"}(" + b"".join(text(f"{i}") + b"N" for i in range(5_000)) + b"uq\2"
RECALLS = {
    "set": b"cbuiltins\nset\nq\1](" + NUMBERS + b"e\x85q\2" + b"h\1h\2R" * 100_000 + b".",
    "bytes": b"c_codecs\nencode\nq\1"
    + (text("x" * 100_000) + text("latin1") + b"\x86q\2")
    + (b"h\1h\2R" * 100_000 + b"."),
    "size": b"ctorch\nSize\nq\1(" + NUMBERS + b"t\x85q\2" + b"h\1h\2R" * 100_000 + b".",
    "namespace": b"cargparse\nNamespace\nq\1" + FIELDS + b"h\1)\x81h\2b" * 80_000 + b".",
}


@pytest.mark.parametrize("kind", RECALLS)
def test_recalling_a_large_value_for_many_calls(tmp_path: Path, kind: str) -> None:
    """A megabyte of program would copy gigabytes."""
    path = write_archive(tmp_path / "evil.pth", PROTO + RECALLS[kind])
    assert "calls functions with more than it spells out" in refusal(path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process")
def test_nothing_large_is_allocated(tmp_path: Path) -> None:
    programs = {kind: PROTO + PROGRAMS[kind][0] for kind in PROGRAMS if "huge" in kind}
    programs |= {kind: tensor(*TENSORS[kind]) for kind in TENSORS if "huge" in kind}
    programs |= {kind: PROTO + PROGRAMS[kind][0] for kind in ("deep", "bomb", "endless")}
    programs |= {f"recalled {kind}": PROTO + program for kind, program in RECALLS.items()}
    paths = [str(write_archive(tmp_path / k, program)) for k, program in programs.items()]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, check=True
    )
    assert [line.split()[:1] for line in done.stdout.splitlines()] == [["refused"]] * len(paths)
