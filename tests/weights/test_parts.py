from __future__ import annotations

from daemon.weights.facts import LayerBytes, Parts
from daemon.weights.parts import MAX_LAYER, Tally, joined


def tally(*tensors: tuple[str, int], shape: tuple[int, ...] = (8, 16)) -> Tally:
    made = Tally()
    for name, amount in tensors:
        made.add(name, shape, amount)
    return made


def test_tensors_are_counted_where_they_lie() -> None:
    made = tally(
        ("token_embd.weight", 100),
        ("rope_freqs.weight", 1),
        ("blk.0.attn_q.weight", 10),
        ("blk.0.ffn_gate_exps.weight", 1000),
        ("blk.1.ffn_gate.weight", 7),
        ("output_norm.weight", 2),
        ("output.weight", 50),
    )
    assert (made.rows, made.gated) == (16, True)
    assert joined([made], predicting=0, count=2) == Parts(
        (LayerBytes(10, 1000), LayerBytes(7, 0)), embedding=101, head=52
    )


def test_a_shared_matrix_leaves_no_head() -> None:
    made = tally(("token_embd.weight", 100), ("output_norm.weight", 2))
    assert joined([made], predicting=0, count=0).head == 0
    assert not made.gated


def test_the_parts_of_a_split_model_add_up() -> None:
    one = tally(("token_embd.weight", 100), ("blk.0.a.weight", 1))
    two = tally(("blk.0.b.weight", 2), ("blk.1.a.weight", 3), ("output.weight", 9))
    assert joined([one, two], predicting=1, count=2) == Parts(
        (LayerBytes(3), LayerBytes(3, loaded=False)), 100, 9
    )


def test_a_hostile_table_stays_small() -> None:
    made = tally(*((f"blk.{index}.x", 1) for index in range(3 * MAX_LAYER)))
    assert len(made.dense) == MAX_LAYER
    assert made.embedding == 2 * MAX_LAYER
    assert len(joined([made], predicting=0, count=3).layers) == 3
