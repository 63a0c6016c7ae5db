// An .ekm file opened without Python: whole it runs, and with any bit changed it is refused.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "ekm_file.h"
#include "every_kind.h"
#include "program/session.h"

using namespace ek;
using namespace ek::test;

namespace {

/// Three steps, two products with their blobs.
SmallProgram small() {
  SmallProgram p;
  const uint32_t x = p.quantize(p.input({1, 5}));
  p.finish({p.gemm(p.lookup(x), 1, {3, 1, 1, 0, 1, false, -1, DType::kF32})});
  return p;
}

AlignedBuffer file_of(const SmallProgram& p) { return ekm_file(p.index, p.data()); }

Status open(const AlignedBuffer& file, size_t size, Verify verify = Verify::kFull) {
  std::unique_ptr<Session> session;
  return Session::open(file.data(), size, verify, Isa::kScalar, 1, &session);
}

bool says(const Status& status, const std::string& words) { return status.message().find(words) != std::string::npos; }

/// A folder of its own for each test, which goes with it.
struct Folder {
  Folder() { REQUIRE(mkdtemp(path.data()) != nullptr); }
  ~Folder() {
    for (const std::string& file : files) std::remove(file.c_str());
    rmdir(path.c_str());
  }
  std::string name(const std::string& file) { return files.emplace_back(path + "/" + file); }
  std::string write(const std::string& file, const uint8_t* data, size_t size) {
    const std::string at = name(file);
    std::ofstream(at, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    return at;
  }

  std::string path = "/tmp/edgekern_test_XXXXXX";
  std::vector<std::string> files;
};

}  // namespace

TEST_CASE("a file is opened by its path, mapped, and gives the outputs") {
  const SmallProgram p = every_kind();
  const AlignedBuffer file = file_of(p);
  Folder folder;
  const std::string path = folder.write("model.ekm", file.data(), file.size());
  for (const Verify verify : {Verify::kFull, Verify::kLazy}) {
    std::unique_ptr<Session> session;
    const Status opened = Session::open(path, verify, available_isas().front(), 2, &session);
    REQUIRE_MESSAGE(opened.ok(), opened.message());
    for (const uint32_t id : p.index.inputs) {
      std::memcpy(session->tensor(id), p.expected[id].data(), p.expected[id].size());
    }
    CHECK(session->run_segment(0).ok());
    for (const uint32_t id : p.index.outputs) {
      CHECK(std::memcmp(session->tensor(id), p.expected[id].data(), p.expected[id].size()) == 0);
    }
  }
}

TEST_CASE("a session refuses every file with one flipped bit, wherever it is") {
  AlignedBuffer file = file_of(small());
  REQUIRE(open(file, file.size()).ok());
  for (size_t byte = 0; byte < file.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      const auto flip = static_cast<uint8_t>(1 << bit);
      file.data()[byte] ^= flip;
      const Status status = open(file, file.size());
      file.data()[byte] ^= flip;
      CAPTURE(byte);
      CAPTURE(bit);
      REQUIRE(status.code() == Code::kCorrupt);
      REQUIRE(says(status, "artifact: the bytes given is not a sound .ekm file: "));
      REQUIRE(says(status, "; write it again with Program.save, or copy it again"));
    }
  }
  CHECK(open(file, file.size()).ok());
}

TEST_CASE("a session refuses every file that is cut short, and one that goes on") {
  const AlignedBuffer file = file_of(small());
  for (size_t size = 0; size < file.size(); ++size) {
    AlignedBuffer cut(size);  // of its own, so that a sanitizer sees what is read behind its end
    if (size > 0) std::memcpy(cut.data(), file.data(), size);
    CAPTURE(size);
    REQUIRE(open(cut, size).code() == Code::kCorrupt);
  }
  AlignedBuffer longer(file.size() + 64);
  std::memcpy(longer.data(), file.data(), file.size());
  CHECK(says(open(longer, longer.size()), "64 bytes follow its last blob"));
}

