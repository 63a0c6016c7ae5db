// The checked-in programs give their golden bytes on every ISA, here and under an emulator; each step runs kernels of
// the ISA that it was given and of the path that it states.
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "program/container.h"
#include "program/session.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

AlignedBuffer read_golden(const std::string& name) {
  std::ifstream file(std::string(EK_GOLDEN_DIR) + "/" + name, std::ios::binary);
  REQUIRE(file.good());
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  AlignedBuffer buffer(bytes.size());
  std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

void check_golden(const std::string& name) {
  const AlignedBuffer file = read_golden(name + ".ekm"), inputs = read_golden(name + ".inputs");
  const AlignedBuffer outputs = read_golden(name + ".outputs");
  ContainerView view;
  const Status opened = open_container(file.data(), file.size(), name.c_str(), Verify::kFull, &view);
  REQUIRE_MESSAGE(opened.ok(), opened.message());
  for (const Isa isa : available_isas()) {
    for (const int threads : {1, 2}) {
      CAPTURE(isa_name(isa));
      CAPTURE(threads);
      std::unique_ptr<Session> session;
      const Status made = Session::create(view.index, view.data, view.data_bytes, isa, threads, &session);
      REQUIRE_MESSAGE(made.ok(), made.message());
      size_t at = 0;
      for (const uint32_t id : view.index.inputs) {
        std::memcpy(session->tensor(id), inputs.data() + at, session->tensor_bytes(id));
        at += session->tensor_bytes(id);
      }
      CHECK(at == inputs.size());
      for (size_t i = 0; i < view.index.steps.size(); ++i) {
        CAPTURE(view.index.steps[i].name);
        CHECK(wrong_of_step(*session, i, kernels(isa)) == "");
      }
      at = 0;
      for (const uint32_t id : view.index.outputs) {
        CHECK(std::memcmp(session->tensor(id), outputs.data() + at, session->tensor_bytes(id)) == 0);
        at += session->tensor_bytes(id);
      }
      CHECK(at == outputs.size());
    }
  }
}

}  // namespace

TEST_CASE("golden programs give their golden bytes on every ISA, for one and two threads") {
  for (const char* name : {"every_step", "float_image", "float_sentence", "float_sound"}) {
    CAPTURE(name);
    check_golden(name);
  }
}

TEST_CASE("every ISA that EDGEKERN_REQUIRED_ISAS names is one that this machine runs") {
  const char* required = std::getenv("EDGEKERN_REQUIRED_ISAS");
  std::istringstream names(required == nullptr ? "" : required);
  std::set<std::string> available;
  for (const Isa isa : available_isas()) available.insert(isa_name(isa));
  for (std::string name; names >> name;) {
    CAPTURE(name);
    CHECK(available.count(name) == 1);
  }
}

TEST_CASE("the golden program that is cut short or damaged is refused") {
  AlignedBuffer file = read_golden("every_step.ekm");
  const auto opens = [&](size_t size) {
    std::unique_ptr<Session> session;
    return Session::open(file.data(), size, Verify::kFull, Isa::kScalar, 1, &session).ok();
  };
  REQUIRE(opens(file.size()));
  for (size_t size = 0; size < file.size(); size += 97) CHECK_FALSE(opens(size));
  for (size_t byte = 0; byte < file.size(); byte += 7) {
    const auto flip = static_cast<uint8_t>(1u << byte % 8);
    file.data()[byte] ^= flip;
    CAPTURE(byte);
    CHECK_FALSE(opens(file.size()));
    file.data()[byte] ^= flip;
  }
}
