#include "server/transports/http/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "proto/wire/npy.h"
#include "server/transports/http/http_error.h"

namespace millrace {
namespace {

using testing::HasSubstr;

TEST(CodecTest, ReadsByContentType) {
  EXPECT_EQ(ChooseReader("").value(), &RawCodec());
  EXPECT_EQ(ChooseReader("application/x-www-form-urlencoded").value(), &RawCodec());
  EXPECT_EQ(ChooseReader("Application/JSON; charset=utf-8").value(), &JsonCodec());
  EXPECT_EQ(ChooseReader("application/x-npy").value(), &NpyCodec());
  EXPECT_EQ(HttpStatus(ChooseReader("text/plain").status()), 415);
}

TEST(CodecTest, WritesWhatIsPreferred) {
  const std::pair<const char*, const Codec*> cases[] = {
      {"", &RawCodec()},
      {"*/*", &RawCodec()},
      {"application/*", &RawCodec()},
      {"application/json", &JsonCodec()},
      {"text/html, application/json;q=0.1", &JsonCodec()},
      {"application/json;q=0.5, */*;q=0.1", &JsonCodec()},
      {"application/x-npy;q=0.9, application/json;q=0.8", &NpyCodec()},
      {"application/octet-stream;q=0, */*", &NpyCodec()},
  };
  for (const auto& [accept, codec] : cases) {
    EXPECT_EQ(ChooseWriter(accept, RawCodec()).value(), codec) << accept;
  }
  EXPECT_EQ(HttpStatus(ChooseWriter("text/html", RawCodec()).status()), 406);
  EXPECT_EQ(HttpStatus(ChooseWriter("*/*;q=0", RawCodec()).status()), 406);
}

class BinaryTest : public testing::Test {
 protected:
  BinaryTest() { spec_.inputs = {{.name = "x", .dtype = DType::kFloat32, .shape = {kAnySize, 2}}}; }

  BodyInfo Info(absl::string_view query, std::optional<uint64_t> size) {
    target_ = ParseTarget(absl::StrCat("/?", query)).value();
    return {spec_, target_, size};
  }

  absl::StatusOr<Question> Decode(const Codec& codec, const std::string& bytes,
                                  absl::string_view query = "") {
    auto slab = pool_.Promise(bytes.size());
    EXPECT_TRUE(slab->Map().ok());
    bytes.copy(reinterpret_cast<char*>(slab->data()), bytes.size());
    Tensor body;
    body.bytes = absl::MakeConstSpan(slab->data(), bytes.size());
    body.owner = std::shared_ptr<const Slab>(std::move(slab));
    return codec.Decode(std::move(body), Info(query, bytes.size()), pool_, workers_);
  }

  ModelSpec spec_;
  Target target_;
  SlabPool pool_{SlabPoolOptions{.limit = 1 << 20}};
  boost::asio::thread_pool workers_{1};
};

TEST_F(BinaryTest, TheQueryDeclaresARawBody) {
  const auto declaration = RawCodec().Declare(Info("shape=3,2&dtype=float32&name=x", 24)).value();
  EXPECT_THAT(*declaration.tensors, testing::ElementsAre(TensorMeta{"x", DType::kFloat32, {3, 2}}));
}

TEST_F(BinaryTest, TheModelTellsTheTypeThatTheQueryLacks) {
  const auto declaration = RawCodec().Declare(Info("shape=3,2", std::nullopt)).value();
  EXPECT_EQ(declaration.tensors->front().dtype, DType::kFloat32);
}

TEST_F(BinaryTest, RefusesHostileQueries) {
  for (const char* query :
       {"shape=-1,2", "shape=3,x", "shape=4611686018427387904,4", "dtype=float33",
        "dtype=", "shape=3,2&dtype=unspecified", "shape=1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
        "shape=4,2", "dtype=float64&shape=3,2"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(RawCodec().Declare(Info(query, 24)).status())) << query;
  }
}

TEST_F(BinaryTest, ANpyBodyNeedsNoOtherWord) {
  const std::string npy = NpyHeader({"", DType::kFloat32, {1, 2}}) + "12345678";
  for (const Codec* codec : {&RawCodec(), &NpyCodec()}) {
    const auto question = Decode(*codec, npy);
    ASSERT_TRUE(question.ok()) << question.status();
    EXPECT_EQ(question->form, &NpyCodec());
    EXPECT_EQ(question->tensors[0].meta, (TensorMeta{"", DType::kFloat32, {1, 2}}));
    EXPECT_EQ(std::memcmp(question->tensors[0].bytes.data(), "12345678", 8), 0);
  }
}

TEST_F(BinaryTest, AQueryMakesNpyBytesPlainBytes) {
  spec_.any_tensors = true;
  const std::string npy = NpyHeader({"", DType::kFloat32, {1, 2}}) + "12345678";
  EXPECT_EQ(Decode(RawCodec(), npy, "dtype=uint8")->tensors[0].bytes.size(), npy.size());
}

TEST_F(BinaryTest, AlignsWhatAnOldWriterDidNot) {
  std::string npy = NpyHeader({"", DType::kFloat32, {1, 2}});
  const size_t shorter = (npy.size() - 10) - 16;
  npy = npy.substr(0, 8) + static_cast<char>(shorter) + '\0' + npy.substr(10, shorter - 1) + "\n" +
        "12345678";
  const auto question = Decode(NpyCodec(), npy);
  ASSERT_TRUE(question.ok()) << question.status();
  const Tensor& tensor = question->tensors[0];
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % kTensorAlignment, 0u);
  EXPECT_EQ(std::memcmp(tensor.bytes.data(), "12345678", 8), 0);
}

TEST_F(BinaryTest, InspectsAsSoonAsItCan) {
  const std::string npy = NpyHeader({"", DType::kFloat64, {1, 2}});
  const BodyInfo info = Info("", npy.size() + 16);
  for (size_t size = 0; size < npy.size(); ++size) {
    EXPECT_FALSE(NpyCodec().Inspect(npy.substr(0, size), info).value()) << size;
  }
  EXPECT_THAT(NpyCodec().Inspect(npy, info).status().message(), HasSubstr("float64"));
}

TEST_F(BinaryTest, RefusesATruncatedNpyHeader) {
  EXPECT_FALSE(Decode(NpyCodec(), "\x93NUMPY").ok());
  EXPECT_FALSE(Decode(NpyCodec(), "").ok());
  EXPECT_FALSE(Decode(NpyCodec(), "12345678123456781234567812345678").ok());
}

}  // namespace
}  // namespace millrace
