// Models that work on requests while they arrive: what the engine promises them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>

#include "server/core/engine.h"
#include "tests/fakes/early_model.h"
#include "tests/fakes/fake_model.h"
#include "tests/fakes/manual_clock.h"
#include "tests/fakes/recording_probe.h"

namespace millrace {
namespace {

using absl::StatusCode;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kRowSize = 3000;  // of most requests here

class EarlyRunTest : public testing::Test {
 protected:
  EarlyRunTest() {
    auto model = std::make_unique<EarlyModel>();
    model_ = model.get();
    EXPECT_TRUE(registry_.Add(std::move(model)).ok());
    auto other = std::make_unique<FakeModel>("other");
    other_ = other.get();
    EXPECT_TRUE(registry_.Add(std::move(other)).ok());
  }

  ~EarlyRunTest() override {
    model_->Release();
    other_->Release();
  }

  void Start(int threads = 2) {
    engine_.emplace(EngineOptions{.threads = threads}, pool_, registry_, probe_, clock_);
  }

  struct Attempt {
    std::shared_ptr<Call> call;
    std::future<absl::StatusOr<Response>> done;
  };

  Attempt Open(Declaration declaration) {
    Attempt attempt;
    auto done = std::make_shared<std::promise<absl::StatusOr<Response>>>();
    attempt.done = done->get_future();
    attempt.call =
        engine_
            ->Open("test",
                   [done](absl::StatusOr<Response> result) { done->set_value(std::move(result)); })
            .value();
    attempt.call->Admit(std::move(declaration), [] {});
    return attempt;
  }

  // A request for the model that works early, of about `bytes`, admitted.
  Attempt Declared(uint64_t bytes, uint64_t row_size = kRowSize) {
    const auto rows = static_cast<int64_t>(bytes / row_size);
    const auto columns = static_cast<int64_t>(row_size / sizeof(float));
    return Open({.tensors = {{{"x", DType::kFloat32, {rows, columns}}}}});
  }

  Attempt SubmittedToOther() {
    Attempt attempt = Open({.model = "other", .tensors = {{{"x", DType::kFloat32, {0}}}}});
    attempt.call->Submit();
    return attempt;
  }

