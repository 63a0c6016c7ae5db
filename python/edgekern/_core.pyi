"""The C++ core. Private: use edgekern's public names."""

import builtins
import enum
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

_Function = TypeVar("_Function", bound=Callable[..., object])
_Thing = TypeVar("_Thing")

# --- calibration
@final
class KeyHistogram:
    @property
    def count(self) -> int: ...
    @property
    def num_zero(self) -> int: ...
    @property
    def num_nan(self) -> int: ...
    @property
    def num_inf(self) -> int: ...
    @property
    def min(self) -> float: ...
    @property
    def max(self) -> float: ...
    def __init__(self) -> None: ...
    def update(self, x: npt.NDArray[np.float32]) -> None: ...
    def merge(self, other: KeyHistogram) -> None: ...
    def equals(self, other: KeyHistogram) -> bool: ...
    def state(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], int, int, int, float, float]: ...
    def restore(
        self, counts: npt.NDArray[np.uint64], num_zero: int, num_nan: int, num_inf: int, min: float, max: float
    ) -> None: ...
    def quantile(self, q: float, magnitude: bool) -> float: ...
    def fraction_outside(self, lo: float, hi: float) -> float: ...
    def linear(self, lo: float, hi: float, bins: int, magnitude: bool) -> npt.NDArray[np.uint64]: ...
    def quantization_error(self, scale: float, first: float, last: float, exponent: float) -> float: ...
    def powers(self, scale: float, first: float, last: float) -> tuple[float, float]: ...
    def error_threshold(self, num_levels: int, exponent: float) -> float: ...
    def error_range(self, num_levels: int, exponent: float) -> tuple[float, float]: ...

def update_histograms(histograms: list[KeyHistogram], arrays: list[npt.NDArray[np.float32]]) -> None: ...
def entropy_search(counts: npt.NDArray[np.uint64], num_levels: int) -> tuple[int, float]: ...
def entropy_of(counts: npt.NDArray[np.uint64], first: int, last: int, num_levels: int) -> float: ...
def entropy_window(counts: npt.NDArray[np.uint64], zero: int, num_levels: int) -> tuple[int, int, float]: ...

# --- keys and values
_KvFormat = tuple[str, int, bool, bool]  # kind, group, asymmetric, rotated

@final
class KvCache:
    @property
    def nbytes(self) -> int: ...
    @property
    def bytes_per_token(self) -> int: ...
    def __init__(self, spec: dict[str, Any]) -> None: ...
    def stage(self, sequence: int, tokens: int) -> None: ...
    def write(
        self,
        sequence: int,
        layer: int,
        k: npt.NDArray[np.float32],
        v: npt.NDArray[np.float32],
        threads: int,
        isa: str,
    ) -> None: ...
    def attend(
        self,
        sequence: int,
        layer: int,
        q: npt.NDArray[np.float32],
        q_sink: npt.NDArray[np.float32] | None,
        scale: float,
        out: npt.NDArray[np.float32] | None,
        threads: int,
        isa: str,
    ) -> npt.NDArray[np.float32]: ...
    def commit(self, sequence: int, accepted: int) -> None: ...
    def abort(self, sequence: int) -> None: ...
    def rewind(self, sequence: int, tokens: int) -> None: ...
    def rewind_limit(self, sequence: int, tokens: int) -> tuple[int, int]: ...
    def fork(self, source: int, target: int) -> None: ...
    def reset(self, sequence: int, position: int) -> None: ...
    def save(self, sequence: int, model: bytes) -> bytes: ...
    def load(self, sequence: int, model: bytes, state: bytes) -> None: ...
    def read(self, sequence: int, layer: int, value: bool, position: int) -> npt.NDArray[np.float32]: ...
    def slot_positions(self, sequence: int) -> npt.NDArray[np.int64]: ...
    def position(self, sequence: int) -> int: ...
    def staged(self, sequence: int) -> int: ...

def kv_plan_bytes(spec: dict[str, Any]) -> int: ...
def kv_formats(name: str) -> tuple[_KvFormat, _KvFormat, int] | None: ...

# --- program, threads, cpu
__version__: str
_C_API: object  # a capsule: the table of edgekern.h

