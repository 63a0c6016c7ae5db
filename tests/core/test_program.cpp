// The binary index: what is written is read back, and whatever else is offered is refused or harmless.
#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <set>

#include "every_kind.h"

using namespace ek;
using namespace ek::test;

namespace {

const uint8_t* bytes_of(const std::string& text) { return reinterpret_cast<const uint8_t*>(text.data()); }

/// Decodes from memory that ends where the bytes end, so that a sanitizer sees a read past them.
Status decode_exactly(const std::string& bytes, ProgramIndex* index) {
  const std::vector<uint8_t> copy(bytes_of(bytes), bytes_of(bytes) + bytes.size());
  return decode(copy.data(), copy.size(), index);
}

bool says(const Status& status, const std::string& part) { return status.message().find(part) != std::string::npos; }

uint64_t data_bytes(const SmallProgram& p) { return p.data().size(); }

}  // namespace

TEST_CASE("an index is read back as it was written") {
  SmallProgram p = every_kind();
  p.index.header_sha256.fill(0xA5);
  p.index.blobs[1].sha256.fill(0x5A);
  p.index.tensors[2].name = "caf\xC3\xA9";
  const std::string bytes = encode(p.index);
  ProgramIndex back;
  const Status status = decode_exactly(bytes, &back);
  REQUIRE_MESSAGE(status.ok(), status.message());
  CHECK(encode(back) == bytes);
  CHECK(back.tensors[2].name == p.index.tensors[2].name);
  CHECK(back.steps[3].floats == p.index.steps[3].floats);
  CHECK(back.steps[3].ints == p.index.steps[3].ints);
  CHECK(back.arena_bytes == p.index.arena_bytes);
  CHECK(validate(back, data_bytes(p)).ok());
}

TEST_CASE("the first bytes of an index never change") {
  const std::string bytes = encode({});
  CHECK(bytes.substr(0, 8) == std::string("EKPROG\0\1", 8));
  CHECK(bytes.substr(8, 4) == std::string("\2\0\0\0", 4));
  CHECK(bytes.size() == 8 + 4 + 4 + 6 * 4 + 8 + 32);
}

TEST_CASE("every truncation and every addition is refused") {
  ProgramIndex index;
  for (const SmallProgram& p : every_kind_in_parts()) {
    const std::string bytes = encode(p.index);
    size_t accepted = 0;
    for (size_t n = 0; n < bytes.size(); ++n) accepted += decode_exactly(bytes.substr(0, n), &index).ok();
    CHECK(accepted == 0);
    CHECK(says(decode_exactly(bytes + '\0', &index), "follow the end"));
  }
  CHECK(says(decode_exactly("", &index), "end in the middle"));
}

TEST_CASE("a flipped bit is refused or leaves an index that still holds all promises") {
  size_t refused = 0, total = 0;
  for (const SmallProgram& p : every_kind_in_parts()) {
    const uint64_t data = data_bytes(p);
    std::string bytes = encode(p.index);
    for (size_t at = 0; at < bytes.size(); ++at) {
      for (const unsigned flip : {0x01u, 0x10u, 0x80u, 0xFFu}) {
        const char was = bytes[at];
        bytes[at] = static_cast<char>(static_cast<unsigned char>(was) ^ flip);
        ProgramIndex index;
        const Status decoded = decode_exactly(bytes, &index);
        CHECK((decoded.ok() || decoded.code() == Code::kCorrupt));
        const Status valid = decoded.ok() ? validate(index, data) : decoded;
        CHECK((valid.ok() || valid.code() == Code::kCorrupt));
        if (decoded.ok()) CHECK(encode(index) == bytes);
        refused += !valid.ok();
        ++total;
        bytes[at] = was;
      }
    }
  }
  CHECK(refused > total / 3);  // the rest are names, digests and quantization parameters
}

TEST_CASE("random bytes behind a good start are refused") {
  const std::string head = encode({}).substr(0, 12);
  size_t accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    const Bytes tail = random_bytes(static_cast<size_t>(uniform(0, 300)));
    ProgramIndex index;
    accepted += decode_exactly(head + std::string(tail.begin(), tail.end()), &index).ok();
  }
  CHECK(accepted == 0);
}

