#include "server/core/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>

#include "server/core/errors.h"
#include "tests/fakes/fake_model.h"
#include "tests/fakes/manual_clock.h"
#include "tests/fakes/recording_probe.h"

namespace millrace {
namespace {

using absl::StatusCode;

constexpr uint64_t kMiB = 1 << 20;

// A call and what became of it.
struct Attempt {
  std::shared_ptr<Call> call;
  std::future<void> admitted;
  std::future<absl::StatusOr<Response>> done;
};

class EngineTest : public testing::Test {
 protected:
  EngineTest() {
    auto model = std::make_unique<FakeModel>();
    model_ = model.get();
    EXPECT_TRUE(registry_.Add(std::move(model)).ok());
  }

  void Start(EngineOptions options = {}) {
    if (options.threads == 0) options.threads = 2;
    engine_.emplace(options, pool_, registry_, probe_, clock_);
  }

  Attempt Open() {
    Attempt attempt;
    auto done = std::make_shared<std::promise<absl::StatusOr<Response>>>();
    attempt.done = done->get_future();
    attempt.call =
        engine_
            ->Open("test",
                   [done](absl::StatusOr<Response> result) { done->set_value(std::move(result)); })
            .value();
    return attempt;
  }

  static void Admit(Attempt& attempt, Declaration declaration) {
    auto admitted = std::make_shared<std::promise<void>>();
    attempt.admitted = admitted->get_future();
    attempt.call->Admit(std::move(declaration), [admitted] { admitted->set_value(); });
  }

  // Opens a call for `count` floats and has it admitted, or waiting for that.
  Attempt Declared(int64_t count) {
    Attempt attempt = Open();
    Admit(attempt, {.tensors = {{{"x", DType::kFloat32, {count}}}}});
    return attempt;
  }

  static void Fill(Call& call) {
    while (call.assembler().remaining() > 0) {
      const auto space = call.assembler().Space().value();
      std::memset(space.data(), 1, space.size());
      call.assembler().Commit(space.size());
    }
  }

  Attempt Submitted(int64_t count) {
    Attempt attempt = Declared(count);
    attempt.admitted.wait();
    Fill(*attempt.call);
    attempt.call->Submit();
    return attempt;
  }

  static StatusCode Code(Attempt& attempt) { return attempt.done.get().status().code(); }

  static bool IsAdmitted(Attempt& attempt) { return IsReady(attempt.admitted); }
  static bool IsDone(Attempt& attempt) { return IsReady(attempt.done); }