def available_isas() -> list[str]: ...
def resolve_isa(name: str = "") -> str: ...
def allowed_cpus() -> int: ...
def memory_limit() -> int: ...
def num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def rest_workers() -> None: ...
def spinning_workers() -> int: ...
def set_worker_patience(microseconds: int) -> None: ...

class DType(enum.IntEnum):
    U8 = 0
    S8 = 1
    I32 = 2
    F32 = 3
    I64 = 4
    BOOL = 5
    F64 = 6
    F16 = 7
    BF16 = 8

class Storage(enum.IntEnum):
    WHOLE = 0
    F16 = 1
    BF16 = 2
    INT4 = 3

class StepKind(enum.IntEnum):
    QUANTIZE = 1
    QUANTIZE_NCHW = 2
    DEQUANTIZE = 3
    DEQUANTIZE_NCHW = 4
    CONV = 5
    DEPTHWISE = 6
    GEMM = 7
    ADD = 8
    LOOKUP = 9
    MAX_POOL = 10
    AVERAGE_POOL = 11
    CONCAT = 12
    SLICE = 13
    PAD = 14
    TRANSPOSE = 15
    SOFTMAX = 16
    CONSTANT = 17
    CONV_F32 = 18
    DEPTHWISE_F32 = 19
    GEMM_F32 = 20
    MATMUL_F32 = 21
    CONV_TRANSPOSE_F32 = 22
    ATTENTION_F32 = 23
    MAP = 24
    MAP_I64 = 25
    REDUCE = 26
    SOFTMAX_F32 = 27
    NORMALIZE = 28
    CUM_SUM = 29
    ARG_EXTREME = 30
    POOL_F32 = 31
    RESAMPLE = 32
    PICK = 33
    PERMUTE = 34
    GATHER = 35
    GATHER_ELEMENTS = 36
    GATHER_ND = 37
    RECURRENT = 38
    SCATTER_ELEMENTS = 39
    SCATTER_ND = 40
    GRID_SAMPLE = 41
    GEMM_DYNAMIC = 42
    MATMUL = 47
    RECURRENT_DYNAMIC = 53
    CONV_WIDE = 54
    DEPTHWISE_WIDE = 55
    GEMM_WIDE = 56
    GEMM_INTEGER = 60
    CONV_INTEGER = 61
    GEMM_SCALED = 62
    GEMM_GROUPS = 63

class MapOp(enum.IntEnum):
    COPY = 0
    NEG = 1
    ABS = 2
    SIGN = 3
    SQRT = 4
    RECIPROCAL = 5
    EXP = 6
    LOG = 7
    SIN = 8
    COS = 9
    TAN = 10
    ASIN = 11
    ACOS = 12
    ATAN = 13
    SINH = 14
    COSH = 15
    TANH = 16
    ERF = 17
    SIGMOID = 18
    SILU = 19
    GELU = 20
    GELU_TANH = 21
    SOFTPLUS = 22
    FLOOR = 23
    CEIL = 24
    ROUND = 25
    NOT = 26
    IS_NAN = 27
    IS_INF = 28
    ADD = 29
    SUB = 30
    MUL = 31
    DIV = 32
    MIN = 33
    MAX = 34
    POW = 35
    MOD = 36
    FMOD = 37
    LESS = 38
    LESS_EQUAL = 39
    GREATER = 40
    GREATER_EQUAL = 41
    EQUAL = 42
    AND = 43
    OR = 44
    XOR = 45
    PRELU = 46
    WHERE = 47
    CLIP = 48
    MUL_ADD = 49
    ROUND_F16 = 50
    ROUND_BF16 = 51

# Lists and nested objects are copied on every access: assign a whole list to change it.
@final
class TensorDef:
    name: str
    dtype: DType
    shape: list[int]
    scale: float
    zero_point: int
    offset: int
    alias_of: int
    def __init__(
        self,
        *,
        name: str,
        dtype: DType,
        shape: Sequence[int],
        scale: float = 1.0,
        zero_point: int = 0,
        offset: int = 0,
        alias_of: int = -1,
    ) -> None: ...

