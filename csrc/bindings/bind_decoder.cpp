// edgekern.llm's core: packed float32 weights, the decoder, the sampler.
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <vector>

#include "base/fp_env.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "bindings/gil.h"
#include "bindings/kv_cache.h"
#include "decoder/decoder.h"
#include "decoder/quantize_groups.h"
#include "decoder/rope.h"
#include "decoder/sampler.h"
#include "gemm/pack2.h"
#include "threads/turn.h"

namespace ek {
namespace {

/// Float32 weights (n, k) as panels.
struct PackedFloats {
  size_t n, k;
  AlignedBuffer data;
};

PackedFloats pack_floats(const py::array& w) {
  if (!is_f32(w)) fail(Code::kType, "pack_float32: w must be float32, got " + dtype_name(w));
  require_rank("pack_float32", "w", w, 2);
  require_contiguous("pack_float32", "w", w);
  PackedFloats packed{usize(w.shape(0)), usize(w.shape(1)), {}};
  packed.data = new_buffer("pack_float32", packed_f32_bytes(packed.n, packed.k));
  const float* const from = static_cast<const float*>(w.data());
  const WithoutGil released;
  pack_f32(packed.n, packed.k, from, packed.k, reinterpret_cast<float*>(packed.data.data()));
  return packed;
}

/// A view of packed weights of any kind; `w` has to stay alive.
Matrix matrix_of(const char* argument, const py::handle& w, const Kernels& kernels) {
  Matrix matrix;
  if (py::isinstance<PackedFloats>(w)) {
    const auto& packed = w.cast<const PackedFloats&>();
    matrix.bits = 32;
    matrix.n = packed.n;
    matrix.k = packed.k;
    matrix.data = packed.data.data();
    return matrix;
  }
  if (!py::isinstance<PackedWeights>(w)) {
    fail(Code::kType, std::string("Decoder: ") + argument + " must be packed weights");
  }
  const auto& packed = w.cast<const PackedWeights&>();
  matrix.bits = packed.bits();
  matrix.n = packed.shape.n;
  matrix.k = packed.shape.k_per_tap;
  matrix.data = packed.bytes();
  if (packed.grouped()) {
    matrix.shape4 = packed.shape4;
    matrix.unit = packed.unit;
    return matrix;
  }
  if (packed.scale.empty()) fail(Code::kValue, std::string("Decoder: ") + argument + " has no scale");
  matrix.scale = packed.scale.data();
  matrix.init = AlignedBuffer(packed.shape.padded_n() * sizeof(int32_t));
  make_init(kernels, Sign::kS8, 0, packed.view().colsum(), nullptr, matrix.n,
            reinterpret_cast<int32_t*>(matrix.init.data()));
  return matrix;
}

class PyDecoder {
 public:
  PyDecoder(DecoderSpec spec, const py::array& embedding, int code, const py::list& layers, const py::array& final_norm,
            const py::object& head, const std::string& isa) {
    const Kernels& table = *make_runtime(isa, 1).kernels;
    if (spec.rope_phases.size() * 2 != spec.head_dim) fail(Code::kValue, "Decoder: rope_phases needs head_dim / 2");
    if (code < 0 || code > static_cast<int>(RowCode::kQ4_0)) fail(Code::kValue, "Decoder: unknown code of embedding");
    ModelWeights weights;
    weights.embedding = {nullptr, row_bytes_of(static_cast<RowCode>(code), spec.dim), spec.vocab, spec.dim,
                         static_cast<RowCode>(code)};
    if (!is_u8(embedding) || embedding.ndim() != 2 || usize(embedding.shape(0)) != spec.vocab ||
        weights.embedding.row_bytes == 0 || usize(embedding.shape(1)) != weights.embedding.row_bytes) {
      fail(Code::kValue, "Decoder: embedding must be uint8 rows of " + std::to_string(weights.embedding.row_bytes) +
                             " bytes, got shape " + shape_name(embedding));
    }
    require_contiguous("Decoder", "embedding", embedding);
    weights.embedding.rows = static_cast<const uint8_t*>(embedding.data());
    kept_ = {embedding, final_norm, head};
    for (const py::handle& item : layers) {
      const auto parts = py::cast<py::tuple>(item);
      if (parts.size() != 7) fail(Code::kValue, "Decoder: a layer has seven parts");
      LayerWeights layer;
      layer.attention_norm = floats("Decoder", "attention_norm", parts[0].cast<py::array>(), {spec.dim});
      layer.qkv = matrix_of("qkv", parts[1], table);
      if (!parts[2].is_none()) {
        layer.qkv.bias =
            floats("Decoder", "qkv_bias", parts[2].cast<py::array>(), {spec.q_width() + 2 * spec.kv_width()});
      }
      layer.o = matrix_of("o", parts[3], table);
      layer.ffn_norm = floats("Decoder", "ffn_norm", parts[4].cast<py::array>(), {spec.dim});
      layer.gate_up = matrix_of("gate_up", parts[5], table);
      layer.down = matrix_of("down", parts[6], table);
      weights.layers.push_back(std::move(layer));
      kept_.push_back(parts);
    }
    weights.final_norm = floats("Decoder", "final_norm", final_norm, {spec.dim});
    weights.head = matrix_of("head", head, table);
    work_bytes_ = Decoder::work_bytes(spec, weights);
    throw_if_error(Decoder::create(spec, std::move(weights), table, &decoder_));
  }

