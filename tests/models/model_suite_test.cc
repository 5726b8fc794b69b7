// What holds for every built-in model.  A new one: add an example of its input to kExamples.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <set>
#include <string>
#include <thread>

#include "server/models/factory.h"
#include "tests/models/model_harness.h"

namespace millrace {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

const std::vector<float> kImage = {1, 2, 3, 4, 5, 6};

struct Example {
  std::string model;
  std::function<std::vector<Tensor>()> inputs;

  friend void PrintTo(const Example& example, std::ostream* out) { *out << example.model; }
};

std::vector<Tensor> OneImage() { return {Over({"image", DType::kFloat32, {2, 3}}, kImage)}; }

// Rows for the dense layer, one more than it takes at once.
std::vector<Tensor> FiveRows() {
  static const std::vector<float> rows = [] {
    std::vector<float> values(size_t{5} * 2500);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7);
    return values;
  }();
  return {Over({"image", DType::kFloat32, {5, 2500}}, rows)};
}

const Example kExamples[] = {
    {"dense", FiveRows},
    {"identity", OneImage},
    {"row_mean_std", OneImage},
};

class ModelSuite : public testing::TestWithParam<Example> {
 protected:
  void SetUp() override {
    auto model = MakeModel(GetParam().model);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  std::vector<Tensor> RunExample() {
    auto outputs = harness_.Run(*model_, GetParam().inputs());
    EXPECT_TRUE(outputs.ok()) << outputs.status();
    return outputs.ok() ? *std::move(outputs) : std::vector<Tensor>();
  }

  std::unique_ptr<Model> model_;
  ModelHarness harness_;
};

TEST_P(ModelSuite, HasTheNameThatMadeIt) {
  EXPECT_EQ(model_->spec().name, GetParam().model);
  EXPECT_NE(model_->spec().version, "");
}

TEST_P(ModelSuite, SaysWhatItTakesAndGives) {
  EXPECT_NE(model_->spec().any_tensors, !model_->spec().inputs.empty());
  std::set<std::string> names;
  for (const auto* specs : {&model_->spec().inputs, &model_->spec().outputs}) {
    for (const TensorSpec& tensor : *specs) {
      EXPECT_NE(tensor.dtype, DType::kUnspecified) << tensor.name;
      EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
    }
  }
}

TEST_P(ModelSuite, GivesWhatItSays) {
  const std::vector<Tensor> outputs = RunExample();
  if (model_->spec().any_tensors) return;
  ASSERT_THAT(outputs, SizeIs(model_->spec().outputs.size()));
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorSpec& spec = model_->spec().outputs[i];
    EXPECT_EQ(outputs[i].meta.name, spec.name);
    EXPECT_EQ(outputs[i].meta.dtype, spec.dtype);
    EXPECT_EQ(outputs[i].meta.shape.size(), spec.shape.size());
  }
}

TEST_P(ModelSuite, GivesAsManyBytesAsItsShapeHas) {
  for (const Tensor& output : RunExample()) {
    EXPECT_EQ(ByteSize(output.meta.dtype, output.meta.shape).value(), output.bytes.size());
  }
}

TEST_P(ModelSuite, IsNeverQuickOnMegabytes) {
  const std::vector<float> megabytes(1 << 19);
  Request request;
  request.inputs = {Over({"image", DType::kFloat32, {512, 1024}}, megabytes)};
  EXPECT_FALSE(model_->RunsQuickly(request));
}

TEST_P(ModelSuite, GivesTheSameWhenItWorksEarly) {
  const std::vector<Tensor> inputs = GetParam().inputs();
  const auto outputs = harness_.RunEarly(*model_, inputs.at(0));
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  if (outputs->empty()) return;  // It wants its input whole.
  const std::vector<Tensor> expected = RunExample();
  ASSERT_THAT(*outputs, SizeIs(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((*outputs)[i].meta, expected[i].meta);
    EXPECT_EQ((*outputs)[i].bytes, expected[i].bytes);
  }
}

TEST_P(ModelSuite, RunsOnManyThreadsAtOnce) {
  const std::vector<Tensor> expected = RunExample();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const std::vector<Tensor> outputs = RunExample();
      ASSERT_THAT(outputs, SizeIs(expected.size()));
      EXPECT_EQ(outputs[0].bytes, expected[0].bytes);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(BuiltIn, ModelSuite, testing::ValuesIn(kExamples),
                         [](const auto& test) { return test.param.model; });

TEST(FactoryTest, UnknownNameIsNotFoundAndListsWhatThereIs) {
  const absl::Status status = MakeModel("resnet\n").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  for (const Example& example : kExamples) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(example.model));
  }
}

TEST(FactoryTest, SmallRequestsOfSimpleModelsAreQuick) {
  Request request;
  request.inputs = OneImage();
  for (const char* name : {"identity", "row_mean_std"}) {
    EXPECT_TRUE(MakeModel(name).value()->RunsQuickly(request)) << name;
  }
}

TEST(IdentityTest, ForwardsAnyTensorsUnderTheirNamesWithoutACopy) {
  const std::vector<uint8_t> bytes = {1, 2, 3};
  const auto model = MakeModel("identity").value();
  ModelHarness harness;
  const auto outputs = harness.Run(*model, {Over({"a", DType::kUint8, {3}}, bytes),
                                            Over({"b", DType::kFloat32, {2, 3}}, kImage)});
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  ASSERT_THAT(*outputs, SizeIs(2));
  EXPECT_EQ((*outputs)[0].meta, (TensorMeta{"a", DType::kUint8, {3}}));
  EXPECT_EQ((*outputs)[0].bytes.data(), reinterpret_cast<const std::byte*>(bytes.data()));
  EXPECT_EQ((*outputs)[1].meta.name, "b");
}

}  // namespace
}  // namespace millrace