@final
class BlobDef:
    name: str
    offset: int
    bytes: int
    sha256: builtins.bytes
    stored: Storage
    parts: int
    codes: int
    def __init__(
        self,
        *,
        name: str,
        offset: int,
        bytes: int,
        sha256: builtins.bytes,
        stored: Storage = Storage.WHOLE,
        parts: int = 0,
        codes: int = 0,
    ) -> None: ...

@final
class Step:
    kind: StepKind
    name: str
    op: str
    inputs: list[int]
    outputs: list[int]
    blobs: list[int]
    arguments: dict[str, Any]
    @property
    def macs(self) -> int: ...
    def __init__(
        self,
        *,
        kind: StepKind,
        name: str,
        op: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        blobs: Sequence[int] = [],
        arguments: dict[str, Any] = {},
    ) -> None: ...

@final
class Segment:
    begin: int
    end: int
    def __init__(self, *, begin: int, end: int) -> None: ...

@final
class ProgramIndex:
    producer: str
    tensors: list[TensorDef]
    blobs: list[BlobDef]
    steps: list[Step]
    segments: list[Segment]
    inputs: list[int]
    outputs: list[int]
    arena_bytes: int
    header_sha256: builtins.bytes
    def __init__(
        self,
        *,
        producer: str = "",
        tensors: Sequence[TensorDef] = [],
        blobs: Sequence[BlobDef] = [],
        steps: Sequence[Step] = [],
        segments: Sequence[Segment] = [],
        inputs: Sequence[int] = [],
        outputs: Sequence[int] = [],
        arena_bytes: int = 0,
    ) -> None: ...
    def encode(self) -> builtins.bytes: ...
    @staticmethod
    def decode(data: builtins.bytes) -> ProgramIndex: ...
    def work(self, step: int) -> tuple[int, int]: ...
    def replaceable(self, step: int) -> list[int]: ...
    def validate(self, data_bytes: int) -> None: ...

def open_container(data: npt.NDArray[np.uint8], source: str, verify_blobs: bool) -> tuple[ProgramIndex, int, int]: ...
def sha256(data: npt.NDArray[np.uint8], kernel: str = "") -> builtins.bytes: ...
def sha256_kernels() -> list[str]: ...
def pack_weights_blob(w: npt.NDArray[np.int8]) -> builtins.bytes: ...
def pack_depthwise_blob(w: npt.NDArray[np.int8]) -> builtins.bytes: ...
def pack_f32_blob(w: npt.NDArray[np.float32]) -> builtins.bytes: ...
def pack_weights4_blob(
    w: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.float32] | None,
    group: int,
) -> tuple[builtins.bytes, float]: ...
def pack_depthwise_f32_blob(w: npt.NDArray[np.float32]) -> builtins.bytes: ...

