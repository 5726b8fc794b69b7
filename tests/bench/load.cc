// Clients that send an image to a server, again and again, check each answer, and report how long
// each took.
//
//   bench-load --address 127.0.0.1:8000 --way stream --bytes 30000000 --clients 4 --requests 100
#include <millrace/client.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "tests/bench/image.h"
#include "tests/bench/report.h"
#include "tests/bench/sender.h"

namespace millrace::bench {
namespace {

struct Options {
  SenderOptions sender;
  uint64_t bytes = 30'000'000;
  int clients = 1;
  int warmup = 3;     // of each client
  int requests = 20;  // of all together
  std::vector<double> silence = {0, 0};
};

using Senders = std::vector<std::unique_ptr<Sender>>;

void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench-load: %s\n", status.ToString().c_str());
  std::exit(1);
}

Senders Connect(const Options& options, const Image& image) {
  const absl::StatusOr<SenderFactory> make = MakeSenderFactory(options.sender, image);
  Must(make.status());
  Senders senders;
  for (int i = 0; i < options.clients; ++i) {
    absl::StatusOr<std::unique_ptr<Sender>> sender = (*make)();
    Must(sender.status());
    senders.push_back(*std::move(sender));
  }
  return senders;
}

// Runs `body` for each sender, each on a thread of its own.
void InParallel(const Senders& senders, const std::function<void(size_t, Sender&)>& body) {
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < senders.size(); ++i) {
    threads.emplace_back([&, i] { body(i, *senders[i]); });
  }
}

void WarmUp(const Senders& senders, int requests) {
  InParallel(senders, [&](size_t, Sender& sender) {
    for (int i = 0; i < requests; ++i) Must(sender.Send());
  });
}

// The time each request took, silence before it aside.
std::vector<double> Measure(const Senders& senders, const Options& options) {
  std::atomic<int> left = options.requests;
  std::vector<std::vector<double>> times(senders.size());
  InParallel(senders, [&](size_t client, Sender& sender) {
    std::minstd_rand random(client + 1);
    std::uniform_real_distribution<double> silence(options.silence[0], options.silence[1]);
    while (left.fetch_sub(1) > 0) {
      if (options.silence[1] > 0) {
        std::this_thread::sleep_for(std::chrono::duration<double>(silence(random)));
      }
      const double start = Now();
      Must(sender.Send());
      times[client].push_back(Now() - start);
    }
  });
  std::vector<double> all;
  for (const auto& of_one : times) all.insert(all.end(), of_one.begin(), of_one.end());
  return all;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Sends images to a server and measures");
  app.add_option("--address", options.sender.address, "HOST:PORT or unix:PATH")->required();
  app.add_option("--way", options.sender.way, "How: see sender.h")->required();
  app.add_option("--bytes", options.bytes, "Of the image");
  app.add_option("--clients", options.clients, "At a time");
  app.add_option("--warmup", options.warmup, "Requests of each client that are not counted");
  app.add_option("--requests", options.requests, "Of all clients together");
  app.add_option("--read-size", options.sender.read_size, "Of the ceiling's server");
  app.add_option("--silence", options.silence, "Seconds of silence before each request, from, to")
      ->expected(2);
  CLI11_PARSE(app, argc, argv);

  KeepFreedMemory();
  const Image image(options.bytes);
  const Senders senders = Connect(options, image);
  WarmUp(senders, options.warmup);
  WaitForGo();
  const Meter meter;
  meter.Report(Measure(senders, options));
  return 0;
}

}  // namespace
}  // namespace millrace::bench

int main(int argc, char** argv) { return millrace::bench::Main(argc, argv); }
