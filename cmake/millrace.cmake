# How every target of this project is made.  Sources are listed, include paths are repository paths.

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

find_program(MILLRACE_CCACHE ccache)
if(MILLRACE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MILLRACE_CCACHE})
endif()

# Generated code, too: protobuf's classes have other members under a sanitizer.
function(millrace_sanitize target)
  if(MILLRACE_SANITIZER)
    target_compile_options(${target} PRIVATE -fsanitize=${MILLRACE_SANITIZER} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=undefined)
    target_link_options(${target} PUBLIC -fsanitize=${MILLRACE_SANITIZER})
    if(MILLRACE_SANITIZER MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Asio's fences, beside which it locks; and the members that protobuf's headers would add to classes which the
      # distribution's library has without them.
      target_compile_options(${target} PRIVATE -Wno-tsan -U__SANITIZE_THREAD__)
    endif()
  endif()
endfunction()

function(_millrace_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
                         -Wno-missing-field-initializers)
  if(MILLRACE_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE -Wthread-safety)
  endif()
  millrace_sanitize(${target})
endfunction()

# millrace_library(NAME HEADERS h... SOURCES cc... DEPS targets... PRIVATE_DEPS targets...)
function(millrace_library name)
  cmake_parse_arguments(ARG "" "" "HEADERS;SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC)
  target_sources(${name} PRIVATE ${ARG_SOURCES}
    PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARG_HEADERS})
  set_target_properties(${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  _millrace_options(${name})
endfunction()

# millrace_binary(NAME SOURCES cc... DEPS targets...)
function(millrace_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  _millrace_options(${name})
endfunction()

# millrace_test(NAME SOURCES cc... DEPS targets...): a GoogleTest binary, each case a ctest of its own.
function(millrace_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT MILLRACE_TESTS)
    return()
  endif()
  millrace_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gmock_main)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 120 LABELS "${ARG_LABELS}")
endfunction()

# millrace_numpy_oracle(TEST SCRIPT): defines MILLRACE_NUMPY, the command line that runs the script with a Python that has
# NumPy, for tests/proto/numpy_oracle.h; nothing where there is no such Python.
function(millrace_numpy_oracle test script)
  if(NOT TARGET ${test})
    return()
  endif()
  if(NOT DEFINED MILLRACE_NUMPY_PYTHON)
    foreach(candidate python3 /usr/bin/python3)
      execute_process(COMMAND ${candidate} -c "import numpy" RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
      if(result EQUAL 0)
        set(MILLRACE_NUMPY_PYTHON ${candidate} CACHE STRING "A Python that has NumPy, for tests")
        break()
      endif()
    endforeach()
  endif()
  if(MILLRACE_NUMPY_PYTHON)
    target_compile_definitions(${test} PRIVATE
      MILLRACE_NUMPY="${MILLRACE_NUMPY_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/${script}")
  endif()
endfunction()

# millrace_fuzzer(NAME SOURCES cc... DEPS targets...): libFuzzer; its ctest runs the seed corpus and some seconds more.
function(millrace_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(NOT MILLRACE_FUZZERS)
    return()
  endif()
  millrace_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  add_test(NAME fuzz.${name} COMMAND ${name} -max_total_time=10 -rss_limit_mb=2048 -timeout=10)
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
