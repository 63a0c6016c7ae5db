#include "program/session.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <new>

#include "base/checked.h"
#include "base/fp_env.h"
#include "base/memory_limit.h"
#include "conv/conv.h"
#include "elementwise/elementwise.h"
#include "gemm/gemm.h"
#include "program/step_args.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Steps that read and write where `places` says: they are prepared with place(), all others with bytes().
bool asks_places(StepKind kind) {
  switch (kind) {
    case StepKind::kQuantize:
    case StepKind::kQuantizeNchw:
    case StepKind::kDequantize:
    case StepKind::kDequantizeNchw:
    case StepKind::kTranspose:
      return true;
    default:
      return false;
  }
}

}  // namespace

struct Session::Impl {
  ProgramIndex index;
  const uint8_t* data = nullptr;
  Runtime runtime{nullptr, 1};
  AlignedBuffer arena, scratch;
  size_t scratch_bytes = 0;
  std::vector<uint8_t*> places;  // of tensors: in the arena, or the caller's memory while run() has moved them there
  std::vector<bool> movable;     // what only steps touch that ask `places`
  std::deque<std::vector<int32_t>> inits;    // accumulator starts; a deque keeps their addresses
  std::vector<std::function<void()>> steps;  // prepared: every argument is bound, calling allocates nothing

  uint8_t* const* place(uint32_t id) const { return &places[id]; }
  uint8_t* bytes(uint32_t id) { return arena.data() + index.tensors[id].offset; }
  const TensorDef& tensor(uint32_t id) const { return index.tensors[id]; }
  const uint8_t* blob(const Step& step, size_t i) const { return data + index.blobs[step.blobs[i]].offset; }
  void reserve_scratch(size_t n) { scratch_bytes = std::max(scratch_bytes, n); }
  uint64_t size(uint32_t id) const {
    uint64_t n = 0;
    const bool fits = ek::tensor_bytes(tensor(id), &n);
    return fits ? n : 0;
  }

  void find_movable();
  bool may_move(uint32_t id, const void* to) const {
    return movable[id] && reinterpret_cast<uintptr_t>(to) % dtype_bytes(tensor(id).dtype) == 0 &&
           !overlap(to, size(id), arena.data(), arena.size());
  }
  /// Whether `n` bytes lie where an output is wanted, other than the one that is numbered `but`.
  bool meets_output(const void* p, size_t n, void* const* outputs, size_t but) const {
    for (size_t j = 0; j < index.outputs.size(); ++j) {
      if (j != but && outputs[j] != nullptr && overlap(p, n, outputs[j], size(index.outputs[j]))) return true;
    }
    return false;
  }

  const int32_t* make_starts(const Step& step, const ConvStep& c);
  std::function<void()> prepare_conv(const Step& step, const ConvStep& c);
  std::function<void()> prepare_pool(const Step& step, const PoolStep& p);
  std::function<void()> prepare_move(const Step& step, const MoveStep& m);
  std::function<void()> prepare_elementwise(const Step& step);
  Status prepare(const Step& step, std::function<void()>* run);
};

/// Tensors at the border of the program, named there once, filled there or by a step, without views, that only steps
/// touch which ask `places`.
void Session::Impl::find_movable() {
  std::vector<int> named(places.size(), 0);
  std::vector<bool> filled(places.size(), false);
  for (const uint32_t id : index.inputs) ++named[id], filled[id] = true;
  for (const uint32_t id : index.outputs) ++named[id];
  for (size_t id = 0; id < named.size(); ++id) {
    const int32_t of = index.tensors[id].alias_of;
    if (of >= 0) named[id] = named[static_cast<size_t>(of)] = 0;
  }
  for (const Step& step : index.steps) {
    for (const uint32_t id : step.out) filled[id] = true;
    if (asks_places(step.kind)) continue;
    for (const uint32_t id : step.in) named[id] = 0;
    for (const uint32_t id : step.out) named[id] = 0;
  }
  for (size_t id = 0; id < named.size(); ++id) movable.push_back(named[id] == 1 && filled[id]);
}

