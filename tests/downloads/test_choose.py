from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.problems import Code, ProblemError
from daemon.downloads.choose import (
    DEFAULT_QUANTS,
    RepoFile,
    choose_extra,
    choose_files,
    choose_projector,
    groups,
    is_projector,
    quant_of,
    quants,
)


def repo(*names: str) -> list[RepoFile]:
    """Files of sizes 100, 101, … in the order given."""
    return [RepoFile(name, 100 + n) for n, name in enumerate(names)]


def chosen(*names: str, quant: str | None = None, file: str | None = None) -> list[str]:
    return [f.name for f in choose_files(repo(*names), quant, file)]


def refusal(*names: str, quant: str | None = None, file: str | None = None) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        choose_files(repo(*names), quant, file)
    assert caught.value.problem.code is Code.PULL_FAILED
    return caught.value


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen3-coder-30b-a3b-instruct-q8_0.gguf", "Q8_0"),
        ("Qwen3-Next-80B-A3B-Instruct-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("nomic-embed-text-v1.5.f16.gguf", "F16"),
        ("model-BF16-00001-of-00002.gguf", "BF16"),
        ("model-fp16.gguf", "F16"),
        ("Meta-Llama-3.1-8B-Instruct-IQ4_XS.gguf", "IQ4_XS"),
        ("model.i1-Q4_K_S.gguf", "Q4_K_S"),
        ("model.Q6_K.imat.gguf", "Q6_K"),
        ("UD-IQ1_S/DeepSeek-UD-IQ1_S-00001-of-00004.gguf", "UD-IQ1_S"),
        ("Q4_K_M/part-00001-of-00002.gguf", "Q4_K_M"),
        ("model-TQ1_0.gguf", "TQ1_0"),
        ("smollm.gguf", ""),
        ("Q-is-no-quant.gguf", ""),
        ("Llama-3.1-Q4-finetune.gguf", ""),
    ],
)
def test_the_quantisation_is_read_from_the_name(name: str, quant: str) -> None:
    assert quant_of(name) == quant


def test_the_one_that_is_asked_for_in_any_case() -> None:
    names = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "README.md")
    assert chosen(*names, quant="q8_0") == ["m-Q8_0.gguf"]


def test_a_plain_name_also_finds_the_dynamic_one_but_prefers_its_own() -> None:
    assert chosen("m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf", quant="Q4_K_XL") == ["m-UD-Q4_K_XL.gguf"]
    both = ("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf")
    assert chosen(*both, quant="q4_k_m") == ["m-Q4_K_M.gguf"]
    assert chosen(*both, quant="UD-Q4_K_M") == ["m-UD-Q4_K_M.gguf"]
    assert "'UD-Q8_0'" in str(refusal("m-Q8_0.gguf", quant="UD-Q8_0"))


def test_a_quantisation_is_not_a_part_of_another() -> None:
    assert "'Q4_K'" in str(refusal("m-Q4_K_M.gguf", quant="Q4_K"))
    assert "'4_K_M'" in str(refusal("m-Q4_K_M.gguf", quant="4_K_M"))


def test_an_unusual_ending_can_be_asked_for_as_well() -> None:
    assert chosen("m-Q4_K_M.gguf", "m-turbo.gguf", quant="Turbo") == ["m-turbo.gguf"]


def test_what_is_missing_is_answered_with_what_there_is() -> None:
    error = refusal("m-Q4_K_M.gguf", "m-Q8_0.gguf", "odd.gguf", quant="Q2_K")
    assert error.problem.message == "There is no quantisation 'Q2_K' in this repository."
    assert error.problem.hint == "There are these quantisations: Q4_K_M, Q8_0, odd"
    assert error.problem.facts == {"quants": ["Q4_K_M", "Q8_0", "odd"]}


def test_all_shards_are_taken_in_order() -> None:
    shards = [f"UD-Q4_K_XL/m-UD-Q4_K_XL-0000{n}-of-00003.gguf" for n in (3, 1, 2)]
    assert chosen("m-Q2_K.gguf", *shards, quant="Q4_K_XL") == sorted(shards)


def test_a_set_with_a_shard_missing_is_refused_and_never_a_default() -> None:
    names = ("m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf")
    assert "1 of 2 shards" in str(refusal(*names, quant="Q4_K_M"))
    assert chosen(*names) == ["m-Q8_0.gguf"]
    assert "1 of 2 shards" in str(refusal(names[0]))


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["Q8_0", "Q4_0", "Q4_K_M", "UD-Q4_K_XL"], "Q4_K_M"),
        (["Q8_0", "Q4_0", "UD-Q4_K_XL"], "UD-Q4_K_XL"),
        (["Q8_0", "Q4_0", "F16"], "Q4_0"),
        (["F16", "Q8_0"], "Q8_0"),
        (["BF16", "Q2_K"], "Q2_K"),
        (["mxfp4"], "mxfp4"),
        (["Q1_0", "F32"], "F32"),
    ],
)
def test_the_default_is_four_bits_then_better_then_smaller(there: list[str], expected: str) -> None:
    assert chosen(*(f"m-{quant}.gguf" for quant in there)) == [f"m-{expected}.gguf"]


def test_of_unknown_ones_the_smallest() -> None:
    assert chosen("b.gguf", "a.gguf") == ["b.gguf"]


