// edgekern::EdgeInfer: a compiled model for C++17, over the C table alone. Link libedgekern, or hand over a table.
//
//   edgekern::EdgeInfer engine("model.ekm");
//   std::vector<float> input(engine.InputSize()), output;
//   engine.Infer(input, output);
//
// What goes wrong is an edgekern::Error with the library's own words. All memory is taken when it is made; a call of
// Infer() takes none once its vectors have their sizes. One object is for one thread at a time, others wait; Clone()
// makes one for another thread over the same weights.
#ifndef EDGEKERN_EDGE_INFER_HPP
#define EDGEKERN_EDGE_INFER_HPP

#include <edgekern/edgekern.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgekern {

class Error : public std::runtime_error {
 public:
  Error(ek_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  ek_status status() const noexcept { return status_; }

 private:
  ek_status status_;
};

/// An input or output: `size` elements of `type`. A code of EK_U8 and EK_S8 stands for (code - zero_point) * scale.
struct Tensor {
  std::string name;
  ek_type type = EK_F32;
  std::vector<std::int64_t> shape;
  std::size_t size = 0, bytes = 0;
  float scale = 1.0f;
  std::int32_t zero_point = 0;
};

struct StepTime {
  std::string name, op, kind, path;
  std::uint64_t nanoseconds = 0;
};

class EdgeInfer {
 public:
  /// Opens a file, by default with every byte compared with its hash; 0 threads are the process's setting.
  explicit EdgeInfer(const std::string& path, int num_threads = 0, ek_verify verify = EK_VERIFY_FULL,
                     const ek_api* api = nullptr)
      : ek_(Table(api)), num_threads_(num_threads) {
    ek_model* model = nullptr;
    Check(ek_->model_open(path.c_str(), verify, &model));
    Begin(model);
  }
  /// The same of a file's bytes, which are copied.
  static EdgeInfer FromBytes(const void* file, std::size_t bytes, int num_threads = 0,
                             ek_verify verify = EK_VERIFY_FULL, const ek_api* api = nullptr) {
    EdgeInfer made(Table(api), num_threads);
    ek_model* model = nullptr;
    made.Check(made.ek_->model_from_bytes(file, bytes, verify, &model));
    made.Begin(model);
    return made;
  }
  EdgeInfer(EdgeInfer&&) noexcept = default;
  EdgeInfer& operator=(EdgeInfer&&) noexcept = default;

  /// One with an arena of its own over the same weights, in the first mode.
  EdgeInfer Clone() const {
    EdgeInfer made(ek_, num_threads_);
    made.model_ = model_;
    made.sizes_ = sizes_;
    made.modes_ = modes_;
    made.CreateSession();
    return made;
  }

  /// Of the smallest size.
  const std::vector<std::int64_t>& GetInputShape(std::size_t number = 0) const { return Input(number).shape; }
  const std::vector<std::int64_t>& GetOutputShape(std::size_t number = 0) const { return Output(number).shape; }
  std::size_t InputSize(std::size_t number = 0) const { return Input(number).size; }
  std::size_t OutputSize(std::size_t number = 0) const { return Output(number).size; }
  const std::vector<Tensor>& Inputs(std::size_t size = 0) const { return SizeAt(size).inputs; }
  const std::vector<Tensor>& Outputs(std::size_t size = 0) const { return SizeAt(size).outputs; }
  /// Combinations of sizes that the model has; Run() takes their number.
  std::size_t NumSizes() const { return sizes_.size(); }
  /// Names of the model's precisions; none where it has one.
  const std::vector<std::string>& Modes() const { return modes_; }
  void SetMode(const std::string& mode) { Check(ek_->session_set_mode(session_.get(), mode.c_str())); }
  /// Memory of this object beside the model's.
  std::size_t Bytes() const {
    std::size_t bytes = 0;
    Check(ek_->session_bytes(session_.get(), &bytes));
    return bytes;
  }

  /// One input, one output: floats, which are quantized and dequantized where the model has 8 bits. `output` gets the
  /// size of the result. Always true: what fails is thrown.
  bool Infer(const std::vector<float>& input, std::vector<float>& output) {
    RequireOneOfEach();
    RequireSize("Infer: input", input.size(), sizes_[0].inputs[0].size);
    output.resize(sizes_[0].outputs[0].size);
    RunFloats(sizes_[0], 0, input.data(), output.data());
    return true;
  }