TEST_CASE("decode says what it found") {
  ProgramIndex index;
  std::string bytes = encode({});
  bytes[0] = 'X';
  CHECK(says(decode_exactly(bytes, &index), "no edgekern program"));
  bytes = encode({});
  bytes[8] = 6;
  CHECK(says(decode_exactly(bytes, &index), "format version 6"));
  bytes[8] = 5;
  CHECK(says(decode_exactly(bytes, &index), "version 5 without a step that writes over an input"));
  bytes[8] = 4;
  CHECK(says(decode_exactly(bytes, &index), "version 4 without a blob of 4 bits"));
  bytes[8] = 3;
  CHECK(says(decode_exactly(bytes, &index), "version 3 without a blob of halves"));
  ProgramIndex with_text;
  with_text.producer = std::string(5000, 'x');
  CHECK(says(decode_exactly(encode(with_text), &index), "limit of 4096"));
  for (const char* text : {"\x80", "\xC3", "\xC0\xAF", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\xE0\x80\x80"}) {
    with_text.producer = text;
    CHECK(says(decode_exactly(encode(with_text), &index), "UTF-8"));
  }
  for (const char* text : {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"}) {
    with_text.producer = text;
    CHECK(decode_exactly(encode(with_text), &index).ok());
  }
}

TEST_CASE("validate refuses every broken promise") {
  const SmallProgram good = every_kind();
  const uint64_t data = data_bytes(good);
  REQUIRE(validate(good.index, data).ok());
  const auto first = [](ProgramIndex& i, StepKind kind) -> Step& {
    for (Step& s : i.steps) {
      if (s.kind == kind) return s;
    }
    std::abort();
  };
  const auto with_residual = [](ProgramIndex& i) -> Step& {
    for (Step& s : i.steps) {
      if (s.kind == StepKind::kConv && s.in.size() == 2) return s;
    }
    std::abort();
  };
  const auto with_halves = [](ProgramIndex& i) -> BlobDef& {
    for (BlobDef& b : i.blobs) {
      if (b.stored == Storage::kF16 || b.stored == Storage::kBf16) return b;
    }
    std::abort();
  };
  const auto with_nibbles = [](ProgramIndex& i) -> BlobDef& {
    for (BlobDef& b : i.blobs) {
      if (b.stored == Storage::kInt4 && b.parts > 1) return b;
    }
    std::abort();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  using Change = std::function<void(ProgramIndex&)>;
  const std::pair<const char*, Change> changes[] = {
      {"tensor id", [&](ProgramIndex& i) { i.steps[0].in[0] = 999; }},
      {"output id", [&](ProgramIndex& i) { i.outputs[0] = 999; }},
      {"blob id", [&](ProgramIndex& i) { first(i, StepKind::kConv).blobs[0] = 999; }},
      {"no output", [&](ProgramIndex& i) { i.steps[0].out.clear(); }},
      {"two outputs", [&](ProgramIndex& i) { i.steps[0].out.push_back(3); }},
      {"no input", [&](ProgramIndex& i) { i.steps[0].in.clear(); }},
      {"segments leave a hole",
       [&](ProgramIndex& i) {
         i.segments = {{0, 2}, {3, 24}};
       }},
      {"segments end early", [&](ProgramIndex& i) { --i.segments[0].end; }},
      {"segments run past", [&](ProgramIndex& i) { ++i.segments[0].end; }},
      {"no segment", [&](ProgramIndex& i) { i.segments.clear(); }},
      {"segment backwards",
       [&](ProgramIndex& i) {
         i.segments = {{0, 5}, {5, 2}, {2, 24}};
       }},
      {"offset unaligned", [&](ProgramIndex& i) { i.tensors[1].offset += 32; }},
      {"offset outside", [&](ProgramIndex& i) { i.tensors[1].offset = i.arena_bytes; }},
      {"offset wraps", [&](ProgramIndex& i) { i.tensors[1].offset = ~uint64_t{63}; }},
      {"arena too small", [&](ProgramIndex& i) { i.arena_bytes -= 64; }},
      {"shape negative", [&](ProgramIndex& i) { i.tensors[1].shape[0] = -1; }},
      {"shape overflows",
       [&](ProgramIndex& i) {
         i.tensors[1].shape = {1 << 30, 1 << 30, 1 << 30};
       }},
      {"rank", [&](ProgramIndex& i) { i.tensors[1].shape.assign(9, 1); }},
      {"scale zero", [&](ProgramIndex& i) { i.tensors[1].scale = 0; }},
      {"scale negative", [&](ProgramIndex& i) { i.tensors[1].scale = -1; }},
      {"scale NaN", [&](ProgramIndex& i) { i.tensors[1].scale = nan; }},
      {"scale infinite", [&](ProgramIndex& i) { i.tensors[1].scale = std::numeric_limits<float>::infinity(); }},
      {"zero point", [&](ProgramIndex& i) { i.tensors[1].zero_point = 256; }},
      {"view of itself", [&](ProgramIndex& i) { i.tensors[5].alias_of = 5; }},
      {"view of a later tensor", [&](ProgramIndex& i) { i.tensors[5].alias_of = 6; }},
      {"view of nothing", [&](ProgramIndex& i) { i.tensors[5].alias_of = -2; }},
      {"view elsewhere", [&](ProgramIndex& i) { i.tensors[5].alias_of = 0; }},
      {"read before written", [&](ProgramIndex& i) { std::swap(i.steps[1], i.steps[2]); }},
      {"written twice", [&](ProgramIndex& i) { i.steps.push_back(i.steps.back()), ++i.segments[0].end; }},
      {"input written", [&](ProgramIndex& i) { i.inputs.push_back(i.steps[4].out[0]); }},
      {"step writes over what it reads",
       [&](ProgramIndex& i) {
         Step& conv = first(i, StepKind::kConv);
         i.tensors[conv.out[0]].alias_of = static_cast<int32_t>(conv.in[0]);
         i.tensors[conv.out[0]].offset = i.tensors[conv.in[0]].offset;
       }},
      {"step writes what it reads", [&](ProgramIndex& i) { i.tensors[2].offset = i.tensors[1].offset; }},
      {"blob unaligned", [&](ProgramIndex& i) { i.blobs[0].offset += 1; }},
      {"blob outside", [&](ProgramIndex& i) { i.blobs[0].offset = data; }},
      {"blob wraps", [&](ProgramIndex& i) { i.blobs[0].offset = ~uint64_t{63}; }},
      {"weights too short", [&](ProgramIndex& i) { i.blobs[first(i, StepKind::kConv).blobs[0]].bytes -= 64; }},
      {"bias too short", [&](ProgramIndex& i) { i.blobs[first(i, StepKind::kConv).blobs[1]].bytes = 0; }},
      {"table too short", [&](ProgramIndex& i) { i.blobs[first(i, StepKind::kLookup).blobs[0]].bytes = 192; }},
      {"ints missing", [&](ProgramIndex& i) { first(i, StepKind::kConv).ints.pop_back(); }},
      {"ints too many", [&](ProgramIndex& i) { first(i, StepKind::kMaxPool).ints.push_back(1); }},
      {"floats missing", [&](ProgramIndex& i) { first(i, StepKind::kAdd).floats.pop_back(); }},
      {"stride zero", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "stride_h") = 0; }},
      {"dilation zero", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "dilation_h") = 0; }},
      {"padding negative", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "pad_top") = -1; }},
      {"stride huge", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "stride_h") = int64_t{1} << 62; }},
      {"padding huge", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "pad_top") = 1 << 20; }},
      {"image size", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "in_h") += 1; }},
      {"groups", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "groups") = 2; }},
      {"no groups", [&](ProgramIndex& i) { integer(first(i, StepKind::kConv), "groups") = 0; }},
      {"depthwise channels", [&](ProgramIndex& i) { integer(first(i, StepKind::kDepthwise), "channels") -= 1; }},
      {"no depthwise channels", [&](ProgramIndex& i) { integer(first(i, StepKind::kDepthwise), "channels") = 0; }},
      {"gemm depth", [&](ProgramIndex& i) { integer(first(i, StepKind::kGemm), "k") += 1; }},
      {"gemm rows", [&](ProgramIndex& i) { integer(first(i, StepKind::kGemm), "rows") = -1; }},
      {"clamp NaN", [&](ProgramIndex& i) { real(first(i, StepKind::kConv), "lo") = nan; }},
      {"clamp below", [&](ProgramIndex& i) { real(first(i, StepKind::kConv), "lo") = -1000; }},
      {"clamp above", [&](ProgramIndex& i) { real(first(i, StepKind::kConv), "hi") = 1000; }},
      {"clamp crossed",
       [&](ProgramIndex& i) { real(first(i, StepKind::kAdd), "lo") = 100, real(first(i, StepKind::kAdd), "hi") = 50; }},
      {"float clamp NaN", [&](ProgramIndex& i) { real(first(i, StepKind::kGemm), "hi") = nan; }},
      {"mid scale", [&](ProgramIndex& i) { real(with_residual(i), "mid_scale") = 0; }},
      {"mid sign", [&](ProgramIndex& i) { integer(with_residual(i), "mid_signed") = 2; }},
      {"mid zero point", [&](ProgramIndex& i) { integer(with_residual(i), "mid_zero_point") = 128; }},
      {"sum clamp", [&](ProgramIndex& i) { real(with_residual(i), "sum_hi") = 300; }},
      {"residual size", [&](ProgramIndex& i) { with_residual(i).in[1] = 1; }},
      {"mid scale without a residual", [&](ProgramIndex& i) { real(first(i, StepKind::kConv), "mid_scale") = 0.5f; }},
      {"mid sign without a residual", [&](ProgramIndex& i) { integer(first(i, StepKind::kGemm), "mid_signed") = 1; }},
      {"mid zero point without a residual",
       [&](ProgramIndex& i) { integer(first(i, StepKind::kDepthwise), "mid_zero_point") = 1; }},
      {"sum clamp without a residual", [&](ProgramIndex& i) { real(first(i, StepKind::kConv), "sum_hi") = 1; }},
      {"pool of padding alone", [&](ProgramIndex& i) { integer(first(i, StepKind::kMaxPool), "pad_top") = 2; }},
      {"pool past the end", [&](ProgramIndex& i) { integer(first(i, StepKind::kMaxPool), "stride_h") = 9; }},
      {"pool changes scale", [&](ProgramIndex& i) { i.tensors[first(i, StepKind::kMaxPool).out[0]].scale *= 2; }},
      {"count_include_pad",
       [&](ProgramIndex& i) { integer(first(i, StepKind::kAveragePool), "count_include_pad") = 2; }},
      {"concat piece", [&](ProgramIndex& i) { integer(first(i, StepKind::kConcat), "bytes") += 1; }},
      {"concat rows", [&](ProgramIndex& i) { integer(first(i, StepKind::kConcat), "rows") = 0; }},
      {"slice start", [&](ProgramIndex& i) { integer(first(i, StepKind::kSlice), "start", 1) = 99; }},
      {"slice step zero", [&](ProgramIndex& i) { integer(first(i, StepKind::kSlice), "stride", 1) = 0; }},
      {"slice step forward", [&](ProgramIndex& i) { integer(first(i, StepKind::kSlice), "stride", 1) = 2; }},
      {"slice step huge", [&](ProgramIndex& i) { integer(first(i, StepKind::kSlice), "stride", 1) = INT64_MIN; }},
      {"pad before", [&](ProgramIndex& i) { integer(first(i, StepKind::kPad), "before", 1) = 3; }},
      {"pad value", [&](ProgramIndex& i) { integer(first(i, StepKind::kPad), "value") = 256; }},
      {"perm twice", [&](ProgramIndex& i) { integer(first(i, StepKind::kTranspose), "perm") = 1; }},
      {"perm outside", [&](ProgramIndex& i) { integer(first(i, StepKind::kTranspose), "perm") = 4; }},
      {"item size", [&](ProgramIndex& i) { integer(first(i, StepKind::kTranspose), "item_bytes") = 4; }},
      {"constant that reads", [&](ProgramIndex& i) { first(i, StepKind::kConstant).in = {0}; }},
      {"constant without a blob", [&](ProgramIndex& i) { first(i, StepKind::kConstant).blobs.clear(); }},
      {"constant too short", [&](ProgramIndex& i) { i.blobs[first(i, StepKind::kConstant).blobs[0]].bytes = 0; }},
      {"dtype of an input", [&](ProgramIndex& i) { i.tensors[i.inputs[0]].dtype = DType::kI32; }},
      {"dtype of an output", [&](ProgramIndex& i) { i.tensors[i.outputs[0]].dtype = DType::kBool; }},
      {"halves where bytes are read",
       [&](ProgramIndex& i) { i.blobs[first(i, StepKind::kGemm).blobs[0]].stored = Storage::kF16; }},
      {"half a blob of halves", [&](ProgramIndex& i) { with_halves(i).bytes -= 64; }},
      {"halves that are no float32", [&](ProgramIndex& i) { with_halves(i).stored = Storage::kWhole; }},
      {"4 bits in no parts", [&](ProgramIndex& i) { with_nibbles(i).parts = 0; }},
      {"4 bits in other parts", [&](ProgramIndex& i) { with_nibbles(i).parts -= 1; }},
      {"4 bits in more parts than there can be", [&](ProgramIndex& i) { with_nibbles(i).parts = UINT32_MAX; }},
      {"4 bits without codes", [&](ProgramIndex& i) { with_nibbles(i).codes = 0; }},
      {"4 bits that end in a line", [&](ProgramIndex& i) { with_nibbles(i).codes -= 32; }},
      {"4 bits of fewer codes", [&](ProgramIndex& i) { with_nibbles(i).codes -= 64; }},
      {"4 bits of more codes", [&](ProgramIndex& i) { with_nibbles(i).codes += 64; }},
      {"4 bits of more codes than there can be", [&](ProgramIndex& i) { with_nibbles(i).codes = UINT64_MAX - 63; }},
      {"4 bits whose product wraps",
       [&](ProgramIndex& i) { with_nibbles(i).parts = 4, with_nibbles(i).codes = uint64_t{1} << 62; }},
      {"half a blob of 4 bits", [&](ProgramIndex& i) { with_nibbles(i).bytes -= 64; }},
      {"4 bits that are whole", [&](ProgramIndex& i) { with_nibbles(i).stored = Storage::kWhole; }},
      {"whole numbers of halves",
       [&](ProgramIndex& i) { i.tensors[first(i, StepKind::kMapI64).out[0]].dtype = DType::kF16; }},
      {"kind", [&](ProgramIndex& i) { i.steps[0].kind = static_cast<StepKind>(99); }},
  };
  for (const auto& change : changes) {
    ProgramIndex broken = good.index;
    change.second(broken);
    const Status status = validate(broken, data);
    CAPTURE(change.first);
    CHECK(status.code() == Code::kCorrupt);
    CHECK(says(status, "program index: "));
  }
}