  py::array forward(KvCache& cache, const std::vector<std::pair<size_t, std::vector<int32_t>>>& sequences,
                    bool every_row, const py::object& out, int threads) {
    const Runtime rt = make_runtime("", threads);
    std::vector<Span> spans;
    std::vector<int32_t> tokens;
    for (const auto& [sequence, more] : sequences) {
      spans.push_back({sequence, more.size()});
      tokens.insert(tokens.end(), more.begin(), more.end());
    }
    const size_t rows = every_row ? tokens.size() : spans.size();
    if (rows > decoder_->spec().max_rows) {
      fail(Code::kValue, "decoder: a step takes 1 to " + std::to_string(decoder_->spec().max_rows) + " tokens, got " +
                             std::to_string(rows) + "; split the prompt");
    }
    py::array logits = out_or_new<float>(
        "decoder", out, {static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(decoder_->spec().vocab)});
    float* const to = static_cast<float*>(logits.mutable_data());
    cache.run([&]() -> Status {
      const Turn::Guard guard(turn_);  // its working memory is one, whatever the cache
      torn_ = torn_ || guard.orphaned();
      if (torn_) {
        return {Code::kForked,
                "decoder: another thread was inside when the process was forked; load the model again in this process, "
                "or fork while no thread is inside"};
      }
      return decoder_->forward(rt.threads, cache.cache.get(), spans.data(), spans.size(), tokens.data(), every_row, to);
    });
    return logits;
  }

  size_t weight_bytes() const { return decoder_->weight_bytes(); }
  size_t work_bytes() const { return work_bytes_; }

