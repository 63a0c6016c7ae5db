"""Who quantizes a case: edgekern by every recipe that it has, onnxruntime's quantizers, and NNCF.

All get the same samples to calibrate with. An engine gives the bytes of its ONNX model, of its program if it has one,
and a function that runs a sample; one that refuses a model raises, and its words are kept.
"""

import contextlib
import io
import logging
import tempfile
import typing
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

import edgekern as ek
from bench.accuracy_cases import Array, Case, products_of
from bench.onnxruntime_quantizers import dynamic, folded, static
from bench.peers import NO_SATURATION
from bench.real_inputs import Feeds

LEAST_SHARE = 0.5
Run = Callable[[Feeds], list[Array]]


class Refused(Exception):
    """An engine that has nothing to do in a model."""


class Quantized(NamedTuple):
    run: Run
    onnx_bytes: int
    program_bytes: int | None = None


Engine = Callable[["Job"], Quantized]


class Job:
    """A case with what several engines share: its calibration, a folder, the model as peers get it."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder

    @cached_property
    def calibrator(self) -> Any:
        calibrator = ek.Calibrator(self.case.path, shapes=self.case.shapes, progress=False)
        return calibrator.collect_many(self.case.calibration)

    @cached_property
    def products(self) -> tuple[int, int, bool]:
        return products_of(self.case.path)


def run_onnx(model: bytes | str) -> Run:
    """As onnxruntime's users run it, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry(*NO_SATURATION)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feeds: list(session.run(None, dict(feeds)))


# --- edgekern


def ranges_of(job: Job, config: ek.QuantConfig) -> Any:
    """What the command line has by itself: the largest values for 16 bits, else what suits the whole model best."""
    if "a16" in config.recipe:
        return job.calibrator.compute_ranges("max")
    return ek.choose_ranges(job.calibrator, job.case.path, config, shapes=job.case.shapes, progress=False)


def _edgekern(job: Job, recipe: str) -> Quantized:
    config = ek.QuantConfig(recipe=recipe)  # type: ignore[arg-type]
    qdq = ek.quantize(job.case.path, ranges_of(job, config), config, shapes=job.case.shapes)
    program = ek.compile(qdq, shapes=job.case.shapes)
    share = 1 - program.multiply_adds["float32"] / max(sum(program.multiply_adds.values()), 1)
    if recipe != DEFAULT and share < LEAST_SHARE:
        raise Refused(f"less than {LEAST_SHARE:.0%} of the multiply-adds are of products that the recipe is for")
    program.save(job.folder / "model.ekm")
    session = ek.InferenceSession(program, num_threads=1)
    size = (job.folder / "model.ekm").stat().st_size
    return Quantized(lambda feeds: list(session.run(None, dict(feeds))), qdq.ByteSize(), size)


def recipes() -> tuple[str, ...]:
    """Every recipe of this build that is not float32."""
    from edgekern.quantization import config

    found: list[str] = []
    for name in typing.get_args(config.ModelRecipe):
        found += typing.get_args(name) or [name]
    return tuple(dict.fromkeys(name for name in found if name != "float32"))


# --- peers


def _static(job: Job, method: str) -> Quantized:
    model = static(job.case.path, job.folder, feeds=job.case.calibration, method=method)
    return Quantized(run_onnx(model), len(model))


def _dynamic(job: Job) -> Quantized:
    convolved, multiplied, _ = job.products
    if multiplied <= convolved:
        raise Refused("most of the weights are convolutions', for which static quantization is")
    model = dynamic(job.case.path, job.folder)
    return Quantized(run_onnx(model), len(model))


def _asked_of_nncf(job: Job, preset: str) -> dict[str, Any]:
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf

    asked: dict[str, Any] = {"preset": nncf.QuantizationPreset(preset), "target_device": nncf.TargetDevice.CPU}
    if job.products[2]:
        asked["model_type"] = nncf.ModelType.TRANSFORMER
    return asked


def _nncf(job: Job, preset: str, largest: bool = False) -> Quantized:
    """NNCF's own way takes the mean of each sample's least and largest value for a range; ``largest``: those of all."""
    asked = _asked_of_nncf(job, preset)
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # Half a bit less in the first layer would be for CPUs whose sums of two products saturate.
    more: dict[str, Any] = {"overflow_fix": nncf.OverflowFix.DISABLE}
    if largest:
        more["activations_range_estimator_params"] = RangeEstimatorParametersSet.MINMAX
    asked["advanced_parameters"] = nncf.AdvancedQuantizationParameters(**more)
    samples = [dict(feeds) for feeds in job.case.calibration]
    float_model = onnx.load(folded(job.case.path, job.folder))
    made = nncf.quantize(float_model, nncf.Dataset(samples), subset_size=len(samples), **asked)
    model = made.SerializeToString()
    return Quantized(run_onnx(model), len(model))


def _nncf_control(job: Job) -> Quantized:
    """Operations go back to float32, the worst first, until as many classes as ever are the float model's."""
    asked, axis = _asked_of_nncf(job, "mixed"), job.case.axis
    if axis is None:
        raise Refused("no classes that its validation could count")
    import nncf

    samples = [dict(feeds) for feeds in job.case.calibration]
    model = onnx.load(folded(job.case.path, job.folder))
    exact = run_onnx(str(job.case.path))
    classes = [exact(feeds)[0].argmax(axis) for feeds in samples]

    def agreement(tried: onnx.ModelProto, given: Any) -> float:
        run = run_onnx(tried.SerializeToString())
        found = [run(feeds)[0].argmax(axis) for feeds in given]
        return float(np.mean([np.mean(a == b) for a, b in zip(found, classes, strict=False)]))

    more = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE)
    made = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(samples),
        nncf.Dataset(samples),
        agreement,
        max_drop=0.0,
        subset_size=len(samples),
        advanced_quantization_parameters=more,
        **asked,
    )
    found = made.SerializeToString()
    return Quantized(run_onnx(found), len(found))


def engines() -> dict[str, Engine]:
    """By the names that rows have."""
    found: dict[str, Engine] = {recipe: partial(_edgekern, recipe=recipe) for recipe in recipes()}
    found |= {f"ort {method}": partial(_static, method=method) for method in ("MinMax", "Entropy", "Percentile")}
    found["ort dynamic"] = _dynamic
    found |= {f"NNCF {preset}": partial(_nncf, preset=preset) for preset in ("mixed", "performance")}
    return found | {"NNCF MinMax": partial(_nncf, preset="mixed", largest=True), CONTROL: _nncf_control}


CONTROL = "NNCF accuracy control"  # it takes minutes a model: measured where it is asked for by its name
# Of 8-bit weights and activations: ours, and those that a row of ours is held against.
OURS, PEERS = ("w8a8",), ("ort ", "NNCF ")
DEFAULT = str(ek.QuantConfig().recipe)


def quantize(case: Case, engine: Engine, job: Job) -> Quantized | str:
    """What the engine makes of it, or why it makes nothing."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made = engine(job)
            made.run(case.calibration[0])
    except Exception as error:  # whatever others raise: the row has their words
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return made


def job_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="edgekern-bench-")
