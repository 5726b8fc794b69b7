#include "client/cli/tensor_file.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "proto/wire/npy.h"

namespace millrace {
namespace {

// Closes at the end of the scope.
class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }

  int fd() const { return fd_; }

  // False, with errno set, if what was written did not reach its place.
  bool Close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

absl::Status CannotRead(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": ", why));
}

absl::Status CannotWrite(const std::string& path) {
  return absl::UnknownError(absl::StrCat("cannot write ", path, ": ", ::strerror(errno)));
}

bool WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) bytes.remove_prefix(n);
  }
  return true;
}

absl::string_view AsText(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::StatusOr<TensorFile> View(const std::string& path, MappedFile file, TensorMeta meta,
                                size_t offset) {
  const absl::StatusOr<uint64_t> size = ByteSize(meta.dtype, meta.shape);
  if (!size.ok()) return CannotRead(path, size.status().message());
  const absl::Span<const std::byte> elements = file.bytes().subspan(offset);
  if (elements.size() != *size) {
    return CannotRead(path, absl::StrCat(Name(meta.dtype), ToString(meta.shape), " takes ", *size,
                                         " bytes, and it has ", elements.size()));
  }
  return TensorFile{std::move(file), {std::move(meta), elements}};
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const File file(path, O_RDONLY);
  struct stat info = {};
  if (file.fd() < 0 || ::fstat(file.fd(), &info) != 0) return CannotRead(path, ::strerror(errno));
  if (!S_ISREG(info.st_mode)) return CannotRead(path, "it is not a regular file");
  const size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return MappedFile({});
  void* const start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (start == MAP_FAILED) return CannotRead(path, ::strerror(errno));
  return MappedFile({static_cast<const std::byte*>(start), size});
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

absl::StatusOr<TensorFile> OpenNpy(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const absl::string_view bytes = AsText(file->bytes());
  const absl::StatusOr<size_t> header_size = NpyHeaderSize(bytes);
  if (!header_size.ok()) {
    return CannotRead(path, absl::StrCat(header_size.status().message(),
                                         " (raw elements need --shape and --dtype)"));
  }
  absl::StatusOr<TensorMeta> meta = ParseNpyHeader(bytes.substr(0, *header_size));
  if (!meta.ok()) return CannotRead(path, meta.status().message());
  return View(path, *std::move(file), *std::move(meta), *header_size);
}

absl::StatusOr<TensorFile> OpenRaw(const std::string& path, const TensorMeta& meta) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  return View(path, *std::move(file), meta, 0);
}

absl::Status WriteNpy(const std::string& path, const TensorView& tensor) {
  File file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (file.fd() < 0 || !WriteAll(file.fd(), NpyHeader(tensor.meta)) ||
      !WriteAll(file.fd(), AsText(tensor.bytes)) || !file.Close()) {
    return CannotWrite(path);
  }
  return absl::OkStatus();
}

}  // namespace millrace
