#include "server/workers/message.h"

#include <gtest/gtest.h>

#include <string>

namespace millrace {
namespace {

std::string Framed(absl::string_view text, absl::string_view tail = "") {
  std::string message(4, '\0');
  message[0] = static_cast<char>(text.size());
  message[1] = static_cast<char>(text.size() >> 8);
  return message.append(text.data(), text.size()).append(tail.data(), tail.size());
}

bool Refuses(absl::string_view text, absl::string_view tail = "") {
  return ParseReply(Framed(text, tail)).status().code() == absl::StatusCode::kInvalidArgument;
}

TEST(MessageTest, WritesARun) {
  EXPECT_EQ(
      RunMessage(7, {{{"a\"\n", DType::kFloat32, {2, 3}}, {5, 64}}, {{"b", DType::kBool, {0}}}},
                 {{5, 4096, false}}),
      Framed(R"({"run":7,"inputs":[{"name":"a\"\u000a","dtype":"float32","shape":[2,3],)"
             R"("memory":5,"offset":64},{"name":"b","dtype":"bool","shape":[0]}],)"
             R"("maps":[{"memory":5,"size":4096,"writable":false}]})"));
}

TEST(MessageTest, WritesRoomAndWhatToForget) {
  EXPECT_EQ(RoomMessage({{6, 0}, {}}, {{6, 8192, true}}),
            Framed(R"({"outputs":[{"memory":6,"offset":0},{}],)"
                   R"("maps":[{"memory":6,"size":8192,"writable":true}]})"));
  EXPECT_EQ(ForgetMessage({1, 22}), Framed(R"({"forget":[1,22]})"));
}

TEST(MessageTest, ReadsASpec) {
  const auto hello = ParseHello(Framed(
      R"({"version":1,"any_tensors":false,"inputs":[{"name":"x","dtype":"int8","shape":[-1,3]},)"
      R"({"name":"y","dtype":null,"shape":null}],"outputs":null,"files":["/a.py"]})"));
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(ToString(hello->spec.inputs.at(0)), "x: int8[-1,3]");
  EXPECT_EQ(ToString(hello->spec.inputs.at(1)), "y: any[...]");
  EXPECT_TRUE(hello->spec.outputs.empty());
  EXPECT_EQ(hello->files, std::vector<std::string>{"/a.py"});
}

TEST(MessageTest, ReadsWhyAWorkerCannotStart) {
  const auto hello =
      ParseHello(Framed(R"({"version":1,"failed":"Error: two\nlines","traceback":"","files":[]})"));
  ASSERT_TRUE(hello.ok());
  EXPECT_EQ(hello->failed, "Error: two lines");
}

TEST(MessageTest, RefusesAnotherVersion) {
  EXPECT_FALSE(ParseHello(Framed(R"({"version":2,"inputs":[],"outputs":null,"files":[]})")).ok());
}

TEST(MessageTest, ReadsOutputsWithTheirBytes) {
  const std::string message =
      Framed(R"({"run":3,"inline":true,"outputs":[{"name":"a","dtype":"int16","shape":[2]},)"
             R"({"name":"b","dtype":"uint8","shape":[]}],"dropped":[4]})",
             "abcde");
  const auto reply = ParseReply(message);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->kind, Reply::Kind::kOutputs);
  EXPECT_EQ(reply->run, 3u);
  EXPECT_EQ(reply->outputs.at(0), (TensorMeta{"a", DType::kInt16, {2}}));
  EXPECT_EQ(reply->bytes, "abcde");
  EXPECT_EQ(reply->dropped, std::vector<uint64_t>{4});
}

TEST(MessageTest, ReadsTheOtherKinds) {
  EXPECT_EQ(ParseReply(Framed(R"({"run":1,"error":"E"})"))->kind, Reply::Kind::kError);
  EXPECT_EQ(ParseReply(Framed(R"({"run":1,"written":true})"))->kind, Reply::Kind::kWritten);
  EXPECT_EQ(
      ParseReply(Framed(R"({"run":1,"outputs":[{"name":"a","dtype":"bool","shape":[9]}]})"))->kind,
      Reply::Kind::kNeedsRoom);
}

TEST(MessageTest, CutsALongErrorBetweenCharacters) {
  std::string text = "E";
  for (int i = 0; i < 1000; ++i) text += "ü";
  const auto reply = ParseReply(Framed(R"({"run":1,"error":")" + text + "\"}"));
  EXPECT_EQ(reply->error, text.substr(0, 999) + "...");
}

TEST(MessageTest, RefusesWhatIsNoReply) {
  EXPECT_FALSE(ParseReply("").ok());
  EXPECT_FALSE(ParseReply("abc").ok());
  EXPECT_FALSE(ParseReply(std::string("\xff\xff\xff\xff{}", 6)).ok());
  EXPECT_TRUE(Refuses("[]"));
  EXPECT_TRUE(Refuses("{}"));
  EXPECT_TRUE(Refuses(R"({"run":-1,"written":true})"));
  EXPECT_TRUE(Refuses(R"({"run":1})"));
  EXPECT_TRUE(Refuses(R"({"run":1,"outputs":[]})"));
  EXPECT_TRUE(Refuses(R"({"run":1,"error":5})"));
}

TEST(MessageTest, RefusesOutputsThatCannotBe) {
  const auto refuses = [](absl::string_view dtype, absl::string_view shape,
                          absl::string_view tail) {
    return Refuses(absl::StrCat(R"({"run":1,"inline":true,"outputs":[{"name":"a","dtype":)", dtype,
                                ",\"shape\":", shape, "}]}"),
                   tail);
  };
  EXPECT_FALSE(refuses("\"int8\"", "[2]", "ab"));
  EXPECT_TRUE(refuses("\"int8\"", "[2]", "a"));
  EXPECT_TRUE(refuses("\"int8\"", "[2]", "abc"));
  EXPECT_TRUE(refuses("\"object\"", "[2]", "ab"));
  EXPECT_TRUE(refuses("null", "[2]", "ab"));
  EXPECT_TRUE(refuses("\"int8\"", "null", ""));
  EXPECT_TRUE(refuses("\"int8\"", "[-1]", ""));
  EXPECT_TRUE(refuses("\"int8\"", "[1.5]", "ab"));
  EXPECT_TRUE(refuses("\"int8\"", "[4294967296,4294967296]", ""));
  EXPECT_TRUE(refuses("\"int8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "a"));
  EXPECT_TRUE(Refuses(R"({"run":1,"outputs":[{"name":"a","dtype":"bool","shape":[]},)"
                      R"({"name":"a","dtype":"bool","shape":[]}]})"));
}

}  // namespace
}  // namespace millrace
