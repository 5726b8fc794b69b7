// Runs numpy_oracle.py; skips the test where no Python with NumPy was found at configure time.
#pragma once

#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <string>

#ifdef MILLRACE_NUMPY
#define REQUIRE_NUMPY() (void)0
#else
#define MILLRACE_NUMPY "false"
#define REQUIRE_NUMPY() GTEST_SKIP() << "no Python with NumPy"
#endif

namespace millrace {

// What the script printed.  A failing script fails the test.
inline std::string RunNumpy(const std::string& arguments) {
  FILE* const pipe = ::popen((MILLRACE_NUMPY " " + arguments).c_str(), "r");
  std::string output;
  char buffer[4096];
  for (size_t n = 0; (n = ::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  EXPECT_EQ(::pclose(pipe), 0) << arguments;
  return output;
}

}  // namespace millrace