/// Bias, zero point and sign of the input folded into the accumulators' starting values, group by group.
const int32_t* Session::Impl::make_starts(const Step& step, const ConvStep& c) {
  const QuantParams x = quant_of(tensor(step.in[0]));
  const uint8_t* weights = blob(step, 0);
  const int32_t* bias = reinterpret_cast<const int32_t*>(blob(step, 1));
  std::vector<int32_t>& init = inits.emplace_back(c.padded_out);
  if (step.kind == StepKind::kDepthwise) {
    make_init(*runtime.kernels, x.sign, x.zero_point, depthwise_colsum(weights, c.out_c, c.window.taps()), bias,
              c.out_c, init.data());
    return init.data();
  }
  const PackedShape shape{c.out_c / c.groups, c.window.taps(), c.in_c / c.groups};
  size_t group_bytes = 0;
  const bool fits = shape.bytes(&group_bytes);
  EK_ASSERT(fits);
  static_cast<void>(fits);
  for (size_t g = 0; g < c.groups; ++g) {
    const PackedView view{shape, weights + g * round_up(group_bytes, 64)};
    const size_t at = g * shape.padded_n();
    make_init(*runtime.kernels, x.sign, x.zero_point, view.colsum(), bias + at, shape.n, init.data() + at);
  }
  return init.data();
}

std::function<void()> Session::Impl::prepare_conv(const Step& step, const ConvStep& c) {
  ConvArgs args;
  args.window = c.window;
  args.in_c = c.in_c;
  args.out_c = c.out_c;
  args.groups = c.groups;
  args.x = bytes(step.in[0]);
  args.x_q = quant_of(tensor(step.in[0]));
  args.weights = blob(step, 0);
  args.init = make_starts(step, c);
  args.y = bytes(step.out[0]);
  args.epilogue = c.epilogue;
  args.epilogue.multiplier = reinterpret_cast<const float*>(blob(step, 2));
  if (c.residual) args.epilogue.residual = bytes(step.in[1]);

  if (step.kind == StepKind::kDepthwise) {
    reserve_scratch(depthwise_scratch_bytes(runtime, args));
    return [this, args] { depthwise_conv(runtime, args, scratch.data()); };
  }
  const Window& w = c.window;
  const bool pointwise = w.taps() == 1 && w.stride_h == 1 && w.stride_w == 1 && w.pad_top == 0 && w.pad_left == 0 &&
                         w.in_h == w.out_h && w.in_w == w.out_w && c.groups == 1;
  if (!pointwise) {
    reserve_scratch(conv_scratch_bytes(runtime, args));
    return [this, args] { conv(runtime, args, scratch.data()); };
  }
  GemmArgs gemm_args;  // a 1 x 1 convolution is a matrix product over pixels
  gemm_args.m = w.pixels();
  gemm_args.a = args.x;
  gemm_args.lda = c.in_c;
  gemm_args.a_sign = args.x_q.sign;
  gemm_args.b = {{c.out_c, 1, c.in_c}, args.weights};
  gemm_args.init = args.init;
  gemm_args.c = args.y;
  gemm_args.ldc = c.out_c * (args.epilogue.kind == OutKind::kQuantized ? 1 : 4);
  gemm_args.epilogue = args.epilogue;
  const TilePlan plan = make_tile_plan(gemm_args.m, c.out_c, c.in_c, 256, *find_device("host"));
  return [this, gemm_args, plan] { gemm(runtime, gemm_args, plan); };
}

std::function<void()> Session::Impl::prepare_pool(const Step& step, const PoolStep& p) {
  PoolArgs args;
  args.window = p.window;
  args.channels = p.channels;
  args.x = bytes(step.in[0]);
  args.y = bytes(step.out[0]);
  args.x_q = quant_of(tensor(step.in[0]));
  args.y_q = quant_of(tensor(step.out[0]));
  args.count_include_pad = p.count_include_pad;
  reserve_scratch(pool_scratch_bytes(runtime, args));
  if (step.kind == StepKind::kMaxPool) return [this, args] { max_pool(runtime, args, scratch.data()); };
  return [this, args] { average_pool(runtime, args, scratch.data()); };
}

std::function<void()> Session::Impl::prepare_move(const Step& step, const MoveStep& m) {
  if (step.kind == StepKind::kTranspose) {
    return [this, m, x = place(step.in[0]), y = place(step.out[0])] {
      transpose4(runtime, *x, m.x_shape.data(), m.perm.data(), m.item, *y);
    };
  }
  const uint8_t* x = bytes(step.in[0]);
  uint8_t* y = bytes(step.out[0]);
  if (step.kind == StepKind::kSlice) {
    return [m, x, y] { slice4(x, m.x_shape.data(), m.y_shape.data(), m.start.data(), m.step.data(), y); };
  }
  return [m, x, y] { pad4(x, m.x_shape.data(), m.y_shape.data(), m.before.data(), m.value, y); };
}

