// Server reflection (grpc.reflection.v1, and v1alpha for older clients), as
// https://github.com/grpc/grpc/blob/master/doc/server-reflection.md has it, from the descriptors
// that are linked into the program.
#pragma once

#include <string>
#include <vector>

#include "server/transports/grpc/rpc.h"

namespace millrace {

// Describes `services`, by their full names.
void AddReflection(std::vector<std::string> services, RpcMethods& methods);

}  // namespace millrace
