#include "weights/mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

namespace ek {
namespace {

/// A descriptor that is closed at the end of its block.
struct Descriptor {
  int number = -1;
  Descriptor() = default;
  Descriptor(Descriptor&& other) noexcept : number(std::exchange(other.number, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number, other.number);
    return *this;
  }
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

Status failed(const std::string& path, const std::string& function) {
  const Code code = errno == ENOMEM ? Code::kNoMemory : Code::kValue;
  return {code, function + ": '" + path + "' cannot be opened: " + std::strerror(errno)};
}

Status open_regular(const std::string& path, const std::string& function, Descriptor* opened, struct stat* found) {
  const auto refused = [&](mode_t mode) {
    return Status(Code::kValue, function + ": '" + path + "' is " + kind_of(mode) +
                                    "; only regular files are read, so copy what it gives to one");
  };
  if (stat(path.c_str(), found) != 0) return failed(path, function);
  if (!S_ISREG(found->st_mode)) return refused(found->st_mode);  // a first look, as opening a device may have effects
  opened->number = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (opened->number < 0 || fstat(opened->number, found) != 0) return failed(path, function);
  return S_ISREG(found->st_mode) ? Status() : refused(found->st_mode);
}

}  // namespace

struct MappedFile::Origin {
  Descriptor file;
  off_t size;
  timespec changed;
};

void MappedFile::Close::operator()(Origin* origin) const { delete origin; }
void MappedFile::Unmap::operator()(const uint8_t* bytes) const { munmap(const_cast<uint8_t*>(bytes), size); }

Status MappedFile::open(const std::string& path, const std::string& function, MappedFile* file) {
  Descriptor opened;
  struct stat found {};
  EK_RETURN_IF_ERROR(open_regular(path, function, &opened, &found));
  MappedFile mapped;
  if (const auto size = static_cast<size_t>(found.st_size); size > 0) {
    void* const bytes = mmap(nullptr, size, PROT_READ, MAP_SHARED, opened.number, 0);
    if (bytes == MAP_FAILED) return failed(path, function);
    mapped.bytes_ = {static_cast<const uint8_t*>(bytes), Unmap{size}};
  }
  mapped.origin_.reset(new Origin{std::move(opened), found.st_size, found.st_mtim});
  *file = std::move(mapped);
  return {};
}

bool MappedFile::unchanged() const {
  struct stat now {};
  if (origin_ == nullptr || fstat(origin_->file.number, &now) != 0) return false;
  return now.st_size == origin_->size && now.st_mtim.tv_sec == origin_->changed.tv_sec &&
         now.st_mtim.tv_nsec == origin_->changed.tv_nsec;
}

Status read_file(const std::string& path, const std::string& function, AlignedBuffer* bytes) {
  Descriptor opened;
  struct stat found {};
  EK_RETURN_IF_ERROR(open_regular(path, function, &opened, &found));
  AlignedBuffer all(static_cast<size_t>(found.st_size));
  for (size_t at = 0; at < all.size();) {
    const ssize_t got = read(opened.number, all.data() + at, all.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(path, function);
    if (got == 0) return {Code::kCorrupt, function + ": '" + path + "' was cut short while it was read"};
    at += static_cast<size_t>(got);
  }
  *bytes = std::move(all);
  return {};
}

}  // namespace ek
