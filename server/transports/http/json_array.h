// A tensor's nested arrays of numbers, all at once or several stretches of them in parallel.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "proto/wire/tensor.h"

namespace millrace {

// What is known of nested arrays.  The first array at each depth sets the size of all at that
// depth.
struct JsonNest {
  Shape shape;          // kAnySize where no array has ended yet
  bool ranked = false;  // the shape has all its dimensions

  // Elements in each value of the outermost array; 0 unless that is known and not 0.
  uint64_t Stride() const;
};

// Reads a value: a number, or nested arrays of them, from the text at `at`, which ends with a NUL
// and kJsonPadding.  A copy goes on from where the original is.  Not thread-safe.
//
// Errors are INVALID_ARGUMENT, with the place in the arrays behind `place`: "inputs[1][2]: ..."
class JsonArrayReader {
 public:
  enum class Pass {
    kShapes,  // finds the shape; elements may be anything
    kTypes,   // finds the type, too, as DetectType(): float32 if one element is, else uint64 or
              // int64
    kValues,  // writes elements of `dtype` to `out`
  };

  struct Options {
    Pass pass;
    absl::string_view place;
    DType dtype = DType::kUnspecified;  // with kTypes the type known so far
    std::byte* out = nullptr;           // of the first element
    uint64_t limit = UINT64_MAX;        // elements, all together
  };

  JsonArrayReader(Options options, JsonNest nest, const char* at)
      : options_(options), nest_(std::move(nest)), at_(at), stop_(options.limit) {}

  // Goes to where element `element` is due, behind a comma at `at`.  Requires a stride.
  void Jump(const char* at, uint64_t element);

  // Read() is to return before this element is due, unless the value ends first.
  void StopBefore(uint64_t element) { stop_ = element; }

  absl::Status Read();

  // The value has been read to its end; else there was another element where Read() had to stop.
  bool done() const { return done_; }

  const JsonNest& nest() const { return nest_; }
  DType dtype() const { return options_.dtype; }
  const char* at() const { return at_; }  // behind spaces

 private:
  absl::Status CheckRoom() const;
  absl::Status Open();
  absl::Status Close();
  absl::Status TakeElements();
  uint64_t Room() const;
  std::byte* Out() const;
  absl::Status TakeElement(absl::string_view token);
  absl::Status TakeType(absl::string_view token);
  absl::Status Fail(absl::string_view message) const;

  Options options_;
  JsonNest nest_;
  const char* at_;
  uint64_t stop_;
  bool done_ = false;
  uint64_t element_ = 0;                     // the next one
  size_t depth_ = 0;                         // arrays around it
  std::array<uint64_t, kMaxRank> counts_{};  // of their values so far
};

// How far a value of numbers may reach, told without reading it.
struct JsonReach {
  // A comma, behind which element `element` is due, if the arrays are regular; below `most`.
  struct Mark {
    const char* at;
    uint64_t element;
  };

  uint64_t most = 0;        // elements at most
  std::vector<Mark> marks;  // one in each `step` bytes, but for the first
};

// Looks at the text from `at` to `end`, or to the first quote or brace: in no number.
JsonReach MeasureReach(const char* at, const char* end, size_t step);

// The shape that the first array at each depth has, but for the outermost; with a stride if the
// arrays are regular so far, and not empty.
JsonNest MeasureNest(const char* at, const char* end);

}  // namespace millrace