TEST_CASE("an error says which part is damaged") {
  const SmallProgram p = small();
  AlignedBuffer file = file_of(p);
  ContainerView view;
  REQUIRE(open_container(file.data(), file.size(), "it", Verify::kFull, &view).ok());
  REQUIRE(view.start == 4096);
  const BlobDef &first = view.index.blobs.front(), &last = view.index.blobs.back();
  const std::pair<size_t, std::string> places[] = {
      {0, "its data starts at"},
      {7, "passes its end"},
      {9, "its header is not the JSON"},
      {view.start - 1, "its header does not match its sha256"},
      {view.start, "magic"},
      {view.start + view.index_bytes - 33, "its index does not match its sha256"},
      {view.start + view.index_bytes + 31, "its index does not match its sha256"},
      {view.start + first.offset - 1, "its index does not match its sha256"},  // zeros behind the digest
      {view.start + first.offset, "blob '" + first.name + "' does not match its sha256"},
      {file.size() - 1, "blob '" + last.name + "' does not match its sha256"}};
  for (const auto& place : places) {
    file.data()[place.first] ^= 2;
    const Status status = open(file, file.size());
    file.data()[place.first] ^= 2;
    CAPTURE(place.second);
    CHECK_MESSAGE(says(status, place.second), status.message());
  }
}

TEST_CASE("lazy verification leaves out the hashes of blobs, and nothing else") {
  AlignedBuffer file = file_of(small());
  ContainerView view;
  REQUIRE(open_container(file.data(), file.size(), "it", Verify::kLazy, &view).ok());
  const size_t blobs = view.start + view.index.blobs.front().offset;
  for (size_t byte = 0; byte < file.size(); ++byte) {
    file.data()[byte] ^= 1;
    CAPTURE(byte);
    CHECK(open(file, file.size(), Verify::kLazy).ok() == (byte >= blobs));
    file.data()[byte] ^= 1;
  }
}

TEST_CASE("of several damaged blobs the first is named, however they are shared between threads") {
  SmallProgram p;
  const uint32_t x = p.quantize(p.input({1, 512}));
  const uint32_t y = p.gemm(x, 1, {2048, 1, 1, 0, 1, false, -1, DType::kS8});  // a mebibyte: two threads
  p.finish({p.gemm(y, 1, {512, 1, 1, 0, 1, false, -1, DType::kF32})});
  AlignedBuffer file = file_of(p);
  REQUIRE(file.size() > (2u << 20));
  ContainerView view;
  REQUIRE(open_container(file.data(), file.size(), "it", Verify::kFull, &view).ok());
  for (const BlobDef& b : view.index.blobs) file.data()[view.start + b.offset + 5] ^= 4;
  for (const BlobDef& b : view.index.blobs) {
    CHECK(says(open(file, file.size()), "blob '" + b.name + "' does not match its sha256"));
    file.data()[view.start + b.offset + 5] ^= 4;
  }
  CHECK(open(file, file.size()).ok());
}

TEST_CASE("a program with host steps is not run without its host") {
  SmallProgram p = small();
  const uint32_t from_host = p.tensor(DType::kF32, {1, 5});
  p.expected[from_host] = p.expected[p.index.inputs[0]];
  const uint32_t read = p.quantize(from_host);
  p.finish({read});
  const Status status = open(file_of(p), file_of(p).size());
  CHECK(status.code() == Code::kValue);
  CHECK(says(status, "host steps"));
  p.finish({from_host});
  CHECK(says(open(file_of(p), file_of(p).size()), "host steps"));
}

TEST_CASE("only regular files are opened, and what is not there is named") {
  Folder folder;
  const auto refused = [&](const std::string& path, const std::string& words) {
    std::unique_ptr<Session> session;
    const Status status = Session::open(path, Verify::kFull, Isa::kScalar, 1, &session);
    CAPTURE(status.message());
    CHECK(status.code() == Code::kValue);
    CHECK(says(status, "'" + path + "'"));
    CHECK(says(status, words));
    CHECK(session == nullptr);
  };
  refused(folder.path + "/absent.ekm", "No such file");
  refused(folder.path, "is a folder; only regular files are read");
  refused("/dev/zero", "is a device");
  const std::string fifo = folder.name("fifo");
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  refused(fifo, "is a FIFO");
  std::unique_ptr<Session> session;
  const std::string empty = folder.write("empty.ekm", nullptr, 0);
  const Status status = Session::open(empty, Verify::kFull, Isa::kScalar, 1, &session);
  CHECK(status.code() == Code::kCorrupt);
  CHECK(says(status, "'" + empty + "' is not a sound .ekm file: it ends after 0 bytes"));
}