  /// The same for a batch: together where the model was compiled for several rows that know nothing of each other
  /// (compile(batch=(1, 4))), else one by one.
  bool Infer(const std::vector<std::vector<float>>& inputs, std::vector<std::vector<float>>& outputs) {
    RequireOneOfEach();
    const Size& one = sizes_[0];
    for (const std::vector<float>& input : inputs) RequireSize("Infer: an input", input.size(), one.inputs[0].size);
    outputs.resize(inputs.size());
    for (std::vector<float>& output : outputs) output.resize(one.outputs[0].size);
    for (std::size_t done = 0; done < inputs.size();) {
      const std::size_t number = LargestBatch(inputs.size() - done), rows = sizes_[number].rows;
      const Size& size = sizes_[number];
      for (std::size_t i = 0; i < rows && rows > 1; ++i) {
        std::copy(inputs[done + i].begin(), inputs[done + i].end(), batch_in_.begin() + Offset(i, one.inputs[0].size));
      }
      RunFloats(size, number, rows > 1 ? batch_in_.data() : inputs[done].data(),
                rows > 1 ? batch_out_.data() : outputs[done].data());
      for (std::size_t i = 0; i < rows && rows > 1; ++i) {
        const auto from = batch_out_.begin() + Offset(i, one.outputs[0].size);
        std::copy(from, from + Offset(1, one.outputs[0].size), outputs[done + i].begin());
      }
      done += rows;
    }
    return true;
  }

  /// Any model: arrays of all inputs and outputs of a size, in the model's order and types.
  void Run(const std::vector<ek_input>& inputs, const std::vector<ek_output>& outputs, std::size_t size = 0) {
    Check(ek_->session_run(session_.get(), size, inputs.data(), inputs.size(), outputs.data(), outputs.size()));
  }

  /// The same, with what each step took.
  std::vector<StepTime> Profile(const std::vector<ek_input>& inputs, const std::vector<ek_output>& outputs,
                                std::size_t size = 0) {
    std::vector<ek_step_time> times(64);
    for (;;) {
      std::size_t count = 0;
      Check(ek_->session_profile(session_.get(), size, inputs.data(), inputs.size(), outputs.data(), outputs.size(),
                                 times.data(), times.size(), &count));
      const bool whole = count <= times.size();
      times.resize(count);
      if (whole) break;
    }
    std::vector<StepTime> steps;
    for (const ek_step_time& t : times) steps.push_back({t.name, t.op, t.kind, t.path, t.nanoseconds});
    return steps;
  }

 private:
  struct Size {
    std::vector<Tensor> inputs, outputs;
    std::size_t rows = 1;  // how many of the smallest size it does at once; 0: it is no batch of them
  };
  struct FreeSession {
    const ek_api* ek;
    void operator()(ek_session* session) const { ek->session_free(session); }
  };

  EdgeInfer(const ek_api* ek, int num_threads) : ek_(ek), num_threads_(num_threads) {}

  static const ek_api* Table(const ek_api* api) {
    if (api == nullptr) api = edgekern_get_api(EDGEKERN_ABI_VERSION);
    if (api == nullptr || api->abi_version != EDGEKERN_ABI_VERSION || !EK_HAS(api, session_profile)) {
      throw Error(EK_ERROR_VALUE, "EdgeInfer: this libedgekern is older than edge_infer.hpp, or speaks another ABI");
    }
    return api;
  }

  void Check(ek_status status) const {
    if (status != EK_OK) throw Error(status, ek_->error_message());
  }

  void Begin(ek_model* model) {
    const ek_api* const ek = ek_;
    model_ = std::shared_ptr<ek_model>(model, [ek](ek_model* m) { ek->model_close(m); });
    ek_model_info info{};
    Check(ek_->model_info(model, &info));
    for (std::size_t size = 0; size < info.num_sizes; ++size) {
      Size one;
      ek_tensor_info tensor{};
      for (std::size_t i = 0; i < info.num_inputs; ++i) {
        Check(ek_->model_input(model, size, i, &tensor));
        one.inputs.push_back(Told(tensor));
      }
      for (std::size_t i = 0; i < info.num_outputs; ++i) {
        Check(ek_->model_output(model, size, i, &tensor));
        one.outputs.push_back(Told(tensor));
      }
      sizes_.push_back(std::move(one));
    }
    for (std::size_t mode = 0; mode < info.num_modes && info.num_modes > 1; ++mode) {
      const char* name = nullptr;
      Check(ek_->model_mode(model, mode, &name));
      modes_.emplace_back(name);
    }
    FindBatches(info);
    CreateSession();
  }

  void CreateSession() {
    ek_session* session = nullptr;
    Check(ek_->session_create(model_.get(), num_threads_, &session));
    session_ = std::unique_ptr<ek_session, FreeSession>(session, FreeSession{ek_});
    if (!HasOneOfEach()) return;
    const Size& most = sizes_.back();
    batch_in_.resize(sizes_.size() > 1 ? most.inputs[0].size : 0);
    batch_out_.resize(sizes_.size() > 1 ? most.outputs[0].size : 0);
    codes_in_.resize(most.inputs[0].type == EK_F32 ? 0 : most.inputs[0].size);
    codes_out_.resize(most.outputs[0].type == EK_F32 ? 0 : most.outputs[0].size);
  }

