"""What a model would take, also before its weights are here: for people who plan.

Weights on the disk are read; of others the figures that their publishers give are taken, where
there are any. Reads files and may run an engine's ``--version``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast, get_args

from daemon.backends.prepare import Located, form_of
from daemon.backends.prices import fixed_bytes, price_of
from daemon.config.model import Model
from daemon.config.presets import Form, FormName, Preset
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError
from daemon.engines import pricing
from daemon.engines.base import Running
from daemon.engines.pricing import Site
from daemon.engines.registry import Registry
from daemon.weights.describe import describe
from daemon.weights.errors import WeightsError
from daemon.weights.facts import Kind, Weights
from daemon.weights.footprint import Breakdown
from daemon.weights.quants import bits, named_in, plain

# What is reckoned with where no engine is here that could run it.
_USUAL: Final = {"gguf": "llama-server", "mlx": "mlx-lm", "safetensors": "vllm"}


@dataclass(frozen=True, slots=True)
class Sized:
    """One quantisation of a model, and where it would run. ``here``: its files are on the disk;
    else ``weights`` are of published figures. ``quant``: "" where nothing tells it. ``missing``:
    why no engine runs it here. ``fixed``: bytes that the user wrote for a command of his own."""

    model: Model
    site: Site
    quant: str
    here: bool
    weights: Weights | None = None
    path: Path | None = None
    fixed: int | None = None
    missing: str = ""

    @property
    def kind(self) -> str:
        return self.site.kind

    @property
    def trained(self) -> int | None:
        """The context that it was trained for, in tokens."""
        return (self.weights.n_ctx_train or None) if self.weights else None

    def price(self, running: Running) -> dict[str, Breakdown]:
        """Bytes by pool. Raises ProblemError for args that say nonsense."""
        size = self.model.size or 0
        return price_of(self.model.name, running, self.site, self.weights, self.fixed, size)

    def need(self, running: Running) -> dict[str, int]:
        """The sums of :meth:`price`."""
        return {pool: part.total for pool, part in self.price(running).items()}


class Sizer:
    """Sizes models with one configuration, on one machine of these ``pools``.

    ``locate``: the files of a model on this disk; raises ProblemError where they are not.
    """

    def __init__(
        self,
        settings: Settings,
        presets: Mapping[str, Preset],
        registry: Registry,
        pools: Sequence[str],
        locate: Callable[[Model], Located],
    ) -> None:
        self._settings = settings
        self._presets = presets
        self._registry = registry
        self._pools = pools
        self._locate = locate

    def size(self, model: Model) -> Sized:
        """The model as it is configured.

        Raises ProblemError: NOT_PULLED where its weights are not here and nothing is known of them.
        """
        if (model.engine or "").startswith("command."):
            return self._command(model)
        try:
            place = self._locate(model)
        except ProblemError as error:
            if error.problem.code is not Code.NOT_PULLED:
                raise
            return self._published(model, error.problem)
        assert place.path is not None
        try:
            weights = describe(place.path, mmproj=place.mmproj, draft=place.draft)
        except WeightsError as error:
            hint = "Is it complete? Pull or copy it again."
            text = f"{model.name}: {error}."
            raise ProblemError(Problem(Code.MODEL_UNAVAILABLE, text, hint)) from None
        quant = "" if model.path is not None else quant_of(model)
        return self._sized(model, weights, quant or weights.quantisation, path=place.path)

    def quantised(self, model: Model, quant: str) -> Sized:
        """Another quantisation of the model's repository. Raises ProblemError as :meth:`size`,
        and CONFIG_INVALID where its weights are of one file."""
        if model.repo is None:
            where = f" ({model.path})" if model.path is not None else ""
            text = f"{model.name} has the weights that it has{where}: no quantisation to choose."
            raise ProblemError(Problem(Code.CONFIG_INVALID, text, f"Leave out :{quant}."))
        if plain(quant) == plain(quant_of(model)):
            return self.size(model)
        return self.size(replace(model, hf=f"{model.repo}:{quant}", file=None, size=None))

    def others(self, model: Model) -> Iterator[Sized]:
        """The other quantisations that its preset names, best first."""
        found = self._form(model)
        if found is None or model.repo is None or model.repo != _repo(found[2]):
            return
        own = plain(quant_of(model))
        for quant in found[2].quants:
            if plain(quant) != own:
                yield self.quantised(model, quant)

    def of_file(self, path: Path) -> Sized:
        """Weights that no model names. Raises WeightsError for files that are no model."""
        weights = describe(path)
        return self._sized(Model(name=path.name, path=path), weights, weights.quantisation, path)

    def _command(self, model: Model) -> Sized:
        """A program of the user's own: what it takes is what he wrote, or the size of its files."""
        fixed = fixed_bytes(model, self._settings)
        files = model.path.stat().st_size if model.path and model.path.is_file() else model.size
        site, missing = self._site(model, model.engine or "", model.kind or "chat")
        sized = replace(model, size=files)
        return Sized(sized, site, "", True, None, model.path, fixed, missing)

    def _sized(self, model: Model, weights: Weights, quant: str, path: Path | None = None) -> Sized:
        kind = model.kind or weights.kind
        form = form_of(model, weights)
        chosen = model.engine or self._registry.choose(form, kind)
        problem = chosen.text if isinstance(chosen, Problem) else ""
        name = _USUAL[form] if isinstance(chosen, Problem) else chosen
        site, missing = self._site(model, name, kind)
        return Sized(model, site, quant, path is not None, weights, path, None, problem or missing)

    def _site(self, model: Model, engine: str, kind: str) -> tuple[Site, str]:
        """Where it runs, and why it could not."""
        args = (*self._settings.engines.entry(engine).args, *model.args_for(engine))
        missing, version, accelerated = "", "", False
        try:
            installed = self._registry.find(engine)
            version, accelerated = installed.version, bool(installed.accelerators)
        except ProblemError as error:
            missing = error.problem.text
        return pricing.site(
            engine,
            kind,
            args,
            self._pools,
            version=version,
            accelerated=accelerated,
            pool=model.pool,
        ), missing

    # ------------------------------------------------------------ what is not here

    def _published(self, model: Model, absent: Problem) -> Sized:
        from daemon.weights import published  # a large table, and seldom asked

        found = self._form(model)
        figures = published.figures(found[0], found[1]) if found else None
        if found is None or figures is None:
            text = f"{absent.message} Nothing is published of them here, either."
            raise ProblemError(Problem(Code.NOT_PULLED, text, f"{absent.hint}, then ask again"))
        form = found[2]
        quant = quant_of(model) or _quant(form)
        size = _bytes(form, quant, figures.tensor_bytes)
        if size is None:
            names = ", ".join(dict.fromkeys([_quant(form), *form.quants]))
            text = f"{model.name}: nothing is known of the quantisation {quant[:40]!r}."
            hint = f"Known are {names}, and llama.cpp's other names."
            raise ProblemError(Problem(Code.NOT_PULLED, text, hint))
        kind = model.kind or self._presets[found[0]].kind
        known = cast("Kind", kind if kind in get_args(Kind) else "chat")
        return self._sized(model, figures.weights(model.name, known, quant, size), quant)

    def _form(self, model: Model) -> tuple[str, FormName, Form] | None:
        """The preset and its form whose figures are the model's: the one that it builds on, else
        the one with the same repository."""
        named = self._presets.get(model.preset or "")
        if named is not None:
            return (model.preset or "", *named.form(model.form or "gguf"))
        for name, preset in self._presets.items():
            forms: tuple[tuple[FormName, Form | None], ...]
            forms = (("gguf", preset.gguf), ("mlx", preset.mlx))
            for which, known in forms:
                if known is not None and model.repo is not None and model.repo == _repo(known):
                    return name, which, known
        return None


def quant_of(model: Model) -> str:
    """The quantisation that the configuration names; "" where it names none."""
    return model.quant or named_in(model.file or "") or named_in(model.repo or "")


def _repo(form: Form) -> str | None:
    return form.hf.partition(":")[0] if form.hf else None


def _quant(form: Form) -> str:
    """The quantisation that a preset takes."""
    named = form.hf.partition(":")[2] if form.hf else ""
    return named or named_in(form.file or form.package_file or "") or named_in(form.hf or "")


def _bytes(form: Form, quant: str, exact: int | None) -> int | None:
    """The size of a quantisation: as published, else by the bits of its name."""
    if plain(quant) == plain(_quant(form)):
        return exact or form.size
    known = {plain(name): int(size) for name, size in form.quants.items()}
    if plain(quant) in known:
        return known[plain(quant)]
    wanted, have = bits(quant), bits(_quant(form))
    return round(form.size * wanted / have) if form.size and wanted and have else None
