#include "server/transports/http/request_head.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <string>

#include "server/transports/http/http_error.h"

namespace millrace {
namespace {

struct GateCase {
  const char* name;
  std::string head;
  int status;  // 200: accepted
};

void PrintTo(const GateCase& test, std::ostream* out) { *out << test.name; }

std::string Post(const std::string& fields) {
  return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n";
}

std::string ManyFields(int count) {
  std::string fields;
  for (int i = 1; i < count; ++i) absl::StrAppend(&fields, "F", i, ": x\r\n");
  return Post(fields);
}

const GateCase kGateCases[] = {
    {"Length", Post("Content-Length: 5\r\n"), 200},
    {"Chunked", Post("Transfer-Encoding: Chunked\r\n"), 200},
    {"NoBody", Post(""), 200},
    {"OldVersion", "GET / HTTP/1.0\r\n\r\n", 200},
    {"HundredFields", ManyFields(100), 200},

    {"NewerVersion", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
    {"OlderVersion", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505},
    {"NoVersion", "GET /\r\nHost: a\r\n\r\n", 400},
    {"OtherProtocol", "GET / HTCPCP/1.0\r\nHost: a\r\n\r\n", 400},
    {"NoHost", "GET / HTTP/1.1\r\n\r\n", 400},
    {"TwoHosts", Post("Host: b\r\n"), 400},
    {"TwoHostsInOldVersion", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400},
    {"FoldedLine", Post("A: b\r\n c\r\n"), 400},
    {"FoldedLineByTab", Post("Transfer-Encoding:\r\n\tchunked\r\n"), 400},
    {"SpaceBeforeColon", Post("Content-Length : 5\r\n"), 400},
    {"NoColon", Post("Content-Length\r\n"), 400},
    {"BareLineFeed", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
    {"NulInValue", Post(std::string("A: b\0c\r\n", 8)), 400},
    {"HundredAndOneFields", ManyFields(101), 431},

    {"TwoLengths", Post("Content-Length: 5\r\nContent-Length: 5\r\n"), 400},
    {"TwoDifferentLengths", Post("Content-Length: 5\r\nContent-Length: 6\r\n"), 400},
    {"ListOfLengths", Post("Content-Length: 5, 5\r\n"), 400},
    {"SignedLength", Post("Content-Length: +5\r\n"), 400},
    {"NegativeLength", Post("Content-Length: -5\r\n"), 400},
    {"HexadecimalLength", Post("Content-Length: 0x5\r\n"), 400},
    {"EmptyLength", Post("Content-Length:\r\n"), 400},
    {"LengthBeyond63Bits", Post("Content-Length: 9223372036854775808\r\n"), 413},
    {"LengthBeyond64Bits", Post("Content-Length: 99999999999999999999\r\n"), 400},

    {"LengthAndChunked", Post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400},
    {"TwoEncodings", Post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
    {"AlmostChunked", Post("Transfer-Encoding: xchunked\r\n"), 501},
    {"ChunkedThenIdentity", Post("Transfer-Encoding: chunked, identity\r\n"), 501},
    {"GzipThenChunked", Post("Transfer-Encoding: gzip, chunked\r\n"), 501},
    {"ChunkedTwice", Post("Transfer-Encoding: chunked, chunked\r\n"), 501},
    {"QuotedChunked", Post("Transfer-Encoding: \"chunked\"\r\n"), 501},
    {"EmptyEncoding", Post("Transfer-Encoding:\r\n"), 501},
    {"ChunkedInOldVersion", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},

    {"Continue", Post("Expect: 100-Continue\r\n"), 200},
    {"OtherExpectation", Post("Expect: 200-ok\r\n"), 417},
    {"TwoExpectations", Post("Expect: 100-continue\r\nExpect: 100-continue\r\n"), 417},
    {"CompressedBody", Post("Content-Encoding: gzip\r\n"), 415},
};

class GateTest : public testing::TestWithParam<GateCase> {};

TEST_P(GateTest, Decides) {
  const absl::StatusOr<RequestHead> head = ParseHead(GetParam().head);
  EXPECT_EQ(HttpStatus(head.status()), GetParam().status) << head.status();
}

INSTANTIATE_TEST_SUITE_P(Cases, GateTest, testing::ValuesIn(kGateCases),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(RequestHeadTest, TellsWhatTheGateAccepted) {
  const RequestHead head =
      ParseHead(Post("Content-Length: 5\r\nContent-Type: a/b\r\nAccept: c\r\nAccept: d\r\n"
                     "X-Request-Id: id\r\nExpect: 100-continue\r\n"))
          .value();
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.framing, Framing::kLength);
  EXPECT_EQ(head.content_length, 5u);
  EXPECT_EQ(head.content_type, "a/b");
  EXPECT_EQ(head.accept, "c,d");
  EXPECT_EQ(head.request_id, "id");
  EXPECT_TRUE(head.expects_continue);
  EXPECT_TRUE(head.keep_alive);
}

TEST(RequestHeadTest, IgnoresExpectationsOfOldClients) {
  const auto head = ParseHead("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n");
  ASSERT_TRUE(head.ok());
  EXPECT_FALSE(head->expects_continue);
  EXPECT_FALSE(head->keep_alive);
}

TEST(RequestHeadTest, DropsRequestIdsThatAreLongOrUnprintable) {
  EXPECT_EQ(ParseHead(Post("X-Request-Id: " + std::string(129, 'x') + "\r\n"))->request_id, "");
  EXPECT_EQ(ParseHead(Post("X-Request-Id: \xff\r\n"))->request_id, "");
}

TEST(RequestHeadTest, FindsTheEndWhereverItIsCut) {
  const std::string head = Post("A: b\r\n");
  const std::string bytes = head + "body";
  for (size_t cut = 0; cut < head.size(); ++cut) {
    EXPECT_EQ(FindHead(bytes.substr(0, cut), 0).value(), std::nullopt);
    EXPECT_EQ(FindHead(bytes, cut).value(), head.size());
  }
}

TEST(RequestHeadTest, GivesUpOnALongHeader) {
  const std::string most(kMaxHeadSize - 1, 'x');
  EXPECT_TRUE(FindHead(most, 0).ok());
  EXPECT_EQ(HttpStatus(FindHead(most + "x", most.size()).status()), 431);
}

}  // namespace
}  // namespace millrace
