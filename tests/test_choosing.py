"""Which weights a preset gets: by what is here and what fits, for all offers and budgets."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from daemon.choosing import Offer, alternative, choose, refusal
from daemon.config.model import Choice, Model
from daemon.core.problems import Code
from daemon.planning import Option, loss
from daemon.weights.quants import bits

GB = 10**9
QUANTS = {"Q8_0": 32, "Q6_K": 25, "Q4_K_XL": 18, "Q3_K_XL": 14, "TQ1_0": 8}
CONTEXTS = (131072, 65536, 32768)


def offer(
    quant: str, size: int, *, form: str = "gguf", here: bool = False, engine: str = "llama-server"
) -> Offer:
    """One of ``size`` GB, whose context takes 1 GB for each 32768 tokens."""
    made = Model(
        "m", preset="m", kind="chat", form="mlx" if form == "mlx" else "gguf",
        hf=f"owner/{form}:{quant}", size=size * GB,
    )  # fmt: skip
    options = tuple(
        Option(
            quant, context, "f16", {"ram": size * GB + context // 32768 * GB},
            loss(bits(quant) or 8.5, context, CONTEXTS[0], "f16"),
        )
        for context in CONTEXTS
    )  # fmt: skip
    return Offer(made, options, here=here, engine=engine)


ALL = tuple(offer(quant, size) for quant, size in QUANTS.items())


def chosen(offers: tuple[Offer, ...], gigabytes: float, kept: str | None = None) -> Model:
    return choose(offers, {"ram": int(gigabytes * GB)}, kept)


def test_less_memory_gets_a_smaller_quantisation() -> None:
    found = [chosen(ALL, room).quant for room in (64, 36, 30, 22, 15, 12)]
    assert found == ["Q8_0", "Q8_0", "Q6_K", "Q4_K_XL", "Q3_K_XL", "TQ1_0"]


def test_it_says_what_and_why() -> None:
    choice = chosen(ALL, 22).choice
    assert choice is not None
    assert choice.text == (
        "Q4_K_XL (16.8 GiB, GGUF for llama-server): of 5 the best that fits 20.5 GiB with a "
        "context of 131072"
    )
    few = chosen(ALL, 12).choice
    assert few is not None
    assert few.text.endswith("; below 3.5 bits per weight it makes more mistakes")
    here = chosen((replace(ALL[2], here=True), *ALL[3:]), 64).choice
    assert here is not None
    assert here.text == "Q4_K_XL (16.8 GiB, GGUF for llama-server): it is on this machine"
    only = chosen(ALL[2:3], 64).choice
    assert only is not None
    assert only.text.endswith(": it fits 59.6 GiB with a context of 131072")


def test_what_is_here_is_taken_even_where_better_would_fit() -> None:
    offers = (*ALL[:4], replace(ALL[4], here=True))
    assert chosen(offers, 64).quant == "TQ1_0"


def test_of_several_that_are_here_the_best_that_fits() -> None:
    offers = tuple(replace(each, here=each.quant in ("Q8_0", "Q3_K_XL")) for each in ALL)
    assert chosen(offers, 64).quant == "Q8_0"
    assert chosen(offers, 20).quant == "Q3_K_XL"
    assert chosen(offers, 64, kept="owner/gguf:Q3_K_XL").quant == "Q3_K_XL", "as it was before"
    assert chosen(offers, 64, kept="owner/gguf:Q6_K").quant == "Q8_0", "which is gone"


def test_what_is_here_and_does_not_fit_is_no_reason_to_fetch_another() -> None:
    found = chosen((replace(ALL[0], here=True), *ALL[1:]), 20)
    assert found.quant == "Q8_0"
    assert found.choice is not None
    assert found.choice.refusal is None, "the load says what it lacks"


def test_the_form_that_runs_here() -> None:
    mlx = offer("4bit", 17, form="mlx", engine="mlx-lm")
    assert chosen((mlx, *ALL), 64).form == "mlx", "the preferred one comes first"
    assert chosen((*ALL, mlx), 64).form == "gguf"
    assert chosen((replace(mlx, engine=""), *ALL), 64).form == "gguf", "no engine runs it"
    none = tuple(replace(each, engine="") for each in (mlx, *ALL))
    assert chosen(none, 64).form == "mlx", "which the missing engine is named for"
    assert chosen((mlx, *ALL), 12).quant == "TQ1_0", "the other form where this one does not fit"
    assert chosen((mlx, *(replace(each, here=True) for each in ALL)), 64).form == "gguf"


def test_nothing_fits() -> None:
    found = chosen(ALL, 6)
    assert found.quant == "TQ1_0"
    assert found.choice is not None
    problem = found.choice.refusal
    assert problem is not None
    assert problem.code is Code.MODEL_TOO_LARGE
    assert problem.message == (
        "m does not fit this machine: even its smallest quantisation, TQ1_0 (7.5 GiB), needs "
        "8.4 GiB with a context of 32768, and there is room for 5.6 GiB."
    )
    assert problem.facts["size"] == 8 * GB


def test_another_preset_is_named_that_fits() -> None:
    big = chosen(ALL, 6)

    def other(name: str, size: int, **more: object) -> Model:
        made = Model(name, kind="chat", size=size, choice=Choice("fits"))
        return replace(made, **more)  # type: ignore[arg-type]

    small, larger = other("small", 1), other("larger", 3)
    embedder = other("embedder", 9, kind="embedding")
    mute = other("mute", 8, tools=False)
    assert alternative(big, [small, big, larger, embedder, mute]) == "larger"
    assert alternative(replace(big, tools=False), [small, mute]) == "mute"
    seeing = replace(big, mmproj="eye.gguf")
    assert alternative(seeing, [small, larger, other("eye", 2, mmproj="x")]) == "eye"
    assert alternative(big, [embedder, replace(big, name="too-large")]) is None
    told = refusal(big, [small, larger])
    assert told is not None
    assert told.facts["alternative"] == "larger"
    assert told.hint.startswith("larger fits: ctl load larger.")
    assert "--fit ignore" in told.hint
    assert refusal(small, [larger]) is None
    assert refusal(Model("of-the-user"), [larger]) is None


def test_nothing_is_known_of_it() -> None:
    bare = Offer(Model("m", hf="a/b"))
    assert choose([bare], {"ram": GB}) == bare.model


# ---------------------------------------------------------------- for all


sizes = st.integers(1, 80)
offers = st.lists(
    st.builds(
        offer,
        st.sampled_from(sorted(QUANTS)),
        sizes,
        form=st.sampled_from(["gguf", "mlx"]),
        here=st.booleans(),
        engine=st.sampled_from(["", "llama-server"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.model.hf,
).map(tuple)


def fitting(given: tuple[Offer, ...], room: float) -> set[str | None]:
    budget = {"ram": int(room * GB)}
    return {each.model.hf for each in given if each.best(budget) is not None}


@given(offers, sizes)
def test_what_is_here_is_never_passed_over(given: tuple[Offer, ...], room: int) -> None:
    here = {each.model.hf for each in given if each.here}
    found = chosen(given, room)
    if here:
        assert found.hf in here
        assert found.choice is not None
        assert found.choice.refusal is None


@given(offers, sizes)
def test_nothing_is_fetched_that_does_not_fit(given: tuple[Offer, ...], room: int) -> None:
    given = tuple(replace(each, here=False) for each in given)
    able = tuple(each for each in given if each.engine) or given
    found = chosen(given, room)
    assert found.choice is not None
    assert (found.choice.refusal is None) == (found.hf in fitting(able, room))
    assert (found.choice.refusal is not None) == (not fitting(able, room))


@given(offers, sizes, sizes)
def test_more_memory_never_gets_worse(given: tuple[Offer, ...], room: int, more: int) -> None:
    given = tuple(
        replace(each, here=False, engine="x") for each in given if each.model.form == "gguf"
    )
    if not given or not fitting(given, room):
        return
    lost = []
    for budget in (room, room + more):
        found = chosen(given, budget)
        taken = next(each for each in given if each.model.hf == found.hf)
        best = taken.best({"ram": budget * GB})
        assert best is not None
        lost.append(best.loss)
    assert lost[1] <= lost[0]


@given(offers, sizes, sizes)
def test_a_choice_stays_once_its_weights_are_here(
    given: tuple[Offer, ...], room: int, later: int
) -> None:
    """Whatever the memory is later, and whatever else comes."""
    first = chosen(given, room)
    then = tuple(replace(each, here=each.here or each.model.hf == first.hf) for each in given)
    assert chosen(then, later, kept=first.hf).hf == first.hf
