"""llama-server by archive, by Homebrew and by a compile, with stand-ins for all three."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.problems import Code, ProblemError
from daemon.engines.install import fetch
from daemon.engines.install.plan import Tools
from daemon.engines.install.probes import Graphics, Machine
from daemon.engines.install.shelf import Shelf
from daemon.engines.install.work import Workshop
from tests.engines.install.releases import Releases, archive, program, serving

NVIDIA = Machine("Linux", "x86_64", Graphics(cuda=(12, 8), capability=(8, 9)), (2, 36))
PLAIN = Machine("Linux", "x86_64", glibc=(2, 36))
NONE = Tools()
INSIDE = "llama-{}/llama-server"


def files(tag: str, cuda: str = "CUDA", vulkan: str = "Vulkan") -> dict[str, bytes]:
    name = f"llama-{tag}-bin-ubuntu"
    return {
        f"{name}-x64.tar.gz": archive({f"llama-{tag}/llama-server": program()}),
        f"{name}-vulkan-x64.tar.gz": archive({f"llama-{tag}/llama-server": program(vulkan)}),
        f"{name}-cuda-12.8-x64.tar.gz": archive(
            {f"llama-{tag}/llama-server": program(cuda), f"llama-{tag}/libggml.so": "x"}
        ),
        f"cudart-{name}-cuda-12.8-x64.tar.gz": archive({"cudart/libcudart.so.12": "y"}),
    }


@pytest.fixture
def host() -> Iterator[Releases]:
    with serving(Releases({"b9000": files("b9000"), "b9001": files("b9001")})) as releases:
        yield releases


class Shop:
    """A workshop in a folder, and what it said."""

    def __init__(
        self, folder: Path, url: str = "http://127.0.0.1:9", machine: Machine = PLAIN,
        tools: Tools = NONE,
    ) -> None:  # fmt: skip
        self.shelf = Shelf(folder / "engines")
        self.notes: list[str] = []
        self.steps: list[str] = []
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self.shop = Workshop(
            self.shelf, machine, tools, environ, self.tell, folder / "cache", url
        )  # fmt: skip

    def tell(self, step: str, text: str, fraction: float | None) -> None:
        (self.notes if step == "note" else self.steps).append(text)


def test_the_archive_for_the_card(tmp_path: Path, host: Releases) -> None:
    one = Shop(tmp_path, host.url, NVIDIA)
    item = one.shop.install("llama-server", None)
    assert (item.version, item.build, item.how) == ("b9001", "cuda", "archive")
    assert item.path.parent == item.folder / "files" / "llama-b9001"
    beside = {path.name for path in item.path.parent.iterdir()}
    assert beside == {"llama-server", "libggml.so", "libcudart.so.12"}
    assert os.access(item.path, os.X_OK)
    assert not list((tmp_path / "cache").rglob("*.gz")), "downloads are put away"
    asked = len(host.asked)
    assert one.shop.install("llama-server", "9001").folder == item.folder
    assert one.shop.install("llama-server", None).folder == item.folder
    assert len(host.asked) == asked, "it is there"
    older = one.shop.install("llama-server", "b9000")
    assert [kept.version for kept in one.shelf.items("llama-server")] == ["b9001", "b9000"]
    assert older.folder != item.folder


def test_a_build_that_cannot_use_the_card_gives_way(tmp_path: Path, host: Releases) -> None:
    host.files["b9001"] = files("b9001", cuda="")
    one = Shop(tmp_path, host.url, NVIDIA)
    assert one.shop.install("llama-server", None).build == "vulkan"
    assert any("the cuda build runs, but it can use the processor" in n.lower() for n in one.notes)
    host.files["b9000"] = files("b9000", cuda="broken", vulkan="broken")
    assert one.shop.install("llama-server", "b9000").build == "cpu"


def test_none_that_runs(tmp_path: Path, host: Releases) -> None:
    host.files["b9001"] = {
        "llama-b9001-bin-ubuntu-x64.tar.gz": archive({"llama-server": program("broken")})
    }
    one = Shop(tmp_path, host.url)
    with pytest.raises(ProblemError, match="does not run") as caught:
        one.shop.install("llama-server", None)
    assert "--from compile" in caught.value.problem.hint
    assert one.shelf.items("llama-server") == []
    assert not list((tmp_path / "engines" / "llama-server").iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not an archive", "cannot be unpacked"),
     (archive({"llama-b9001/README": "x"}), "no llama-server in it"),
     (archive({"../../outside": "x", "llama-server": program()}), "cannot be unpacked")],
)  # fmt: skip
def test_archives_that_are_none(tmp_path: Path, host: Releases, content: bytes, words: str) -> None:
    host.files["b9001"] = {"llama-b9001-bin-ubuntu-x64.tar.gz": content}
    with pytest.raises(ProblemError, match=words):
        Shop(tmp_path, host.url).shop.install("llama-server", None)
    assert not (tmp_path.parent / "outside").exists()
    assert not list(tmp_path.rglob("README"))


def test_no_room(tmp_path: Path, host: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ProblemError, match=r"there are 1\.0 MiB") as caught:
        Shop(tmp_path, host.url).shop.install("llama-server", None)
    assert "Make room" in caught.value.problem.hint
    assert host.asked == []


def test_ctrl_c_leaves_nothing_that_looks_whole(
    tmp_path: Path, host: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Shop(tmp_path, host.url)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "_asked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.shop.install("llama-server", None)
    assert one.shelf.items("llama-server") == []
    asked = len(host.asked)
    assert one.shop.install("llama-server", None).version == "b9001"
    assert len(host.asked) == asked, "what was fetched is not fetched again"


def test_what_a_killed_install_left_goes_with_the_next(tmp_path: Path, host: Releases) -> None:
    one = Shop(tmp_path, host.url)
    place = one.shelf.place("llama-server", "b1")
    for left in (place, place.with_name(".b1.77")):  # of any version
        (left / "files").mkdir(parents=True)
    began = tmp_path / "cache" / "engines" / "b1"
    began.mkdir(parents=True)
    (began / "x.part").write_text("x")
    one.shop.install("llama-server", None)
    assert [entry.name for entry in place.parent.iterdir()] == ["b9001"]
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_one_that_lost_its_program_is_installed_again(tmp_path: Path, host: Releases) -> None:
    one = Shop(tmp_path, host.url)
    item = one.shop.install("llama-server", "b9000")
    item.path.unlink()
    assert not item.whole
    assert one.shop.install("llama-server", "b9000").whole


def test_a_better_build_of_the_same_release(tmp_path: Path, host: Releases) -> None:
    """A driver that came after the install: the command that the warning names helps then."""
    first = Shop(tmp_path, host.url).shop.install("llama-server", None)
    assert first.build == "cpu"
    one = Shop(tmp_path, host.url, NVIDIA)
    assert one.shop.install("llama-server", "b9001").folder == first.folder, "not asked for"
    item = one.shop.install("llama-server", None, better=True)
    assert (item.version, item.build) == ("b9001-cuda", "cuda")
    assert first.whole, "it may run just now"
    for version in ("b9001", "9001"):
        assert one.shop.install("llama-server", version, better=True) == item
        assert one.shelf.called("llama-server", version) == item
    host.files["b9000"] = files("b9000", cuda="", vulkan="")
    slow = one.shop.install("llama-server", "b9000")
    assert one.shop.install("llama-server", "b9000", better=True) == slow
    assert any("it can use the processor alone" in note for note in one.notes)


def test_packages_for_a_card_that_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the warning of mlx-lm names helps: the same version again, with CUDA's libraries."""
    made: list[str] = []

    def make(self: object, folder: Path, lock: str) -> None:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()
        made.append(folder.name)

    installer = "daemon.engines.install.packages.Installer"
    monkeypatch.setattr(f"{installer}.resolve", lambda *_: "mlx-lm==0.32.2 --hash=sha256:00\n")
    monkeypatch.setattr(f"{installer}.make", make)
    assert Shop(tmp_path).shop.install("mlx-lm", None, better=True).build == "cpu"
    one = Shop(tmp_path, machine=NVIDIA)
    assert one.shop.install("mlx-lm", None).version == "0.32.2"
    item = one.shop.install("mlx-lm", "0.32.2", better=True)
    assert (item.version, item.build, item.path) == ("0.32.2-cuda12", "cuda12", item.folder)
    assert one.shop.install("mlx-lm", None, better=True) == item
    assert one.shelf.called("mlx-lm", "0.32.2") == item
    assert made == ["0.32.2", "0.32.2-cuda12"]