TEST_CASE("the table is the list of kinds: ascending, each with a name of its own, and no other kind is read") {
  std::set<std::string> names;
  for (const StepType& type : step_types()) {
    CAPTURE(type.name);
    CHECK(find_step_type(type.kind) == &type);
    CHECK(names.insert(type.name).second);
    CHECK((&type == &step_types().front() || (&type)[-1].kind < type.kind));
  }
  std::set<StepKind> kinds;
  for (const Step& step : every_kind().index.steps) kinds.insert(step.kind);
  CHECK(kinds.size() == step_types().size());  // every_kind() has them all
  ProgramIndex one, back;
  size_t read = 0;
  for (int kind = 0; kind <= 0xFFFF; ++kind) {
    one.steps = {Step()};
    one.steps[0].kind = static_cast<StepKind>(kind);
    const Status status = decode_exactly(encode(one), &back);
    read += status.ok();
    CHECK(status.ok() == (find_step_type(one.steps[0].kind) != nullptr));
    CHECK((status.ok() || says(status, "unknown step kind " + std::to_string(kind))));
  }
  CHECK(read == step_types().size());
}

TEST_CASE("a step without arguments, or with damaged ones, has no work, and asking divides by nothing") {
  const SmallProgram p = every_kind();
  const std::set<StepKind> multiply = {
      StepKind::kConv,         StepKind::kDepthwise,     StepKind::kGemm,        StepKind::kConvF32,
      StepKind::kDepthwiseF32, StepKind::kGemmF32,       StepKind::kMatmulF32,   StepKind::kConvTransposeF32,
      StepKind::kAttentionF32, StepKind::kRecurrent,     StepKind::kGemmDynamic, StepKind::kRecurrentDynamic,
      StepKind::kConvWide,     StepKind::kDepthwiseWide, StepKind::kGemmWide,    StepKind::kGemmInteger,
      StepKind::kConvInteger,  StepKind::kGemmScaled,    StepKind::kMatmul,      StepKind::kGemmGroups};
  for (Step step : p.index.steps) {
    CAPTURE(step.op);
    const StepType& type = *find_step_type(step.kind);
    CHECK((type.macs(step) > 0) == (multiply.count(step.kind) != 0));
    std::fill(step.ints.begin(), step.ints.end(), 0);
    CHECK(type.macs(step) == 0);
    step.ints.clear();
    CHECK(type.macs(step) == 0);
  }
}

TEST_CASE("a window may lie in the padding of a convolution") {
  SmallProgram p;
  const uint32_t x = p.quantize_nchw(p.input({1, 4, 3, 3}), 0.02f, 100, DType::kU8);
  const uint32_t y = p.conv(x, {5, 1, 1, 1});
  p.finish({y});
  const Status status = validate(p.index, data_bytes(p));
  CHECK_MESSAGE(status.ok(), status.message());
}

TEST_CASE("a long chain of views is followed once") {
  SmallProgram p;
  uint32_t x = p.quantize_nchw(p.input({1, 4, 3, 3}), 0.02f, 100, DType::kU8);
  const uint32_t root = x;
  for (int i = 0; i < 20000; ++i) {
    x = p.view(x, {36});
    p.index.tensors[x].alias_of = static_cast<int32_t>(i == 0 ? root : x - 1);
  }
  for (int i = 0; i < 2000; ++i) p.index.inputs.push_back(0);
  p.finish({root});
  for (TensorDef& t : p.index.tensors) {
    if (t.alias_of >= 0) t.offset = p.index.tensors[root].offset;
  }
  p.index.outputs.assign(20000, x);
  const Status status = validate(p.index, 0);
  CHECK_MESSAGE(status.ok(), status.message());
}
