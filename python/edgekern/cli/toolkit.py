"""From a float model to a program: commands that need the toolkit extra."""

from pathlib import Path
from typing import Literal

from edgekern import calibration, compiler, files, quantization
from edgekern import quickstart as quickstart_room
from edgekern.cli.data import data_files, read_feeds, read_shapes
from edgekern.graph.model import model_files


def quickstart(save: Path | None) -> str:
    return str(quickstart_room.run(save=save))


def calibrate(
    model: Path,
    data: list[Path],
    output: Path,
    *,
    method: calibration.Method | None,
    batch: int | None,
    shapes: list[str] | None = None,
) -> str:
    inputs = [*model_files(model, function="calibrate"), *data_files(data)]
    files.check_target(output, function="calibrate", inputs=inputs)
    calibrator = calibration.Calibrator(model, shapes=read_shapes("calibrate", shapes))
    calibrator.collect_many(read_feeds(data, calibrator.input_shapes, batch=batch))
    ranges = calibrator.compute_ranges(method=method) if method else calibrator.compute_ranges()
    ranges.save(output)
    return f"{output}: {len(ranges)} ranges by {ranges.method}"


def quantize(
    model: Path, ranges: Path, output: Path, *, activations: Literal["u8", "s8"], shapes: list[str] | None = None
) -> str:
    inputs = [*model_files(model, function="quantize"), ranges]
    files.check_target(output, function="quantize", inputs=inputs)
    config = quantization.QuantConfig(activations=activations)
    read = calibration.Ranges.load(ranges)
    qdq = quantization.quantize(model, read, config, shapes=read_shapes("quantize", shapes))
    with files.atomic_write(output, function="quantize", inputs=inputs) as file:
        file.write(qdq.SerializeToString())
    return f"{output}: {output.stat().st_size} bytes, {len(qdq.graph.node)} nodes"


def compile(model: Path, output: Path, *, batch: int, allow_host: bool, shapes: list[str] | None = None) -> str:
    files.check_target(output, function="compile", inputs=model_files(model, function="compile"))
    program = compiler.compile(model, batch=batch, shapes=read_shapes("compile", shapes), allow_host=allow_host)
    program.save(output)
    return f"{program.summary()}\n{output}: {output.stat().st_size} bytes"