def test_one_at_a_time(tmp_path: Path, host: Releases) -> None:
    one = Shop(tmp_path, host.url)
    with (
        one.shelf.locked(".llama-server"),
        pytest.raises(ProblemError, match="Another install of llama-server"),
    ):
        one.shop.install("llama-server", None)


def brew(folder: Path, script: str) -> Tools:
    tool = folder / "bin" / "brew"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/asked'\n{script}")
    tool.chmod(0o755)
    return Tools(brew=str(tool))


def test_homebrew_where_the_archive_cannot_be_had(tmp_path: Path) -> None:
    cellar = tmp_path / "opt" / "llama.cpp"
    (cellar / "bin").mkdir(parents=True)
    (cellar / "bin" / "llama-server").write_text(program("MTL"))
    (cellar / "bin" / "llama-server").chmod(0o755)
    tools = brew(tmp_path, f"[ $1 = --prefix ] && echo '{cellar}'\nexit 0\n")
    one = Shop(tmp_path, tools=tools)
    item = one.shop.install("llama-server", None)
    assert (item.version, item.how, item.build) == ("brew-9001", "brew", "metal")
    assert item.path == cellar / "bin" / "llama-server"
    again = one.shelf.item("llama-server", "brew-9001")
    assert again is not None
    assert again.path == item.path
    said = (tmp_path / "asked").read_text().splitlines()
    assert said == ["install llama.cpp", "upgrade llama.cpp", "--prefix llama.cpp"]
    assert "Trying another way" in one.notes[0]


