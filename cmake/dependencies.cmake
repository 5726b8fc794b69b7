# Every library that Millrace uses, as an imported target.
find_package(Threads REQUIRED)
find_package(Protobuf CONFIG QUIET)  # newer versions need their own description; Debian's has none
if(NOT Protobuf_FOUND)
  find_package(Protobuf REQUIRED)
endif()
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(xtensor CONFIG REQUIRED)
find_package(xsimd CONFIG REQUIRED)
find_package(simdjson CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)

# Built from find_package, wherever they came from.
find_program(MILLRACE_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
