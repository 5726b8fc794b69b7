#include "server/transports/http/request_head.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <iterator>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>

#include "proto/wire/tensor.h"
#include "server/core/status_macros.h"
#include "server/transports/http/http_error.h"

namespace millrace {
namespace {

namespace beast_http = boost::beast::http;
using Fields = beast_http::request<beast_http::empty_body>;

constexpr size_t kMaxRequestIdSize = 128;

absl::Status Bad(absl::string_view message) {
  return HttpError(400, absl::StatusCode::kInvalidArgument, message);
}

absl::Status TooLong(absl::string_view message) {
  return HttpError(431, absl::StatusCode::kInvalidArgument, message);
}

size_t Count(const Fields& fields, beast_http::field name) {
  const auto [first, last] = fields.equal_range(name);
  return static_cast<size_t>(std::distance(first, last));
}

std::string Value(const Fields& fields, beast_http::field name) {
  const auto value = fields[name];
  return std::string(value.data(), value.size());
}

// Beast unfolds continued lines; other servers take them as lines of their own.
bool HasFoldedLine(absl::string_view head) {
  return absl::StrContains(head, "\r\n ") || absl::StrContains(head, "\r\n\t");
}

// "GET / HTTP/2.0", whatever the digits.
bool NamesHttp(absl::string_view head) {
  constexpr absl::string_view kVersion = " HTTP/1.1";
  const absl::string_view line = head.substr(0, head.find("\r\n"));
  if (line.size() < kVersion.size()) return false;
  return absl::StartsWith(line.substr(line.size() - kVersion.size()), " HTTP/");
}

absl::Status ParseError(absl::string_view head, const boost::system::error_code& error) {
  if (error == beast_http::error::bad_version && NamesHttp(head)) {
    return HttpError(505, absl::StatusCode::kUnimplemented,
                     "the request is neither HTTP/1.1 nor HTTP/1.0");
  }
  if (error == beast_http::error::header_limit) return TooLong("the header is too long");
  return Bad(absl::StrCat("the header is malformed: ", error.message()));
}

absl::Status CheckFields(absl::string_view head, const Fields& fields) {
  if (static_cast<size_t>(std::distance(fields.begin(), fields.end())) > kMaxHeadFields) {
    return TooLong(absl::StrCat("the header has more than ", kMaxHeadFields, " fields"));
  }
  if (HasFoldedLine(head)) return Bad("a header line is continued on the next one");
  const size_t hosts = Count(fields, beast_http::field::host);
  if (hosts > 1) return Bad("more than one Host");
  if (hosts == 0 && fields.version() == 11) return Bad("Host is missing");
  return absl::OkStatus();
}

absl::Status ReadLength(const Fields& fields, RequestHead& head) {
  const std::string text = Value(fields, beast_http::field::content_length);
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits) return Bad("Content-Length is not a decimal number");
  if (!absl::SimpleAtoi(text, &head.content_length) || head.content_length > INT64_MAX) {
    return HttpError(413, absl::StatusCode::kResourceExhausted,
                     "Content-Length is beyond what 63 bits count");
  }
  head.framing = Framing::kLength;
  return absl::OkStatus();
}

absl::Status ReadFraming(const Fields& fields, RequestHead& head) {
  const size_t lengths = Count(fields, beast_http::field::content_length);
  const size_t encodings = Count(fields, beast_http::field::transfer_encoding);
  if (lengths > 1) return Bad("more than one Content-Length");
  if (encodings > 1) return Bad("more than one Transfer-Encoding");
  if (lengths == 1 && encodings == 1) return Bad("both Content-Length and Transfer-Encoding");
  if (lengths == 1) return ReadLength(fields, head);
  if (encodings == 0) return absl::OkStatus();
  if (head.http_1_0) return Bad("Transfer-Encoding in an HTTP/1.0 request");
  if (!absl::EqualsIgnoreCase(Value(fields, beast_http::field::transfer_encoding), "chunked")) {
    return HttpError(501, absl::StatusCode::kUnimplemented,
                     "the only Transfer-Encoding that is understood is chunked");
  }
  head.framing = Framing::kChunked;
  return absl::OkStatus();
}

absl::Status ReadExpectation(const Fields& fields, RequestHead& head) {
  if (head.http_1_0 || Count(fields, beast_http::field::expect) == 0) return absl::OkStatus();
  if (Count(fields, beast_http::field::expect) > 1 ||
      !absl::EqualsIgnoreCase(Value(fields, beast_http::field::expect), "100-continue")) {
    return HttpError(417, absl::StatusCode::kInvalidArgument,
                     "the only Expect that is understood is 100-continue");
  }
  head.expects_continue = true;
  return absl::OkStatus();
}

absl::Status CheckContentEncoding(const Fields& fields) {
  const std::string encoding = Value(fields, beast_http::field::content_encoding);
  if (encoding.empty() || absl::EqualsIgnoreCase(encoding, "identity")) return absl::OkStatus();
  return HttpError(415, absl::StatusCode::kInvalidArgument,
                   absl::StrCat("Content-Encoding ", Printable(encoding),
                                " is not understood; send the body as it is"));
}

std::string Joined(const Fields& fields, beast_http::field name) {
  std::string all;
  const auto [first, last] = fields.equal_range(name);
  for (auto field = first; field != last; ++field) {
    const auto value = field->value();
    absl::StrAppend(&all, all.empty() ? "" : ",", absl::string_view(value.data(), value.size()));
  }
  return all;
}

std::string RequestId(const Fields& fields) {
  const auto field = fields["X-Request-Id"];
  const absl::string_view value(field.data(), field.size());
  const bool sound = value.size() <= kMaxRequestIdSize && Printable(value, value.size()) == value;
  return sound ? std::string(value) : "";
}

}  // namespace

absl::StatusOr<std::optional<size_t>> FindHead(absl::string_view bytes, size_t searched) {
  constexpr absl::string_view kEnd = "\r\n\r\n";
  const size_t overlap = kEnd.size() - 1;
  const size_t from = searched > overlap ? searched - overlap : 0;
  const size_t end = bytes.substr(0, kMaxHeadSize).find(kEnd, from);
  if (end != absl::string_view::npos) return end + kEnd.size();
  if (bytes.size() >= kMaxHeadSize) {
    return TooLong(absl::StrCat("the header is longer than ", kMaxHeadSize, " bytes"));
  }
  return std::nullopt;
}

absl::StatusOr<RequestHead> ParseHead(absl::string_view text) {
  beast_http::request_parser<beast_http::empty_body> parser;
  parser.header_limit(kMaxHeadSize + 1);
  parser.body_limit(boost::none);
  boost::system::error_code error;
  parser.put(boost::asio::buffer(text.data(), text.size()), error);
  if (!error && !parser.is_header_done()) error = beast_http::error::need_more;
  if (error) return ParseError(text, error);

  const Fields& fields = parser.get();
  RETURN_IF_ERROR(CheckFields(text, fields));
  RequestHead head;
  head.method = std::string(fields.method_string().data(), fields.method_string().size());
  head.target = std::string(fields.target().data(), fields.target().size());
  head.http_1_0 = fields.version() == 10;
  head.keep_alive = parser.keep_alive();
  RETURN_IF_ERROR(ReadFraming(fields, head));
  RETURN_IF_ERROR(ReadExpectation(fields, head));
  RETURN_IF_ERROR(CheckContentEncoding(fields));
  head.content_type = Value(fields, beast_http::field::content_type);
  head.accept = Joined(fields, beast_http::field::accept);
  head.request_id = RequestId(fields);
  return head;
}

}  // namespace millrace
