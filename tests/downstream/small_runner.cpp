// Opens a compiled model and runs it once: small_runner MODEL.ekm < inputs > outputs, raw bytes, one tensor after the
// other. What it links is what a runner needs, and nothing else.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "cpu/isa.h"
#include "program/session.h"
#include "threads/pool.h"

namespace {

ek::Status run(const char* path) {
  ek::Isa isa{};
  EK_RETURN_IF_ERROR(ek::default_isa(&isa));
  std::unique_ptr<ek::Session> session;
  EK_RETURN_IF_ERROR(ek::Session::open(path, ek::Verify::kFull, isa, ek::num_threads(), &session));
  const auto rooms = [&](const std::vector<uint32_t>& ids) {
    std::vector<std::vector<uint8_t>> made;
    for (const uint32_t id : ids) made.emplace_back(session->tensor_bytes(id));
    return made;
  };
  std::vector<std::vector<uint8_t>> inputs = rooms(session->index().inputs), outputs = rooms(session->index().outputs);
  std::vector<const void*> in;
  std::vector<void*> out;
  for (std::vector<uint8_t>& input : inputs) {
    if (std::fread(input.data(), 1, input.size(), stdin) != input.size()) {
      return {ek::Code::kValue, "small_runner: standard input has too few bytes"};
    }
    in.push_back(input.data());
  }
  for (std::vector<uint8_t>& output : outputs) out.push_back(output.data());
  EK_RETURN_IF_ERROR(session->run(in.data(), out.data()));
  for (const std::vector<uint8_t>& output : outputs) std::fwrite(output.data(), 1, output.size(), stdout);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: small_runner MODEL.ekm < inputs > outputs\n", stderr);
    return 2;
  }
  const ek::Status status = run(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
