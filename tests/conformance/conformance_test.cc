// One suite for every way in: the same question has the same answer, and the same mistake the same
// error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tests/conformance/grpc_ways.h"
#include "tests/conformance/http_ways.h"
#include "tests/conformance/way.h"
#include "tests/fakes/server_process.h"

namespace millrace {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

auto InPieces(absl::StatusOr<Answer> (*ask)(const std::string&, const Question&, size_t),
              size_t piece) {
  return [=](const std::string& address, const Question& question) {
    return ask(address, question, piece);
  };
}

const std::vector<Way>& Ways() {
  static const auto* const ways = new std::vector<Way>{
      {.name = "GrpcUnary", .ask = AskUnary},
      {.name = "GrpcStreamOddPieces", .ask = InPieces(AskStream, 99'991)},
      {.name = "GrpcStreamMiB", .ask = InPieces(AskStream, 1 << 20)},
      {.name = "GrpcStreamWhole", .ask = InPieces(AskStream, 0)},
      {.name = "GrpcDuplexOddPieces", .ask = InPieces(AskDuplex, 99'991)},
      {.name = "GrpcDuplexMiB", .ask = InPieces(AskDuplex, 1 << 20)},
      {.name = "HttpRaw", .ask = AskRaw, .several_tensors = false},
      {.name = "HttpNpy", .ask = AskNpy, .several_tensors = false, .has_bfloat16 = false},
      {.name = "HttpJson", .ask = AskJson, .typed = false, .has_payload_size = false},
  };
  return *ways;
}

template <typename T>
NamedBytes TensorOf(std::string name, DType dtype, Shape shape, const std::vector<T>& values) {
  NamedBytes tensor{{std::move(name), dtype, std::move(shape)},
                    std::string(values.size() * sizeof(T), '\0')};
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

NamedBytes Image(int64_t rows, int64_t columns) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i) / static_cast<float>(values.size());
  return TensorOf("image", DType::kFloat32, {rows, columns}, values);
}

// Bytes that are valid elements of any type: small positive numbers as integers, no NaN as floats.
NamedBytes Sample(DType dtype, int64_t count) {
  NamedBytes tensor{{"t", dtype, {count}},
                    std::string(static_cast<size_t>(count) * ElementSize(dtype), '\0')};
  for (size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = static_cast<char>(i % 2);
  return tensor;
}

double FirstValue(const Answer& answer) {
  const NamedBytes& output = answer.outputs.at(0);
  if (output.meta.dtype == DType::kFloat64) {
    double value = 0;
    std::memcpy(&value, output.bytes.data(), sizeof value);
    return value;
  }
  float value = 0;
  std::memcpy(&value, output.bytes.data(), sizeof value);
  return value;
}

std::unique_ptr<ServerProcess> server;

class ServerEnvironment final : public testing::Environment {
  void SetUp() override {
    server = std::make_unique<ServerProcess>(
        MILLRACE_SERVER,
        std::vector<std::string>{"--memory-limit", "1GiB", "--max-request-bytes", "128MiB"});
  }
  void TearDown() override { server.reset(); }
};

class ConformanceTest : public testing::TestWithParam<std::tuple<Way, bool>> {
 protected:
  const Way& way() const { return std::get<0>(GetParam()); }

  absl::StatusOr<Answer> Ask(const Question& question) const {
    return way().ask(std::get<1>(GetParam()) ? server->unix_address() : server->tcp_address(),
                     question);
  }

  void ExpectRefused(const Question& question, StatusCode code, const std::string& text) const {
    const absl::Status status = Ask(question).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
};

TEST_P(ConformanceTest, AnswersTheImage) {
  const auto answer = Ask({"row_mean_std", {Image(3000, 2500)}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_NEAR(FirstValue(*answer), 0.2886751, 1e-6);
}

TEST_P(ConformanceTest, OneElementStandsForTheImage) {
  const auto answer =
      Ask({"row_mean_std", {TensorOf<float>("image", DType::kFloat32, {}, {0.25f})}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(FirstValue(*answer), 0.0);
  EXPECT_EQ(answer->outputs.at(0).meta.shape, Shape());
}

TEST_P(ConformanceTest, GivesBackEveryTypeBitForBit) {
  if (!way().typed) GTEST_SKIP() << "no types";
  for (int i = 1; i <= kMaxDType; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype == DType::kBfloat16 && !way().has_bfloat16) continue;
    const NamedBytes sample = Sample(dtype, 1001);
    const auto answer = Ask({"identity", {sample}});
    ASSERT_TRUE(answer.ok()) << Name(dtype) << ": " << answer.status();
    EXPECT_EQ(answer->outputs.at(0).meta.dtype, dtype);
    EXPECT_EQ(answer->outputs.at(0).bytes, sample.bytes);
  }
}

TEST_P(ConformanceTest, GivesBackLargeTensors) {
  const NamedBytes image = Image(1000, 257);
  const auto answer = Ask({"identity", {image}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->outputs.at(0).meta.shape, image.meta.shape);
  if (way().typed) {
    EXPECT_TRUE(answer->outputs.at(0).bytes == image.bytes);
  } else {
    EXPECT_EQ(answer->outputs.at(0).bytes.size(), image.bytes.size() * 2);
  }
}

TEST_P(ConformanceTest, TakesSeveralTensors) {
  if (!way().several_tensors) GTEST_SKIP() << "one tensor at a time";
  const auto answer = Ask({"identity",
                           {TensorOf<float>("a", DType::kFloat32, {3}, {1.5f, 2.5f, 3.5f}),
                            TensorOf<int64_t>("b", DType::kInt64, {2, 1}, {7, 8})}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->outputs.size(), 2u);
  EXPECT_EQ(answer->outputs[0].meta.name, "a");
  EXPECT_EQ(answer->outputs[1].meta.name, "b");
  EXPECT_EQ(answer->outputs[1].meta.shape, (Shape{2, 1}));
}

TEST_P(ConformanceTest, TakesTensorsWithoutElements) {
  const auto answer = Ask({"identity", {TensorOf<float>("t", DType::kFloat32, {0}, {})}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->outputs.at(0).meta.shape, Shape{0});
}

TEST_P(ConformanceTest, AnUnknownModelIsNotFound) {
  ExpectRefused({"nope", {Image(2, 2)}}, StatusCode::kNotFound,
                "no model \"nope\"; served here: identity");
}

TEST_P(ConformanceTest, AWrongNameIsRefused) {
  NamedBytes image = Image(2, 2);
  image.meta.name = "picture";
  ExpectRefused({"row_mean_std", {image}}, StatusCode::kInvalidArgument,
                "has no input \"picture\"");
}

TEST_P(ConformanceTest, AWrongTypeIsRefused) {
  if (!way().typed) GTEST_SKIP() << "no types";
  ExpectRefused({"row_mean_std", {TensorOf<double>("image", DType::kFloat64, {1, 2}, {1, 2})}},
                StatusCode::kInvalidArgument, "is float32, but float64 was sent");
}

TEST_P(ConformanceTest, AWrongRankIsRefused) {
  ExpectRefused({"row_mean_std", {TensorOf<float>("image", DType::kFloat32, {2}, {1, 2})}},
                StatusCode::kInvalidArgument,
                "has the shape [-1,-1] (-1 is any size), but [2] was sent");
}

TEST_P(ConformanceTest, AnExtraTensorIsRefused) {
  if (!way().several_tensors) GTEST_SKIP() << "one tensor at a time";
  ExpectRefused({"row_mean_std", {Image(2, 2), Sample(DType::kUint8, 1)}},
                StatusCode::kInvalidArgument, "");
}

TEST_P(ConformanceTest, AMissingTensorIsRefused) {
  if (!way().several_tensors) GTEST_SKIP() << "one tensor at a time";
  ExpectRefused({"row_mean_std", {}}, StatusCode::kInvalidArgument, "");
}

TEST_P(ConformanceTest, TooFewBytesAreRefused) {
  if (!way().has_payload_size) GTEST_SKIP() << "no payload";
  NamedBytes image = Image(20, 20);
  image.bytes.resize(1599);
  ExpectRefused({"row_mean_std", {image}}, StatusCode::kInvalidArgument, "1600");
}

TEST_P(ConformanceTest, TooManyBytesAreRefused) {
  if (!way().has_payload_size) GTEST_SKIP() << "no payload";
  NamedBytes image = Image(20, 20);
  image.bytes.resize(1601);
  ExpectRefused({"row_mean_std", {image}}, StatusCode::kInvalidArgument, "1600");
}

TEST_P(ConformanceTest, WhatIsLargerThanTheLimitIsRefused) {
  if (!way().has_payload_size) GTEST_SKIP() << "no payload";
  ExpectRefused({"identity", {Sample(DType::kUint8, 129 << 20)}}, StatusCode::kResourceExhausted,
                "");
}

INSTANTIATE_TEST_SUITE_P(EveryWay, ConformanceTest,
                         testing::Combine(testing::ValuesIn(Ways()), testing::Bool()),
                         [](const auto& test) {
                           return std::get<0>(test.param).name +
                                  (std::get<1>(test.param) ? "OverUnix" : "OverTcp");
                         });

// A million messages would only test patience: one byte a piece, for a small tensor.
TEST(OneBytePiecesTest, AssembleToo) {
  const NamedBytes image = Image(20, 50);
  for (const auto ask : {AskStream, AskDuplex}) {
    const auto answer = ask(server->tcp_address(), {"identity", {image}}, 1);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->outputs.at(0).bytes, image.bytes);
  }
}

const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new ServerEnvironment);

}  // namespace
}  // namespace millrace
