#include "server/transports/http/router.h"

#include <gtest/gtest.h>

#include <string>

namespace millrace {
namespace {

TEST(RouterTest, FindsModelsAndVersions) {
  const Route route = FindRoute("/v1/models/a:b/versions/2:predict").value();
  EXPECT_EQ(route.page, Page::kPredict);
  EXPECT_EQ(route.model, "a:b");
  EXPECT_EQ(route.version, "2");
  EXPECT_EQ(FindRoute("/v1/models/a")->page, Page::kModel);
  EXPECT_EQ(FindRoute("/v1/models")->page, Page::kModels);
  EXPECT_EQ(FindRoute("/predict")->model, "");
}

TEST(RouterTest, RefusesOtherPaths) {
  for (const char* path :
       {"", "/", "/Predict", "/predict/", "/v1/models/", "/v1/models/:predict", "/v1/modelsx",
        "/v1/models/a/b", "/v1/models/a/versions/:predict", "/v1/models/a/versions/1/2"}) {
    EXPECT_TRUE(absl::IsNotFound(FindRoute(path).status())) << path;
  }
}

TEST(RouterTest, ReadsTheQuery) {
  const Target target = ParseTarget("/a%20b?shape=3%2C2&name=x+y&empty&shape2=").value();
  EXPECT_EQ(target.path, "/a b");
  EXPECT_EQ(target.Find("shape"), "3,2");
  EXPECT_EQ(target.Find("name"), "x y");
  EXPECT_EQ(target.Find("empty"), "");
  EXPECT_EQ(target.Find("no"), std::nullopt);
}

TEST(RouterTest, TakesAWholeAddress) {
  EXPECT_EQ(ParseTarget("http://host:80/predict?a=b")->path, "/predict");
}

TEST(RouterTest, BoundsTheQuery) {
  std::string target = "/?a";
  for (int i = 1; i < 64; ++i) target += "&" + std::to_string(i);
  EXPECT_TRUE(ParseTarget(target).ok());
  EXPECT_FALSE(ParseTarget(target + "&b").ok());
}

TEST(RouterTest, RefusesAmbiguousTargets) {
  for (const char* target :
       {"/?a=1&a=2", "/%", "/%1", "/%zz", "/?%4", "/%0x", "/%+1", "/% 1", "/%1 "}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseTarget(target).status())) << target;
  }
}

}  // namespace
}  // namespace millrace