 private:
  std::vector<py::object> kept_;  // what the views look at
  std::unique_ptr<Decoder> decoder_;
  Turn turn_;
  bool torn_ = false;
  size_t work_bytes_ = 0;
};

int32_t draw(Sampler& sampler, size_t vocab, const py::array& logits, double temperature, size_t top_k, double top_p) {
  if (!is_f32(logits) || logits.ndim() != 1 || usize(logits.shape(0)) != vocab) {
    fail(Code::kValue, "Sampler: logits must be float32 (" + std::to_string(vocab) + ",), got " + shape_name(logits));
  }
  require_contiguous("Sampler", "logits", logits);
  const FpGuard guard;
  return sampler.draw(static_cast<const float*>(logits.data()), {temperature, top_k, top_p});
}

/// One product as the decoder makes it, for tests of its parts: norm, weights of any kind, bias, activation, addend.
py::array product(const py::array& x, const py::object& w, const py::object& bias, const py::object& gain, float eps,
                  bool swiglu, const py::object& addend, const std::string& isa, int threads) {
  const Runtime rt = make_runtime(isa, threads);
  const FpGuard guard;
  Matrix matrix = matrix_of("w", w, *rt.kernels);
  if (!is_f32(x)) fail(Code::kType, "product: x must be float32, got " + dtype_name(x));
  require_rank("product", "x", x, 2);
  require_contiguous("product", "x", x);
  require_inner("product", "x", usize(x.shape(1)), "w", matrix.k);
  const size_t rows = usize(x.shape(0)), n = swiglu ? matrix.n / 2 : matrix.n;
  if (!bias.is_none()) matrix.bias = floats("Decoder", "bias", bias.cast<py::array>(), {matrix.n});
  RowSource source{static_cast<const float*>(x.data()), matrix.k};
  if (!gain.is_none()) source.gain = floats("Decoder", "gain", gain.cast<py::array>(), {matrix.k});
  source.eps = eps;
  const float* more = nullptr;
  if (!addend.is_none()) {
    const auto given = addend.cast<py::array>();
    if (!is_f32(given) || given.ndim() != 2 || usize(given.shape(0)) != rows || usize(given.shape(1)) != n) {
      fail(Code::kValue, "product: addend must be float32 of the result's shape, got " + shape_name(given));
    }
    require_contiguous("product", "addend", given);
    more = static_cast<const float*>(given.data());
  }
  py::array_t<float> y({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(n)});
  ThreadRoom room(multiply_scratch_bytes(matrix, rows));
  float* const to = y.mutable_data();
  const WithoutGil released;
  multiply(rt, matrix, source, rows, swiglu ? Activation::kSwiglu : Activation::kClamp, more, to, n, room.data());
  return std::move(y);
}

using QuantizeGroups = void (*)(const float*, size_t, size_t, size_t, int, int8_t*, float*);

py::tuple quantize_groups_array(const py::array& w, size_t group, int threads, QuantizeGroups quantize) {
  const Runtime rt = make_runtime("", threads);
  const FpGuard guard;
  if (!is_f32(w)) fail(Code::kType, "quantize_groups: w must be float32, got " + dtype_name(w));
  require_rank("quantize_groups", "w", w, 2);
  require_contiguous("quantize_groups", "w", w);
  if (group != 32 && group != 64 && group != 128) fail(Code::kValue, "quantize_groups: group must be 32, 64 or 128");
  const size_t n = usize(w.shape(0)), k = usize(w.shape(1));
  py::array_t<int8_t> q({w.shape(0), w.shape(1)});
  py::array_t<float> scale({w.shape(0), static_cast<py::ssize_t>(ceil_div(k, group))});
  const float* const from = static_cast<const float*>(w.data());
  int8_t* const codes = q.mutable_data();
  float* const scales = scale.mutable_data();
  {
    const WithoutGil released;
    quantize(from, n, k, group, rt.threads, codes, scales);
  }
  return py::make_tuple(q, scale);
}

/// Weights whose scales may be negative or zero, as GGUF's Q4_0 has them: codes (n, k) of 4 or 2 bits, scales (n,
/// groups).
PackedWeights pack_groups(const py::array& codes, const py::array& scale, size_t group, int bits) {
  constexpr const char* kName = "pack_groups";
  require_rank(kName, "codes", codes, 2);
  require_rank(kName, "scale", scale, 2);
  require_contiguous(kName, "codes", codes);
  require_contiguous(kName, "scale", scale);
  if (!is_s8(codes) || !is_f32(scale)) fail(Code::kType, "pack_groups: codes must be int8 and scale float32");
  const bool ternary = bits == 2;
  if ((group != 32 || ternary) && group != 64 && group != 128) {
    fail(Code::kValue, "pack_groups: group must be 32, 64 or 128, and not 32 of 2 bits");
  }
  const size_t n = usize(codes.shape(0)), k = usize(codes.shape(1));
  PackedWeights packed;
  packed.shape = {n, 1, k};
  packed.shape4 = {n, k, group, false, ternary};
  const size_t groups = packed.shape4.groups();
  size_t bytes = 0;
  if (!packed.shape4.bytes(&bytes) || usize(scale.shape(0)) != n || usize(scale.shape(1)) != groups) {
    fail(Code::kValue, "pack_groups: scale must have one value for every row and group, got " + shape_name(scale));
  }
  const int8_t* const from = static_cast<const int8_t*>(codes.data());
  const float* const by_row = static_cast<const float*>(scale.data());
  float largest = 0;
  bool good = true;
  const int lo = ternary ? -1 : -8, hi = ternary ? 1 : 7;
  for (size_t i = 0; i < n * k; ++i) good = good && from[i] >= lo && from[i] <= hi;
  std::vector<float> by_group(n * groups);
  for (size_t row = 0; row < n; ++row) {
    for (size_t g = 0; g < groups; ++g) {
      const float s = by_row[row * groups + g];
      good = good && std::isfinite(s);
      largest = std::max(largest, std::fabs(s));
      by_group[g * n + row] = s;
    }
  }
  if (!good) {
    fail(Code::kValue, "pack_groups: codes must lie in [" + std::to_string(lo) + ", " + std::to_string(hi) +
                           "] and scales be finite");
  }
  const FpGuard guard;
  packed.unit = unit_of_scales(largest > 0 ? largest : 1.0f);
  packed.data = new_buffer(kName, bytes);
  const WithoutGil released;
  const auto stride_n = static_cast<ptrdiff_t>(k);
  uint8_t* const out = packed.data.data();
  if (ternary) {
    pack_weights2(packed.shape4, from, 1, stride_n, by_group.data(), packed.unit, out);
  } else {
    pack_weights4(packed.shape4, from, 1, stride_n, by_group.data(), packed.unit, nullptr, out);
  }
  return packed;
}

/// What matrix_of() and the packing functions hold of one.
size_t held_bytes(const Matrix& matrix) {
  const size_t columns = round_up(matrix.n, kPanel) * sizeof(float);
  return AlignedBuffer::taken_bytes(matrix.bytes()) + (matrix.bits == 8 ? 2 * columns : 0);  // scales and starts
}

/// Bytes of weights and of working memory that a model of these sizes takes.
py::tuple plan_bytes(const DecoderSpec& spec, int bits, size_t group) {
  const auto shaped = [&](size_t n, size_t k) {
    Matrix matrix;
    matrix.bits = bits;
    matrix.n = n;
    matrix.k = k;
    if (matrix.grouped()) matrix.shape4 = {n, k, group, false, bits == 2};
    return matrix;
  };
  ModelWeights weights;
  weights.layers.resize(1);
  LayerWeights& layer = weights.layers[0];
  layer.qkv = shaped(spec.q_width() + 2 * spec.kv_width(), spec.dim);
  layer.o = shaped(spec.dim, spec.q_width());
  layer.gate_up = shaped(2 * spec.hidden, spec.dim);
  layer.down = shaped(spec.dim, spec.hidden);
  weights.head = shaped(spec.vocab, spec.dim);
  const size_t one = held_bytes(layer.qkv) + held_bytes(layer.o) + held_bytes(layer.gate_up) + held_bytes(layer.down);
  const size_t norms = (2 * spec.layers + 1) * spec.dim * sizeof(float);
  const size_t work = AlignedBuffer::taken_bytes(Decoder::work_bytes(spec, weights));
  return py::make_tuple(held_bytes(weights.head) + spec.layers * one + norms, work);
}

struct PySampler {
  size_t vocab;
  Sampler sampler;
};

}  // namespace

void bind_decoder(py::module_& m) {
  py::class_<PackedFloats> floats(m, "PackedFloats", plain_type(),
                                  "Float32 weights (N, K) as panels; made by pack_float32.");
  made_by_core(floats);
  floats.def_property_readonly("shape", [](const PackedFloats& w) { return py::make_tuple(w.n, w.k); })
      .def_property_readonly("nbytes", [](const PackedFloats& w) { return w.data.size(); });
  m.def("pack_float32", &pack_floats, py::arg("w").noconvert());

  py::class_<PyDecoder>(m, "Decoder", plain_type(), "A LLaMA-family model's step; see edgekern.llm.")
      .def(py::init([](size_t dim, size_t hidden, size_t layers, size_t heads, size_t kv_heads, size_t head_dim,
                       size_t vocab, float eps, float rope_magnitude, const std::vector<uint64_t>& rope_phases,
                       size_t max_rows, const py::array& embedding, int embedding_code, const py::list& layer_weights,
                       const py::array& final_norm, const py::object& head, const std::string& isa) {
             const DecoderSpec spec{dim,   hidden, layers,         heads,       kv_heads, head_dim,
                                    vocab, eps,    rope_magnitude, rope_phases, max_rows};
             return std::make_unique<PyDecoder>(spec, embedding, embedding_code, layer_weights, final_norm, head, isa);
           }),
           py::kw_only(), py::arg("dim"), py::arg("hidden"), py::arg("layers"), py::arg("heads"), py::arg("kv_heads"),
           py::arg("head_dim"), py::arg("vocab"), py::arg("eps"), py::arg("rope_magnitude"), py::arg("rope_phases"),
           py::arg("max_rows"), py::arg("embedding"), py::arg("embedding_code"), py::arg("layer_weights"),
           py::arg("final_norm"), py::arg("head"), py::arg("isa"))
      .def("forward", &PyDecoder::forward, py::arg("cache"), py::arg("sequences"), py::arg("every_row"), py::arg("out"),
           py::arg("num_threads"))
      .def_property_readonly("weight_bytes", &PyDecoder::weight_bytes)
      .def_property_readonly("work_bytes", &PyDecoder::work_bytes);

  py::class_<PySampler>(m, "Sampler", plain_type(), "Draws tokens from logits with a seed.")
      .def(py::init([](size_t vocab, uint64_t seed) {
             return std::make_unique<PySampler>(PySampler{vocab, Sampler(vocab, seed)});
           }),
           py::arg("vocab"), py::arg("seed"))
      .def(
          "draw",
          [](PySampler& s, const py::array& logits, double temperature, size_t top_k, double top_p) {
            return draw(s.sampler, s.vocab, logits, temperature, top_k, top_p);
          },
          py::arg("logits"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"));

  m.def(
      "quantize_groups",
      [](const py::array& w, size_t group, int threads, int bits) {
        return quantize_groups_array(w, group, threads, bits == 2 ? quantize_ternary : quantize_groups);
      },
      py::arg("w").noconvert(), py::arg("group"), py::arg("num_threads"), py::arg("bits") = 4);
  m.def("pack_groups", &pack_groups, py::arg("codes").noconvert(), py::arg("scale").noconvert(), py::arg("group"),
        py::arg("bits") = 4);
  m.def(
      "decoder_plan_bytes",
      [](size_t dim, size_t hidden, size_t layers, size_t heads, size_t kv_heads, size_t head_dim, size_t vocab,
         size_t max_rows, int bits, size_t group) {
        return plan_bytes({dim, hidden, layers, heads, kv_heads, head_dim, vocab, 0, 1, {}, max_rows}, bits, group);
      },
      py::kw_only(), py::arg("dim"), py::arg("hidden"), py::arg("layers"), py::arg("heads"), py::arg("kv_heads"),
      py::arg("head_dim"), py::arg("vocab"), py::arg("max_rows"), py::arg("bits"), py::arg("group"));
  m.def("product", &product, py::arg("x").noconvert(), py::arg("w"), py::arg("bias"), py::arg("gain"), py::arg("eps"),
        py::arg("swiglu"), py::arg("addend"), py::arg("isa"), py::arg("num_threads"));
  m.def(
      "rope_row",
      [](const std::vector<uint64_t>& phases, int64_t position, float magnitude) {
        const auto half = static_cast<py::ssize_t>(phases.size());
        py::array_t<float> cosines(half), sines(half);
        const FpGuard guard;
        rope_row(phases.data(), phases.size(), position, magnitude, cosines.mutable_data(), sines.mutable_data());
        return py::make_tuple(cosines, sines);
      },
      py::arg("phases"), py::arg("position"), py::arg("magnitude"));
}

}  // namespace ek
