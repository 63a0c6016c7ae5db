"""The shapes that are benched, and what is known of them."""

from bench.shapes import FASTEST_PEER, GEMM_SHAPES, ODD_SHAPES, Shape, peer_shares


def test_shapes_are_distinct_and_count_two_operations_a_multiply_add():
    assert len({shape[:3] for shape in GEMM_SHAPES}) == len(GEMM_SHAPES) == 18
    assert Shape(2, 3, 5, "").operations == 60


def test_odd_shapes_are_forty_and_always_the_same():
    assert len({shape[:3] for shape in ODD_SHAPES}) == 40
    assert ODD_SHAPES[0][:3] == (1218, 129, 270)
    assert all(1 <= side <= 1500 for shape in ODD_SHAPES for side in shape[:3])
    assert any(shape.k % 4 and shape.n % 16 for shape in ODD_SHAPES)


def test_known_shares_are_of_each_peer_at_one_thread_and_of_the_fastest_at_two():
    square = Shape(1024, 1024, 1024, "")
    assert peer_shares(square, 1)["torch_int_mm"] == 0.908
    assert peer_shares(square, 2) == {FASTEST_PEER: 0.95}
    assert peer_shares(square, 3) == peer_shares(Shape(1, 4096, 4096, ""), 1) == {}
