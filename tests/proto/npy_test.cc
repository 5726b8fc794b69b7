#include "proto/wire/npy.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/proto/numpy_oracle.h"
#include "tests/proto/temp_folder.h"

namespace millrace {
namespace {

using ::testing::HasSubstr;

// A version 1.0 header around a dict literal.
std::string Header(const std::string& literal) {
  return std::string("\x93NUMPY\x01\x00", 8) +
         std::string{static_cast<char>(literal.size() & 0xff),
                     static_cast<char>(literal.size() >> 8)} +
         literal;
}

absl::StatusOr<TensorMeta> ParseLiteral(const std::string& literal) {
  return ParseNpyHeader(Header(literal));
}

class NumpyTest : public ::testing::Test {
 protected:
  void SetUp() override { REQUIRE_NUMPY(); }

  TempFolder folder_;
};

void ExpectReadAs(const std::string& file, absl::string_view dtype, absl::string_view shape,
                  const std::string& elements) {
  const absl::StatusOr<size_t> size = NpyHeaderSize(file);
  ASSERT_TRUE(size.ok()) << size.status();
  const absl::StatusOr<TensorMeta> meta = ParseNpyHeader(file.substr(0, *size));
  ASSERT_TRUE(meta.ok()) << meta.status();
  EXPECT_EQ(*meta, (TensorMeta{"", *ParseDType(dtype), *ParseShape(shape)}));
  EXPECT_EQ(file.substr(*size), elements);
}

void ExpectRefused(const std::string& file, const std::string& text) {
  const absl::StatusOr<size_t> size = NpyHeaderSize(file);
  ASSERT_TRUE(size.ok()) << size.status();
  const absl::StatusOr<TensorMeta> meta = ParseNpyHeader(file.substr(0, *size));
  EXPECT_EQ(meta.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(meta.status().message()), HasSubstr(text));
}

TEST_F(NumpyTest, ReadsWhatNumpyWrites) {
  RunNumpy("write " + folder_.path());
  int files = 0;
  std::istringstream manifest(folder_.Read("manifest"));
  for (std::string line; std::getline(manifest, line); ++files) {
    SCOPED_TRACE(line);
    const std::vector<std::string> fields = absl::StrSplit(line, '|');
    const std::string file = folder_.Read(fields[0]);
    if (fields[1] == "error") {
      ExpectRefused(file, fields[2]);
    } else {
      ExpectReadAs(file, fields[1], fields[2], folder_.Read(fields[0] + ".raw"));
    }
  }
  EXPECT_GT(files, 300);
}

TEST_F(NumpyTest, WritesWhatNumpyReads) {
  std::string manifest;
  const Shape shapes[] = {{}, {1}, {7}, {0}, {2, 3}, {1, 1, 4}, Shape(kMaxRank, 1)};
  for (int i = 1; i <= kMaxDType; ++i) {
    for (const Shape& shape : shapes) {
      const TensorMeta meta = {"", static_cast<DType>(i), shape};
      const std::string name = absl::StrCat(i, "_", absl::StrJoin(shape, "x"), ".npy");
      const std::string elements(*ByteSize(meta.dtype, shape), '\x01');
      folder_.Write(name, NpyHeader(meta) + elements);
      folder_.Write(name + ".raw", elements);
      const absl::string_view type = meta.dtype == DType::kBfloat16 ? "uint16" : Name(meta.dtype);
      absl::StrAppend(&manifest, name, "|", type, "|", absl::StrJoin(shape, ","), "\n");
    }
  }
  folder_.Write("manifest", manifest);
  RunNumpy("check " + folder_.path());
}

TEST(NpyTest, ReadsKeysInAnyOrderAndEitherQuote) {
  const auto meta = ParseLiteral("{\"shape\":(3,4L) , 'descr' : '<f4','fortran_order':False}\n");
  ASSERT_TRUE(meta.ok()) << meta.status();
  EXPECT_EQ(*meta, (TensorMeta{"", DType::kFloat32, {3, 4}}));
}

TEST(NpyTest, RefusesBrokenLiterals) {
  for (const char* literal : {
           "{}",
           "{'descr': '<f4', 'fortran_order': False}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (3)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}",
           "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'shape': (3,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'extra': True}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} + 1",
           "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}",
           "{'descr': '<f4",
           "no literal at all",
       }) {
    EXPECT_EQ(ParseLiteral(literal).status().code(), absl::StatusCode::kInvalidArgument) << literal;
  }
}

TEST(NpyTest, RefusesShapesThatOverflow) {
  EXPECT_FALSE(
      ParseLiteral("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}")
          .ok());
}

TEST(NpyTest, RefusesWhatIsNoNpyFile) {
  EXPECT_FALSE(NpyHeaderSize("").ok());
  EXPECT_FALSE(NpyHeaderSize("\x93NUMPY").ok());
  EXPECT_FALSE(NpyHeaderSize("PK\x03\x04 and so on").ok());
  EXPECT_FALSE(NpyHeaderSize(std::string("\x93NUMPY\x04\x00\x10\x00\x00\x00", 12)).ok());
  EXPECT_FALSE(NpyHeaderSize(std::string("\x93NUMPY\x01\x01\x10\x00\x00\x00", 12)).ok());
}

TEST(NpyTest, LimitsTheHeader) {
  EXPECT_FALSE(NpyHeaderSize(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12)).ok());
  EXPECT_FALSE(NpyHeaderSize(std::string("\x93NUMPY\x01\x00\xff\xff{}", 12)).ok());
  EXPECT_EQ(*NpyHeaderSize(std::string("\x93NUMPY\x02\x00\xf4\xff\x00\x00", 12)),
            kMaxNpyHeaderSize);
}

TEST(NpyTest, NeedsTheWholeHeader) {
  const std::string header = NpyHeader({"", DType::kInt8, {3}});
  EXPECT_TRUE(ParseNpyHeader(header).ok());
  EXPECT_FALSE(ParseNpyHeader(header.substr(0, header.size() - 1)).ok());
  EXPECT_FALSE(ParseNpyHeader(header + " ").ok());
}

TEST(NpyTest, NeverPutsBytesOfTheFileIntoAMessageRaw) {
  const auto meta = ParseLiteral("{'descr': '\x1b[2J', 'fortran_order': False, 'shape': ()}");
  EXPECT_THAT(std::string(meta.status().message()), HasSubstr("\\x1b"));
}

}  // namespace
}  // namespace millrace
