#include "proto/wire/dtype.h"

#include <gtest/gtest.h>

namespace millrace {
namespace {

TEST(DTypeTest, NamesParseBack) {
  for (int i = 1; i <= kMaxDType; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(Name(dtype)), dtype) << i;
    EXPECT_GT(ElementSize(dtype), 0u) << i;
  }
}

TEST(DTypeTest, OtherNamesAreNoTypes) {
  for (const char* name : {"", "unspecified", "Float32", "float", "float128", "f4"}) {
    EXPECT_EQ(ParseDType(name), std::nullopt) << name;
  }
}

TEST(DTypeTest, UnspecifiedHasNoSize) { EXPECT_EQ(ElementSize(DType::kUnspecified), 0u); }

}  // namespace
}  // namespace millrace
