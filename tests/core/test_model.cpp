// Compiled models over the C table and EdgeInfer: the golden bytes, every refusal by its status, any number of threads.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "edgekern/edge_infer.hpp"
#include "ekm_file.h"
#include "program/json.h"
#include "reference.h"
#include "small_program.h"

using namespace ek::test;

namespace {

const ek_api& api() { return *edgekern_get_api(EDGEKERN_ABI_VERSION); }

bool refused(ek_status status, ek_status wanted, const std::string& words) {
  const std::string said = api().error_message();
  CAPTURE(said);
  CHECK(status == wanted);
  CHECK(said.find(words) != std::string::npos);
  return status == wanted;
}

std::string golden_path(const std::string& name) { return std::string(EK_GOLDEN_DIR) + "/" + name; }

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A session of a checked-in program with its inputs, and room for its outputs.
struct Golden {
  explicit Golden(const std::string& name) : in(read_all(golden_path(name + ".inputs"))) {
    expected = read_all(golden_path(name + ".outputs"));
    out.resize(expected.size());
    REQUIRE(api().model_open(golden_path(name + ".ekm").c_str(), EK_VERIFY_FULL, &model) == EK_OK);
    ek_model_info info{};
    REQUIRE(api().model_info(model, &info) == EK_OK);
    ek_tensor_info tensor{};
    for (size_t i = 0, at = 0; i < info.num_inputs; ++i, at += tensor.bytes) {
      REQUIRE(api().model_input(model, 0, i, &tensor) == EK_OK);
      inputs.push_back({in.data() + at, tensor.bytes});
    }
    size_t at = 0;
    for (size_t i = 0; i < info.num_outputs; ++i, at += tensor.bytes) {
      REQUIRE(api().model_output(model, 0, i, &tensor) == EK_OK);
      outputs.push_back({&out[at], tensor.bytes});
    }
    REQUIRE(at == expected.size());
    REQUIRE(api().session_create(model, 2, &session) == EK_OK);
  }
  ~Golden() {
    api().session_free(session);
    api().model_close(model);
  }
  ek_status run(const std::vector<ek_input>& from, const std::vector<ek_output>& to, size_t size = 0) {
    return api().session_run(session, size, from.data(), from.size(), to.data(), to.size());
  }