std::function<void()> Session::Impl::prepare_elementwise(const Step& step) {
  const uint8_t* x = bytes(step.in[0]);
  uint8_t* y = bytes(step.out[0]);
  uint8_t *const *from = place(step.in[0]), *const *to = place(step.out[0]);
  const QuantParams qx = quant_of(tensor(step.in[0])), qy = quant_of(tensor(step.out[0]));
  const size_t n = size(step.out[0]) / dtype_bytes(tensor(step.out[0]).dtype);
  switch (step.kind) {
    case StepKind::kQuantize:
      return [this, from, to, n, qy] { quantize(runtime, reinterpret_cast<const float*>(*from), n, qy, *to); };
    case StepKind::kDequantize:
      return [this, from, to, n, qx] { dequantize(runtime, *from, n, qx, reinterpret_cast<float*>(*to)); };
    case StepKind::kLookup:
      return [this, x, y, n, table = blob(step, 0)] { lookup(runtime, x, n, table, y); };
    default: {  // kAdd
      const uint8_t* b = bytes(step.in[1]);
      const QuantParams qb = quant_of(tensor(step.in[1]));
      const float lo = step.floats[0], hi = step.floats[1];
      return [this, x, qx, b, qb, n, qy, lo, hi, y] { add(runtime, x, qx, b, qb, n, qy, lo, hi, y); };
    }
  }
}

Status Session::Impl::prepare(const Step& step, std::function<void()>* run) {
  if (size(step.out[0]) == 0) {  // however large its other sizes are: walking them could take forever
    *run = [] {};
    return {};
  }
  switch (step.kind) {
    case StepKind::kConv:
    case StepKind::kDepthwise:
    case StepKind::kGemm: {
      ConvStep c;
      EK_RETURN_IF_ERROR(parse_conv(index, step, &c));
      *run = prepare_conv(step, c);
      return {};
    }
    case StepKind::kMaxPool:
    case StepKind::kAveragePool: {
      PoolStep p;
      EK_RETURN_IF_ERROR(parse_pool(index, step, &p));
      *run = prepare_pool(step, p);
      return {};
    }
    case StepKind::kSlice:
    case StepKind::kPad:
    case StepKind::kTranspose: {
      MoveStep m;
      EK_RETURN_IF_ERROR(parse_move(index, step, &m));
      *run = prepare_move(step, m);
      return {};
    }
    case StepKind::kConcat: {
      ConcatStep c;
      EK_RETURN_IF_ERROR(parse_concat(index, step, &c));
      std::vector<const uint8_t*> pieces;
      for (const uint32_t id : step.in) pieces.push_back(bytes(id));
      *run = [this, c, pieces, y = bytes(step.out[0])] {
        concat_rows(runtime, pieces.data(), c.bytes.data(), pieces.size(), c.rows, y);
      };
      return {};
    }
    case StepKind::kQuantizeNchw:
    case StepKind::kDequantizeNchw: {
      LayoutStep l;
      EK_RETURN_IF_ERROR(parse_layout(index, step, &l));
      uint8_t *const *x = place(step.in[0]), *const *y = place(step.out[0]);
      if (step.kind == StepKind::kQuantizeNchw) {
        *run = [this, l, x, y, q = quant_of(tensor(step.out[0]))] {
          quantize_nchw_to_nhwc(runtime, reinterpret_cast<const float*>(*x), l.batch, l.channels, l.pixels, q, *y);
        };
      } else {
        *run = [this, l, x, y, q = quant_of(tensor(step.in[0]))] {
          dequantize_nhwc_to_nchw(runtime, *x, l.batch, l.channels, l.pixels, q, reinterpret_cast<float*>(*y));
        };
      }
      return {};
    }
    default:
      EK_RETURN_IF_ERROR(check_elementwise(index, step));
      *run = prepare_elementwise(step);
      return {};
  }
}

Session::Session() = default;
Session::~Session() = default;

