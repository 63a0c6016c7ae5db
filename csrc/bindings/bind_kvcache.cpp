// RingKVCache's core. The Python class (kvcache.py) checks types and shapes of containers; everything about tokens,
// positions and formats is checked below the border.
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "bindings/kv_cache.h"

namespace ek {
namespace {

KvFormat format_of(const char* argument, const py::tuple& given) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "int8", "int4"};
  const auto name = given[0].cast<std::string>();
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name != kNames[i]) continue;
    return {static_cast<KvKind>(i), given[1].cast<size_t>(), given[2].cast<bool>(), given[3].cast<bool>()};
  }
  fail(Code::kValue, std::string("RingKVCache: ") + argument + " must be stored as float32, float16, bfloat16, int8 " +
                         "or int4, got '" + name + "'");
}

KvSpec spec_of(const py::dict& given) {
  KvSpec s;
  const auto count = [&](const char* name) { return given[name].cast<size_t>(); };
  s.layers = count("num_layers"), s.kv_heads = count("num_kv_heads"), s.head_dim = count("head_dim");
  s.query_heads = count("num_heads"), s.window = count("window"), s.sinks = count("sinks");
  s.max_chunk = count("max_chunk"), s.rewind = count("rewind"), s.sequences = count("num_sequences");
  s.query_bits = given["query_bits"].cast<int>();
  s.k = format_of("k", given["k"].cast<py::tuple>());
  s.v = format_of("v", given["v"].cast<py::tuple>());
  return s;
}

py::array attend(KvCache& self, size_t sequence, size_t layer, const py::array& q, const py::object& q_sink,
                 float scale, const py::object& out, int threads, const std::string& isa) {
  constexpr const char* kName = "RingKVCache.attend";
  const KvSpec& spec = self.cache->spec();
  require_rank(kName, "q", q, 3);
  const std::vector<size_t> shape{usize(q.shape(0)), spec.query_heads, spec.head_dim};
  const float* const queries = floats(kName, "q", q, shape);
  const float* sink_queries = nullptr;
  if (!q_sink.is_none()) sink_queries = floats(kName, "q_sink", q_sink.cast<py::array>(), shape);
  py::array result = out_or_new<float>(kName, out, {q.shape(0), q.shape(1), q.shape(2)});
  float* const to = static_cast<float*>(result.mutable_data());
  const Runtime rt = make_runtime(isa, threads);
  self.run([&] { return self.cache->attend(rt, sequence, layer, shape[0], queries, sink_queries, scale, to); });
  return result;
}

void write(KvCache& self, size_t sequence, size_t layer, const py::array& k, const py::array& v, int threads,
           const std::string& isa) {
  const KvSpec& spec = self.cache->spec();
  const std::vector<size_t> shape{self.whole().staged(sequence), spec.kv_heads, spec.head_dim};
  const float* const keys = floats("RingKVCache.write", "k", k, shape);
  const float* const values = floats("RingKVCache.write", "v", v, shape);
  const Runtime rt = make_runtime(isa, threads);
  self.run([&]() -> Status {
    if (self.cache->staged(sequence) != shape[0]) {  // another thread, since the shapes were checked
      return {Code::kValue, "RingKVCache.write: the staged tokens have changed; step a sequence from one thread"};
    }
    return self.cache->write(rt, sequence, layer, keys, values);
  });
}

py::bytes save(KvCache& self, size_t sequence, const std::string& model) {
  std::vector<uint8_t> bytes;
  self.run([&] { return self.cache->save(sequence, model, &bytes); });
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::array read(KvCache& self, size_t sequence, size_t layer, bool value, int64_t position) {
  const KvSpec& spec = self.cache->spec();
  py::array_t<float> out({static_cast<py::ssize_t>(spec.kv_heads), static_cast<py::ssize_t>(spec.head_dim)});
  throw_if_error(self.whole().read(sequence, layer, value, position, out.mutable_data()));
  return out;
}

py::array slot_positions(const KvCache& self, size_t sequence) {
  const auto slots = static_cast<py::ssize_t>(self.cache->spec().slots());
  return py::array_t<int64_t>(slots, self.whole().slot_positions(sequence));
}

}  // namespace

