// The binary, as a user runs it.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <string>

#include "proto/wire/npy.h"
#include "tests/client/fake_grpc_server.h"
#include "tests/proto/temp_folder.h"

namespace millrace {
namespace {

using ::testing::HasSubstr;

class CliTest : public ::testing::Test {
 protected:
  CliTest() { folder_.Write("a.npy", NpyHeader({"", DType::kUint8, {3}}) + "\1\2\3"); }

  // Runs it in the folder; gives back the exit status.
  int Run(const std::string& arguments, const std::string& redirect = ">out") {
    const int status = ::system(absl::StrCat("cd ", folder_.path(), " && ", MILLRACE_CLI, " ",
                                             arguments, " 2>err ", redirect)
                                    .c_str());
    out_ = folder_.Read("out");
    err_ = folder_.Read("err");
    return WEXITSTATUS(status);
  }

  int Predict(const std::string& arguments, const std::string& redirect = ">out") {
    return Run(absl::StrCat("predict --url ", server_.address(), " ", arguments), redirect);
  }

  FakeGrpcServer server_;
  TempFolder folder_;
  std::string out_, err_;
};

TEST_F(CliTest, PredictsFromANpyFile) {
  EXPECT_EQ(Predict("--model echo a.npy"), 0) << err_;
  EXPECT_EQ(out_, "output: uint8[3] [1,2,3]\n");
  EXPECT_EQ(err_, "");
}

TEST_F(CliTest, PredictsFromRawElements) {
  folder_.Write("raw", "\1\2\3\4");
  EXPECT_EQ(Predict("--shape 2,2 --dtype uint8 --unary raw"), 0) << err_;
  EXPECT_EQ(out_, "output: uint8[2,2] [[1,2],[3,4]]\n");
}

TEST_F(CliTest, TakesSeveralInputsAndWritesSeveralOutputs) {
  folder_.Write("b.npy", NpyHeader({"", DType::kInt8, {}}) + "\5");
  EXPECT_EQ(Predict("--stream --input x=a.npy --input y=b.npy --out y=y.npy --out x=x.npy"), 0)
      << err_;
  EXPECT_EQ(out_, "x: uint8[3] [1,2,3]\ny: int8[] 5\n");
  EXPECT_EQ(folder_.Read("x.npy"), folder_.Read("a.npy"));
  EXPECT_EQ(folder_.Read("y.npy"), folder_.Read("b.npy"));
}

TEST_F(CliTest, RepeatsAndTellsTheTimes) {
  EXPECT_EQ(Predict("--repeat 5 --timeout 30 a.npy"), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("5 requests of 3 B: median "));
}

TEST_F(CliTest, ListsModels) {
  EXPECT_EQ(Run("models --url " + server_.address()), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("echo 7\n  in   image: float32[any,3], or one element for all\n"));
  EXPECT_EQ(Run("models none --url " + server_.address()), 1);
  EXPECT_EQ(err_, "millrace: no such model\n");
}

TEST_F(CliTest, WrongArgumentsAreUsageErrors) {
  for (const char* arguments :
       {"", "predict", "predict --unary --http a.npy", "predict --shape 3 a.npy",
        "predict --shape x --dtype uint8 a.npy", "predict --shape 3 --dtype f4 a.npy",
        "predict --timeout -1 a.npy", "predict --repeat 0 a.npy", "bake"}) {
    EXPECT_EQ(Run(arguments), 2) << arguments;
    EXPECT_THAT(err_, ::testing::StartsWith("millrace: ")) << arguments;
    EXPECT_EQ(std::count(err_.begin(), err_.end(), '\n'), 1) << err_;
  }
}

TEST_F(CliTest, FilesThatCannotBeReadAreTold) {
  folder_.Write("text", "hello, I am a text file");
  folder_.Write("short.npy", NpyHeader({"", DType::kUint8, {3}}) + "\1\2");
  folder_.Write("fortran.npy", std::string("\x93NUMPY\1\0\x50\0", 10) +
                                   "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }" +
                                   std::string(22, ' '));
  EXPECT_EQ(Predict("none.npy"), 1);
  EXPECT_EQ(err_, "millrace: cannot read none.npy: No such file or directory\n");
  EXPECT_EQ(Predict("text"), 1);
  EXPECT_THAT(err_, HasSubstr("not a .npy file"));
  EXPECT_EQ(Predict("short.npy"), 1);
  EXPECT_THAT(err_, HasSubstr("takes 3 bytes, and it has 2"));
  EXPECT_EQ(Predict("fortran.npy"), 1);
  EXPECT_THAT(err_, HasSubstr("numpy.ascontiguousarray"));
  EXPECT_EQ(Predict("."), 1);
}

TEST_F(CliTest, AServerThatIsNotThereIsTold) {
  server_.Stop();
  EXPECT_EQ(Predict("a.npy"), 1);
  EXPECT_THAT(err_, HasSubstr("Connection refused; is millrace-server running there?"));
}

TEST_F(CliTest, AFullDiskIsTold) {
  EXPECT_EQ(Predict("--out /dev/full a.npy"), 1);
  EXPECT_EQ(err_, "millrace: cannot write /dev/full: No space left on device\n");
  EXPECT_EQ(Predict("a.npy", ">/dev/full"), 1);
  EXPECT_EQ(err_, "millrace: cannot write to standard output: No space left on device\n");
}

TEST_F(CliTest, AClosedPipeIsTold) {
  // The reader is gone before the writer starts.
  EXPECT_EQ(Predict("a.npy", "| { exec <&-; cat err >/dev/null; }; true"), 0);
  EXPECT_THAT(err_, ::testing::AnyOf("", HasSubstr("Broken pipe")));
}

}  // namespace
}  // namespace millrace
