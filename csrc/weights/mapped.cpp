#include "weights/mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ek {
namespace {

/// A descriptor that is closed at the end of its block.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

const char* kind_of(mode_t mode) {
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return S_ISSOCK(mode) ? "a socket" : "no file";
}

}  // namespace

void MappedFile::Unmap::operator()(const uint8_t* bytes) const { munmap(const_cast<uint8_t*>(bytes), size); }

Status MappedFile::open(const std::string& path, const std::string& function, MappedFile* file) {
  const auto failed = [&] {
    const Code code = errno == ENOMEM ? Code::kNoMemory : Code::kValue;
    return Status(code, function + ": '" + path + "' cannot be opened: " + std::strerror(errno));
  };
  const auto refused = [&](mode_t mode) {
    return Status(Code::kValue, function + ": '" + path + "' is " + kind_of(mode) +
                                    "; only regular files are read, so copy what it gives to one");
  };
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return failed();
  if (!S_ISREG(found.st_mode)) return refused(found.st_mode);  // a first look, as opening a device may have effects
  const Descriptor opened{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (opened.number < 0 || fstat(opened.number, &found) != 0) return failed();
  if (!S_ISREG(found.st_mode)) return refused(found.st_mode);
  MappedFile mapped;
  if (const auto size = static_cast<size_t>(found.st_size); size > 0) {
    void* const bytes = mmap(nullptr, size, PROT_READ, MAP_SHARED, opened.number, 0);
    if (bytes == MAP_FAILED) return failed();
    mapped.bytes_ = {static_cast<const uint8_t*>(bytes), Unmap{size}};
  }
  *file = std::move(mapped);
  return {};
}

}  // namespace ek