@final
class MemoryPlan:
    def __init__(self, *, offsets: Sequence[int], peak: int, lower_bound: int, method: str) -> None: ...
    @property
    def offsets(self) -> list[int]: ...
    @property
    def peak(self) -> int: ...
    @property
    def lower_bound(self) -> int: ...
    @property
    def method(self) -> str: ...
    @property
    def greedy_peak(self) -> int: ...
    @property
    def least_peak(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def proved(self) -> bool: ...

@final
class MemoryPool:
    def __init__(self, total: int, input: int, output: int, intermediate: int) -> None: ...
    def allocate(self, kind: int, bytes: int) -> npt.NDArray[np.uint8]: ...
    def statistics(self) -> dict[str, Any]: ...

def plan_memory(
    lower: Sequence[int],
    upper: Sequence[int],
    size: Sequence[int],
    alignment: int = 64,
    *,
    most_nodes: int = 50_000,
    seconds: float | None = None,
) -> MemoryPlan: ...
def check_plan(
    lower: Sequence[int],
    upper: Sequence[int],
    size: Sequence[int],
    offsets: Sequence[int],
    alignment: int,
    capacity: int,
) -> None: ...

@final
class BoundArrays: ...

@final
class Session:
    def __init__(
        self,
        index: ProgramIndex,
        data: Buffer,
        isa: str = "",
        num_threads: int = 0,
        input_names: Sequence[str] = ...,
        output_names: Sequence[str] = ...,
        arena_of: Session | None = None,
        weights_of: Session | None = None,
        choices: Sequence[tuple[str, bool]] = ...,
    ) -> None: ...
    def choices(self, step: int) -> list[str]: ...
    def run_segment(self, segment: int) -> None: ...
    def run_step(self, step: int) -> None: ...
    def check(self, inputs: list[npt.NDArray[Any]], outputs: list[npt.NDArray[Any] | None]) -> None: ...
    def run(self, inputs: list[npt.NDArray[Any]], outputs: list[npt.NDArray[Any] | None]) -> bool: ...
    def bind(self, inputs: list[npt.NDArray[Any]], outputs: list[npt.NDArray[Any] | None]) -> BoundArrays: ...
    def run_bound(self, bound: BoundArrays) -> None: ...
    def tensor(self, id: int) -> npt.NDArray[Any]: ...
    def clock(self, on: bool) -> npt.NDArray[np.uint64] | None: ...
    def path(self, step: int) -> str: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def bytes_copied(self) -> int: ...
    border_bytes: int
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...

@final
class Lease(Generic[_Thing]):
    def __enter__(self) -> _Thing: ...
    def __exit__(self, *exception: object) -> None: ...

@final
class Lender(Generic[_Thing]):
    def __new__(cls, things: tuple[_Thing, ...]) -> Lender[_Thing]: ...
    def lend(self) -> Lease[_Thing]: ...
    def after_fork(self) -> None: ...
    @property
    def free(self) -> int: ...
    @property
    def waiting(self) -> int: ...

# --- gemm, elementwise
@final
class PackedWeights:
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def has_scale(self) -> bool: ...
    @property
    def bits(self) -> int: ...
    @property
    def group_size(self) -> int | None: ...
    def __copy__(self) -> PackedWeights: ...
    def __deepcopy__(self, memo: object) -> PackedWeights: ...

def packed_state(packed: object) -> tuple[int, int, int, int, int, float, npt.NDArray[Any], npt.NDArray[Any]]: ...
def restore_packed(
    layout: int,
    k: int,
    n: int,
    group: int,
    map: int,
    unit: float,
    data: npt.NDArray[Any],
    scale: npt.NDArray[Any],
) -> PackedWeights: ...

PACKED_LAYOUT: int

def map_packed(
    k: int,
    n: int,
    group: int,
    map: int,
    unit: float,
    data: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    scanned: bool,
) -> PackedWeights: ...
def pack_weights(w: npt.NDArray[Any], scale: object) -> PackedWeights: ...
def pack_weights_int4(w: npt.NDArray[Any], scale: object, zero_point: object, group_size: int) -> PackedWeights: ...
def pack_weights_int2(w: npt.NDArray[Any], scale: object, group_size: int) -> PackedWeights: ...
def matmul_integer(
    a: npt.NDArray[Any],
    b: object,
    a_zero_point: int,
    b_zero_point: object,
    out: object,
    isa: str,
    num_threads: int,
) -> npt.NDArray[np.int32]: ...
def public_matmul_integer(
    a: npt.NDArray[np.uint8] | npt.NDArray[np.int8],
    b: npt.NDArray[np.int8] | PackedWeights,
    *,
    a_zero_point: int = 0,
    b_zero_point: int | npt.NDArray[np.integer] = 0,
    out: npt.NDArray[np.int32] | None = None,
    num_threads: int | None = None,
) -> npt.NDArray[np.int32]: ...
def linear(
    x: npt.NDArray[Any],
    w: PackedWeights,
    bias: object,
    activation: str,
    lo: float,
    hi: float,
    residual: object,
    x_scale: float | None,
    x_zero_point: int,
    y_scale: float | None,
    y_zero_point: int,
    out_dtype: str,
    out: object,
    isa: str,
    num_threads: int,
    scale_per_row: bool = False,
) -> npt.NDArray[Any]: ...
def fast_linear(general: _Function) -> _Function: ...
def tile_plan(
    m: int, n: int, k: int, tile: int, device: str
) -> list[tuple[int, int, int, int, Literal["cube", "vector"], int, int, float]]: ...
def device_names() -> list[str]: ...
def measure_dot_peak(isa: str = "", num_threads: int = 1, seconds: float = 0.05) -> float: ...
def measure_fma_peak(isa: str = "", num_threads: int = 1, seconds: float = 0.05) -> float: ...
def measure_read_bandwidth(
    x: npt.NDArray[np.uint8], num_threads: int = 1, streams: int = 1, prefetch: int = 0, seconds: float = 0.05
) -> float: ...
def gemm_on_unit(
    a: npt.NDArray[Any],
    b: PackedWeights,
    out: npt.NDArray[np.int32],
    unit: str,
    isa: str = "",
    num_threads: int = 1,
) -> None: ...
def repeat_c_gemm(
    a: npt.NDArray[Any],
    b: npt.NDArray[np.int8],
    out: npt.NDArray[np.int32],
    repeats: int = 1,
    num_threads: int = 1,
) -> None: ...
def quantize_linear(
    x: npt.NDArray[Any],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    axis: object,
    to_signed: bool,
    out: object,
    isa: str,
    num_threads: int,
) -> npt.NDArray[Any]: ...
def dequantize_linear(
    x: npt.NDArray[Any],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    axis: object,
    out: object,
    isa: str,
    num_threads: int,
) -> npt.NDArray[np.float32]: ...
def dynamic_quantize(
    x: npt.NDArray[Any], isa: str, num_threads: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]: ...

# --- decoder
@final
class PackedFloats:
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

@final
class Decoder:
    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        vocab: int,
        eps: float,
        rope_magnitude: float,
        rope_phases: Sequence[int],
        max_rows: int,
        embedding: npt.NDArray[np.uint8],
        embedding_code: int,
        layer_weights: list[Any],
        final_norm: npt.NDArray[np.float32],
        head: PackedWeights | PackedFloats,
        isa: str,
    ) -> None: ...
    def forward(
        self,
        cache: KvCache,
        sequences: Sequence[tuple[int, Sequence[int]]],
        every_row: bool,
        out: npt.NDArray[np.float32] | None,
        num_threads: int,
    ) -> npt.NDArray[np.float32]: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def work_bytes(self) -> int: ...

