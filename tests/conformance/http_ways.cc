#include "tests/conformance/http_ways.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/strip.h>
#include <simdjson.h>

#include <cstring>
#include <limits>

#include <boost/asio/connect.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "proto/wire/npy.h"
#include "proto/wire/text.h"

namespace millrace {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using HttpResponse = http::response<http::string_body>;

asio::generic::stream_protocol::endpoint EndpointOf(absl::string_view address) {
  if (absl::ConsumePrefix(&address, "unix:"))
    return asio::local::stream_protocol::endpoint(std::string(address));
  const size_t colon = address.rfind(':');
  int port = 0;
  (void)absl::SimpleAtoi(address.substr(colon + 1), &port);
  return asio::ip::tcp::endpoint(asio::ip::make_address(std::string(address.substr(0, colon))),
                                 static_cast<uint16_t>(port));
}

// The code that an error's JSON body names.
absl::Status ErrorOf(const HttpResponse& response) {
  simdjson::dom::parser parser;
  simdjson::dom::element body = parser.parse(simdjson::padded_string(response.body()));
  const std::string code(body["code"].get_string().value());
  const std::string message(body["error"].get_string().value());
  for (int i = 1; i <= 16; ++i) {
    const auto candidate = static_cast<absl::StatusCode>(i);
    if (absl::StatusCodeToString(candidate) == code) return absl::Status(candidate, message);
  }
  return absl::UnknownError(absl::StrCat("an error with the code ", code));
}

absl::StatusOr<HttpResponse> Post(const std::string& address, const std::string& model,
                                  const std::string& query, const char* type, std::string body) {
  asio::io_context io;
  asio::generic::stream_protocol::socket socket(io);
  socket.connect(EndpointOf(address));
  http::request<http::string_body> request(
      http::verb::post, absl::StrCat("/v1/models/", model, ":predict", query), 11);
  request.set(http::field::host, "test");
  request.set(http::field::content_type, type);
  request.body() = std::move(body);
  request.prepare_payload();
  boost::system::error_code write_error;  // A server may answer before all is sent.
  http::write(socket, request, write_error);
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  http::read(socket, buffer, parser);
  HttpResponse response = parser.release();
  if (response.result() != http::status::ok) return ErrorOf(response);
  return response;
}

// A tensor as nested lists, and each element as float64.
void Flatten(simdjson::dom::element element, size_t depth, NamedBytes& out) {
  if (!element.is_array()) {
    double value = 0;
    if (element.is_bool()) {
      value = element.get_bool().value() ? 1 : 0;
    } else {
      value = element.get_double().value();
    }
    out.bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return;
  }
  const simdjson::dom::array array = element.get_array();
  if (out.meta.shape.size() == depth) out.meta.shape.push_back(static_cast<int64_t>(array.size()));
  for (const simdjson::dom::element child : array) Flatten(child, depth + 1, out);
}

NamedBytes FromJson(std::string name, simdjson::dom::element element) {
  NamedBytes tensor;
  tensor.meta.name = std::move(name);
  tensor.meta.dtype = DType::kFloat64;
  Flatten(element, 0, tensor);
  return tensor;
}

}  // namespace

absl::StatusOr<Answer> AskRaw(const std::string& address, const Question& question) {
  const NamedBytes& tensor = question.tensors.at(0);
  const std::string query =
      absl::StrCat("?shape=", absl::StrJoin(tensor.meta.shape, ","),
                   "&dtype=", std::string(Name(tensor.meta.dtype)), "&name=", tensor.meta.name);
  const auto response =
      Post(address, question.model, query, "application/octet-stream", tensor.bytes);
  if (!response.ok()) return response.status();
  NamedBytes output;
  output.meta.dtype = ParseDType(std::string((*response)["Millrace-Dtype"])).value();
  output.meta.shape = ParseShape(std::string((*response)["Millrace-Shape"])).value();
  output.bytes = response->body();
  return Answer{{output}};
}

absl::StatusOr<Answer> AskNpy(const std::string& address, const Question& question) {
  const NamedBytes& tensor = question.tensors.at(0);
  const auto response = Post(address, question.model, absl::StrCat("?name=", tensor.meta.name),
                             "application/x-npy", NpyHeader(tensor.meta) + tensor.bytes);
  if (!response.ok()) return response.status();
  const std::string& body = response->body();
  const size_t header = NpyHeaderSize(body).value();
  return Answer{{{ParseNpyHeader(body.substr(0, header)).value(), body.substr(header)}}};
}

absl::StatusOr<Answer> AskJson(const std::string& address, const Question& question) {
  std::string body = "{\"inputs\": {";
  for (const NamedBytes& tensor : question.tensors) {
    absl::StrAppend(&body, body.back() == '{' ? "" : ", ", "\"", tensor.meta.name, "\": ");
    const auto* data = reinterpret_cast<const std::byte*>(tensor.bytes.data());
    AppendJson({tensor.meta, {data, tensor.bytes.size()}}, body);
  }
  body += "}}";
  const auto response = Post(address, question.model, "", "application/json", std::move(body));
  if (!response.ok()) return response.status();
  simdjson::dom::parser parser;
  const simdjson::dom::element outputs =
      parser.parse(simdjson::padded_string(response->body()))["outputs"];
  Answer answer;
  if (!outputs.is_object()) {
    answer.outputs.push_back(FromJson("", outputs));
    return answer;
  }
  for (const auto& [name, value] : outputs.get_object())
    answer.outputs.push_back(FromJson(std::string(name), value));
  return answer;
}

}  // namespace millrace
