// The core knows no protocol: this file does not compile if one of its headers brings one in.
#include "server/core/assembler.h"
#include "server/core/clock.h"
#include "server/core/engine.h"
#include "server/core/errors.h"
#include "server/core/model.h"
#include "server/core/mutex.h"
#include "server/core/probe.h"
#include "server/core/registry.h"
#include "server/core/slab_pool.h"
#include "server/core/status_macros.h"
#include "server/core/tensor.h"

#if defined(GRPC_GRPC_H) || defined(GRPCPP_GRPCPP_H) || defined(GOOGLE_PROTOBUF_PORT_H__) || \
    defined(GOOGLE_PROTOBUF_VERSION)
#error "server/core must include neither gRPC nor protobuf"
#endif
#if defined(BOOST_VERSION) || defined(SPDLOG_VERSION)
#error "server/core must include neither Boost nor spdlog"
#endif