  ek_model* model = nullptr;
  ek_session* session = nullptr;
  std::string in, expected, out;
  std::vector<ek_input> inputs;
  std::vector<ek_output> outputs;
};

/// One product: (1, 5) floats -> (1, 3) floats or 8-bit codes.
ek::AlignedBuffer small_file(ek::DType out = ek::DType::kF32) {
  SmallProgram p;
  const uint32_t x = p.quantize(p.input({1, 5}));
  p.finish({p.gemm(p.lookup(x), 1, {3, 1, 1, 0, 1, false, -1, out})});
  return ekm_file(p.index, p.data());
}

/// A file that goes with the test.
struct TemporaryFile {
  explicit TemporaryFile(const ek::AlignedBuffer& content) {
    const int opened = mkstemp(path.data());
    REQUIRE(opened >= 0);
    REQUIRE(write(opened, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
    close(opened);
  }
  ~TemporaryFile() { std::remove(path.c_str()); }
  std::string path = "/tmp/edgekern_test_XXXXXX";
};

}  // namespace

TEST_CASE("a model from C gives the golden bytes, names its steps, and its session outlives it") {
  for (const char* name : {"every_step", "float_image", "float_sentence", "float_sound"}) {
    CAPTURE(name);
    Golden g(name);
    REQUIRE(g.run(g.inputs, g.outputs) == EK_OK);
    CHECK(g.out == g.expected);
    api().model_close(g.model);
    g.model = nullptr;
    g.out.assign(g.out.size(), 'x');
    ek_step_time steps[2] = {};
    size_t count = 0;
    REQUIRE(api().session_profile(g.session, 0, g.inputs.data(), g.inputs.size(), g.outputs.data(), g.outputs.size(),
                                  steps, 2, &count) == EK_OK);
    CHECK(g.out == g.expected);
    REQUIRE(count > 2);
    for (const ek_step_time& step : steps) CHECK((std::string(step.kind) != "" && std::string(step.path) != ""));
    size_t bytes = 0;
    CHECK(api().session_bytes(g.session, &bytes) == EK_OK);
    CHECK(bytes > 0);
  }
}

TEST_CASE("outputs may be left out, and what a run is given wrongly is refused before anything is written") {
  Golden g("every_step");
  std::vector<ek_output> some = g.outputs;
  some[0] = {nullptr, 0};
  g.out.assign(g.out.size(), 'x');
  REQUIRE(g.run(g.inputs, some) == EK_OK);
  CHECK(g.out.substr(0, g.outputs[0].bytes) == std::string(g.outputs[0].bytes, 'x'));
  CHECK(g.out.substr(g.outputs[0].bytes) == g.expected.substr(g.outputs[0].bytes));

  const std::string untouched = g.out;
  std::vector<ek_input> inputs = g.inputs;
  std::vector<ek_output> outputs = g.outputs;
  --inputs[0].bytes;
  refused(g.run(inputs, outputs), EK_ERROR_VALUE, "bytes, got ");
  inputs[0] = {nullptr, g.inputs[0].bytes};
  refused(g.run(inputs, outputs), EK_ERROR_NULL, "is null");
  ++outputs[0].bytes;
  refused(g.run(g.inputs, outputs), EK_ERROR_VALUE, "output '");
  outputs[0] = {&g.in[0], g.outputs[0].bytes};
  refused(g.run(g.inputs, outputs), EK_ERROR_OUT, "overlaps input '");
  outputs[0] = g.outputs[0];
  outputs.pop_back();
  refused(g.run(g.inputs, outputs), EK_ERROR_VALUE, "outputs, got ");
  refused(g.run(g.inputs, g.outputs, 1), EK_ERROR_VALUE, "size must be below 1, got 1");
  refused(api().session_run(g.session, 0, nullptr, 1, nullptr, 0), EK_ERROR_NULL, "inputs or outputs is null");
  refused(api().session_set_mode(g.session, "fast"), EK_ERROR_VALUE, "it has none with a name");
  CHECK(g.out == untouched);
}

TEST_CASE("null handles and numbers out of range are refused") {
  Golden g("float_sound");
  ek_model* model = nullptr;
  ek_session* session = nullptr;
  ek_model_info info{};
  ek_tensor_info tensor{};
  ek_dimension_info dimension{};
  const char* mode = nullptr;
  size_t n = 0;
  refused(api().model_open(nullptr, EK_VERIFY_FULL, &model), EK_ERROR_NULL, "model_open: path or model is null");
  refused(api().model_open("x", EK_VERIFY_FULL, nullptr), EK_ERROR_NULL, "path or model is null");
  refused(api().model_open("/absent/x.ekm", EK_VERIFY_FULL, &model), EK_ERROR_VALUE,
          "'/absent/x.ekm' cannot be opened");
  refused(api().model_open("/dev/zero", EK_VERIFY_LAZY, &model), EK_ERROR_VALUE, "is a device");
  refused(api().model_open("x", 2, &model), EK_ERROR_VALUE, "verify must be EK_VERIFY_FULL or EK_VERIFY_LAZY, got 2");
  refused(api().model_from_bytes(nullptr, 5, EK_VERIFY_FULL, &model), EK_ERROR_NULL, "file or model is null");
  refused(api().model_info(nullptr, &info), EK_ERROR_NULL, "model or info is null");
  refused(api().model_input(nullptr, 0, 0, &tensor), EK_ERROR_NULL, "model or info is null");
  refused(api().model_output(g.model, 0, 0, nullptr), EK_ERROR_NULL, "model or info is null");
  refused(api().model_input(g.model, 1, 0, &tensor), EK_ERROR_VALUE, "size must be below 1");
  refused(api().model_output(g.model, 0, 9, &tensor), EK_ERROR_VALUE, "number must be below");
  refused(api().model_dimension(g.model, 0, &dimension), EK_ERROR_VALUE, "number must be below 0");
  refused(api().model_mode(g.model, 1, &mode), EK_ERROR_VALUE, "number must be below 1");
  CHECK(api().model_mode(g.model, 0, &mode) == EK_OK);
  CHECK(std::string(mode) == "");
  refused(api().session_create(nullptr, 1, &session), EK_ERROR_NULL, "model or session is null");
  refused(api().session_create(g.model, -1, &session), EK_ERROR_VALUE, "num_threads must lie in");
  refused(api().session_bytes(nullptr, &n), EK_ERROR_NULL, "session or bytes is null");
  refused(api().session_set_mode(g.session, nullptr), EK_ERROR_NULL, "session or mode is null");
  refused(api().session_run(nullptr, 0, nullptr, 0, nullptr, 0), EK_ERROR_NULL, "session is null");
  refused(api().session_profile(g.session, 0, nullptr, 0, nullptr, 0, nullptr, 1, &n), EK_ERROR_NULL, "steps or");
  CHECK((model == nullptr && session == nullptr));
  api().model_close(nullptr);
  api().session_free(nullptr);
}

TEST_CASE("every flipped byte and every cut of a file is refused from C") {
  ek::AlignedBuffer file = small_file();
  const auto open = [&](size_t size) {
    ek_model* model = nullptr;
    const ek_status status = api().model_from_bytes(file.data(), size, EK_VERIFY_FULL, &model);
    api().model_close(model);
    return status;
  };
  REQUIRE(open(file.size()) == EK_OK);
  for (size_t byte = 0; byte < file.size(); ++byte) {
    file.data()[byte] ^= static_cast<uint8_t>(1 << byte % 8);
    const ek_status status = open(file.size());
    file.data()[byte] ^= static_cast<uint8_t>(1 << byte % 8);
    CAPTURE(byte);
    REQUIRE(status == EK_ERROR_CORRUPT);
    REQUIRE(open(byte) == EK_ERROR_CORRUPT);
  }
}

TEST_CASE("a file that changes while it is open: read whole it does not matter, mapped it is refused") {
  for (const ek_verify verify : {EK_VERIFY_FULL, EK_VERIFY_LAZY}) {
    const TemporaryFile file(small_file());
    edgekern::EdgeInfer engine(file.path, 1, verify);
    const std::vector<float> x(5, 0.5f);
    std::vector<float> y, again;
    engine.Infer(x, y);
    REQUIRE(truncate(file.path.c_str(), 100) == 0);
    if (verify == EK_VERIFY_FULL) {
      engine.Infer(x, again);
      CHECK(again == y);
      CHECK_NOTHROW(engine.Clone());
      continue;
    }
    const std::string words = "the file of the model was changed while it was open";
    CHECK_THROWS_WITH_AS(engine.Infer(x, again), doctest::Contains(words.c_str()), edgekern::Error);
    CHECK_THROWS_WITH_AS(engine.Clone(), doctest::Contains(words.c_str()), edgekern::Error);
  }
}

TEST_CASE("a mapped file may be replaced by another one of its name") {
  const TemporaryFile file(small_file()), other(small_file());
  edgekern::EdgeInfer engine(file.path, 1, EK_VERIFY_LAZY);
  REQUIRE(std::rename(other.path.c_str(), file.path.c_str()) == 0);
  std::vector<float> y;
  CHECK(engine.Infer(std::vector<float>(5), y));
}

TEST_CASE("sixteen threads with an arena each, and four on one, get the bytes of one") {
  Golden g("float_image");
  const auto work = [&](ek_session* session) {
    std::string out(g.expected.size(), 'x');
    for (int i = 0; i < 3; ++i) {
      std::vector<ek_output> outputs;
      for (const ek_output& o : g.outputs) {
        outputs.push_back({&out[static_cast<size_t>(static_cast<char*>(o.data) - g.out.data())], o.bytes});
      }
      const ek_status status =
          api().session_run(session, 0, g.inputs.data(), g.inputs.size(), outputs.data(), outputs.size());
      if (status != EK_OK || out != g.expected) return false;
    }
    return true;
  };
  std::vector<int> right(20);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < right.size(); ++t) {
    threads.emplace_back([&, t] {
      ek_session* own = t < 16 ? nullptr : g.session;
      if (t < 16 && api().session_create(g.model, 1, &own) != EK_OK) return;
      right[t] = work(own) ? 1 : 0;
      if (t < 16) api().session_free(own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == std::vector<int>(20, 1));
}

TEST_CASE("EdgeInfer infers, moves, clones, infers batches, and quantizes what has 8 bits") {
  const ek::AlignedBuffer file = small_file(), codes = small_file(ek::DType::kS8);
  edgekern::EdgeInfer engine = edgekern::EdgeInfer::FromBytes(file.data(), file.size(), 1);
  CHECK(engine.GetInputShape() == std::vector<int64_t>{1, 5});
  CHECK(engine.GetOutputShape() == std::vector<int64_t>{1, 3});
  std::vector<float> x = {-1.0f, -0.5f, 0.0f, 0.5f, 1.0f}, y, same;
  engine.Infer(x, y);
  REQUIRE(y.size() == 3);
  const float* const place = y.data();
  engine.Infer(x, y);
  CHECK(y.data() == place);  // its memory is used again
  edgekern::EdgeInfer moved = std::move(engine), clone = moved.Clone();
  clone.Infer(x, same);
  CHECK(same == y);
  std::vector<std::vector<float>> many;
  moved.Infer(std::vector<std::vector<float>>(3, x), many);
  CHECK(many == std::vector<std::vector<float>>(3, y));
  CHECK_THROWS_WITH_AS(moved.Infer(std::vector<float>(4), y), "Infer: input must have 5 elements, got 4",
                       edgekern::Error);
  CHECK_THROWS_WITH_AS(moved.GetInputShape(1), "EdgeInfer: there is no input 1", edgekern::Error);
  CHECK_THROWS_AS(moved.SetMode("fast"), edgekern::Error);
  CHECK_THROWS_AS(edgekern::EdgeInfer("/absent.ekm"), edgekern::Error);

  edgekern::EdgeInfer eight = edgekern::EdgeInfer::FromBytes(codes.data(), codes.size(), 1);
  const edgekern::Tensor& out = eight.Outputs()[0];
  REQUIRE(out.type == EK_S8);
  std::vector<int8_t> raw(3);
  eight.Run({{x.data(), 20}}, {{raw.data(), 3}});
  eight.Infer(x, y);
  for (size_t i = 0; i < 3; ++i) CHECK(y[i] == static_cast<float>(raw[i] - out.zero_point) * out.scale);
  CHECK(eight.Profile({{x.data(), 20}}, {{raw.data(), 3}}).size() == 3);
}

TEST_CASE("JSON is read value by value, and what is none is refused") {
  const std::string text =
      R"( {"a": [1, -2], "skipped": {"x": ["}", "\"", null]}, "b": "\u00e9\ud83d\ude00\n", "c": true} )";
  ek::JsonReader json(text);
  std::vector<int64_t> numbers;
  std::string b;
  bool c = false;
  CHECK(json.read_object([&](const std::string& name) {
    if (name == "a") return json.read_array([&] { return json.read(&numbers.emplace_back()); });
    if (name == "b") return json.read(&b);
    return name == "c" ? json.read(&c) : json.skip();
  }));
  CHECK(numbers == std::vector<int64_t>{1, -2});
  CHECK(b == "\xc3\xa9\xf0\x9f\x98\x80\n");
  CHECK(c);
  int64_t number = 0;
  std::string word;
  for (const std::string wrong : {"", "1.5", "-", "9223372036854775808", "x"}) {
    CAPTURE(wrong);
    CHECK_FALSE(ek::JsonReader(wrong).read(&number));
  }
  for (const std::string wrong : {"", "\"", "\"\\", "\"\\u12", "\"\\ud800\"", "\"\\udc00\"", "\"\\x\""}) {
    CAPTURE(wrong);
    CHECK_FALSE(ek::JsonReader(wrong).read(&word));
  }
  for (const std::string wrong : {"", "[", "{\"", "[\"\\", "]"}) {
    CAPTURE(wrong);
    CHECK_FALSE(ek::JsonReader(wrong).skip());
  }
}
