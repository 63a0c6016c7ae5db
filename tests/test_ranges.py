"""Ranges: what calibration hands to quantization, saved, loaded and refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from edgekern.calibration import Ranges, TensorRange
from edgekern.errors import ArgumentValueError, CalibrationError

RANGES = Ranges(
    {"conv/1": TensorRange(-0.1, 1 / 3, 100, 1, 2, 1e-17), "zero": TensorRange(0.0, 0.0, 7)},
    model_hash="ab" * 32,
    method="mse",
    options={"symmetric": False, "exponent": 2.4},
)


def test_ranges_are_a_mapping_that_prints() -> None:
    assert dict(RANGES) == {"conv/1": RANGES["conv/1"], "zero": RANGES["zero"]}
    assert (len(RANGES), "zero" in RANGES, RANGES.get("absent")) == (2, True, None)
    assert repr(RANGES) == "Ranges(2 tensors, method='mse', model_hash='abababababab...')"
    assert "1 NaN, 2 inf" in str(RANGES)


def test_saved_ranges_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    RANGES.save(path)
    assert Ranges.load(path) == RANGES
    assert pickle.loads(pickle.dumps(RANGES)) == RANGES


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"tensors": {"x": {"lo": 1.0, "hi": 2.0}}},
        {"tensors": {"x": {"lo": float("nan"), "hi": 2.0}}},
        {"tensors": {"x": {"low": 1.0}}},
        {"tensors": 3},
    ],
    ids=str,
)
def test_a_file_that_holds_no_ranges_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    RANGES.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CalibrationError, match="is not a version 1 ranges file"):
        Ranges.load(path)
    path.write_text("{")
    with pytest.raises(CalibrationError, match="is not a version 1 ranges file"):
        Ranges.load(path)


@pytest.mark.parametrize("ends", [(0.5, 1.0), (-2.0, -1.0), (float("nan"), 1.0), (-1.0, float("inf"))])
def test_a_range_is_finite_and_contains_0(ends: tuple[float, float]) -> None:
    with pytest.raises(ArgumentValueError, match="lo and hi must be finite with lo <= 0 <= hi"):
        TensorRange(*ends)
