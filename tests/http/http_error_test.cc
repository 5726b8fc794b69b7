#include "server/transports/http/http_error.h"

#include <gtest/gtest.h>

#include "server/core/errors.h"
#include "server/transports/http/answer.h"

namespace millrace {
namespace {

using absl::StatusCode;

TEST(HttpErrorTest, MapsEveryCode) {
  const std::pair<StatusCode, int> expected[] = {
      {StatusCode::kCancelled, 499},          {StatusCode::kUnknown, 500},
      {StatusCode::kInvalidArgument, 400},    {StatusCode::kDeadlineExceeded, 504},
      {StatusCode::kNotFound, 404},           {StatusCode::kAlreadyExists, 409},
      {StatusCode::kPermissionDenied, 403},   {StatusCode::kResourceExhausted, 429},
      {StatusCode::kFailedPrecondition, 400}, {StatusCode::kAborted, 409},
      {StatusCode::kOutOfRange, 400},         {StatusCode::kUnimplemented, 501},
      {StatusCode::kInternal, 500},           {StatusCode::kUnavailable, 503},
      {StatusCode::kDataLoss, 500},           {StatusCode::kUnauthenticated, 401},
  };
  for (const auto& [code, http] : expected) {
    const absl::Status status(code, "m");
    EXPECT_EQ(HttpStatus(status), http) << status;
    EXPECT_NE(Reason(http), "Unknown") << http;
  }
  EXPECT_EQ(HttpStatus(absl::OkStatus()), 200);
}

TEST(HttpErrorTest, TellsTooLargeFromTooMuchNow) {
  EXPECT_EQ(HttpStatus(TooLargeError("m")), 413);
  EXPECT_TRUE(ErrorAnswer(TooLargeError("m")).fields.empty());
  EXPECT_EQ(ErrorAnswer(absl::ResourceExhaustedError("m")).fields.size(), 1u);  // Retry-After
  EXPECT_EQ(ErrorAnswer(absl::UnavailableError("m")).fields.size(), 1u);
}

TEST(HttpErrorTest, AnErrorMayHaveAStatusOfItsOwn) {
  const absl::Status status = HttpError(411, StatusCode::kInvalidArgument, "say \"how\" long\n");
  EXPECT_EQ(HttpStatus(status), 411);
  EXPECT_EQ(ErrorBody(status),
            "{\"error\": \"say \\\"how\\\" long\\u000a\", \"code\": \"INVALID_ARGUMENT\"}\n");
}

}  // namespace
}  // namespace millrace
