#include "server/core/registry.h"

#include <gtest/gtest.h>

namespace millrace {
namespace {

class NamedModel final : public Model {
 public:
  NamedModel(std::string name, std::string version) {
    spec_.name = std::move(name);
    spec_.version = std::move(version);
  }
  const ModelSpec& spec() const override { return spec_; }
  absl::Status Run(const Request&, Outputs&) override { return absl::OkStatus(); }

 private:
  ModelSpec spec_;
};

class RegistryTest : public testing::Test {
 protected:
  absl::Status Add(std::string name, std::string version) {
    return registry_.Add(std::make_unique<NamedModel>(std::move(name), std::move(version)));
  }
  std::string Find(absl::string_view name, absl::string_view version) {
    const auto model = registry_.Find(name, version);
    return model.ok() ? (*model)->spec().name + "/" + (*model)->spec().version
                      : std::string(model.status().message());
  }
  Registry registry_;
};

TEST_F(RegistryTest, TheFirstModelIsTheDefault) {
  ASSERT_TRUE(Add("b", "1").ok());
  ASSERT_TRUE(Add("a", "1").ok());
  EXPECT_EQ(Find("", ""), "b/1");
}

TEST_F(RegistryTest, NoVersionIsTheLatest) {
  for (const char* version : {"2", "10", "9"}) ASSERT_TRUE(Add("m", version).ok());
  EXPECT_EQ(Find("m", ""), "m/10");
  EXPECT_EQ(Find("m", "9"), "m/9");
}

TEST_F(RegistryTest, AnUnknownNameListsWhatThereIs) {
  ASSERT_TRUE(Add("m", "1").ok());
  EXPECT_EQ(Find("nope", ""), "no model \"nope\"; served here: m (version 1)");
  EXPECT_EQ(Find("m", "7"), "no model \"m\" of version \"7\"; served here: m (version 1)");
}

TEST_F(RegistryTest, RefusesTheSameModelTwice) {
  ASSERT_TRUE(Add("m", "1").ok());
  EXPECT_EQ(Add("m", "1").code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(RegistryTest, ListsByNameAndVersion) {
  for (const auto& [name, version] : {std::pair("b", "1"), {"a", "10"}, {"a", "9"}})
    ASSERT_TRUE(Add(name, version).ok());
  std::string names;
  for (const Model* model : registry_.List())
    names += model->spec().name + model->spec().version + " ";
  EXPECT_EQ(names, "a9 a10 b1 ");
}

}  // namespace
}  // namespace millrace