  static Tensor Told(const ek_tensor_info& info) {
    Tensor tensor{info.name,  info.type,      {info.shape, info.shape + info.rank}, 1, info.bytes,
                  info.scale, info.zero_point};
    for (const std::int64_t side : tensor.shape) tensor.size *= static_cast<std::size_t>(side);
    return tensor;
  }

  /// Sizes that do several of the smallest at once: one dimension, of rows, first in the input and the output.
  void FindBatches(const ek_model_info& info) {
    ek_dimension_info dimension{};
    if (info.num_dimensions == 1) Check(ek_->model_dimension(model_.get(), 0, &dimension));
    for (std::size_t number = 1; number < sizes_.size(); ++number) {
      Size& size = sizes_[number];
      size.rows = 0;
      if (dimension.rows == 0 || !HasOneOfEach() || dimension.sizes[0] != 1) continue;
      const auto rows = static_cast<std::size_t>(dimension.sizes[number]);
      const bool fits = size.inputs[0].size == rows * sizes_[0].inputs[0].size &&
                        size.outputs[0].size == rows * sizes_[0].outputs[0].size;
      if (fits) size.rows = rows;
    }
  }

  std::size_t LargestBatch(std::size_t left) const {
    std::size_t number = sizes_.size() - 1;
    while (number > 0 && (sizes_[number].rows == 0 || sizes_[number].rows > left)) --number;
    return number;
  }

  void RunFloats(const Size& size, std::size_t number, const float* from, float* to) {
    const Tensor &in = size.inputs[0], &out = size.outputs[0];
    RequireFloats("input", in);
    RequireFloats("output", out);
    const bool codes_in = in.type != EK_F32, codes_out = out.type != EK_F32;
    if (codes_in) Check(ek_->quantize(from, in.size, in.scale, in.zero_point, in.type, codes_in_.data()));
    const ek_input input{codes_in ? static_cast<const void*>(codes_in_.data()) : from, in.bytes};
    const ek_output output{codes_out ? static_cast<void*>(codes_out_.data()) : to, out.bytes};
    Check(ek_->session_run(session_.get(), number, &input, 1, &output, 1));
    if (codes_out) Check(ek_->dequantize(codes_out_.data(), out.size, out.scale, out.zero_point, out.type, to));
  }

  static void RequireFloats(const char* side, const Tensor& tensor) {
    if (tensor.type == EK_F32 || tensor.type == EK_U8 || tensor.type == EK_S8) return;
    throw Error(EK_ERROR_VALUE, std::string("Infer: ") + side + " '" + tensor.name +
                                    "' must be of float32 or 8 bits; call Run() with an array of its type");
  }

  static void RequireSize(const char* what, std::size_t size, std::size_t wanted) {
    if (size == wanted) return;
    throw Error(EK_ERROR_VALUE,
                std::string(what) + " must have " + std::to_string(wanted) + " elements, got " + std::to_string(size));
  }

  bool HasOneOfEach() const { return Inputs().size() == 1 && Outputs().size() == 1; }
  void RequireOneOfEach() const {
    if (HasOneOfEach()) return;
    throw Error(EK_ERROR_VALUE, "Infer: the model must have one input and one output, got " +
                                    std::to_string(Inputs().size()) + " and " + std::to_string(Outputs().size()) +
                                    "; call Run()");
  }

  static std::ptrdiff_t Offset(std::size_t row, std::size_t size) { return static_cast<std::ptrdiff_t>(row * size); }

  const Size& SizeAt(std::size_t size) const {
    if (size < sizes_.size()) return sizes_[size];
    throw Error(EK_ERROR_VALUE,
                "EdgeInfer: size must be below " + std::to_string(sizes_.size()) + ", got " + std::to_string(size));
  }
  const Tensor& Input(std::size_t number) const { return At("input", Inputs(), number); }
  const Tensor& Output(std::size_t number) const { return At("output", Outputs(), number); }
  static const Tensor& At(const char* side, const std::vector<Tensor>& all, std::size_t number) {
    if (number < all.size()) return all[number];
    throw Error(EK_ERROR_VALUE, std::string("EdgeInfer: there is no ") + side + " " + std::to_string(number));
  }

  const ek_api* ek_;
  int num_threads_;
  std::shared_ptr<ek_model> model_;
  std::vector<Size> sizes_;
  std::vector<std::string> modes_;
  std::vector<float> batch_in_, batch_out_;
  std::vector<std::uint8_t> codes_in_, codes_out_;
  std::unique_ptr<ek_session, FreeSession> session_{nullptr, FreeSession{nullptr}};
};

}  // namespace edgekern

#endif
