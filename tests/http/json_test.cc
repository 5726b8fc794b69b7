// JSON bodies in both directions.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "server/transports/http/codec.h"
#include "server/transports/http/json_number.h"
#include "server/transports/http/json_request.h"

namespace millrace {
namespace {

using testing::HasSubstr;

class JsonTest : public testing::Test {
 protected:
  JsonTest() { Takes(DType::kFloat32); }

  // The model has the one input "x".
  void Takes(DType dtype) { spec_.inputs = {{.name = "x", .dtype = dtype, .shape = {kAnySize}}}; }

  absl::StatusOr<JsonRequest> Read(absl::string_view text) {
    const std::string padded = absl::StrCat(text, std::string(kJsonPadding, '\0'));
    return ReadJsonRequest(absl::string_view(padded).substr(0, text.size()), spec_, pool_, workers_,
                           options_);
  }

  // The tensors, each as "name: dtype[shape] = value".
  std::string Text(absl::string_view text) {
    const absl::StatusOr<JsonRequest> request = Read(text);
    if (!request.ok()) return std::string(request.status().message());
    std::string all;
    for (const Tensor& tensor : request->tensors) {
      absl::StrAppend(&all, all.empty() ? "" : "; ", ToString(tensor.meta), " = ");
      Response response;
      response.outputs = {tensor};
      const std::string body = JsonCodec().Encode(response, false, pool_)->text;
      all += body.substr(12, body.size() - 14);  // without {"outputs": and }
    }
    return all;
  }

  // A value of the input, as the bytes of T.
  template <typename T>
  T Element(DType dtype, absl::string_view value) {
    Takes(dtype);
    const auto request = Read(absl::StrCat("{\"inputs\": [", value, "]}"));
    EXPECT_TRUE(request.ok()) << request.status();
    T element{};
    if (request.ok()) std::memcpy(&element, request->tensors[0].bytes.data(), sizeof(T));
    return element;
  }

  std::string Refusal(DType dtype, absl::string_view value) {
    Takes(dtype);
    const auto request = Read(absl::StrCat("{\"inputs\": [1, ", value, "]}"));
    EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << value;
    return std::string(request.status().message());
  }