Status Session::create(ProgramIndex index, const uint8_t* data, uint64_t data_bytes, Isa isa, int threads,
                       std::unique_ptr<Session>* out) {
  EK_RETURN_IF_ERROR(validate(index, data_bytes));
  const std::vector<Isa>& isas = available_isas();
  if (std::find(isas.begin(), isas.end(), isa) == isas.end()) {
    return {Code::kUnsupportedIsa, std::string("session: this CPU does not run ") + isa_name(isa)};
  }
  if (threads < 1 || threads > kMaxThreads) {
    return {Code::kValue,
            "session: num_threads must be in [1, " + std::to_string(kMaxThreads) + "], got " + std::to_string(threads)};
  }
  if (reinterpret_cast<uintptr_t>(data) % AlignedBuffer::kAlignment != 0) {
    return {Code::kValue, "session: data must start at a multiple of 64 bytes"};
  }
  std::unique_ptr<Session> session(new Session);
  session->impl_ = std::make_unique<Impl>();
  Impl& impl = *session->impl_;
  impl.index = std::move(index);
  impl.data = data;
  impl.runtime = {&kernels(isa), threads};
  try {
    impl.arena = AlignedBuffer(impl.index.arena_bytes);
    for (uint32_t id = 0; id < impl.index.tensors.size(); ++id) impl.places.push_back(impl.bytes(id));
    impl.find_movable();
    impl.steps.resize(impl.index.steps.size());
    for (size_t i = 0; i < impl.steps.size(); ++i)
      EK_RETURN_IF_ERROR(impl.prepare(impl.index.steps[i], &impl.steps[i]));
    require_memory(impl.arena.size() + std::min(impl.scratch_bytes, SIZE_MAX - impl.arena.size()));
    impl.scratch = AlignedBuffer(impl.scratch_bytes);
    parallel_for(static_cast<size_t>(threads), threads, [](size_t) {});  // starts the pool's workers now, not in run
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, "session: no memory for an arena of " + std::to_string(impl.index.arena_bytes) +
                                 " bytes and scratch of " + std::to_string(impl.scratch_bytes)};
  }
  *out = std::move(session);
  return {};
}

const ProgramIndex& Session::index() const { return impl_->index; }
uint8_t* Session::tensor(uint32_t id) { return impl_->bytes(id); }
uint64_t Session::tensor_bytes(uint32_t id) const { return impl_->size(id); }

void Session::run_segment(size_t segment) noexcept {
  const FpGuard guard;
  for (size_t i = impl_->index.segments[segment].begin; i < impl_->index.segments[segment].end; ++i) impl_->steps[i]();
}

void Session::run_step(size_t step) noexcept {
  const FpGuard guard;
  impl_->steps[step]();
}

void Session::run(const void* const* inputs, void* const* outputs) noexcept {
  Impl& m = *impl_;
  const std::vector<uint32_t>&in = m.index.inputs, &out = m.index.outputs;
  for (size_t i = 0; i < in.size(); ++i) {
    if (m.may_move(in[i], inputs[i]) && !m.meets_output(inputs[i], m.size(in[i]), outputs, out.size())) {
      m.places[in[i]] = static_cast<uint8_t*>(const_cast<void*>(inputs[i]));  // no step writes to an input
    } else {
      std::memmove(m.bytes(in[i]), inputs[i], m.size(in[i]));
    }
  }
  for (size_t j = 0; j < out.size(); ++j) {
    if (outputs[j] == nullptr || !m.may_move(out[j], outputs[j])) continue;
    if (!m.meets_output(outputs[j], m.size(out[j]), outputs, j)) m.places[out[j]] = static_cast<uint8_t*>(outputs[j]);
  }
  for (size_t i = 0; i < m.index.segments.size(); ++i) run_segment(i);
  for (size_t j = 0; j < out.size(); ++j) {
    if (outputs[j] != nullptr && m.places[out[j]] != outputs[j]) {
      std::memmove(outputs[j], m.bytes(out[j]), m.size(out[j]));
    }
  }
  forget_run();
}

void Session::forget_run() {
  for (const uint32_t id : impl_->index.inputs) impl_->places[id] = impl_->bytes(id);
  for (const uint32_t id : impl_->index.outputs) impl_->places[id] = impl_->bytes(id);
}

uint64_t Session::arena_bytes() const {
  uint64_t total = impl_->arena.size() + impl_->scratch.size();
  for (const auto& init : impl_->inits) total += init.size() * sizeof(int32_t);
  return total;
}

}  // namespace ek
