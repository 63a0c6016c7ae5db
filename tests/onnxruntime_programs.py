"""Small programs as people write them for onnxruntime, each a function of the module, the model's file, and its data.

Nothing here knows of edgekern: ``test_onnxruntime_programs.py`` runs each with both modules and compares the answers.
"""

import ast
import glob
import json
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def classify(ort, path, images):
    """Top 5 of each image."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    label_name = session.get_outputs()[0].name
    found = []
    for image in images:
        scores = softmax(session.run([label_name], {input_name: image[None]})[0].ravel())
        top = scores.argsort()[::-1][:5]
        found.append({"classes": top.tolist(), "scores": scores[top]})
    return found


def detect(ort, path, image):
    """Several outputs by name, then non-maximum suppression."""
    session = ort.InferenceSession(path)
    outputs = [output.name for output in session.get_outputs()]
    values = dict(zip(outputs, session.run(None, {session.get_inputs()[0].name: image}), strict=True))
    boxes, scores = values["boxes"][0], values["scores"][0]
    order, kept = scores.max(axis=1).argsort()[::-1], []
    while len(order) and len(kept) < 3:
        best, rest = order[0], order[1:]
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        inner = np.clip(high - low, 0, None).prod(axis=1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        kept.append(int(best))
        order = rest[inner / (area[best] + area[rest] - inner + 1e-9) < 0.5]
    return {"outputs": outputs, "kept": kept, "boxes": boxes[kept], "labels": scores[kept].argmax(axis=1)}


def bind_outputs(ort, path, batches):
    """Inputs and outputs in memory that is there already."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    source, target = session.get_inputs()[0], session.get_outputs()[0]
    x = np.empty(source.shape, np.float32)
    y = np.empty(target.shape, np.float32)
    binding.bind_input(source.name, "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output(target.name, "cpu", 0, np.float32, y.shape, y.ctypes.data)
    results = []
    for batch in batches:
        x[...] = batch
        session.run_with_iobinding(binding)
        results.append(y.copy())
    binding.clear_binding_outputs()
    binding.bind_output(target.name)
    session.run_with_iobinding(binding)
    results.append(binding.copy_outputs_to_cpu()[0])
    return results


def ort_values(ort, path, image):
    """Values that stay with the runtime between two runs."""
    session = ort.InferenceSession(path)
    x = ort.OrtValue.ortvalue_from_numpy(image, "cpu", 0)
    names = [output.name for output in session.get_outputs()]
    [y, *_] = session.run_with_ort_values(names, {session.get_inputs()[0].name: x})
    told = [x.device_name(), x.is_tensor(), x.shape(), x.data_type(), y.shape(), y.data_type(), y.has_value()]
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, x)
    z = ort.OrtValue.ortvalue_from_shape_and_type(y.shape(), np.float32, "cpu", 0)
    binding.bind_ortvalue_output(names[0], z)
    session.run_with_iobinding(binding)
    return told, y.numpy(), z.numpy(), np.from_dlpack(y)


def session_options(ort, path, image):
    """Threads, optimization, arena and log of a server."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    run_options = ort.RunOptions()
    run_options.log_severity_level = 3
    run_options.logid = "request 1"
    got = session.run(None, {session.get_inputs()[0].name: image}, run_options)
    used = session.get_session_options()
    return got, used.intra_op_num_threads, used.graph_optimization_level.name, used.execution_mode.name


def providers(ort, path, image):
    """The best provider that is there, as samples choose it."""
    ort.set_default_logger_severity(3)
    wanted = ["CUDAExecutionProvider", ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]
    there = ort.get_available_providers()
    chosen = [one for one in wanted if (one if isinstance(one, str) else one[0]) in there]
    session = ort.InferenceSession(path, None, chosen)
    session.disable_fallback()
    assert ort.get_device() == "CPU"
    before = session.get_providers(), list(session.get_provider_options())
    session.set_providers(["CPUExecutionProvider"])
    return before, session.get_providers(), session.run(None, {session.get_inputs()[0].name: image})


def profile(ort, path, image):
    """Where the time goes, read from the file that the runtime writes."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = "served"
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, {session.get_inputs()[0].name: image})
    start = session.get_profiling_start_time_ns()
    file = session.end_profiling()
    assert glob.glob("served*.json") == [file]
    with open(file) as opened:
        events = json.load(opened)
    os.remove(file)
    runs = [event for event in events if event["cat"] == "Session" and event["name"] == "model_run"]
    spent = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] = spent.get(event["args"]["op_name"], 0) + event["dur"]
            assert event["args"]["provider"] == "CPUExecutionProvider"
            assert event["ph"] == "X"
    assert start > 0
    assert spent
    assert 0 < sum(spent.values()) <= sum(run["dur"] for run in runs)
    return len(runs)


def metadata(ort, path):
    """What a tool prints of a model, and the names of its classes."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta()
    lines = [f"{meta.producer_name} {meta.graph_name} {meta.domain!r} {meta.description} v{meta.version}"]
    for side in (session.get_inputs(), session.get_outputs(), session.get_overridable_initializers()):
        lines += [f"{value.name}: {value.type} {value.shape}" for value in side]
    return lines, ast.literal_eval(meta.custom_metadata_map["names"]), dict(meta.custom_metadata_map)


def evaluate(ort, path, images, labels):
    """Accuracy over a data set, batch by batch."""
    session = ort.InferenceSession(path)
    batch, name = session.get_inputs()[0].shape[0], session.get_inputs()[0].name
    right, logits = 0, []
    for at in range(0, len(images), batch):
        [scores] = session.run(None, {name: images[at : at + batch]})
        right += int((scores.argmax(axis=1) == labels[at : at + batch]).sum())
        logits.append(scores)
    return right / len(images), np.concatenate(logits)


def serve(ort, path, images):
    """One session, requests from a pool of threads."""
    session = ort.InferenceSession(path)
    name = session.get_inputs()[0].name
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda image: session.run(None, {name: image[None]})[0], images))


def classify_text(ort, path, input_ids, attention_mask):
    """Two int64 inputs, by the names that the model has."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {"input_ids": input_ids.astype(np.int64), "attention_mask": attention_mask.astype(np.int64)}
    assert {value.name for value in session.get_inputs()} == set(feed)
    logits = session.run(output_names=["logits"], input_feed=feed)[0]
    return [value.type for value in session.get_inputs()], logits, logits.argmax(axis=-1)


def run_async(ort, path, images):
    """Requests that call back."""
    session = ort.InferenceSession(path)
    name, results = session.get_inputs()[0].name, {}

    def done(values, request, error):
        results[request["number"]] = error if error else values[0]
        request["done"].set()

    requests = [{"number": number, "done": Event()} for number in range(len(images))]
    for request in requests:
        session.run_async(None, {name: images[request["number"]][None]}, done, request)
    for request in requests:
        assert request["done"].wait(30)
    return [results[number] for number in range(len(images))]