  ModelSpec spec_;
  SlabPool pool_{SlabPoolOptions{.limit = 16 << 20}};
  boost::asio::thread_pool workers_{2};
  JsonOptions options_;
};

TEST_F(JsonTest, ReadsColumnsAndRows) {
  EXPECT_EQ(Text(R"({"inputs": [[1, 2], [3, 4]]})"), ": float32[2,2] = [[1,2],[3,4]]");
  EXPECT_EQ(Text(R"({"inputs": {"x": [1, 2]}})"), "x: float32[2] = [1,2]");
  EXPECT_EQ(Text(R"({"instances": [[1], [2]]})"), ": float32[2,1] = [[1],[2]]");
  EXPECT_EQ(Text(R"({"instances": [{"x": [1, 2]}, {"x": [3, 4]}]})"),
            "x: float32[2,2] = [[1,2],[3,4]]");
  EXPECT_FALSE(Read(R"({"inputs": [1]})")->by_rows);
  EXPECT_TRUE(Read(R"({"instances": [1]})")->by_rows);
}

TEST_F(JsonTest, ABareNumberIsAScalar) {
  EXPECT_EQ(Text(R"({"inputs": 0.5})"), ": float32[] = 0.5");
  EXPECT_EQ(Text(R"({"instances": 0.5})"), ": float32[] = 0.5");
  EXPECT_EQ(Text(R"({"instances": [{"x": 1}, {"x": 2}]})"), "x: float32[2] = [1,2]");
}

TEST_F(JsonTest, ReadsSeveralInputsInAnyOrder) {
  spec_.inputs.push_back({.name = "y", .dtype = DType::kInt32, .shape = {kAnySize}});
  EXPECT_EQ(Text(R"({"instances": [{"x": 1, "y": 2}, {"y": 4, "x": 3}]})"),
            "x: float32[2] = [1,3]; y: int32[2] = [2,4]");
  EXPECT_THAT(Text(R"({"inputs": [1]})"), HasSubstr("several inputs; give an object of x, y"));
}

TEST_F(JsonTest, KeepsEmptyArrays) {
  EXPECT_EQ(Read(R"({"inputs": []})")->tensors[0].meta.shape, Shape({0}));
  EXPECT_EQ(Read(R"({"instances": [[], []]})")->tensors[0].meta.shape, Shape({2, 0}));
}

TEST_F(JsonTest, TakesTheOtherFieldsOfTheProtocol) {
  EXPECT_EQ(Text(R"({"signature_name": "a\u00e9", "inputs": [1]})"), ": float32[1] = [1]");
  EXPECT_THAT(Text(R"({"inputs": [1], "input": 2})"), HasSubstr("input: no such field"));
}

TEST_F(JsonTest, SaysWhereArraysAreRagged) {
  EXPECT_EQ(Text(R"({"instances": [[1, 2], [3]]})"),
            "instances[1]: 1 elements where the arrays before have 2");
  EXPECT_THAT(Text(R"({"instances": [[1], [2, 3]]})"), HasSubstr("instances[1][1]: one more"));
  EXPECT_THAT(Text(R"({"inputs": [[1], 2]})"), HasSubstr("inputs[1]: an array of 1 elements"));
  EXPECT_THAT(Text(R"({"inputs": [1, [2]]})"), HasSubstr("inputs[1]: [ is no float32"));
  EXPECT_THAT(Text(R"({"inputs": [[], [1]]})"), HasSubstr("inputs[1][0]"));
}

TEST_F(JsonTest, SaysWhereAValueIsWrong) {
  EXPECT_EQ(Text(R"({"instances": [[1, 2], [3, "a"]]})"),
            "instances[1][1]: \\\"a\\\" is no float32");
  EXPECT_EQ(Text(R"({"instances": [{"x": [1, true]}]})"), "instances[0].x[1]: true is no float32");
  EXPECT_EQ(Text(R"({"inputs": {"x": null}})"), "inputs.x: null is no float32");
}

TEST_F(JsonTest, RefusesRowsThatDiffer) {
  EXPECT_THAT(Text(R"({"instances": [{"x": 1}, {}]})"), HasSubstr("instances[1]: has 0 inputs"));
  EXPECT_THAT(Text(R"({"instances": [{"x": 1}, 2]})"), HasSubstr("instances[1]: an object"));
  EXPECT_THAT(Text(R"({"instances": [{"x": 1}, {"x": 1, "x": 2}]})"), HasSubstr("comes twice"));
  EXPECT_THAT(Text(R"({"instances": [{"x": 1}, {"z": 2}]})"), HasSubstr("no such input"));
  EXPECT_THAT(Text(R"({"inputs": {"z": 2}})"), HasSubstr("no input \"z\"; it has x"));
}

TEST_F(JsonTest, WantsExactlyOneKindOfInput) {
  EXPECT_THAT(Text("{}"), HasSubstr("is missing"));
  EXPECT_THAT(Text(R"({"inputs": [1], "instances": [1]})"), HasSubstr("exactly one"));
  EXPECT_THAT(Text(R"({"inputs": [1], "inputs": [1]})"), HasSubstr("exactly one"));
}

TEST_F(JsonTest, ReadsFloatsToTheNearest) {
  EXPECT_EQ(Element<float>(DType::kFloat32, "0.1"), 0.1f);
  EXPECT_EQ(Element<float>(DType::kFloat32, "-0"), 0.0f);
  EXPECT_EQ(Element<float>(DType::kFloat32, "16777217.0000000001"), 16777218.0f);
  EXPECT_EQ(Element<float>(DType::kFloat32, "3.4028235e38"), std::numeric_limits<float>::max());
  EXPECT_EQ(Element<float>(DType::kFloat32, "1e-45"), std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(Element<float>(DType::kFloat32, "1e-400"), 0.0f);
  EXPECT_EQ(Element<double>(DType::kFloat64, "0.1"), 0.1);
  EXPECT_EQ(Element<uint16_t>(DType::kFloat16, "1.5"), 0x3e00);
  EXPECT_EQ(Element<uint16_t>(DType::kBfloat16, "1.5"), 0x3fc0);
}

// Of all lengths, signs and exponents; near the middle between two floats as often as not.
std::string AnyNumber(std::mt19937_64& random) {
  const auto below = [&](uint64_t limit) { return random() % limit; };
  std::string text = below(2) == 0 ? "-" : "";
  if (below(3) == 0) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(below(0x7f000000)));
    const double middle = (static_cast<double>(value) + std::nextafter(value, INFINITY)) / 2;
    char digits[64];
    const int precision = static_cast<int>(below(4) == 0 ? 40 : below(20));
    std::snprintf(digits, sizeof(digits), below(2) == 0 ? "%.*e" : "%.*g", precision,
                  below(2) == 0 ? middle : value);
    return text + digits;
  }
  absl::StrAppend(&text, below(2) == 0 ? 0 : random() >> below(64));
  if (below(4) > 0) {
    text += '.';
    for (uint64_t i = below(24) + 1; i > 0; --i) text += static_cast<char>('0' + below(10));
  }
  if (below(3) == 0) {
    constexpr const char* kSigns[] = {"e", "E-", "e+", "e-"};
    absl::StrAppend(&text, kSigns[below(4)], below(below(2) == 0 ? 400 : 30));
  }
  return text;
}

// What ReadElements() makes of one number; nothing where it leaves it to ParseElement().
template <typename T>
std::optional<T> ReadPlain(const std::string& text, DType dtype) {
  const std::string padded = text + "]" + std::string(kJsonPadding, '\0');
  T value{};
  uint64_t count = 0;
  ReadElements(padded.data(), dtype, 1, reinterpret_cast<std::byte*>(&value), count);
  return count == 1 ? std::optional<T>(value) : std::nullopt;
}

// Whether the number is read to the nearest value, to the bit, or not at all.
template <typename T>
testing::AssertionResult IsNearest(const std::string& text, DType dtype, int& read) {
  const std::optional<T> value = ReadPlain<T>(text, dtype);
  if (!value) return testing::AssertionSuccess();
  ++read;
  T nearest{};
  const auto result = std::from_chars(text.data(), text.data() + text.size(), nearest);
  if (result.ec == std::errc() && std::memcmp(&*value, &nearest, sizeof(T)) == 0) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << text << " is read as " << *value;
}

TEST_F(JsonTest, ReadsAnyNumberAsFromCharsDoes) {
  std::mt19937_64 random(1);
  int read = 0;
  for (int i = 0; i < 200'000; ++i) {
    const std::string text = AnyNumber(random);
    ASSERT_TRUE(IsNearest<float>(text, DType::kFloat32, read));
    ASSERT_TRUE(IsNearest<double>(text, DType::kFloat64, read));
  }
  EXPECT_GT(read, 100'000);
}

TEST_F(JsonTest, ReadsIntegersOfAllLengthsExactly) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const int64_t value = static_cast<int64_t>(random()) >> random() % 64;
    const std::string text = absl::StrCat(value);
    EXPECT_EQ(ReadPlain<int64_t>(text, DType::kInt64).value_or(value), value);
    const auto narrow = ReadPlain<int16_t>(text, DType::kInt16);
    ASSERT_EQ(narrow.has_value(), std::in_range<int16_t>(value)) << text;
    if (narrow) {
      EXPECT_EQ(*narrow, value);
    }
  }
}