void bind_kvcache(py::module_& m) {
  py::class_<KvCache>(m, "KvCache", plain_type())
      .def(py::init([](const py::dict& spec) {
             auto made = std::make_unique<KvCache>();
             throw_if_error(RingCache::create(spec_of(spec), &made->cache));
             return made;
           }),
           py::arg("spec"))
      .def(
          "stage", [](KvCache& c, size_t s, size_t n) { c.run([&] { return c.cache->stage(s, n); }); },
          py::arg("sequence"), py::arg("tokens"))
      .def("write", &write, py::arg("sequence"), py::arg("layer"), py::arg("k").noconvert(), py::arg("v").noconvert(),
           py::arg("threads"), py::arg("isa"))
      .def("attend", &attend, py::arg("sequence"), py::arg("layer"), py::arg("q").noconvert(), py::arg("q_sink"),
           py::arg("scale"), py::arg("out"), py::arg("threads"), py::arg("isa"))
      .def(
          "commit", [](KvCache& c, size_t s, size_t n) { c.run([&] { return c.cache->commit(s, n); }); },
          py::arg("sequence"), py::arg("accepted"))
      .def(
          "abort", [](KvCache& c, size_t s) { c.run([&] { return c.cache->abort(s), Status(); }); },
          py::arg("sequence"))
      .def(
          "rewind", [](KvCache& c, size_t s, size_t n) { c.run([&] { return c.cache->rewind(s, n); }); },
          py::arg("sequence"), py::arg("tokens"))
      .def(
          "rewind_limit",
          [](const KvCache& c, size_t s, size_t n) {
            const RewindLimit limit = c.whole().rewind_limit(s, n);
            return py::make_tuple(limit.needed, limit.oldest_resident);
          },
          py::arg("sequence"), py::arg("tokens"))
      .def(
          "fork", [](KvCache& c, size_t from, size_t to) { c.run([&] { return c.cache->fork(from, to); }); },
          py::arg("source"), py::arg("target"))
      .def(
          "reset", [](KvCache& c, size_t s, int64_t p) { c.run([&] { return c.cache->reset(s, p); }); },
          py::arg("sequence"), py::arg("position"))
      .def("save", &save, py::arg("sequence"), py::arg("model"))
      .def(
          "load",
          [](KvCache& c, size_t s, const std::string& model, const py::bytes& state) {
            const std::string_view bytes = state;
            const auto data = reinterpret_cast<const uint8_t*>(bytes.data());
            c.run([&] { return c.cache->load(s, model, data, bytes.size()); });
          },
          py::arg("sequence"), py::arg("model"), py::arg("state"))
      .def("read", &read, py::arg("sequence"), py::arg("layer"), py::arg("value"), py::arg("position"))
      .def("slot_positions", &slot_positions, py::arg("sequence"))
      .def(
          "position", [](const KvCache& c, size_t s) { return c.whole().position(s); }, py::arg("sequence"))
      .def(
          "staged", [](const KvCache& c, size_t s) { return c.whole().staged(s); }, py::arg("sequence"))
      .def_property_readonly("nbytes", [](const KvCache& c) { return c.cache->nbytes(); })
      .def_property_readonly("bytes_per_token", [](const KvCache& c) { return c.cache->bytes_per_token(); });
  m.def(
      "kv_plan_bytes",
      [](const py::dict& spec) {
        size_t bytes = 0;
        throw_if_error(RingCache::plan_bytes(spec_of(spec), &bytes));
        return bytes;
      },
      py::arg("spec"));
  m.def(
      "kv_formats",
      [](const std::string& name) -> py::object {
        KvFormat k, v;
        int query_bits = 8;
        if (!kv_formats(name, &k, &v, &query_bits)) return py::none();
        constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "int8", "int4"};
        const auto tuple = [&](const KvFormat& f) {
          return py::make_tuple(kNames[static_cast<int>(f.kind)], f.group, f.asymmetric, f.rotated);
        };
        return py::make_tuple(tuple(k), tuple(v), query_bits);
      },
      py::arg("name"));
}

}  // namespace ek
