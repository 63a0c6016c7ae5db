// The checked-in program of tests/golden gives its golden bytes: here without Python, so under an emulator too.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "base/buffer.h"
#include "cpu/isa.h"
#include "program/program.h"
#include "program/session.h"

using namespace ek;

namespace {

std::string file(const std::string& name) {
  std::ifstream stream(std::string(EDGEKERN_GOLDEN) + "/" + name, std::ios::binary);
  REQUIRE(stream.good());
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// An .ekm: a header of JSON, then data, whose first blob is the index (docs/ekm-format.md).
struct Golden {
  std::string content = file("every_step.ekm");
  uint64_t start = 8;
  AlignedBuffer data;
  ProgramIndex index;

  Golden() {
    uint64_t header = 0;
    std::memcpy(&header, content.data(), 8);
    start += header;
    data = AlignedBuffer(content.size() - start);
    std::memcpy(data.data(), content.data() + start, content.size() - start);
    const std::string key = "\"ekm.index\":\"";
    const size_t at = content.find(key);
    REQUIRE(at < start);
    REQUIRE(decode(data.data(), std::stoul(content.substr(at + key.size(), 12)), &index).ok());
  }
};

}  // namespace

TEST_CASE("the golden program gives its golden bytes on every ISA and number of threads") {
  const Golden golden;
  const std::string inputs = file("every_step.inputs"), outputs = file("every_step.outputs");
  for (const Isa isa : available_isas()) {
    for (const int threads : {1, 2}) {
      std::unique_ptr<Session> session;
      const Status made = Session::create(golden.index, golden.data.data(), golden.content.size() - golden.start, isa,
                                          threads, &session);
      REQUIRE_MESSAGE(made.ok(), made.message());
      const char* from = inputs.data();
      for (const uint32_t id : golden.index.inputs) {
        std::memcpy(session->tensor(id), from, session->tensor_bytes(id));
        from += session->tensor_bytes(id);
      }
      CHECK(from == inputs.data() + inputs.size());
      for (size_t i = 0; i < golden.index.segments.size(); ++i) session->run_segment(i);
      std::string result;
      for (const uint32_t id : golden.index.outputs) {
        result.append(reinterpret_cast<const char*>(session->tensor(id)), session->tensor_bytes(id));
      }
      CHECK_MESSAGE(result == outputs, isa_name(isa), ", ", threads, " threads");
    }
  }
}
