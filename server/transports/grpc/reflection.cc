#include "server/transports/grpc/reflection.h"

#include <absl/container/flat_hash_set.h>
#include <google/protobuf/descriptor.h>

#include <memory>
#include <utility>

#include <google/protobuf/descriptor.pb.h>

#include "proto/grpc/reflection/v1/reflection.pb.h"
#include "server/transports/grpc/unary_handler.h"

namespace millrace {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

const DescriptorPool& Pool() { return *DescriptorPool::generated_pool(); }

// The file after those that it needs, each once.
void AddFile(const FileDescriptor& file, absl::flat_hash_set<const FileDescriptor*>& seen,
             grpc::reflection::v1::FileDescriptorResponse& out) {
  if (!seen.insert(&file).second) return;
  for (int i = 0; i < file.dependency_count(); ++i) AddFile(*file.dependency(i), seen, out);
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  out.add_file_descriptor_proto(proto.SerializeAsString());
}

// False: not found.
bool Describe(const FileDescriptor* file, ServerReflectionResponse& out) {
  if (file == nullptr) return false;
  absl::flat_hash_set<const FileDescriptor*> seen;
  AddFile(*file, seen, *out.mutable_file_descriptor_response());
  return true;
}

bool DescribeExtension(const grpc::reflection::v1::ExtensionRequest& request,
                       ServerReflectionResponse& out) {
  const Descriptor* const type = Pool().FindMessageTypeByName(request.containing_type());
  if (type == nullptr) return false;
  const FieldDescriptor* const field =
      Pool().FindExtensionByNumber(type, request.extension_number());
  return field != nullptr && Describe(field->file(), out);
}

bool ListExtensions(const std::string& type_name, ServerReflectionResponse& out) {
  const Descriptor* const type = Pool().FindMessageTypeByName(type_name);
  if (type == nullptr) return false;
  std::vector<const FieldDescriptor*> fields;
  Pool().FindAllExtensions(type, &fields);
  auto& numbers = *out.mutable_all_extension_numbers_response();
  numbers.set_base_type_name(type_name);
  for (const FieldDescriptor* field : fields) numbers.add_extension_number(field->number());
  return true;
}

bool ListServices(const std::vector<std::string>& services, ServerReflectionResponse& out) {
  auto& list = *out.mutable_list_services_response();
  for (const std::string& service : services) list.add_service()->set_name(service);
  return true;
}

bool Answer(const std::vector<std::string>& services, const ServerReflectionRequest& request,
            ServerReflectionResponse& out) {
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      return Describe(Pool().FindFileByName(request.file_by_filename()), out);
    case ServerReflectionRequest::kFileContainingSymbol:
      return Describe(Pool().FindFileContainingSymbol(request.file_containing_symbol()), out);
    case ServerReflectionRequest::kFileContainingExtension:
      return DescribeExtension(request.file_containing_extension(), out);
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
      return ListExtensions(request.all_extension_numbers_of_type(), out);
    case ServerReflectionRequest::kListServices:
      return ListServices(services, out);
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      break;
  }
  return false;
}

// Question and answer in turn, until the client ends it.
class ReflectionHandler final : public RpcHandler {
 public:
  ReflectionHandler(const std::vector<std::string>& services, Rpc& rpc)
      : services_(services), rpc_(rpc) {}

  void OnStart() override { rpc_.Read(); }

  void OnMessage(grpc::ByteBuffer& message) override {
    ServerReflectionRequest request;
    if (!Parse(message, request))
      return rpc_.Finish({grpc::StatusCode::INVALID_ARGUMENT, "the request is malformed"});
    ServerReflectionResponse response;
    if (!Answer(services_, request, response)) {
      response.mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
      response.mutable_error_response()->set_error_message("there is nothing of that name");
    }
    response.set_valid_host(request.host());
    *response.mutable_original_request() = std::move(request);
    rpc_.Write(Serialize(response));
  }

  void OnEnd() override { rpc_.Finish(grpc::Status::OK); }

  void OnWritten(bool ok) override {
    if (!ok) return rpc_.Finish({grpc::StatusCode::CANCELLED, "the client went away"});
    rpc_.Read();
  }

  void OnCancel() override {
    rpc_.Finish({grpc::StatusCode::CANCELLED, "the client cancelled the call"});
  }

 private:
  const std::vector<std::string>& services_;
  Rpc& rpc_;
};

}  // namespace

void AddReflection(std::vector<std::string> services, RpcMethods& methods) {
  const auto shared = std::make_shared<const std::vector<std::string>>(std::move(services));
  for (const char* package : {"v1", "v1alpha"}) {
    methods["/grpc.reflection." + std::string(package) + ".ServerReflection/ServerReflectionInfo"] =
        [shared](Rpc& rpc) { return std::make_unique<ReflectionHandler>(*shared, rpc); };
  }
}

}  // namespace millrace
