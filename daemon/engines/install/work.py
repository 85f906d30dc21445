"""Carrying out a plan: an engine of one version on the shelf, or a clear reason why not.

Nothing is taken for installed before its last step, ``about.json``. What an interrupted install
left is removed by the next one; what others use is never written to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines.base import Installed
from daemon.engines.install import builds, children, fetch
from daemon.engines.install.children import Tell, check_room
from daemon.engines.install.packages import Installer, log_of, version_in
from daemon.engines.install.plan import (
    SDIST,
    Archive,
    Brew,
    Compile,
    Packages,
    Tools,
    Way,
    ways,
)
from daemon.engines.install.probes import Machine
from daemon.engines.install.shelf import Item, Shelf
from daemon.engines.install.unpack import PROGRAM, unpack
from daemon.engines.llama_server import LlamaServer

UNPACKED: Final = 3  # times the size of an archive, about
_FROM: Final = {"archive": "archive", "brew": "brew", "compiled": "compile"}
"""Where an installation came from, as it is asked for."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What an install needs. ``cache``: where downloads are kept until they are whole."""

    shelf: Shelf
    machine: Machine
    tools: Tools
    environ: Mapping[str, str]
    tell: Tell
    cache: Path
    releases: str = fetch.RELEASES

    def install(
        self, engine: str, version: str | None, source: str | None = None, *, better: bool = False
    ) -> Item:
        """The engine in this version (None: the newest). One that is there already is left alone;
        with ``better`` a build of it is looked for that uses a card which the one there does not.

        Raises ProblemError; OSError where the disk refuses.
        """
        there = self._there(engine, version) if version else None
        if there is not None and source in (None, _FROM.get(there.how)):
            slow = better and self._slow(there)
            if not slow:
                return there
        found = ways(engine, version, self.machine, self.tools, source)
        if isinstance(found, Problem):
            raise ProblemError(found)
        with self._alone(engine):
            self.shelf.sweep(engine)
            return self._first_of(engine, found, better=better)

    def _there(self, engine: str, version: str) -> Item | None:
        """That version, where it is whole; else it is installed again in its place."""
        item = self.shelf.called(engine, version)
        return item if item is not None and item.whole else None

    def _slow(self, item: Item) -> bool:
        """It was made for the processor, and there is a card."""
        made = item.how in ("archive", "packages")
        return made and item.build == "cpu" and self.machine.graphics.card

    @contextlib.contextmanager
    def _alone(self, engine: str) -> Iterator[None]:
        lock = self.shelf.locked(f".{engine}", wait=False)
        try:
            lock.__enter__()
        except BlockingIOError:
            what = f"Another install of {engine} is under way."
            hint = f"Wait for it, then: ctl engine ls. What it does: {self._log(engine)}"
            raise ProblemError(Problem(Code.PULL_FAILED, what, hint)) from None
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _log(self, engine: str) -> Path:
        return log_of(self.shelf.folder, engine)

    def _first_of(self, engine: str, found: tuple[Way, ...], *, better: bool) -> Item:
        """The first way that leads there. Why the others did not is told with it."""
        failures: list[Problem] = []
        for way in found:
            try:
                return self._go(engine, way, better=better)
            except ProblemError as error:
                failures.append(error.problem)
                if way is not found[-1]:
                    self.tell("note", f"{error.problem.message} Trying another way.", None)
        if len(failures) == 1:
            raise ProblemError(failures[0])
        text = " ".join(problem.message for problem in failures)
        raise ProblemError(Problem(Code.PULL_FAILED, text, failures[0].hint))

    def _go(self, engine: str, way: Way, *, better: bool) -> Item:
        match way:
            case Packages():
                return self._packages(engine, way, better=better)
            case Archive():
                return self._archive(way, better=better)
            case Brew():
                return self._brew(way)
            case Compile():
                return self._compile(way)

    # ------------------------------------------------------------ from the package index

    def _installer(self, engine: str) -> Installer:
        return Installer(self.tools.uv, self.shelf.folder, self.environ, self.tell, engine)

    def _packages(self, engine: str, way: Packages, *, better: bool) -> Item:
        check_room(self.shelf.folder, way.room, engine)
        installer = self._installer(engine)
        lock = installer.resolve(way.requirements)
        version = version_in(lock, way.package)
        if (there := self._there(engine, version)) is not None:
            if not better or way.build in ("cpu", there.build):
                return there
            version = f"{version}-{way.build}"  # beside the one that may run
        with self._place(engine, version) as folder:
            # Not made elsewhere and moved: scripts in an environment name its folder.
            installer.make(folder, lock)
            path = folder if way.path == "." else folder / way.path
            return self._finish(Item(engine, version, folder, path, "packages", way.build))

    @contextlib.contextmanager
    def _place(self, engine: str, version: str) -> Iterator[Path]:
        """An empty place for an installation, and empty again where it does not come about."""
        folder = self.shelf.place(engine, version)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.exists():
            shutil.rmtree(folder)  # of an install that was interrupted
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _finish(self, item: Item, **more: object) -> Item:
        return self.shelf.finish(item, more)

    # ------------------------------------------------------------ llama-server

    def _archive(self, way: Archive, *, better: bool) -> Item:
        self.tell("choose", "asking for the release", None)
        release = fetch.release(self.releases, way.version)
        found = builds.choices(release.assets, self.machine)
        there = self._there("llama-server", release.tag)
        if there is not None:
            found = builds.better(found, there.build) if better and self._slow(there) else ()
            if not found:
                return there
        if not found:
            what = f"The release {release.tag} has no build for this machine."
            hint = "ctl engine install llama-server --from compile"
            raise ProblemError(Problem(Code.PULL_FAILED, what, hint))
        if why := builds.unused(release.assets, self.machine):
            self.tell("note", why, None)
        reasons = []
        for choice in found:
            try:
                return self._build(release, choice)
            except ProblemError as error:
                if error.problem.code is not Code.ENGINE_MISSING:
                    raise
                reasons.append(error.problem.message)
                self.tell("note", error.problem.message, None)
        if there is not None:
            return there
        hint = "ctl engine install llama-server --from compile"
        raise ProblemError(Problem(Code.PULL_FAILED, " ".join(reasons), hint))

    def _build(self, release: fetch.Release, choice: builds.Choice) -> Item:
        """Raises ProblemError: ENGINE_MISSING where this build does not do what it is for."""
        assets = [release.assets[name] for name in choice.files]
        need = sum(asset.size for asset in assets)
        check_room(self.cache, need, "The download", "MODELPORT_CACHE_DIR")
        check_room(self.shelf.folder, need * UNPACKED, f"llama-server {release.tag}")
        kept = self.cache / "engines"
        archives = [fetch.fetch(asset, kept / release.tag, self.tell) for asset in assets]
        version = release.tag
        if (other := self.shelf.item("llama-server", version)) is not None and other.whole:
            version = f"{version}-{choice.build}"  # beside the one that may run
        with self._place("llama-server", version) as folder:
            self.tell("install", f"llama-server {release.tag} ({choice.build})", None)
            aside = folder.with_name(f".{folder.name}.{os.getpid()}")
            shutil.rmtree(aside, ignore_errors=True)
            try:
                aside.mkdir(mode=0o700)
                program = unpack(archives, aside)
                self._asked(program, choice.build)
                aside.replace(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            path = folder / program.relative_to(aside)
            item = Item("llama-server", version, folder, path, "archive", choice.build)
            hashes = {asset.name: asset.sha256 for asset in assets}
            item = self._finish(item, sha256=hashes, why=choice.why)
        shutil.rmtree(kept, ignore_errors=True)  # what other tries have left, too
        return item

    def _asked(self, program: Path, build: str) -> Installed:
        """What the program says of itself. Raises ProblemError (ENGINE_MISSING) where it does not
        run, or cannot use what it was built for: asked, not believed."""
        installed = LlamaServer(environ=self.environ).find({"path": str(program)}, self.environ)
        if build != "cpu" and build not in installed.accelerators:
            uses = ", ".join(installed.accelerators) or "the processor alone"
            what = f"The {build} build runs, but it can use {uses} here."
            raise ProblemError(Problem(Code.ENGINE_MISSING, what))
        return installed

    def _brew(self, way: Brew) -> Item:
        log = self._log("llama-server")
        brew = self.tools.brew

        def ask(*words: str) -> str:
            what = f"brew {' '.join(words)}"
            return children.run((brew, *words), self.environ, self.tell, "install", what, log)

        ask("install", way.formula)
        ask("upgrade", way.formula)  # the newest is what was asked for
        path = Path(ask("--prefix", way.formula).strip()) / "bin" / PROGRAM
        installed = self._asked(path, "cpu")
        number = installed.version.split(" ")[0].lstrip("b") or "newest"
        version = f"brew-{number}"
        with self._place("llama-server", version) as folder:
            folder.mkdir(mode=0o700)
            build = next(iter(installed.accelerators), "cpu")
            return self._finish(Item("llama-server", version, folder, path, "brew", build))

    def _compile(self, way: Compile) -> Item:
        check_room(self.cache, way.room, "Compiling llama-server", "MODELPORT_CACHE_DIR")
        work = self.cache / "engines" / "compile"
        shutil.rmtree(work, ignore_errors=True)
        try:
            return self._compiled(way, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _compiled(self, way: Compile, work: Path) -> Item:
        installer = self._installer("llama-server")
        lock = installer.source(way.requirement)
        if lock and (there := self._there("llama-server", version_in(lock, SDIST))) is not None:
            return there
        archive = installer.sdist(way.requirement, work, lock)
        version = archive.name.removesuffix(".tar.gz").rpartition("-")[2]
        if (there := self._there("llama-server", version)) is not None:
            return there
        with tarfile.open(archive) as tar:
            if not hasattr(tarfile, "data_filter"):
                what = "This Python is too old to unpack sources safely."
                raise ProblemError(Problem(Code.PULL_FAILED, what, "Take 3.11.4 or newer."))
            tar.extractall(work, filter="data")
        source = next(iter(work.glob("*/vendor/llama.cpp")), None)
        if source is None:
            raise ProblemError(Problem(Code.PULL_FAILED, f"{archive.name} has no llama.cpp in it."))
        self._cmake(("-S", str(source), "-B", str(work / "tree"), *self._defines(way)), "preparing")
        jobs = str(max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                       else os.cpu_count() or 1))  # fmt: skip
        self._cmake(
            ("--build", str(work / "tree"), "-j", jobs, "--target", PROGRAM),
            f"compiling llama-server ({way.build})",
        )
        built = next((p for p in sorted((work / "tree").rglob(PROGRAM)) if p.is_file()), None)
        if built is None:
            raise ProblemError(Problem(Code.PULL_FAILED, "The compile left no llama-server."))
        self._asked(built, way.build)
        with self._place("llama-server", version) as folder:
            folder.mkdir(mode=0o700)
            path = folder / PROGRAM
            shutil.copy2(built, path)
            return self._finish(Item("llama-server", version, folder, path, "compiled", way.build))

    def _defines(self, way: Compile) -> tuple[str, ...]:
        generator = ("-G", "Ninja") if self.tools.make.endswith("ninja") else ()
        return (*generator, *(f"-D{one}" for one in way.defines))

    def _cmake(self, words: tuple[str, ...], what: str) -> None:
        argv, log = (self.tools.cmake, *words), self._log("llama-server")
        gauge = children.steps_done
        children.run(argv, self.environ, self.tell, "compile", what, log, gauge)