def test_of_several_with_one_quantisation_the_plainest_near_the_top() -> None:
    assert chosen("old/m-Q4_K_M.gguf", "m-extra-Q4_K_M.gguf", "m-Q4_K_M.gguf", quant="Q4_K_M") == [
        "m-Q4_K_M.gguf"
    ]


def test_projectors_and_matrices_are_no_models() -> None:
    names = ("mmproj-m-Q4_K_M.gguf", "m.imatrix.gguf", "m-Q8_0.gguf")
    assert chosen(*names) == ["m-Q8_0.gguf"]
    assert "'Q4_K_M'" in str(refusal(*names, quant="Q4_K_M"))


def test_a_file_by_path_by_name_and_with_its_shards() -> None:
    names = ("a/m-Q4_0.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q8_0-00001-of-00002.gguf")
    assert chosen(*names, file="a/m-Q4_0.gguf") == ["a/m-Q4_0.gguf"]
    assert chosen(*names, file="M-q4_0.gguf") == ["a/m-Q4_0.gguf"]
    assert chosen(*names, file=names[1]) == [names[2], names[1]]
    assert chosen("mmproj-F16.gguf", file="mmproj-F16.gguf") == ["mmproj-F16.gguf"]


def test_a_file_that_is_not_there_or_not_unique_or_not_gguf() -> None:
    error = refusal("m-Q8_0.gguf", file="n.gguf")
    assert error.problem.hint == "There are these files: m-Q8_0.gguf"
    assert "'m.gguf'" in str(refusal("a/m.gguf", "b/m.gguf", file="m.gguf"))
    assert "no GGUF file" in str(refusal("m.bin", file="m.bin"))


def test_safetensors_come_with_all_that_belongs_to_them_and_no_code() -> None:
    taken = [
        "1_Pooling/config.json",
        "chat_template.jinja",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    ]
    left = [
        "README.md",
        "consolidated.safetensors",
        "modeling_x.py",
        "onnx/config.json",
        "original/params.json",
        "a/b/config.json",
        "pytorch_model.bin",
        "weights.pt",
    ]
    assert chosen(*left, *taken) == taken


def test_a_repository_without_weights_that_are_run() -> None:
    assert "GGUF and safetensors" in str(refusal("pytorch_model.bin", "config.json"))
    assert "GGUF and safetensors" in str(refusal())


def test_a_quantisation_of_safetensors_is_a_misunderstanding() -> None:
    assert "no GGUF files" in str(refusal("model.safetensors", quant="Q4_K_M"))


def test_projector_by_preference() -> None:
    names = ("mmproj-m-f32.gguf", "mmproj-m-bf16.gguf", "mmproj-m-f16.gguf", "m-Q4_0.gguf")
    best = choose_projector(repo(*names))
    assert best is not None
    assert best.name == "mmproj-m-f16.gguf"
    assert choose_projector(repo("m-Q4_0.gguf", "mmproj.txt")) is None
    assert is_projector("x/MMPROJ-model.gguf")


def test_extras_by_name_and_only_in_formats_that_are_data() -> None:
    files = repo("templates/chat.jinja", "draft.gguf", "evil.py")
    assert choose_extra(files, "chat.jinja", template=True).name == "templates/chat.jinja"
    assert choose_extra(files, "draft.gguf", template=False).name == "draft.gguf"
    with pytest.raises(ProblemError, match=r"'evil.py' cannot be a template"):
        choose_extra(files, "evil.py", template=True)
    with pytest.raises(ProblemError, match=r"allowed: \.gguf"):
        choose_extra(files, "chat.jinja", template=False)
    with pytest.raises(ProblemError, match=r"these files: draft\.gguf"):
        choose_extra(files, "other.gguf", template=False)


def test_what_can_be_asked_for_is_told_smallest_first() -> None:
    files = [
        RepoFile("m-Q8_0.gguf", 80),
        RepoFile("m-Q4_0.gguf", 40),
        RepoFile("m-F16-00001-of-00002.gguf", 70),
        RepoFile("m-F16-00002-of-00002.gguf", 90),
        RepoFile("m-Q2_K-00001-of-00002.gguf", 1),
        RepoFile("odd.gguf", 2),
    ]
    assert quants(files) == {"Q4_0": 40, "Q8_0": 80, "F16": 160}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "d/", "Q8_0/"]),
            st.sampled_from([*DEFAULT_QUANTS[:4], "odd", "mmproj"]),
            st.sampled_from(["", "-00001-of-00002", "-00002-of-00002", "-00009-of-00003"]),
            st.sampled_from([".gguf", ".safetensors", ".bin", ".json"]),
        ),
        max_size=12,
        unique=True,
    ),
    st.sampled_from([None, "Q4_K_M", "Q8_0"]),
)
def test_any_repository_gives_a_whole_choice_or_a_sentence(
    parts: list[tuple[str, str, str, str]], quant: str | None
) -> None:
    files = repo(*("{}m-{}{}{}".format(*part) for part in parts))
    try:
        found = choose_files(files, quant)
    except ProblemError as error:
        problem = error.problem
        assert problem.message.endswith(".")
        return
    assert found
    assert all(f.name.endswith((".gguf", ".safetensors", ".json")) for f in found)
    if found[0].name.endswith(".gguf"):
        assert any(g.whole and list(g.files) == found for g in groups(files))
