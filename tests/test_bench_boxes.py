"""What ``bench boxes`` decodes and compares."""

import numpy as np
import pytest

from bench.bench_boxes import DECODERS, Boxes, agreement, overlaps, without_doubles


def boxes(corners, classes=None, scores=None):
    count = len(corners)
    kinds = np.zeros(count, int) if classes is None else np.array(classes)
    return Boxes(np.array(corners, float).reshape(-1, 4), kinds, np.ones(count) if scores is None else np.array(scores))


def test_overlap_is_what_two_boxes_share_of_what_they_cover():
    one, other = np.array([[0, 0, 4, 2], [10, 10, 11, 11]]), np.array([[2, 0, 6, 2]])
    np.testing.assert_allclose(overlaps(one, other), [[4 / 12], [0]])


def test_of_boxes_that_lie_on_one_another_the_best_of_each_class_is_left():
    found = boxes(
        [[0, 0, 10, 10], [1, 0, 10, 10], [1, 0, 10, 10], [50, 50, 60, 60]], [0, 0, 1, 0], [0.6, 0.9, 0.7, 0.8]
    )
    assert sorted(without_doubles(found, 0.5).scores) == [0.7, 0.8, 0.9]


def test_a_box_is_found_again_once_and_only_by_its_class():
    wanted = boxes([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 1])
    found = boxes([[0, 0, 10, 10], [0, 1, 10, 11], [20, 0, 30, 10], [20, 0, 30, 6]], [0, 0, 2, 1])
    assert agreement(wanted, found) == {
        "float": 2,
        "found_50": 2,
        "found_75": 1,
        "extra": 2,
        "overlap": pytest.approx(1 + 0.6),
    }
    assert agreement(wanted, boxes([]))["found_50"] == 0


def test_picodet_boxes_are_distances_from_the_center_of_a_cell():
    """The cell in row 1, column 2 of stride 8 is sure of class 3, and its bins of 1, 2, 3 and 4 strides."""
    outputs = [np.zeros((1, (64 // stride) ** 2, 10)) for stride in (8, 16, 32, 64)]
    outputs += [np.zeros((1, (64 // stride) ** 2, 32)) for stride in (8, 16, 32, 64)]
    outputs[0][0, 1 * 8 + 2, 3] = 0.9
    outputs[4][0, 1 * 8 + 2].reshape(4, 8)[np.arange(4), [1, 2, 3, 4]] = 50
    found = DECODERS["layout_cdla"](outputs, 64, 64)
    assert (list(found.classes), list(found.scores)) == ([3], [0.9])
    np.testing.assert_allclose(found.corners, [[20 - 8, 12 - 16, 20 + 24, 12 + 32]])


def test_a_line_of_text_is_grown_by_its_area_over_its_perimeter():
    pytest.importorskip("scipy", reason="scipy is not installed (pip install 'edgekern[bench]')")
    probability = np.zeros((40, 60))
    probability[10:20, 5:45] = 0.8
    probability[30:32, 0:9] = 0.8  # too thin
    found = DECODERS["ch_PP-OCRv4_det_infer"]([probability[None, None]], 40, 60)
    grown = 1.6 * 10 * 40 / (2 * (10 + 40))
    np.testing.assert_allclose(found.corners, [[5 - grown, 10 - grown, 45 + grown, 20 + grown]])


def test_faces_are_those_of_more_than_70_percent_in_pixels():
    scores, corners = np.array([[[0.1, 0.9], [0.4, 0.6]]]), np.array([[[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]])
    found = DECODERS["ultraface_rfb_320"]([scores, corners], 100, 200)
    np.testing.assert_allclose(found.corners, [[20, 20, 60, 40]])
