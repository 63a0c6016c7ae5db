"""Benches that go through every model below a folder."""

import json

import numpy as np
import onnx
import pytest

from bench.__main__ import main
from bench.bench_recipes import RECIPES

from float_models import build, small_cnn


def test_coverage_says_where_each_model_stops(tmp_path, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(small_cnn(), folder / "cnn.onnx")
    onnx.save(build([onnx.helper.make_node("Relu", ["x"], ["y"])], {}, [1, 2], opset=5), folder / "ancient.onnx")
    assert main(["coverage", str(folder), "--json", str(tmp_path / "rows.json")]) == 1
    ancient, cnn = [json.loads(line) for line in (tmp_path / "rows.json").read_text().splitlines()]
    assert (ancient["stage"], "has opset 5" in ancient["error"]) == ("calibrate", True)
    assert (cnn["stage"], cnn["host_steps"]) == ("all", 0)
    assert cnn["file_db"] > cnn["float_db"] > 20
    assert "1 of 2 models run" in capsys.readouterr().out


def build_matrices(side=128):
    rng, node = np.random.default_rng(2), onnx.helper.make_node
    weights = {f"w{i}": rng.normal(size=(side, side)).astype(np.float32) for i in range(2)}
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w1"], ["y"])]
    return build(nodes, weights, [6, side])


def test_dynamic_rows_are_held_to_the_float_model(tmp_path, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(build_matrices(32), folder / "layers.onnx")
    onnx.save(build([onnx.helper.make_node("Relu", ["x"], ["y"])], {}, [1, 2]), folder / "relu.onnx")
    assert main(["dynamic", str(folder), "--seconds", "0", "--json", str(tmp_path / "rows.json")]) == 0
    layers, relu = [json.loads(line) for line in (tmp_path / "rows.json").read_text().splitlines()]
    assert (layers["error"], layers["products"]) == ("", 2)
    assert min(layers["edgekern_db"], layers["ort_dynamic_db"]) > 30
    assert layers["edgekern_1_ms"] > 0
    assert "has no Gemm, MatMul or Conv" in relu["error"]
    assert "relu.onnx: quantize: model has no" in capsys.readouterr().out


def test_every_recipe_of_a_model_has_a_row(tmp_path, capsys):
    onnx.save(build_matrices(), tmp_path / "layers.onnx")
    rows = tmp_path / "rows.json"
    assert main(["recipes", str(tmp_path / "layers.onnx"), "--seconds", "0", "--json", str(rows)]) == 0
    found = {row["recipe"]: row for row in map(json.loads, rows.read_text().splitlines())}
    assert list(found) == list(RECIPES)
    assert found["float32"]["db"] > found["w8a8-dynamic"]["db"] > found["w4a8-g32"]["db"] > 10
    sizes = [found[recipe]["ekm_mb"] for recipe in ("float32", "w8a8", "w4a8-g32")]
    assert sizes == sorted(sizes, reverse=True)
    assert all(row["ms"] > 0 for row in found.values())
    assert "2 w4a16-g128" in capsys.readouterr().out


def test_quantized_models_are_held_to_float_and_timed_beside_onnxruntimes_own(tmp_path, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(small_cnn(), folder / "cnn.onnx")
    onnx.save(build([onnx.helper.make_node("Relu", ["x"], ["y"])], {}, [1, 2], opset=5), folder / "ancient.onnx")
    options = ["--seconds", "0", "--samples", "4", "--json", str(tmp_path / "rows.json")]
    assert main(["quantized", str(folder), *options]) == 1
    ancient, cnn = [json.loads(line) for line in (tmp_path / "rows.json").read_text().splitlines()]
    assert "has opset 5" in ancient["error"]
    assert (cnn["error"], cnn["inputs"], cnn["host_nodes"], cnn["int8_share"]) == ("", "random", 0, 1.0)
    assert min(cnn["edgekern_db"], cnn["static_db"]) > 20
    best = min(cnn[f"{name}_1_ms"] for name in ("float", "static", "dynamic"))
    assert cnn["ratio_1"] == pytest.approx(best / cnn["edgekern_1_ms"])
    assert "1 threads: ratio: geometric mean" in capsys.readouterr().out
