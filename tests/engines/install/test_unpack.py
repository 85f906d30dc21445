"""Archives that are not what they should be."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from daemon.core.problems import ProblemError
from daemon.engines.install import unpack as unpacking
from daemon.engines.install.unpack import unpack


def tar(path: Path, *members: tarfile.TarInfo) -> Path:
    """With a program beside these."""
    program = tarfile.TarInfo("llama-server")
    with tarfile.open(path, "w:gz") as file:
        for member in (program, *members):
            member.size = 2 if member.isreg() else 0
            file.addfile(member, io.BytesIO(b"hi") if member.isreg() else None)
    return path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, to: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, to, mode
    return made


@pytest.mark.parametrize(
    "bad",
    [member("../out"), member("/etc/out"), member("a/../../out"),
     member("link", tarfile.SYMTYPE, "/etc"), member("link", tarfile.SYMTYPE, "../../out"),
     member("hard", tarfile.LNKTYPE, "../../out"), member("pipe", tarfile.FIFOTYPE),
     member("device", tarfile.CHRTYPE)],
    ids=lambda one: f"{one.name} {one.linkname}",
)  # fmt: skip
def test_nothing_reaches_out_of_its_folder(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = tar(tmp_path / "x.tar.gz", bad)
    folder = tmp_path / "deep" / "folder"
    if bad.name == "/etc/out":  # an absolute name is taken as a relative one
        unpack([archive], folder)
        assert (folder / "files" / "etc" / "out").is_file()
    else:
        with pytest.raises(ProblemError, match="cannot be unpacked"):
            unpack([archive], folder)
    assert not list(tmp_path.glob("out"))
    assert not list((tmp_path / "deep").glob("out"))
    assert not Path("/etc/out").exists()


def test_links_inside_stay_and_set_user_bits_do_not(tmp_path: Path) -> None:
    link = member("lib/libllama.so", tarfile.SYMTYPE, "libllama.so.1")
    archive = tar(
        tmp_path / "x.tar.gz", member("lib/libllama.so.1"), link, member("su", mode=0o6777)
    )
    program = unpack([archive], tmp_path / "folder")
    assert (program.parent / "lib" / "libllama.so").read_bytes() == b"hi"
    assert stat.S_IMODE((program.parent / "su").stat().st_mode) & 0o7022 == 0


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_MAX", 100)
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("llama-server", b"0" * 1000)
    with pytest.raises(ProblemError, match="more than any build has"):
        unpack([archive], tmp_path / "folder")
    assert not (tmp_path / "folder" / "files" / "llama-server").exists()


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_one_that_is_damaged(tmp_path: Path, form: str) -> None:
    archive = tmp_path / f"x.{form}"
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("llama-server", bytes(range(256)) * 100)
    else:
        tar(archive, *(member(f"{number}") for number in range(100)))
    data = bytearray(archive.read_bytes())
    data[60:90] = bytes(30)
    archive.write_bytes(data)
    with pytest.raises(ProblemError, match="cannot be unpacked") as caught:
        unpack([archive], tmp_path / "folder")
    assert caught.value.problem.hint


def test_a_zip_that_is_encrypted(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("llama-server", b"x")
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(ProblemError, match="encrypted"):
        unpack([archive], tmp_path / "folder")