def test_homebrew_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    tools = brew(tmp_path, "echo 'Error: No available formula' >&2\nexit 1\n")
    with pytest.raises(ProblemError, match="No available formula") as caught:
        Shop(tmp_path, tools=tools).shop.install("llama-server", None, "brew")
    assert "install.log" in caught.value.problem.hint


def test_a_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cmake is a stand-in, the source an archive of ours."""
    source = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
    source.write_bytes(archive({"llama_cpp_python-0.3.36/vendor/llama.cpp/CMakeLists.txt": "x"}))
    cmake = tmp_path / "cmake"
    cmake.write_text(
        f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/asked'\n"
        'if [ $1 = --build ]; then mkdir -p "$2/bin"; cat > "$2/bin/llama-server" <<"END"\n'
        f'{program("CUDA")}END\nchmod +x "$2/bin/llama-server"; fi\n'
    )
    cmake.chmod(0o755)
    tools = Tools(cmake=str(cmake), compiler="/usr/bin/c++", make="/usr/bin/ninja", nvcc="/nvcc")
    one = Shop(tmp_path, machine=NVIDIA, tools=tools)

    def sdist(self: object, requirement: str, folder: Path, lock: str) -> Path:
        folder.mkdir(parents=True)
        return Path(shutil.copy(source, folder))

    monkeypatch.setattr("daemon.engines.install.packages.Installer.sdist", sdist)
    item = one.shop.install("llama-server", None, "compile")
    assert (item.version, item.how, item.build) == ("0.3.36", "compiled", "cuda")
    prepared, built = (tmp_path / "asked").read_text().splitlines()
    assert "-G Ninja" in prepared
    assert "-DGGML_CUDA=ON" in prepared
    assert "--target llama-server" in built
    assert not (tmp_path / "cache" / "engines" / "compile").exists()


def test_a_mirror_is_an_address(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        Shop(tmp_path, "file:///etc/passwd").shop.install("llama-server", None)
    assert caught.value.problem.code in (Code.CONFIG_INVALID, Code.PULL_FAILED)
    assert fetch.RELEASES.startswith("https://")