TEST_F(JsonTest, ReadsWhatPythonWritesForNotFinite) {
  EXPECT_TRUE(std::isnan(Element<float>(DType::kFloat32, "NaN")));
  EXPECT_EQ(Element<float>(DType::kFloat32, "Infinity"), std::numeric_limits<float>::infinity());
  EXPECT_EQ(Element<double>(DType::kFloat64, " -Infinity "),
            -std::numeric_limits<double>::infinity());
  EXPECT_EQ(Element<uint16_t>(DType::kFloat16, "-Infinity"), 0xfc00);
  EXPECT_THAT(Refusal(DType::kInt32, "NaN"), HasSubstr("NaN is no int32"));
}

TEST_F(JsonTest, ReadsIntegersExactly) {
  EXPECT_EQ(Element<uint64_t>(DType::kUint64, "18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(Element<int64_t>(DType::kInt64, "-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(Element<int64_t>(DType::kInt64, "9007199254740993"), 9007199254740993);
  EXPECT_EQ(Element<int8_t>(DType::kInt8, "-128"), -128);
  EXPECT_EQ(Element<uint8_t>(DType::kUint8, "255"), 255);
  EXPECT_EQ(Element<int16_t>(DType::kInt16, "-32768"), -32768);
  EXPECT_EQ(Element<uint16_t>(DType::kUint16, "65535"), 65535);
  EXPECT_EQ(Element<uint32_t>(DType::kUint32, "4294967295"), UINT32_MAX);
  EXPECT_EQ(Element<uint8_t>(DType::kBool, "true"), 1);
}

TEST_F(JsonTest, RefusesWhatDoesNotFit) {
  EXPECT_THAT(Refusal(DType::kUint8, "256"), HasSubstr("inputs[1]: 256 does not fit uint8"));
  EXPECT_THAT(Refusal(DType::kUint8, "-1"), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(DType::kUint64, "18446744073709551616"), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(DType::kFloat32, "1e39"), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(DType::kFloat64, "-1e309"), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(DType::kFloat16, "70000"), HasSubstr("does not fit"));
  EXPECT_THAT(Refusal(DType::kInt32, "1.0"), HasSubstr("is no int32"));
  EXPECT_THAT(Refusal(DType::kInt32, "true"), HasSubstr("is no int32"));
}

TEST_F(JsonTest, ABooleanIsNoNumber) {
  Takes(DType::kBool);
  EXPECT_EQ(Text(R"({"inputs": 1})"), "inputs: 1 is no bool");
}

TEST_F(JsonTest, DetectsTypesForModelsThatTakeAny) {
  spec_.any_tensors = true;
  EXPECT_EQ(Text(R"({"inputs": [1, 2]})"), ": int64[2] = [1,2]");
  EXPECT_EQ(Text(R"({"inputs": [1, 2.5]})"), ": float32[2] = [1,2.5]");
  EXPECT_EQ(Text(R"({"inputs": [1, NaN]})"), ": float32[2] = [1,NaN]");
  EXPECT_EQ(Text(R"({"inputs": [true]})"), ": bool[1] = [true]");
  EXPECT_EQ(Text(R"({"inputs": 18446744073709551615})"), ": uint64[] = 18446744073709551615");
  EXPECT_THAT(Text(R"({"inputs": [1, true]})"), HasSubstr("mixed"));
  EXPECT_THAT(Text(R"({"inputs": ["a"]})"), HasSubstr("is no number"));
}

// The classes of the public JSONTestSuite that matter here: what a parser must refuse.
TEST_F(JsonTest, RefusesBrokenJson) {
  for (const char* value : {"[1,]",
                            "[,1]",
                            "[1,,2]",
                            "[1 2]",
                            "[1",
                            "1]",
                            "[1}",
                            "{\"x\": 1",
                            "{x: 1}",
                            "{'x': 1}",
                            "{\"x\" 1}",
                            "{\"x\": 1,}",
                            "{1: 1}",
                            "[01]",
                            "[1.]",
                            "[.5]",
                            "[+1]",
                            "[1e]",
                            "[1e+]",
                            "[0x1]",
                            "[- 1]",
                            "[1_0]",
                            "[--1]",
                            "[-]",
                            "[nan]",
                            "[inf]",
                            "[-NaN]",
                            "[+Infinity]",
                            "[Infinit]",
                            "[nul]",
                            "[True]",
                            "[tru]",
                            "[\"a]",
                            "[\"\\x\"]",
                            "[1]]",
                            "[1] x",
                            "[1] {}",
                            "[1],",
                            "/**/[1]",
                            "[1//\n]",
                            "[\xff]",
                            "[1\x01]",
                            "[\xef\xbb\xbf"
                            "1]",
                            "[1\f]"}) {
    const auto request = Read(absl::StrCat("{\"inputs\": ", value, "}"));
    EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << value;
  }
}

TEST_F(JsonTest, RefusesTextThatIsNoObject) {
  for (const char* text : {"", " ", "[1]", "1", "null", "\"inputs\"", "{", "}", "{\"inputs\"",
                           "{\"inputs\":", "{\"inputs\": [1]} {}", "\xef\xbb\xbf", "\x00"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Read(text).status())) << text;
  }
}

TEST_F(JsonTest, RefusesBrokenFieldsThatAreIgnored) {
  for (const char* value :
       {"[1,]", "{1: 2}", "\"\\x\"", "nul", "01", "[1 2]", "{\"a\" 1}", "'a'", "\"\xff\"",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]"}) {
    const auto request = Read(absl::StrCat("{\"inputs\": [1], \"signature_name\": ", value, "}"));
    EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << value;
  }
}

TEST_F(JsonTest, BoundsTheDepth) {
  const auto nested = [](size_t depth) {
    return absl::StrCat("{\"inputs\": ", std::string(depth, '['), "1", std::string(depth, ']'),
                        "}");
  };
  EXPECT_EQ(Read(nested(kMaxRank))->tensors[0].meta.shape.size(), kMaxRank);
  EXPECT_THAT(Read(nested(kMaxRank + 1)).status().message(), HasSubstr("deeper than 16"));
  EXPECT_FALSE(Read(nested(100'000)).ok());
}

TEST_F(JsonTest, BoundsTheNumberOfInputs) {
  spec_.any_tensors = true;
  std::string text = "{\"inputs\": {\"a\": 1";
  for (int i = 0; i < 256; ++i) absl::StrAppend(&text, ", \"", i, "\": 1");
  EXPECT_THAT(Text(text + "}}"), HasSubstr("more than 256 inputs"));
}

TEST_F(JsonTest, PromisesNoMoreThanTheTextCanHold) {
  std::string row = "[1";
  for (int i = 0; i < 2000; ++i) row += ",1";
  std::string rows = "{\"inputs\": [" + row + "]";
  for (int i = 0; i < 2000; ++i) rows += ",[]";
  EXPECT_THAT(Text(rows + "]}"), HasSubstr("inputs[1]"));  // not: no room for 16 MB
  EXPECT_LT(pool_.usage().peak, 1u << 20);
}

// An array of `shape`, whose elements count up, with spaces in some places.
std::string Counting(absl::Span<const int> shape, int& next, absl::string_view space) {
  if (shape.empty()) return absl::StrCat(next++ % 100);
  std::string text = absl::StrCat("[", space);
  for (int i = 0; i < shape[0]; ++i) {
    if (i > 0) absl::StrAppend(&text, next % 3 == 0 ? space : "", ",", space);
    text += Counting(shape.subspan(1), next, space);
  }
  return text + "]";
}

TEST_F(JsonTest, ReadsInStretchesAsAtOnce) {
  const std::vector<int> shapes[] = {{1},         {500},          {50, 10},    {500, 1},
                                     {1, 500},    {1, 1, 500},    {1, 20, 25}, {20, 1, 25},
                                     {5, 10, 10}, {1, 100, 5, 1}, {500, 0},    {1, 0}};
  for (const std::vector<int>& shape : shapes) {
    for (const char* space : {"", " ", "\n  "}) {
      int next = 0;
      const std::string value = Counting(shape, next, space);
      for (const char* behind : {"}", " ,\n\"signature_name\": \"a,b]\"}"}) {
        const std::string text = absl::StrCat("{\"inputs\": ", value, behind);
        options_.stretch = size_t{1} << 20;
        const std::string whole = Text(text);
        EXPECT_THAT(whole, HasSubstr(absl::StrCat("float32[", absl::StrJoin(shape, ","), "] = ")));
        for (const size_t stretch : {16, 61, 200}) {
          options_.stretch = stretch;
          EXPECT_EQ(Text(text), whole) << stretch;
        }
      }
    }
  }
}

TEST_F(JsonTest, RefusesInStretchesAsAtOnce) {
  int next = 0;
  const std::string text = absl::StrCat("{\"inputs\": ", Counting({4, 3, 5}, next, ""), "}");
  for (size_t i = 10; i < text.size(); ++i) {
    for (const char c : {',', '[', ']', '1', '.', 'x', '"', '{', '}', ' ', '\0'}) {
      std::string broken = text;
      broken[i] = c;
      options_.stretch = size_t{1} << 20;
      const std::string whole = Text(broken);
      options_.stretch = 16;
      ASSERT_EQ(Text(broken), whole) << broken;
    }
  }
}

TEST_F(JsonTest, WritesNothingWhereCommasAreNoElements) {
  options_.stretch = 1024;
  std::string text = "{\"inputs\": [1" + std::string(1 << 20, ',');
  for (int i = 0; i < 1000; ++i) text += "1,";
  EXPECT_THAT(Text(text + "1]}"), HasSubstr("inputs[1]: , is no float32"));
}

TEST_F(JsonTest, SaysWhenTheArenaIsFull) {
  const auto held = pool_.Promise(pool_.limit());
  EXPECT_TRUE(absl::IsResourceExhausted(Read(R"({"inputs": [1]})").status()));
}

TEST_F(JsonTest, AnswersRowsAsObjectsWhenThereAreSeveralOutputs) {
  spec_.any_tensors = true;
  const JsonRequest request = Read(R"({"inputs": {"a": [1, 2], "b": [[3], [4]]}})").value();
  Response response;
  response.outputs = request.tensors;
  EXPECT_EQ(JsonCodec().Encode(response, true, pool_)->text,
            "{\"predictions\": [{\"a\": 1, \"b\": [3]}, {\"a\": 2, \"b\": [4]}]}\n");
  EXPECT_EQ(JsonCodec().Encode(response, false, pool_)->text,
            "{\"outputs\": {\"a\": [1,2], \"b\": [[3],[4]]}}\n");
}

}  // namespace
}  // namespace millrace