@final
class Sampler:
    def __init__(self, vocab: int, seed: int) -> None: ...
    def draw(self, logits: npt.NDArray[np.float32], temperature: float, top_k: int, top_p: float) -> int: ...

def pack_float32(w: npt.NDArray[np.float32]) -> PackedFloats: ...
def quantize_groups(
    w: npt.NDArray[np.float32], group: int, num_threads: int, bits: int = 4
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]: ...
def pack_groups(
    codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], group: int, bits: int = 4
) -> PackedWeights: ...
def decoder_plan_bytes(
    *,
    dim: int,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    max_rows: int,
    bits: int,
    group: int,
) -> tuple[int, int]: ...
def product(
    x: npt.NDArray[np.float32],
    w: PackedWeights | PackedFloats,
    bias: npt.NDArray[np.float32] | None,
    gain: npt.NDArray[np.float32] | None,
    eps: float,
    swiglu: bool,
    addend: npt.NDArray[np.float32] | None,
    isa: str,
    num_threads: int,
) -> npt.NDArray[np.float32]: ...
def rotary(
    x: npt.NDArray[np.float32],
    cosines: npt.NDArray[np.float32],
    sines: npt.NDArray[np.float32],
    num_threads: int,
    isa: str,
) -> npt.NDArray[np.float32]: ...
def rms_norm(
    x: npt.NDArray[np.float32], gain: npt.NDArray[np.float32], eps: float, num_threads: int, isa: str
) -> npt.NDArray[np.float32]: ...
def attention(
    q: npt.NDArray[np.float32],
    k: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    first: Sequence[int],
    length: Sequence[int],
    left: int,
    right: int,
    scale: float,
    softcap: float,
    num_threads: int,
    isa: str,
) -> npt.NDArray[np.float32]: ...
def rope_row(
    phases: Sequence[int], position: int, magnitude: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...