  template <typename T>
  static bool IsReady(std::future<T>& future) {
    return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

  ManualClock clock_;
  SlabPool pool_{{.limit = 64 * kMiB}, clock_};
  Registry registry_;
  FakeModel* model_;
  RecordingProbe probe_;
  std::optional<Engine> engine_;
};

TEST_F(EngineTest, RunsAModelOnWhatWasAssembled) {
  Start();
  Attempt attempt = Submitted(1000);
  const absl::StatusOr<Response> response = attempt.done.get();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->model, "fake");
  EXPECT_EQ(response->outputs.at(0).meta, (TensorMeta{"y", DType::kFloat32, {1000}}));
  EXPECT_EQ(response->outputs.at(0).bytes.size(), 4000u);
}

TEST_F(EngineTest, GivesMemoryBackWhenTheLastUserIsDone) {
  Start();
  Attempt attempt = Submitted(1000);
  absl::StatusOr<Response> response = attempt.done.get();
  EXPECT_GT(pool_.usage().promised, 0u);
  response = absl::CancelledError();
  attempt.call.reset();
  model_->WaitUntilIdle();
  engine_.reset();
  EXPECT_EQ(pool_.usage().promised, 0u);
}

TEST_F(EngineTest, RefusesWhatDoesNotFitTheModel) {
  Start();
  Attempt unknown = Open();
  Admit(unknown, {.model = "nope", .tensors = {{}}});
  EXPECT_EQ(Code(unknown), StatusCode::kNotFound);
  Attempt wrong_type = Open();
  Admit(wrong_type, {.tensors = {{{"x", DType::kInt8, {1}}}}});
  EXPECT_EQ(Code(wrong_type), StatusCode::kInvalidArgument);
  Attempt overflow = Open();
  Admit(overflow, {.tensors = {{{"x", DType::kFloat32, {INT64_MAX}}}}});
  EXPECT_EQ(Code(overflow), StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, RefusesWhatIsLongerThanItsLimits) {
  Start();
  Attempt long_id = Open();
  Admit(long_id, {.request_id = std::string(129, 'x'), .tensors = {{{"x", DType::kFloat32, {1}}}}});
  EXPECT_EQ(Code(long_id), StatusCode::kInvalidArgument);
  Attempt many = Open();
  Admit(many, {.tensors = std::vector<TensorMeta>(257)});
  EXPECT_EQ(Code(many), StatusCode::kInvalidArgument);
  Attempt parameters = Open();
  Admit(parameters, {.parameters = Parameters(65), .tensors = {{{"x", DType::kFloat32, {1}}}}});
  EXPECT_EQ(Code(parameters), StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, RefusesWhatWillNeverFit) {
  Start({.max_request_bytes = kMiB});
  Attempt attempt = Declared(kMiB);
  EXPECT_TRUE(IsTooLarge(attempt.done.get().status()));
}

TEST_F(EngineTest, TakesUndeclaredTensorsFromTheirBytes) {
  Start();
  Attempt attempt = Open();
  Admit(attempt, {.initial_bytes = 100, .max_bytes = 1000});
  attempt.admitted.wait();
  const auto space = attempt.call->assembler().Space().value();
  std::memset(space.data(), 0, 8);
  attempt.call->assembler().Commit(8);
  Tensor tensor = attempt.call->assembler().TakeBytes().value();
  tensor.meta = {"x", DType::kFloat32, {2}};
  attempt.call->Submit({std::move(tensor)});
  EXPECT_EQ(attempt.done.get()->outputs.at(0).bytes.size(), 8u);
}

TEST_F(EngineTest, UndeclaredTensorsMustFitTheModelToo) {
  Start();
  Attempt attempt = Open();
  Admit(attempt, {.initial_bytes = 100});
  attempt.admitted.wait();
  attempt.call->Submit({attempt.call->assembler().TakeBytes().value()});
  EXPECT_EQ(Code(attempt), StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, WaitsForRoomAndTakesItInTurn) {
  Start();
  Attempt first = Declared(10 * kMiB);
  ASSERT_TRUE(IsAdmitted(first));
  Attempt second = Declared(10 * kMiB);
  Attempt third = Declared(1);  // Would fit, but came later.
  EXPECT_FALSE(IsAdmitted(second));
  EXPECT_FALSE(IsAdmitted(third));
  first.call.reset();
  second.admitted.wait();
  third.admitted.wait();
}

TEST_F(EngineTest, GivesUpWaitingForRoomAfterAWhile) {
  Start({.admission_timeout = absl::Seconds(5)});
  Attempt first = Declared(10 * kMiB);
  Attempt second = Declared(10 * kMiB);
  clock_.Advance(absl::Seconds(6));
  EXPECT_EQ(Code(second), StatusCode::kResourceExhausted);
}

TEST_F(EngineTest, RefusesWhenTooManyWait) {
  Start({.max_waiting = 1});
  Attempt first = Declared(10 * kMiB);
  Attempt second = Declared(10 * kMiB);
  Attempt third = Declared(10 * kMiB);
  EXPECT_EQ(Code(third), StatusCode::kResourceExhausted);
}

TEST_F(EngineTest, RefusesWhenTooManyAreOpen) {
  Start({.max_calls = 1});
  Attempt first = Open();
  EXPECT_EQ(engine_->Open("test", [](auto) {}).status().code(), StatusCode::kResourceExhausted);
  first.call.reset();
  EXPECT_TRUE(engine_->Open("test", [](auto) {}).ok());
}

TEST_F(EngineTest, RefusesWhenTooManyAreQueued) {
  Start({.threads = 1, .max_queued = 1});
  model_->Hold();
  Attempt running = Submitted(1);
  model_->WaitUntilStarted(1);
  Attempt queued = Submitted(1);
  Attempt refused = Submitted(1);
  EXPECT_EQ(Code(refused), StatusCode::kResourceExhausted);
  model_->Release();
  EXPECT_EQ(Code(queued), StatusCode::kOk);
}

TEST_F(EngineTest, RunsAsManyAtOnceAsItHasThreads) {
  Start({.threads = 3});
  model_->Hold();
  std::vector<Attempt> attempts;
  for (int i = 0; i < 5; ++i) attempts.push_back(Submitted(1));
  model_->WaitUntilStarted(3);
  EXPECT_EQ(model_->running(), 3);
  model_->Release();
  for (Attempt& attempt : attempts) EXPECT_EQ(Code(attempt), StatusCode::kOk);
}

TEST_F(EngineTest, RunsAQuickOneWhereItIsSubmitted) {
  Start();
  model_->SetQuick(true);
  Attempt attempt = Submitted(1000);
  ASSERT_TRUE(IsDone(attempt));
  EXPECT_EQ(attempt.done.get()->outputs.at(0).bytes.size(), 4000u);
  EXPECT_EQ(model_->last_thread(), std::this_thread::get_id());
}

TEST_F(EngineTest, QueuesAQuickOneWhenAsManyRunAsMay) {
  Start({.threads = 1});
  model_->Hold();
  Attempt running = Submitted(1);
  model_->WaitUntilStarted(1);
  model_->SetQuick(true);
  Attempt quick = Submitted(1);
  EXPECT_FALSE(IsDone(quick));
  model_->Release();
  EXPECT_EQ(Code(quick), StatusCode::kOk);
  EXPECT_NE(model_->last_thread(), std::this_thread::get_id());
  EXPECT_EQ(model_->most_running(), 1);
}

TEST_F(EngineTest, CountsAQuickOneAmongThoseThatRun) {
  Start({.threads = 1});
  model_->Hold();
  model_->SetQuick(true);
  auto quick = std::async(std::launch::async, [&] { return Submitted(1); });
  model_->WaitUntilStarted(1);
  model_->SetQuick(false);
  Attempt queued = Submitted(1);
  model_->Release();
  EXPECT_EQ(Code(queued), StatusCode::kOk);
  Attempt attempt = quick.get();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  EXPECT_EQ(model_->most_running(), 1);
}

TEST_F(EngineTest, AQuickOneThatThrowsFailsItsRequestOnly) {
  Start({.threads = 1});
  model_->SetQuick(true);
  model_->Then([]() -> absl::Status { throw std::runtime_error("secret"); });
  for (int i = 0; i < 2; ++i) {
    Attempt attempt = Submitted(1);
    ASSERT_TRUE(IsDone(attempt));
    EXPECT_EQ(Code(attempt), StatusCode::kInternal);
  }
}

TEST_F(EngineTest, CancelsAQuickOneWhileItRuns) {
  Start({.threads = 1});
  model_->SetQuick(true);
  model_->Hold();
  Attempt attempt = Declared(1);
  Fill(*attempt.call);
  auto submitted = std::async(std::launch::async, [&] { attempt.call->Submit(); });
  model_->WaitUntilStarted(1);
  attempt.call->Cancel(absl::CancelledError("gone"));
  EXPECT_EQ(Code(attempt), StatusCode::kCancelled);
  model_->Release();
  submitted.get();
  Attempt next = Submitted(1);
  EXPECT_TRUE(IsDone(next));
}

TEST_F(EngineTest, DrainWaitsForAQuickOne) {
  Start({.threads = 1});
  model_->SetQuick(true);
  model_->Hold();
  auto quick = std::async(std::launch::async, [&] { return Submitted(1); });
  model_->WaitUntilStarted(1);
  auto drained = std::async(std::launch::async, [&] { engine_->Drain(absl::Hours(1)); });
  while (engine_->ready()) std::this_thread::yield();
  EXPECT_FALSE(IsReady(drained));
  model_->Release();
  drained.get();
  Attempt attempt = quick.get();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
}

TEST_F(EngineTest, ModelsTakeTurns) {
  auto other = std::make_unique<FakeModel>("other");
  FakeModel* const other_model = other.get();
  ASSERT_TRUE(registry_.Add(std::move(other)).ok());
  Start({.threads = 1});
  model_->Hold();
  other_model->Hold();
  std::vector<Attempt> attempts;
  for (int i = 0; i < 10; ++i) attempts.push_back(Submitted(1));
  Attempt late = Open();
  Admit(late, {.model = "other", .tensors = {{{"x", DType::kFloat32, {0}}}}});
  late.call->Submit();
  model_->Release();
  other_model->WaitUntilStarted(1);  // The second or third to run, not the eleventh.
  model_->Hold();
  other_model->Release();
  EXPECT_EQ(Code(late), StatusCode::kOk);
  EXPECT_FALSE(IsDone(attempts.back()));
  model_->Release();
}

TEST_F(EngineTest, RunsAsManyOfAModelAsItSaysBesideTheOthers) {
  auto other = std::make_unique<FakeModel>("other");
  FakeModel* const own = other.get();
  own->SetConcurrency(3);
  ASSERT_TRUE(registry_.Add(std::move(other)).ok());
  Start({.threads = 2});
  EXPECT_EQ(engine_->concurrency(), 5);
  model_->Hold();
  own->Hold();
  std::vector<Attempt> attempts;
  for (const char* name : {"fake", "other"}) {
    for (int i = 0; i < 5; ++i) {
      attempts.push_back(Open());
      Admit(attempts.back(), {.model = name, .tensors = {{{"x", DType::kFloat32, {1}}}}});
      attempts.back().admitted.wait();
      Fill(*attempts.back().call);
      attempts.back().call->Submit();
    }
  }
  model_->WaitUntilStarted(2);
  own->WaitUntilStarted(3);
  EXPECT_EQ(model_->running(), 2);
  EXPECT_EQ(own->running(), 3);
  model_->Release();
  own->Release();
  for (Attempt& attempt : attempts) EXPECT_EQ(Code(attempt), StatusCode::kOk);
  EXPECT_EQ(model_->most_running(), 2);
  EXPECT_EQ(own->most_running(), 3);
}

TEST_F(EngineTest, EndsACallWhoseClientIsSilent) {
  Start({.stall_timeout = absl::Seconds(10)});
  Attempt no_header = Open();
  Attempt no_body = Declared(1000);
  clock_.Advance(absl::Seconds(11));
  EXPECT_EQ(Code(no_header), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Code(no_body), StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, EndsACallWhoseClientTrickles) {
  Start({.stall_timeout = absl::Seconds(10), .min_bytes_per_second = 100});
  Attempt attempt = Declared(1'000'000);
  ASSERT_TRUE(attempt.call->assembler().Space().ok());
  attempt.call->assembler().Commit(999);
  clock_.Advance(absl::Seconds(11));
  EXPECT_EQ(Code(attempt), StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, LetsASlowButSteadyClientFinish) {
  Start({.stall_timeout = absl::Seconds(10), .min_bytes_per_second = 100});
  Attempt attempt = Declared(1000);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(attempt.call->assembler().Space().ok());
    attempt.call->assembler().Commit(1000);
    clock_.Advance(absl::Seconds(9));
  }
  attempt.call->Submit();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
}

TEST_F(EngineTest, DoesNotWaitForAClientThatHasSentAll) {
  Start({.stall_timeout = absl::Seconds(10)});
  Attempt uploaded = Declared(1);
  ASSERT_TRUE(uploaded.call->assembler().Space().ok());
  uploaded.call->assembler().Commit(uploaded.call->assembler().remaining());
  uploaded.call->EndUpload();
  Attempt silent = Declared(1000);
  clock_.Advance(absl::Seconds(11));
  EXPECT_EQ(Code(silent), StatusCode::kDeadlineExceeded);
  uploaded.call->Submit();
  EXPECT_EQ(Code(uploaded), StatusCode::kOk);
}

TEST_F(EngineTest, HonoursDeadlinesAtEveryStep) {
  Start({.threads = 1});
  model_->Hold();
  Attempt running = Submitted(1);
  model_->WaitUntilStarted(1);
  Attempt queued = Submitted(1);
  Attempt receiving = Declared(15 * kMiB);
  Attempt waiting = Declared(15 * kMiB);
  for (Attempt* attempt : {&running, &queued, &receiving, &waiting}) {
    attempt->call->SetDeadline(clock_.Now() + absl::Seconds(1));
  }
  clock_.Advance(absl::Seconds(2));
  for (Attempt* attempt : {&running, &queued, &receiving, &waiting}) {
    EXPECT_EQ(Code(*attempt), StatusCode::kDeadlineExceeded);
  }
  model_->Release();
}

TEST_F(EngineTest, CancelsAtEveryStepAndFreesTheMemory) {
  Start({.threads = 1});
  model_->Hold();
  Attempt running = Submitted(1);
  model_->WaitUntilStarted(1);
  Attempt queued = Submitted(1000);
  Attempt receiving = Declared(10 * kMiB);
  Attempt waiting = Declared(10 * kMiB);
  for (Attempt* attempt : {&waiting, &receiving, &queued, &running}) {
    attempt->call->Cancel(absl::CancelledError("gone"));
    EXPECT_EQ(Code(*attempt), StatusCode::kCancelled);
    attempt->call.reset();
  }
  model_->Release();
  engine_.reset();
  EXPECT_EQ(pool_.usage().promised, 0u);
}

TEST_F(EngineTest, AModelThatThrowsFailsItsRequestOnly) {
  Start();
  model_->Then([]() -> absl::Status { throw std::runtime_error("secret"); });
  Attempt attempt = Submitted(1);
  const absl::Status status = attempt.done.get().status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(status.message(), "model \"fake\" failed");
}

TEST_F(EngineTest, DrainFinishesWhatWasAdmittedAndRefusesTheRest) {
  Start({.threads = 1});
  model_->Hold();
  Attempt running = Submitted(1);
  model_->WaitUntilStarted(1);
  Attempt queued = Submitted(1);
  Attempt receiving = Declared(10 * kMiB);
  Attempt waiting = Declared(10 * kMiB);
  auto drained = std::async(std::launch::async, [&] { engine_->Drain(absl::Hours(1)); });
  EXPECT_EQ(Code(waiting), StatusCode::kUnavailable);
  EXPECT_FALSE(engine_->ready());
  EXPECT_EQ(engine_->Open("test", [](auto) {}).status().code(), StatusCode::kUnavailable);
  Fill(*receiving.call);
  receiving.call->Submit();
  model_->Release();
  for (Attempt* attempt : {&running, &queued, &receiving})
    EXPECT_EQ(Code(*attempt), StatusCode::kOk);
  drained.get();
}

TEST_F(EngineTest, DrainEndsWhatTakesTooLong) {
  Start({.stall_timeout = absl::Hours(1), .request_timeout = absl::Hours(1)});
  Attempt receiving = Declared(1000);
  auto drained = std::async(std::launch::async, [&] { engine_->Drain(absl::Seconds(5)); });
  while (receiving.done.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
    clock_.Advance(absl::Seconds(1));
  }
  EXPECT_EQ(Code(receiving), StatusCode::kUnavailable);
  drained.get();
}

TEST_F(EngineTest, ReportsEveryCallOnce) {
  Start();
  Attempt good = Submitted(1);
  EXPECT_EQ(Code(good), StatusCode::kOk);
  Attempt bad = Open();
  Admit(bad, {.model = "nope"});
  EXPECT_EQ(Code(bad), StatusCode::kNotFound);
  bad.call->Cancel(absl::CancelledError("again"));
  EXPECT_THAT(probe_.codes(), testing::ElementsAre(StatusCode::kOk, StatusCode::kNotFound));
}

TEST_F(EngineTest, TellsWhereTheTimeWent) {
  Start();
  Attempt attempt = Declared(1);
  clock_.Advance(absl::Seconds(3));
  Fill(*attempt.call);
  attempt.call->Submit();
  EXPECT_EQ(Code(attempt), StatusCode::kOk);
  EXPECT_EQ(attempt.call->timing().receive, absl::Seconds(3));
  EXPECT_EQ(ServerTiming(attempt.call->timing()),
            "admit;dur=0.000, receive;dur=3000.000, queue;dur=0.000, compute;dur=0.000");
}

}  // namespace
}  // namespace millrace
