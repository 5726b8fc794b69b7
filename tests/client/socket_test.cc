#include "client/cpp/socket.h"

#include <gtest/gtest.h>

namespace millrace::internal {
namespace {

TEST(AddressTest, ReadsEveryForm) {
  EXPECT_EQ(ToString(*ParseAddress("127.0.0.1:8000")), "127.0.0.1:8000");
  EXPECT_EQ(ToString(*ParseAddress("http://localhost:80/")), "localhost:80");
  EXPECT_EQ(ParseAddress("[::1]:8000")->host, "::1");
  EXPECT_EQ(ToString(*ParseAddress("[::1]:8000")), "[::1]:8000");
  EXPECT_EQ(ParseAddress("unix:/tmp/s")->path, "/tmp/s");
}

TEST(AddressTest, RefusesWhatIsNone) {
  for (const char* text : {"", "localhost", ":8000", "host:", "host:0", "host:65536", "host:http",
                           "::1:8000", "https://host:443", "unix:", "host:80/path"}) {
    EXPECT_EQ(ParseAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(DialTest, AnUnknownPathIsUnavailable) {
  const auto fd = Dial({"", "", "/nowhere/socket"}, absl::InfiniteFuture());
  EXPECT_EQ(fd.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace millrace::internal