  // `bytes` arrive, in pieces.
  static void Feed(Call& call, uint64_t bytes) {
    while (bytes > 0) {
      const auto space = call.assembler().Space().value();
      const size_t size = std::min<uint64_t>({bytes, 10'007, space.size()});
      std::memset(space.data(), 1, size);
      call.assembler().Commit(size);
      bytes -= size;
    }
  }

  static void FeedRest(Call& call) { Feed(call, call.assembler().remaining()); }

  static StatusCode Code(Attempt& attempt) { return attempt.done.get().status().code(); }
  static bool IsDone(Attempt& attempt) {
    return attempt.done.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

  std::vector<uint64_t> Sizes() const {
    std::vector<uint64_t> sizes;
    for (const auto rows : model_->shown()) sizes.push_back(rows.size());
    return sizes;
  }

  ManualClock clock_;
  SlabPool pool_{{.limit = 64 * kMiB}, clock_};
  Registry registry_;
  EarlyModel* model_;
  FakeModel* other_;
  RecordingProbe probe_;
  std::optional<Engine> engine_;
};

TEST_F(EarlyRunTest, ShowsWholeRowsWhileOthersArriveAndThenAll) {
  Start();
  Attempt attempt = Declared(10 * kMiB);
  const uint64_t total = attempt.call->assembler().remaining();
  for (size_t step = 1; step <= 4; ++step) {
    Feed(*attempt.call, 2 * kMiB + 20'000);
    model_->WaitUntilShown(step);
    model_->WaitUntilIdle();
  }
  FeedRest(*attempt.call);
  attempt.call->Submit();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  const auto shown = model_->shown();
  ASSERT_EQ(shown.size(), 5u);
  for (size_t i = 0; i + 1 < shown.size(); ++i) {
    EXPECT_EQ(shown[i].data(), shown.back().data());
    EXPECT_EQ(shown[i].size() % kRowSize, 0u);
    EXPECT_GT(shown[i].size(), (i + 1) * 2 * kMiB - kRowSize);
    EXPECT_LT(shown[i].size(), shown[i + 1].size());
  }
  EXPECT_EQ(shown.back().size(), total);
  EXPECT_EQ(model_->destroyed(), 1);
}

TEST_F(EarlyRunTest, ShowsAFewMebibytesAtATime) {
  Start();
  model_->Hold();
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  Feed(*attempt.call, 15 * kMiB);
  model_->Release();
  model_->WaitUntilShown(4);
  model_->WaitUntilIdle();
  const std::vector<uint64_t> sizes = Sizes();
  for (size_t i = 1; i < sizes.size(); ++i) {
    EXPECT_GT(sizes[i], sizes[i - 1]);
    EXPECT_LE(sizes[i] - sizes[i - 1], 4 * kMiB);
  }
}

TEST_F(EarlyRunTest, ShowsASmallRequestOnce) {
  Start();
  Attempt attempt = Declared(2 * kMiB);
  FeedRest(*attempt.call);
  attempt.call->Submit();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  EXPECT_EQ(model_->shown().size(), 1u);
}

TEST_F(EarlyRunTest, ARowLongerThanAStepWaitsUntilItIsWhole) {
  Start();
  Attempt attempt = Declared(15 * kMiB, 5 * kMiB);
  Feed(*attempt.call, 4 * kMiB);
  Feed(*attempt.call, 4 * kMiB);
  model_->WaitUntilShown(1);
  EXPECT_THAT(Sizes(), testing::ElementsAre(5 * kMiB));
}

TEST_F(EarlyRunTest, GoesOnWithTheThreadThatHasItWhenTheLastByteComes) {
  Start();
  model_->Hold();
  Attempt attempt = Declared(5 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  FeedRest(*attempt.call);
  attempt.call->Submit();
  EXPECT_FALSE(IsDone(attempt));
  model_->Release();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  EXPECT_EQ(model_->shown().size(), 2u);
  EXPECT_EQ(model_->most_running(), 1);
}

TEST_F(EarlyRunTest, DoesItAllAtTheEndWhenNoPlaceIsFree) {
  Start(1);
  other_->Hold();
  Attempt busy = SubmittedToOther();
  other_->WaitUntilStarted(1);
  Attempt attempt = Declared(10 * kMiB);
  FeedRest(*attempt.call);
  attempt.call->Submit();
  EXPECT_TRUE(model_->shown().empty());
  other_->Release();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  EXPECT_EQ(model_->shown().size(), 1u);
}

TEST_F(EarlyRunTest, CountsAmongThoseThatRunAndLetsCompleteOnesGoFirst) {
  Start(1);
  model_->Hold();
  other_->SetQuick(true);
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  Feed(*attempt.call, 15 * kMiB);
  Attempt complete = SubmittedToOther();
  EXPECT_FALSE(IsDone(complete));
  other_->Then([this] { return absl::AbortedError(std::to_string(model_->shown().size())); });
  model_->Release();
  EXPECT_EQ(complete.done.get().status().message(), "1");
}

TEST_F(EarlyRunTest, AnErrorEndsTheRequestWhileItArrives) {
  Start();
  model_->Then([] { return absl::InvalidArgumentError("not an image"); });
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  EXPECT_EQ(attempt.done.get().status().message(), "not an image");
  FeedRest(*attempt.call);
  attempt.call->Submit();
  EXPECT_EQ(model_->shown().size(), 1u);
}

TEST_F(EarlyRunTest, AnErrorComesAfterSubmitToo) {
  Start(1);
  model_->Then([]() -> absl::Status { throw std::runtime_error("secret"); });
  model_->Hold();
  Attempt attempt = Declared(5 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  FeedRest(*attempt.call);
  attempt.call->Submit();
  model_->Release();
  EXPECT_EQ(attempt.done.get().status().message(), "model \"early\" failed");
  Attempt next = SubmittedToOther();  // The place is free again.
  EXPECT_EQ(Code(next), StatusCode::kOk);
}

TEST_F(EarlyRunTest, ACancelledRequestIsShownNoMore) {
  Start(1);
  model_->Hold();
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  Feed(*attempt.call, 3 * kMiB);
  attempt.call->Cancel(absl::CancelledError("gone"));
  EXPECT_EQ(Code(attempt), StatusCode::kCancelled);
  model_->Release();
  Feed(*attempt.call, 3 * kMiB);
  Attempt next = SubmittedToOther();
  EXPECT_EQ(Code(next), StatusCode::kOk);
  EXPECT_EQ(model_->shown().size(), 1u);
}

TEST_F(EarlyRunTest, KeepsTheMemoryUntilTheModelHasReturned) {
  Start();
  model_->Hold();
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  attempt.call->Cancel(absl::CancelledError("gone"));
  attempt.call.reset();
  EXPECT_EQ(model_->shown()[0][0], std::byte{1});
  EXPECT_GE(pool_.usage().promised, 20 * kMiB);
  EXPECT_EQ(model_->destroyed(), 0);
  model_->Release();
  engine_.reset();
  EXPECT_EQ(model_->destroyed(), 1);
  EXPECT_EQ(pool_.usage().promised, 0u);
}

TEST_F(EarlyRunTest, ATransportMayLetGoInTheMiddle) {
  Start();
  model_->Hold();
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  attempt.call.reset();
  model_->Release();
  engine_->Drain(absl::Hours(1));
  engine_.reset();
  EXPECT_EQ(model_->destroyed(), 1);
  EXPECT_EQ(model_->shown().size(), 1u);
  EXPECT_THROW(attempt.done.get(), std::future_error);  // Nobody was called.
}

TEST_F(EarlyRunTest, AClientThatStopsInTheMiddleIsGivenUp) {
  Start();
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  while (!IsDone(attempt)) clock_.Advance(absl::Seconds(11));
  EXPECT_EQ(Code(attempt), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(model_->shown().size(), 1u);
}

TEST_F(EarlyRunTest, DrainLetsARequestInTheMiddleFinish) {
  Start();
  Attempt attempt = Declared(5 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  auto drained = std::async(std::launch::async, [&] { engine_->Drain(absl::Hours(1)); });
  while (engine_->ready()) std::this_thread::yield();
  FeedRest(*attempt.call);
  attempt.call->Submit();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  drained.get();
}

TEST_F(EarlyRunTest, DrainEndsOneThatTakesTooLong) {
  Start();
  model_->Hold();
  Attempt attempt = Declared(20 * kMiB);
  Feed(*attempt.call, 3 * kMiB);
  model_->WaitUntilShown(1);
  engine_->Drain(absl::ZeroDuration());
  EXPECT_EQ(Code(attempt), StatusCode::kUnavailable);
  model_->Release();
}

// For the thread sanitizer: many at a time, some given up in the middle.
TEST_F(EarlyRunTest, ManyAtATime) {
  Start(3);
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this, i] {
      for (int round = 0; round < 5; ++round) {
        Attempt attempt = Declared(6 * kMiB);
        Feed(*attempt.call, 5 * kMiB);
        if ((round + i) % 3 == 0) attempt.call->Cancel(absl::CancelledError("gone"));
        FeedRest(*attempt.call);
        attempt.call->Submit();
        const StatusCode expected = (round + i) % 3 == 0 ? StatusCode::kCancelled : StatusCode::kOk;
        EXPECT_EQ(Code(attempt), expected);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  engine_.reset();
  EXPECT_EQ(model_->destroyed(), 20);
  EXPECT_EQ(pool_.usage().promised, 0u);
}

}  // namespace
}  // namespace millrace
